"""IPOPT's problem: right callbacks, the known optimum, fewer iterations with exact Hessians."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

import hessarray as ha
from hessarray.errors import BackendError, OptionError, SampleIndexError, ShapeError

needs_cyipopt = pytest.mark.skipif(
    importlib.util.find_spec("cyipopt") is None,
    reason="cyipopt is not installed: pip install 'hessarray[ipopt]'",
)
QUIET = {"print_level": 0, "sb": "yes"}
RNG = np.random.default_rng(0)


def hs071() -> ha.Function:
    """Problem 71 of Hock and Schittkowski, the one of IPOPT's manual."""

    def outputs(x: Any) -> Any:
        xp = x.__array_namespace__()
        f = x[0] * x[3] * (x[0] + x[1] + x[2]) + x[2]
        return xp.stack([f, x[0] * x[1] * x[2] * x[3], x @ x])

    fn = ha.Function(outputs, in_shape=(4,))
    fn.output_names = ("f", "product", "squares")
    return fn


def hs071_problem() -> Any:
    return ha.ipopt_problem(
        hs071(), "f", constraints=["product", "squares"], cl=[25, 40], cu=[np.inf, 40], lb=1, ub=5
    )


def test_callbacks_are_the_problem() -> None:
    problem, x = hs071_problem(), np.array([1.3, 4.2, 3.1, 1.7])
    net = hs071()
    f, df, d2f = net.value_gradient_hessian(x)
    assert problem.objective(x) == pytest.approx(f[0])
    np.testing.assert_allclose(problem.gradient(x), df[:, 0])
    np.testing.assert_allclose(problem.constraints(x), f[1:])
    jacobian = np.zeros((2, 4))
    jacobian[problem.jacobianstructure()] = problem.jacobian(x)
    np.testing.assert_allclose(jacobian, df[:, 1:].T)
    hessian = np.zeros((4, 4))
    hessian[problem.hessianstructure()] = problem.hessian(x, np.array([0.7, -2.0]), 0.5)
    expected = d2f @ [0.5, 0.7, -2.0]
    np.testing.assert_allclose(hessian, np.tril(expected), atol=1e-14)


# Hessians together with the value, and by themselves.
@pytest.mark.parametrize(("m", "evaluations"), [(3, 1), (30, 2)])
def test_objective_and_constraints_share_an_evaluation(m: int, evaluations: int) -> None:
    net = ha.fully_connected([8, 10, m], act="tanh", seed=0)
    problem = ha.ipopt_problem(net, 1, constraints=range(m), cl=-1, cu=1)
    lam = RNG.normal(size=m)
    for _ in range(3):
        x, before = RNG.normal(size=8), problem.evaluations
        problem.objective(x), problem.gradient(x), problem.constraints(x), problem.jacobian(x)
        hessian = problem.hessian(x, lam, 2.0)
    assert problem.evaluations - before == evaluations
    weights = lam + 2.0 * (np.arange(m) == 1)
    expected = net.weighted_hessian(x, weights)[np.tril_indices(8)]
    np.testing.assert_allclose(hessian, expected, rtol=1e-10, atol=1e-13)


def test_only_the_outputs_of_the_problem_are_evaluated() -> None:
    net = ha.fully_connected([3, 10, 198], act="tanh", seed=0)
    problem = ha.ipopt_problem(net, 190, constraints=[7, 190])
    x = RNG.normal(size=3)
    np.testing.assert_allclose(problem.constraints(x), net.value(x)[[7, 190]], rtol=1e-13)
    assert problem.objective(x) == pytest.approx(net.value(x)[190])
    assert problem._shared.m == 3


@pytest.mark.parametrize(
    ("weights", "constraints"),
    [([0.5, 0, -2.0, 0], [3, 0]), ([2.0, 0, 0, 0], []), ([0, 0, 0, 0], []), ({3: -1.0}, [1])],
)
def test_weighted_objectives(weights: Any, constraints: list[int]) -> None:
    net = ha.fully_connected([3, 10, 4], act="tanh", seed=0)
    problem = ha.ipopt_problem(net, weights=weights, constraints=constraints)
    total = np.zeros(4)
    total[list(weights) if isinstance(weights, dict) else range(4)] = (
        list(weights.values()) if isinstance(weights, dict) else weights
    )
    lam = RNG.normal(size=len(constraints))
    for x in RNG.normal(size=(3, 3)):
        f, df, d2f = net.value_gradient_hessian(x)
        assert problem.objective(x) == pytest.approx(f @ total, abs=1e-13)
        np.testing.assert_allclose(problem.gradient(x), df @ total, atol=1e-13)
        np.testing.assert_allclose(problem.constraints(x), f[constraints], atol=1e-13)
        jacobian = np.zeros((len(constraints), 3))
        jacobian[problem.jacobianstructure()] = problem.jacobian(x)
        np.testing.assert_allclose(jacobian, df[:, constraints].T, atol=1e-13)
        expected = 0.5 * d2f @ total + d2f[..., constraints] @ lam
        found = problem.hessian(x, lam, 0.5)
        np.testing.assert_allclose(found, expected[np.tril_indices(3)], atol=1e-12)


