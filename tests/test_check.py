"""The tests of derivatives must pass for right ones, and fail for wrong ones, on every library."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import hessarray as ha
from hessarray.check import (
    Comparison,
    ErrorCheck,
    TaylorCheck,
    check_derivatives,
    check_directions,
    check_finite_differences,
    check_laplacian,
    check_parameters,
    convert_to_base,
)
from hessarray.errors import BackendError, ParameterError

DTYPES = ("float32", "float64")


def network(act: str = "tanh", seed: int = 0) -> ha.Network:
    return ha.Network(
        ha.Dense(3, 6, act=act), ha.Residual(6, h=0.5, act=act), ha.Dense(6, 2), seed=seed
    )


def samples(n: int = 5, d: int = 3, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


class Spoiled:
    """A function whose derivatives are off by a factor, in all samples or in one."""

    def __init__(self, net: Any, gradient: float = 1.0, hessian: float = 1.0, row: Any = ...):
        self.net, self.factors, self.row = net, (gradient, hessian), row

    def value(self, x: Any) -> Any:
        return self.net.value(x)

    def gradient(self, x: Any) -> Any:
        found = np.array(self.net.gradient(x))
        found[self.row] *= self.factors[0]
        return found

    def hessian(self, x: Any) -> Any:
        found = np.array(self.net.hessian(x))
        found[self.row] *= self.factors[1]
        return found


# ------------------------------------------------------------------------- right derivatives


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_checks_pass_on_every_library(backend: Any, dtype: str) -> None:
    x = backend.asarray(samples(), dtype)
    net = network()
    taylor = check_derivatives(net, x)
    assert taylor, str(taylor)
    assert taylor.gradient_order == pytest.approx(2.0, abs=0.1)
    assert taylor.hessian_order == pytest.approx(3.0, abs=0.3)
    for check in (check_finite_differences, check_laplacian, check_directions):
        found = check(net, x)
        assert found, str(found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", sorted(ha.ACTIVATIONS))
def test_every_activation_passes(act: str, dtype: str) -> None:
    taylor = check_derivatives(network(act), samples().astype(dtype), do_hessian=True)
    assert taylor, f"{act}\n{taylor}"


def test_several_inputs_of_any_shape() -> None:
    def quotient(u: Any, A: Any) -> Any:
        xp = u.__array_namespace__()
        return xp.tanh(A @ u) / (1.0 + xp.sum(u * u))

    f = ha.Function(quotient, in_shape=((3,), (2, 3)))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 2, 3)), rng.normal(size=(2, 2, 2, 3))
    for check in (check_derivatives, check_finite_differences, check_laplacian, check_directions):
        found = check(f, x)
        assert found, str(found)


def test_outputs_and_batches_of_any_shape() -> None:
    f = ha.Function(lambda u: u[:, None] * u.__array_namespace__().exp(u)[None, :], in_shape=(3,))
    x = samples(6).reshape(2, 3, 3)
    assert f.value(x).shape == (2, 3, 3, 3)
    for check in (check_derivatives, check_finite_differences, check_laplacian, check_directions):
        assert check(f, x)
    assert check_derivatives(f, x[0, 0]).samples == 1


def test_a_linear_function_is_exact_and_a_quadratic_has_an_exact_hessian() -> None:
    linear = check_derivatives(ha.Network(ha.Dense(3, 2, seed=0)), samples())
    assert (linear.gradient_order, linear.hessian_order) == (math.inf, math.inf)
    quadratic = check_derivatives(ha.Network(ha.Quadratic(3, 2, seed=0)), samples())
    assert quadratic.gradient_order == pytest.approx(2.0, abs=0.05)
    assert quadratic.hessian_order == math.inf
    assert linear
    assert quadratic


def test_the_domain_may_end_within_the_largest_step() -> None:
    f = ha.Function(lambda u: u.__array_namespace__().log(u), in_shape=(2,))
    with np.errstate(invalid="ignore", divide="ignore"):
        assert check_derivatives(f, np.full((3, 2), 0.2))
        assert check_derivatives(f, np.full((3, 2), 0.2), step=0.1)


# ------------------------------------------------------------------------- wrong derivatives


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", [..., 3], ids=["all", "one sample"])
def test_a_wrong_gradient_fails(dtype: str, row: Any) -> None:
    x = samples().astype(dtype)
    net = Spoiled(network(), gradient=1.01 if dtype == "float64" else 1.1, row=row)
    taylor = check_derivatives(net, x)
    assert not taylor
    assert taylor.gradient_order == pytest.approx(1.0, abs=0.2)
    assert taylor.gradient_failed == ((3,) if row == 3 else (0, 1, 2, 3, 4))
    differences = check_finite_differences(net, x)
    assert not differences
    assert not differences.comparisons[0].passed
    assert "FAILED" in str(taylor)
    assert "FAILED" in str(differences)


@pytest.mark.parametrize("row", [..., 3], ids=["all", "one sample"])
def test_a_wrong_hessian_fails(row: Any) -> None:
    x = samples()
    net = Spoiled(network(), hessian=1.01, row=row)
    taylor = check_derivatives(net, x)
    assert not taylor
    assert taylor.gradient_passed
    assert not taylor.hessian_passed
    assert taylor.hessian_order == pytest.approx(2.0, abs=0.2)
    assert taylor.hessian_failed == ((3,) if row == 3 else (0, 1, 2, 3, 4))
    assert check_derivatives(net, x, do_hessian=False)
    differences = check_finite_differences(net, x)
    assert [c.passed for c in differences.comparisons] == [True, False]
    assert check_finite_differences(net, x, do_hessian=False)


def test_an_antisymmetric_error_of_the_hessian_shows_in_finite_differences_only() -> None:
    class Skew(Spoiled):
        def hessian(self, x: Any) -> Any:
            skew = np.triu(np.ones((3, 3)), 1)
            return np.asarray(self.net.hessian(x)) + (skew - skew.T)[:, :, None] * 1e-3

    assert check_derivatives(Skew(network()), samples())
    assert not check_finite_differences(Skew(network()), samples())


def test_a_derivative_that_is_not_finite_fails() -> None:
    taylor = check_derivatives(Spoiled(network(), gradient=math.nan, row=2), samples())
    assert taylor.gradient_failed == (2,)
    assert not check_finite_differences(Spoiled(network(), gradient=math.nan), samples())


class OnlyWrongHere(ha.Function):
    """One method is off, all others are right."""

    wrong = ""

    def _off(self, name: str, found: Any) -> Any:
        if name != self.wrong:
            return found
        return tuple(1.01 * a for a in found) if isinstance(found, tuple) else 1.01 * found

    def laplacian(self, *x: Any, **options: Any) -> Any:
        return self._off("laplacian", super().laplacian(*x, **options))

    def hessian_diagonal(self, *x: Any, **options: Any) -> Any:
        return self._off("hessian_diagonal", super().hessian_diagonal(*x, **options))

    def hvp(self, *x: Any, **options: Any) -> Any:
        return self._off("hvp", super().hvp(*x, **options))

    def weighted_hessian(self, *x: Any, **options: Any) -> Any:
        return self._off("weighted_hessian", super().weighted_hessian(*x, **options))

    def derivatives(self, *x: Any, **options: Any) -> Any:
        side = "left" if options.get("forward_mode") else "right"
        return self._off(side, super().derivatives(*x, **options))


@pytest.mark.parametrize("wrong", ["", "laplacian", "hessian_diagonal"])
def test_a_wrong_laplacian_fails(wrong: str) -> None:
    f = OnlyWrongHere(lambda u: u.__array_namespace__().sin(u) * u[0], in_shape=(3,))
    f.wrong = wrong
    assert bool(check_laplacian(f, samples())) is (wrong == "")


@pytest.mark.parametrize("wrong", ["", "left", "right", "hvp", "weighted_hessian"])
def test_a_wrong_direction_fails(wrong: str) -> None:
    f = OnlyWrongHere(lambda u: u.__array_namespace__().sin(u) * u[0], in_shape=(3,))
    f.wrong = wrong
    assert bool(check_directions(f, samples())) is (wrong == "")


# ------------------------------------------------------------------------------------- kinks


def test_kinks_beside_x_do_no_harm() -> None:
    net = network("relu")
    assert check_derivatives(net, samples(50))
    assert check_finite_differences(net, samples(50))
    assert check_laplacian(net, samples(50))


def test_kinks_at_x_are_told() -> None:
    f = ha.Function(lambda u: u.__array_namespace__().abs(u) * 2.0 + u * u, in_shape=(6,))
    x = samples(4, 6)
    x[1] = 0.0
    taylor = check_derivatives(f, x)
    assert taylor.inconclusive == (1,)
    assert taylor
    assert "kink" in str(taylor)
    differences = check_finite_differences(f, x)
    assert differences
    assert differences.comparisons[0].skipped == 6
    assert "kink" in str(differences)


def test_nothing_but_kinks_does_not_pass() -> None:
    f = ha.Function(lambda u: u.__array_namespace__().abs(u), in_shape=(6,))
    taylor = check_derivatives(f, np.zeros((2, 6)))
    assert taylor.inconclusive == (0, 1)
    assert not taylor
    assert "no sample" in str(taylor)


def test_a_jump_of_the_second_derivative_is_told() -> None:
    f = ha.Function(lambda u: ha.activation("squared_relu")(u), in_shape=(1,))
    assert check_derivatives(f, np.asarray([[0.0], [1.0]])).inconclusive == (0,)


# -------------------------------------------------------------------------------- parameters


@pytest.mark.backends("torch", "jax", "torch-cuda", "jax-cuda")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("do_hessian", [True, False])
def test_parameters(backend: Any, dtype: str, do_hessian: bool) -> None:
    net = ha.Network(network(), ha.Quadratic(2, 2, seed=0))
    found = check_parameters(net, backend.asarray(samples(), dtype), do_hessian=do_hessian)
    assert found, str(found)
    assert found.gradient_order == pytest.approx(2.0, abs=0.2)
    assert found.hessian_order is None


@pytest.mark.backends("torch", "jax")
def test_parameters_of_a_pinned_network(backend: Any) -> None:
    net = network().to(backend.name)
    x = backend.asarray(samples())
    for check in (check_parameters, check_derivatives, check_finite_differences):
        assert check(net, x)


@pytest.mark.backends("torch")
def test_wrong_derivatives_in_the_parameters_fail(backend: Any) -> None:
    class Detached(ha.Function):
        """Value and gradient as they are, but the Hessian off the tape."""

        def value_gradient_hessian(self, *x: Any, **options: Any) -> Any:
            f, df, d2f = super().value_gradient_hessian(*x, **options)
            return ha.Derivatives(f, df, d2f.detach())

    f = Detached(
        lambda u, p: u.__array_namespace__().tanh(u @ p["K"]),
        in_shape=(3,),
        params={"K": np.random.default_rng(0).normal(size=(3, 2))},
    )
    found = check_parameters(f, backend.asarray(samples()))
    assert not found
    assert found.gradient_order == pytest.approx(1.0, abs=0.1)


def test_parameters_need_automatic_differentiation_and_parameters() -> None:
    with pytest.raises(BackendError, match="torch or JAX"):
        check_parameters(network(), samples())
    with pytest.raises(ParameterError, match="no parameters"):
        check_parameters(ha.Function(lambda u: u, in_shape=(3,)), samples())


# ------------------------------------------------------------------------------------ report


def test_the_table() -> None:
    found = check_derivatives(network(), samples(), num_steps=12)
    lines = str(found).splitlines()
    assert lines[0].split() == ["h", "E0", "E1", "E2"]
    assert lines[1].startswith("1.00 x 2^(00)")
    assert lines[2].startswith("1.00 x 2^(-01)")
    assert len(lines) == 15
    assert lines[-2] == "Gradient PASSED! (order 2.00)"
    assert lines[-1].startswith("Hessian PASSED! (order 3.0")
    assert len(str(check_derivatives(network(), samples(), do_hessian=False)).splitlines()) == 32


def test_results_are_values() -> None:
    a, b = (check_derivatives(network(), samples(), seed=s) for s in (0, 0))
    assert a == b
    assert check_derivatives(network(), samples(), seed=1) != a
    assert isinstance(a, TaylorCheck)
    with pytest.raises(AttributeError):
        a.base = 3.0  # type: ignore[misc]


def test_comparisons() -> None:
    good, bad = Comparison("a", 1e-9, 1e-8), Comparison("b", math.nan, 1e-8)
    assert not bad.passed
    assert ErrorCheck((good,))
    assert not ErrorCheck((good, bad))
    assert ErrorCheck((good,)).errors == {"a": 1e-9}


def test_few_coordinates_of_many() -> None:
    net = ha.fully_connected([40, 4, 1], act="tanh", seed=0)
    assert check_finite_differences(net, samples(2, 40), coordinates=5)


@pytest.mark.parametrize("base", [2.0, 10.0, 3.0])
def test_convert_to_base(base: float) -> None:
    values = (1.0, base, base**-7, 0.3, 12345.678, 1e-300)
    flat = convert_to_base(values, base)
    for value, c, d in zip(values, flat[::2], flat[1::2], strict=True):
        assert 1.0 <= c < base
        assert c * base**d == pytest.approx(value, rel=1e-12)
    assert convert_to_base((0.0, -1.0)) == (-1, 0, -1, 0)
