"""CasADi's function: derivatives as CasADi's own, and IPOPT inside CasADi with exact Hessians."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest

import hessarray as ha
from hessarray.errors import BackendError, SampleIndexError, ShapeError

if importlib.util.find_spec("casadi") is None:
    pytest.skip("casadi is not installed: pip install 'hessarray[casadi]'", allow_module_level=True)

import casadi

RNG = np.random.default_rng(0)
QUIET = {"ipopt.print_level": 0, "ipopt.sb": "yes", "print_time": False, "ipopt.tol": 1e-10}


def in_symbols(net: ha.Network, x: Any) -> Any:
    """The same tanh network in CasADi's own operations: the oracle."""
    params = list(net.parameters().values())
    for K, b in zip(params[::2], params[1::2], strict=True):
        x = casadi.tanh(casadi.DM(np.array(K).T) @ x + np.array(b))
    return x


@pytest.fixture(params=[1, 3, 60], ids=["m1", "m3", "m60"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any, int]:
    """The network as callback, and in CasADi's symbols; 60 outputs have weighted Hessians."""
    m = request.param
    net = ha.fully_connected([5, 8, 8, m], act="tanh", seed=0)
    x = casadi.MX.sym("x", 5)
    return ha.casadi_function(net), casadi.Function("own", [x], [in_symbols(net, x)]), m


def both(pair: tuple[Any, Any, int], make: Any) -> tuple[np.ndarray, np.ndarray]:
    at = RNG.normal(size=5)
    results = []
    for f in pair[:2]:
        x = casadi.MX.sym("x", 5)
        results.append(casadi.Function("g", [x], [make(f, x)])(at).full())
    return results[0], results[1]


def test_values_and_jacobians_are_casadis(pair: tuple[Any, Any, int]) -> None:
    for make in (lambda f, x: f(x), lambda f, x: casadi.jacobian(f(2 * x), x)):
        ours, casadis = both(pair, make)
        np.testing.assert_allclose(ours, casadis, rtol=1e-12, atol=1e-14)


def test_hessians_of_what_surrounds_the_network_are_casadis(pair: tuple[Any, Any, int]) -> None:
    weights = casadi.DM(RNG.normal(size=pair[2]))

    def make(f: Any, x: Any) -> Any:
        total = casadi.dot(weights, f(casadi.sin(x))) + casadi.sumsqr(f(x)) * x[0]
        return casadi.hessian(total, x)[0]

    ours, casadis = both(pair, make)
    np.testing.assert_allclose(ours, casadis, rtol=1e-11, atol=1e-13)


def test_jacobian_of_the_jacobian_is_casadis(pair: tuple[Any, Any, int]) -> None:
    def make(f: Any, x: Any) -> Any:
        return casadi.jacobian(casadi.vec(casadi.jacobian(f(x), x)), x)

    ours, casadis = both(pair, make)
    np.testing.assert_allclose(ours, casadis, rtol=1e-11, atol=1e-13)


def test_directional_derivatives_are_casadis(pair: tuple[Any, Any, int]) -> None:
    v, w = RNG.normal(size=(5, 3)), RNG.normal(size=(pair[2], 2))
    for make in (
        lambda f, x: casadi.jtimes(f(x), x, casadi.DM(v)),
        lambda f, x: casadi.jtimes(f(x), x, casadi.DM(w), True),
    ):
        ours, casadis = both(pair, make)
        np.testing.assert_allclose(ours, casadis, rtol=1e-12, atol=1e-14)


def test_map_over_columns() -> None:
    net = ha.fully_connected([5, 8, 2], act="tanh", seed=0)
    f, x = ha.casadi_function(net, name="surrogate"), RNG.normal(size=(6, 5))
    assert f.name() == "surrogate"
    np.testing.assert_allclose(f.map(6)(x.T).full().T, net.value(x), rtol=1e-13)


def test_outputs_select() -> None:
    net, x = ha.fully_connected([5, 8, 4], act="tanh", seed=0), RNG.normal(size=5)
    chosen = ha.casadi_function(net, [3, 1])(x).full()[:, 0]
    np.testing.assert_allclose(chosen, net.value(x)[[3, 1]], rtol=1e-13)
    one = ha.casadi_function(ha.Function(lambda x: x @ x, in_shape=(2,)))
    assert float(one([3, 4])) == 25


def test_nlpsol_finds_casadis_optimum_in_as_many_iterations_and_fewer_than_without() -> None:
    net = ha.fully_connected([4, 12, 12, 2], act="tanh", seed=3)
    f = ha.casadi_function(net)
    found = {}
    for name, options in (
        ("hessarray", {}),
        ("casadi", {}),
        ("bfgs", {"ipopt.hessian_approximation": "limited-memory"}),
    ):
        x = casadi.MX.sym("x", 4)
        y = in_symbols(net, x) if name == "casadi" else f(x)
        problem = {"x": x, "f": y[0] + 0.1 * casadi.sumsqr(x), "g": casadi.vertcat(y[1], x[0])}
        solver = casadi.nlpsol("s", "ipopt", problem, {**QUIET, **options})
        result = solver(x0=[0.5, -0.5, 1, 0], lbg=[0.1, -2], ubg=[0.1, 2])
        assert solver.stats()["success"]
        found[name] = result["x"].full()[:, 0], solver.stats()["iter_count"]
    np.testing.assert_allclose(found["hessarray"][0], found["casadi"][0], atol=1e-7)
    assert found["hessarray"][1] == found["casadi"][1] < found["bfgs"][1]


def test_an_iteration_is_one_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """IPOPT asks CasADi for f, its gradient and the Hessian: the network is run once for all."""
    net = ha.Network(ha.Dense(4, 8, act="softplus", seed=1), ha.Quadratic(8, 12, seed=2))
    calls: list[str] = []
    for name in ("value", "gradient", "hessian", "derivatives", "value_gradient_hessian"):
        original = getattr(net, name)
        monkeypatch.setattr(
            net, name, lambda *a, _o=original, _n=name, **k: (calls.append(_n), _o(*a, **k))[1]
        )
    f, x = ha.casadi_function(net), casadi.MX.sym("x", 4)
    solver = casadi.nlpsol("s", "ipopt", {"x": x, "f": f(x)}, QUIET)
    solver(x0=[0.5] * 4)
    assert solver.stats()["success"]
    assert len(calls) <= solver.stats()["iter_count"] + 6, calls


def test_bad_input_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    net = ha.fully_connected([3, 4, 2], act="tanh", seed=0)
    with pytest.raises(SampleIndexError, match="output 2 is out of range"):
        ha.casadi_function(net, 2)
    two = ha.Function(lambda x, y: x @ y, in_shape=[(3,), (3,)])
    with pytest.raises(ShapeError, match="2 inputs"):
        ha.casadi_function(two)
    with pytest.raises(RuntimeError, match="mismatching shape"):  # CasADi's own
        ha.casadi_function(net)(np.ones(4))
    monkeypatch.delitem(sys.modules, "hessarray.solve._casadi_callbacks", raising=False)
    monkeypatch.setitem(sys.modules, "casadi", None)
    with pytest.raises(BackendError, match=r"pip install 'hessarray\[casadi\]'"):
        ha.casadi_function(net)