@needs_cyipopt
def test_the_optimum_is_the_published_one() -> None:
    problem = hs071_problem()
    x, info = problem.solve([1.0, 5.0, 5.0, 1.0], tol=1e-9, **QUIET)
    assert info["status"] == 0
    assert info["obj_val"] == pytest.approx(17.0140171, abs=1e-6)
    np.testing.assert_allclose(x, [1.0, 4.7429994, 3.8211503, 1.3794082], atol=1e-6)
    assert 0 < info["iterations"] < 15


@needs_cyipopt
def test_exact_hessians_take_fewer_iterations_to_the_same_optimum() -> None:
    net = ha.fully_connected([6, 12, 2], act="tanh", seed=3)

    def outputs(x: Any) -> Any:
        xp = x.__array_namespace__()
        valley = xp.sum((x[1:] - x[:-1] ** 2) ** 2) * 20 + xp.sum((1 - x) ** 2)
        return xp.stack([valley + net(x)[0], x @ x, xp.sum(x)])

    fn = ha.Function(outputs, in_shape=(6,))
    problem = ha.ipopt_problem(fn, 0, constraints=[1, 2], cl=[0, 1], cu=[2, 1], lb=-3, ub=3)
    exact, with_hessian = problem.solve(np.full(6, 0.5), tol=1e-9, **QUIET)
    quasi, without = problem.solve(
        np.full(6, 0.5), tol=1e-9, hessian_approximation="limited-memory", **QUIET
    )
    assert with_hessian["status"] == without["status"] == 0
    np.testing.assert_allclose(exact, quasi, atol=1e-5)
    assert with_hessian["iterations"] < without["iterations"]


@needs_cyipopt
def test_whole_numbers_and_truth_values_serve_as_ipopts_own() -> None:
    _, info = hs071_problem().solve(
        [1, 5, 5, 1], max_iter=np.int64(50), max_cpu_time=60, print_level=0, sb=True
    )
    assert info["status"] == 0


@needs_cyipopt
def test_the_problem_serves_a_cyipopt_problem_of_ones_own() -> None:
    import cyipopt

    callbacks = hs071_problem()
    own = cyipopt.Problem(
        n=4,
        m=2,
        problem_obj=callbacks,
        lb=callbacks.lb,
        ub=callbacks.ub,
        cl=callbacks.cl,
        cu=callbacks.cu,
    )
    own.add_option("print_level", 0)
    own.add_option("sb", "yes")
    _, info = own.solve(np.array([1.0, 5.0, 5.0, 1.0]))
    assert info["obj_val"] == pytest.approx(17.0140171, abs=1e-6)


@needs_cyipopt
def test_scipys_objective_and_cyipopts_minimize() -> None:
    import cyipopt

    rosen = ha.Function(lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, (2,))
    f = ha.scipy_objective(rosen)
    found = cyipopt.minimize_ipopt(f, [-1.2, 1.0], jac=f.jac, hess=f.hess, options=dict(QUIET))
    np.testing.assert_allclose(found.x, [1, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"output": 3}, SampleIndexError, "output 3 is out of range"),
        ({"output": 0, "constraints": [5]}, SampleIndexError, "output 5 is out of range"),
        ({"output": 0, "constraints": "g"}, OptionError, "output 'g' is unknown"),
        ({"weights": [1.0]}, ShapeError, r"weights has shape \(1,\), \(3,\) is expected"),
        ({"output": 0, "lb": [0, 0]}, ShapeError, r"lb has shape \(2,\), \(4,\) is expected"),
        ({"output": 0, "constraints": 1, "cl": [0, 0]}, ShapeError, r"cl has shape \(2,\)"),
        ({"output": 0, "lb": 1, "ub": 0}, OptionError, r"lb\[0\] = 1 lies above ub\[0\] = 0"),
        ({}, OptionError, "pass output= or weights="),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        ha.ipopt_problem(hs071(), **arguments)
    assert "\n" not in str(caught.value)


@needs_cyipopt
def test_a_wrong_option_or_start_is_one_sentence() -> None:
    with pytest.raises(OptionError, match="IPOPT does not take toll=1e-09"):
        hs071_problem().solve(np.ones(4), toll=1e-9)
    with pytest.raises(OptionError, match="IPOPT does not take max_iter='many'"):
        hs071_problem().solve(np.ones(4), max_iter="many", **QUIET)
    with pytest.raises(ShapeError, match=r"x0 has shape \(3,\), \(4,\) is expected"):
        hs071_problem().solve(np.ones(3))


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cyipopt", None)
    with pytest.raises(BackendError, match=r"pip install 'hessarray\[ipopt\]'"):
        hs071_problem().solve(np.ones(4))
