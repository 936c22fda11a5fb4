"""SciPy's adapters: right derivatives, every method of minimize, one evaluation at one x."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from scipy.optimize import NonlinearConstraint, approx_fprime, least_squares, minimize
from scipy.sparse.linalg import LinearOperator, eigsh
from threads import run_all

import hessarray as ha
from hessarray.errors import (
    BackendError,
    DTypeError,
    OptionError,
    SampleIndexError,
    ShapeError,
    TraceError,
)

RNG = np.random.default_rng(0)
GRADIENT = ("CG", "BFGS", "L-BFGS-B", "TNC", "SLSQP")
HESSIAN = ("Newton-CG", "trust-ncg", "trust-krylov", "trust-exact", "trust-constr", "dogleg")
PRODUCT = ("Newton-CG hessp", "trust-ncg hessp", "trust-krylov hessp", "trust-constr hessp")
METHODS = (*GRADIENT, *HESSIAN, *PRODUCT)


def network(d: int = 3, m: int = 4, seed: int = 0) -> ha.Network:
    return ha.fully_connected([d, 12, 12, m], act="tanh", seed=seed)


def bowl(d: int = 4) -> ha.Network:
    """A network with one minimum: a quadratic layer over softplus features."""
    return ha.Network(ha.Dense(d, 8, act="softplus", seed=1), ha.Quadratic(8, 12, seed=2))


def jacobian_of(fun: Any, x: np.ndarray, h: float = 1e-6) -> np.ndarray:
    steps = h * np.eye(x.size)
    return np.stack([(fun(x + s) - fun(x - s)) / (2 * h) for s in steps], axis=-1)


# ---------------------------------------------------------------------------------- objectives


@pytest.mark.parametrize("output", [0, 3, -1])
def test_objective_is_the_output_of_the_network(output: int) -> None:
    net = network()
    f, x, p = ha.scipy_objective(net, output), RNG.normal(size=3), RNG.normal(size=3)
    value, gradient, hessian = net.value_gradient_hessian(x)
    assert isinstance(f(x), float)
    assert f(x) == f.fun(x) == pytest.approx(value[output], rel=1e-14)
    np.testing.assert_allclose(f.jac(x), gradient[:, output], rtol=1e-12)
    np.testing.assert_allclose(f.hess(x), hessian[:, :, output], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(f.hessp(x, p), hessian[:, :, output] @ p, rtol=1e-12, atol=1e-15)


def test_objective_against_differences() -> None:
    f, x = ha.scipy_objective(network(), 1), RNG.normal(size=3)
    np.testing.assert_allclose(f.jac(x), approx_fprime(x, f.fun), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(f.hess(x), jacobian_of(f.jac, x), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("weights", [[0.5, -2.0, 0.0, 1.0], {0: 0.5, "f1": -2.0, -1: 1.0}])
def test_weights_add_the_outputs(weights: Any) -> None:
    net, x = network(), RNG.normal(size=3)
    f, w = ha.scipy_objective(net, weights=weights), np.array([0.5, -2.0, 0.0, 1.0])
    assert f.fun(x) == pytest.approx(net.value(x) @ w, rel=1e-13)
    np.testing.assert_allclose(f.jac(x), net.gradient(x) @ w, rtol=1e-12)
    np.testing.assert_allclose(f.hess(x), net.weighted_hessian(x, w), rtol=1e-12, atol=1e-15)


def test_outputs_have_names() -> None:
    net, x = network(), RNG.normal(size=3)
    net.output_names = ("CL", "CD", "CM", "Top_Xtr")
    assert ha.scipy_objective(net, "CD").fun(x) == ha.scipy_objective(net, 1).fun(x)
    with pytest.raises(OptionError, match=r"output 'Top_Xtrr' is unknown: did you mean Top_Xtr"):
        ha.scipy_objective(net, "Top_Xtrr")
    constraint = ha.scipy_constraint(net, 0, 1, outputs=["CM", "CL"])
    np.testing.assert_allclose(constraint.fun(x), net.value(x)[[2, 0]], rtol=1e-14)


def test_functions_of_any_shape_are_flattened() -> None:
    fn = ha.Function(lambda x: np.sin(x) @ x.T, in_shape=(2, 3))
    x = RNG.normal(size=6)
    f = ha.scipy_objective(fn, 2)
    assert f.fun(x) == pytest.approx(fn.value(x.reshape(2, 3))[1, 0])
    np.testing.assert_allclose(f.hess(x), jacobian_of(f.jac, x), rtol=1e-6, atol=1e-8)
    scalar = ha.Function(lambda x: x @ x, in_shape=(2,))
    np.testing.assert_allclose(ha.scipy_objective(scalar).jac(np.ones(2)), [2.0, 2.0])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_minimum(method: str) -> None:
    f = ha.scipy_objective(bowl())
    method, _, product = method.partition(" ")
    more: dict[str, Any] = {}
    if method not in GRADIENT:
        more = {"hessp": f.hessp} if product else {"hess": f.hess}
    if method == "dogleg":  # wants a positive definite Hessian everywhere
        f = ha.scipy_objective(ha.Function(lambda x: np.exp(x) @ np.exp(-x) + x @ x, (4,)))
        more = {"hess": f.hess}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the methods' own, delta_grad == 0.0 and the like
        found = minimize(f, np.full(4, 0.3), jac=f.jac, method=method, tol=1e-9, **more)
    assert np.linalg.norm(f.jac(found.x)) < 1e-5
    assert np.linalg.eigvalsh(f.hess(found.x)).min() > 0


def test_nobody_can_spoil_what_is_kept() -> None:
    f, x = ha.scipy_objective(bowl()), np.ones(4)
    jac, hess = f.jac(x), f.hess(x)
    f.jac(x)[:] = 0
    np.testing.assert_array_equal(f.jac(x), jac)
    with pytest.raises(ValueError, match="read-only"):
        f.hess(x)[:] = 0
    assert f.hess(x)[0, 0] == hess[0, 0] != 0
    c = ha.scipy_constraint(network(), 0, 1)
    y, v = np.ones(3), np.ones(4)
    kept = c.fun(y), c.jac(y), c.hess(y, v)
    for spoilt in (c.fun(y), c.jac(y), c.hess(y, v)):
        spoilt[:] = 7
    for a, b in zip(kept, (c.fun(y), c.jac(y), c.hess(y, v)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_x_changed_in_place_is_a_new_x() -> None:
    f, x = ha.scipy_objective(bowl()), np.ones(4)
    before = f.fun(x)
    x *= 2
    assert f.fun(x) == ha.scipy_objective(bowl()).fun(np.full(4, 2.0)) != before


def test_x_may_be_a_list_or_of_another_dtype() -> None:
    f = ha.scipy_objective(bowl())
    assert f.fun([1, 0, 1, 0]) == f.fun(np.array([1, 0, 1, 0], dtype="float32"))
    assert f.fun(np.array([1.0, 0, 1, 0])[::1]) == f.fun((1, 0, 1, 0))


# ------------------------------------------------------------------------ one evaluation at one x


def test_one_evaluation_serves_all_calls_at_one_x() -> None:
    f = ha.scipy_objective(bowl())
    for _ in range(2):
        x = RNG.normal(size=4)
        f.fun(x), f.jac(x), f.hess(x)
    before = f.evaluations
    for _ in range(10):
        x = RNG.normal(size=4)
        f.fun(x), f.jac(x.copy()), f.hess(x.copy()), f.fun(x), f.jac(x)
    assert f.evaluations - before == 10


def test_what_is_not_asked_for_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    f = ha.scipy_objective(bowl())
    for name in ("value_gradient_hessian", "hessian", "gradient", "derivatives"):
        monkeypatch.setattr(f.function, name, None)
    for _ in range(5):
        f.fun(RNG.normal(size=4))


def test_repeated_evaluations_are_those_of_the_network() -> None:
    """From the second point on, the compiled evaluation is called without a look at x."""
    net = network(4, 1)
    f = ha.scipy_objective(net)
    for i in range(9):
        if i == 5:
            net.load_parameters({k: 2 * a for k, a in net.parameters().items()})
        x = RNG.normal(size=8)[::2]  # not contiguous
        if i == 7:
            x = x.astype(np.float32)
        value, gradient, hessian = net.value_gradient_hessian(x.astype(np.float64))
        assert f.fun(x) == pytest.approx(value[0], rel=1e-13)
        np.testing.assert_allclose(f.jac(x), gradient[:, 0], rtol=1e-12)
        np.testing.assert_allclose(f.hess(x), hessian[..., 0], rtol=1e-11)
    again = pickle.loads(pickle.dumps(f))
    np.testing.assert_array_equal(again.hess(x), f.hess(x))


def test_the_same_bytes_of_another_dtype_or_shape_are_another_point() -> None:
    f, x = ha.scipy_objective(network(4, 1)), np.asarray([1.0, -2.0, 0.5, 3.0])
    assert f.fun(x) == f.fun(x.copy())
    bits = x.view(np.int64)
    assert f.fun(bits) == f.fun(bits.astype(float)) != f.fun(x)
    for other in (x.reshape(2, 2), x.view(np.float32)):
        with pytest.raises(ha.ShapeError, match=r"x has shape .*\(4,\)"):
            f.fun(other)


def test_new_parameters_count_at_the_same_x() -> None:
    net, x = network(m=2), np.ones(3)
    f, c, weighted = (
        ha.scipy_objective(net, 0),
        ha.scipy_constraint(net, 0, 1),
        ha.scipy_objective(net, weights=[1, 1]),
    )
    before = f.fun(x), c.fun(x)[1], weighted.fun(x)
    net.load_parameters({k: 2 * a for k, a in net.parameters().items()})
    after = f.fun(x), c.fun(x)[1], weighted.fun(x)
    np.testing.assert_allclose(after, [*net.value(x), net.value(x).sum()], rtol=1e-14)
    assert not np.isclose(before, after).any()


def test_threads_do_not_mix_their_points() -> None:
    net = network(10, 1)
    f = ha.scipy_objective(net)
    points = RNG.normal(size=(4, 10))
    wanted = [net.value_gradient_hessian(x) for x in points]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(200):
            ok = f.fun(points[i]) == pytest.approx(wanted[i].f[0], rel=1e-12)
            ok &= np.allclose(f.jac(points[i]), wanted[i].df[:, 0], rtol=1e-12)
            ok &= np.allclose(f.hess(points[i]), wanted[i].d2f[:, :, 0], rtol=1e-10)
            if not ok:
                wrong.append(i)

    run_all(work, 4)
    assert not wrong


# ----------------------------------------------------------------------- constraints, residuals


@pytest.mark.parametrize("m", [2, 40])  # together with the value, and by itself
def test_constraint_has_jacobian_and_hessian(m: int) -> None:
    net, x, v = network(6, m), RNG.normal(size=6), RNG.normal(size=m)
    c = ha.scipy_constraint(net, -1.0, np.full(m, 2.0), keep_feasible=True)
    assert isinstance(c, NonlinearConstraint)
    np.testing.assert_allclose(c.fun(x), net.value(x), rtol=1e-14)
    np.testing.assert_allclose(c.jac(x), jacobian_of(c.fun, x), rtol=1e-6, atol=1e-8)
    expected = jacobian_of(lambda y: c.jac(y).T @ v, x)
    np.testing.assert_allclose(c.hess(x, v), expected, rtol=1e-6, atol=1e-7)
    assert c.jac(x).flags.c_contiguous


@pytest.mark.parametrize("method", ["SLSQP", "trust-constr"])
def test_constrained_minimum_is_that_of_the_formula(method: str) -> None:
    """Rosenbrock inside a circle: the optimum is known."""
    rosen = ha.Function(lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, (2,))
    circle = ha.scipy_constraint(ha.Function(lambda x: x @ x, (2,)), -np.inf, 1.0)
    f = ha.scipy_objective(rosen)
    more = {"hess": f.hess} if method == "trust-constr" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = minimize(f, [0.1, 0.1], jac=f.jac, constraints=circle, method=method, **more)
    np.testing.assert_allclose(found.x, [0.78641515, 0.61769831], atol=1e-4)


def test_residuals_of_the_outputs() -> None:
    net, x, y = network(3, 5), RNG.normal(size=3), RNG.normal(size=5)
    r = ha.scipy_residuals(net, y, scale=[1, 2, 3, 4, 5])
    np.testing.assert_allclose(r(x), (net.value(x) - y) * [1, 2, 3, 4, 5], rtol=1e-13)
    np.testing.assert_allclose(r.jac(x), jacobian_of(r.fun, x), rtol=1e-6, atol=1e-8)
    assert ha.scipy_residuals(net, y, scale=2.0, outputs=None).jac(x).shape == (5, 3)


@pytest.mark.parametrize("method", ["trf", "dogbox", "lm"])
def test_residuals_of_many_samples_find_the_unknown_inputs(method: str) -> None:
    net = network(5, 2)
    data = np.random.default_rng(0).normal(size=(30, 5))
    free, truth = [3, 0], np.array([0.4, -0.7])
    rows = data.copy()
    rows[:, free] = truth
    targets = net.value(rows)
    r = ha.scipy_residuals(net, targets, data=data, free=free)
    assert r(truth).shape == (60,)
    np.testing.assert_allclose(r.jac(truth), jacobian_of(r.fun, truth), rtol=1e-5, atol=1e-8)
    found = least_squares(r, [0.3, -0.6], jac=r.jac, method=method, xtol=1e-12)
    np.testing.assert_allclose(found.x, truth, atol=1e-8)
    one = ha.scipy_residuals(net, targets[:, 1], data=data, free=free, outputs=1)
    np.testing.assert_allclose(one(truth), 0, atol=1e-14)


def test_hvp_operator_is_the_hessian() -> None:
    net, x = network(8, 3), RNG.normal(size=8)
    H = net.hessian(x)[:, :, 2]
    A = ha.hvp_operator(net, x, output=2)
    p = RNG.normal(size=(8, 3))
    assert isinstance(A, LinearOperator)
    assert A.shape == (8, 8)
    np.testing.assert_allclose(A @ p[:, 0], H @ p[:, 0], rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(A @ p[:, :1], H @ p[:, :1], rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(A @ p, H @ p, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(A.T @ p, H @ p, rtol=1e-11, atol=1e-14)
    (largest,) = eigsh(A, k=1, which="LA", return_eigenvectors=False)
    assert largest == pytest.approx(np.linalg.eigvalsh(H)[-1], rel=1e-8)
    x[:] = 0  # the operator keeps its own point
    np.testing.assert_allclose(A @ p, H @ p, rtol=1e-11, atol=1e-14)


# ----------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda n: ha.scipy_objective(n, 4), SampleIndexError, "output 4 is out of range"),
        (lambda n: ha.scipy_objective(n, -5), IndexError, "4 outputs: pass 0 to 3"),
        (lambda n: ha.scipy_objective(n, 1.5), OptionError, "number or the name"),
        (lambda n: ha.scipy_objective(n), OptionError, "pass output= or weights="),
        (lambda n: ha.scipy_objective(n, 0, [1.0]), OptionError, "pass one of them"),
        (lambda n: ha.scipy_objective(n, weights=[1, 2]), ShapeError, r"\(2,\), \(4,\) is exp"),
        (lambda n: ha.scipy_objective(n, weights=[None] * 4), DTypeError, "real numbers"),
        (lambda n: ha.scipy_objective(n, weights={0: "a"}), DTypeError, "real numbers"),
        (lambda n: ha.scipy_objective(n, weights=[np.nan, 0, 0, 1]), OptionError, "finite"),
        (lambda n: ha.scipy_objective(n, 0).fun(np.ones(4)), ShapeError, r"\(4,\), \(3,\) is"),
        (lambda n: ha.scipy_objective(n, 0).jac(np.ones((1, 3))), ShapeError, r"\(1, 3\)"),
        (lambda n: ha.scipy_objective(n, 0).fun("abc"), DTypeError, "real numbers"),
        (lambda n: ha.scipy_objective(n, 0).fun(np.ones(3) * 1j), DTypeError, "real numbers"),
        (lambda n: ha.scipy_objective(n, 0).hessp(np.ones(3), [1]), ShapeError, "p has shape"),
        (lambda n: ha.scipy_objective(lambda x: x), TraceError, "wrap the code as ha.Function"),
        (lambda n: ha.scipy_constraint(n, [0, 0], 1), ShapeError, r"lb has shape \(2,\)"),
        (lambda n: ha.scipy_constraint(n, 1, 0), OptionError, "lies above"),
        (lambda n: ha.scipy_constraint(n, np.nan, 0), OptionError, "NaN"),
        (lambda n: ha.scipy_constraint(n, 0, 1, []), OptionError, "outputs is empty"),
        (lambda n: ha.scipy_constraint(n, 0, 1).hess(np.ones(3), [1]), ShapeError, "v has shape"),
        (lambda n: ha.scipy_residuals(n, [1, 2]), ShapeError, "targets has shape"),
        (lambda n: ha.scipy_residuals(n, free=[0]), OptionError, "without data="),
        (lambda n: ha.scipy_residuals(n, data=np.ones((2, 3))), OptionError, "free=None"),
        (lambda n: ha.scipy_residuals(n, data=np.ones((2, 3)), free=[3]), OptionError, "0 to 2"),
        (lambda n: ha.scipy_residuals(n, data=np.ones((2, 2)), free=[0]), ShapeError, "data has"),
        (lambda n: ha.scipy_residuals(n, data=np.ones((2, 3)), free=["T"]), OptionError, "0 to 2"),
        (lambda n: ha.scipy_residuals(n, data=[["a"] * 3], free=[0]), DTypeError, "data is no"),
        (lambda n: ha.scipy_residuals(n, scale="a"), DTypeError, "scale is no array"),
        (lambda n: ha.hvp_operator(n, np.ones(2), 0), ShapeError, "x has shape"),
    ],
)
def test_bad_input_is_one_sentence(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call(network())
    assert "\n" not in str(caught.value)


def test_a_function_of_several_inputs_is_refused() -> None:
    fn = ha.Function(lambda x, y: x @ y, in_shape=[(3,), (3,)])
    with pytest.raises(ShapeError, match=r"2 inputs of shapes \(3,\), \(3,\): join them"):
        ha.scipy_objective(fn)


@pytest.mark.backends("torch")
def test_a_pinned_network_is_refused(backend: Any) -> None:
    with pytest.raises(BackendError, match=r"call to\(None\)"):
        ha.scipy_objective(network(m=1).to("torch"))
