"""Traces and diagonals: exact where they must be, within their error bars where they are drawn."""

from __future__ import annotations

from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.linalg import aslinearoperator

from hessarray.curvature import diagonal, trace
from hessarray.errors import CurvatureError, DTypeError, OptionError, ShapeError

METHODS = ("xtrace", "hutch++", "hutchinson")
N = 150
SEEDS = range(200)
_I = np.arange(1, N + 1)
_SIGN = np.where(_I % 3 == 0, -1.0, 1.0)
SPECTRA = {
    "flat": 1.0 + 0.1 * _SIGN,
    "flat, indefinite": _SIGN,
    "1/i": _SIGN / _I,
    "1/i^2": _SIGN / _I**2.0,
    "0.7^i": _SIGN * 0.7**_I,
    "0.95^i": 0.95**_I,
    "rank 7": np.where(_I < 8, _SIGN * _I, 0.0),
    "rank 19": np.where(_I < 20, _SIGN * _I, 0.0),
    "step": np.where(_I < 12, 1.0, 1e-3) * _SIGN,
}


@cache
def matrix(spectrum: str) -> np.ndarray:
    """A symmetric matrix of this spectrum, in a random basis."""
    Q = np.linalg.qr(np.random.default_rng(7).standard_normal((N, N)))[0]
    A = (Q * SPECTRA[spectrum]) @ Q.T
    return np.asarray((A + A.T) / 2)


def general(n: int = 40) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((n, n))


# ------------------------------------------------------------------------------------ the trace


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("method", METHODS)
def test_a_trace_lies_within_its_error_bars(method: str, spectrum: str) -> None:
    A = matrix(spectrum)
    exact = float(mpmath.fsum(np.diag(A)))
    estimates = [trace(A, method, samples=72, seed=seed) for seed in SEEDS]
    errors = np.abs([e.value - exact for e in estimates])
    bars = np.array([e.standard_error for e in estimates])
    assert np.mean(errors <= 3 * bars) >= 0.97
    assert {e.products for e in estimates} == {72}
    # Bars that nothing escapes because they are wide would say nothing.
    assert np.median(bars) < 12 * np.median(errors) + 1e-13


@pytest.mark.parametrize("method", METHODS)
def test_a_trace_is_unbiased(method: str) -> None:
    A = general()
    values = [trace(A, method, samples=24, seed=seed).value for seed in range(1000)]
    assert abs(np.mean(values) - np.trace(A)) < 3.5 * np.std(values) / np.sqrt(1000)


def test_xtrace_is_the_mean_of_leave_one_out_estimates() -> None:
    """Against the definition: a QR decomposition for each vector that is left out."""
    A, k = general(), 9
    n = len(A)
    omega = np.random.default_rng(5).standard_normal((n, k))

    def mean(columns: np.ndarray) -> float:
        terms = []
        for i in range(columns.shape[1]):
            Q = np.linalg.qr(A @ np.delete(columns, i, axis=1))[0]
            e = columns[:, i] - Q @ (Q.T @ columns[:, i])
            scale = (n - columns.shape[1] + 1) / (e @ e)
            terms.append(np.trace(Q.T @ A @ Q) + scale * (e @ A @ e))
        return float(np.mean(terms))

    without = np.array([mean(np.delete(omega, j, axis=1)) for j in range(k)])
    jackknife = np.sum((without - without.mean()) ** 2) * (k - 1) / k
    student = (k - 1) / (k - 3)
    estimate = trace(A, samples=2 * k, seed=np.random.default_rng(5))
    assert estimate.value == pytest.approx(mean(omega), rel=1e-11)
    assert estimate.standard_error == pytest.approx(np.sqrt(jackknife * student), rel=1e-9)


@pytest.mark.parametrize("method", ["xtrace", "hutch++"])
def test_a_low_rank_is_found_exactly(method: str) -> None:
    A = matrix("rank 7")
    estimate = trace(A, method, samples=40)
    assert estimate.value == pytest.approx(np.trace(A), abs=1e-12)
    assert estimate.standard_error < 1e-12


def test_decaying_eigenvalues_need_fewer_products() -> None:
    A = matrix("0.7^i")
    error = {
        m: np.median([abs(trace(A, m, 48, seed).value - np.trace(A)) for seed in range(20)])
        for m in METHODS
    }
    assert error["xtrace"] < 0.2 * error["hutch++"]
    assert error["hutch++"] < 0.1 * error["hutchinson"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_as_many_samples_as_columns_are_exact(method: str, n: int) -> None:
    A = general(n)
    for samples in (n, n + 13):
        value, error, products = trace(A, method, samples=samples)
        assert value == pytest.approx(np.trace(A), rel=1e-14)
        assert (error, products) == (0.0, n)


@pytest.mark.parametrize("method", METHODS)
def test_a_zero_matrix(method: str) -> None:
    assert trace(np.zeros((60, 60)), method, samples=20)[:2] == (0.0, 0.0)


# --------------------------------------------------------------------------------- the diagonal


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_a_diagonal_lies_within_its_error_bars(spectrum: str) -> None:
    A = matrix(spectrum)
    estimates = [diagonal(A, samples=48, seed=seed) for seed in SEEDS]
    errors = np.abs([e.value - np.diag(A) for e in estimates])
    bars = np.array([e.standard_error for e in estimates])
    within = errors <= 3 * bars
    assert within.mean() >= 0.985
    assert within.mean(axis=0).min() >= 0.95  # and no entry is left behind
    assert 0.6 < np.sqrt(np.mean(errors**2) / np.mean(bars**2)) < 1.1


def test_a_diagonal_matrix_is_exact_at_once() -> None:
    d = np.linspace(-2, 3, 50)
    value, error, products = diagonal(np.diag(d), samples=5)
    np.testing.assert_allclose(value, d, rtol=1e-15)
    assert error.max() < 1e-15
    assert products == 5


def test_blocks_of_samples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    A = general()
    whole = diagonal(A, samples=20, seed=2), trace(A, "hutchinson", samples=20, seed=2)
    monkeypatch.setattr("hessarray.curvature._operator._BLOCK", 8 * 40 * 20)
    same = diagonal(A, samples=20, seed=2), trace(A, "hutchinson", samples=20, seed=2)
    np.testing.assert_allclose(same[0].value, whole[0].value, rtol=1e-12)
    monkeypatch.setattr("hessarray.curvature._operator._BLOCK", 8 * 40 * 6)  # blocks of 6, 6, 6, 2
    split = diagonal(A, samples=20, seed=2)
    _, error, _ = split
    assert np.median(error / whole[0].standard_error) == pytest.approx(1.0, abs=0.3)
    assert trace(A, samples=40).value == pytest.approx(np.trace(A), rel=1e-12)
    np.testing.assert_allclose(diagonal(A, samples=40).value, np.diag(A), rtol=1e-13)


def test_deviations_merged_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean and standard error are those of all samples together."""
    A, seen = general(), []

    def product(v: np.ndarray) -> Any:
        seen.append(v * (A @ v))
        return A @ v

    monkeypatch.setattr("hessarray.curvature._operator._BLOCK", 8 * 40 * 7)
    value, error, _ = diagonal(product, samples=20, size=40)
    terms = np.array(seen)
    np.testing.assert_allclose(value, terms.mean(axis=0), rtol=1e-12)
    student = np.sqrt(19 / 17)
    expected = terms.std(axis=0, ddof=1) / np.sqrt(20) * student
    np.testing.assert_allclose(error, expected, rtol=1e-10)


# ------------------------------------------------------------------------------------- operators


def test_a_matrix_of_the_same_seed_is_no_accomplice() -> None:
    """default_rng(0) draws the matrix, and seed=0 must not draw its rows again."""
    S = np.random.default_rng(0).standard_normal((200, 200))
    estimates = [trace(S @ S.T, m, samples=60) for m in METHODS]
    for value, error, _ in estimates:
        assert abs(value - np.sum(S**2)) < 3 * error


def test_the_same_seed_gives_the_same_estimate() -> None:
    A = matrix("1/i")
    for method in METHODS:
        assert trace(A, method, seed=4) == trace(A, method, seed=4)
        assert trace(A, method, seed=4).value != trace(A, method, seed=5).value
    np.testing.assert_array_equal(diagonal(A, seed=4).value, diagonal(A, seed=4).value)


def test_operators_functions_and_sparse_arrays() -> None:
    A = general()
    expected = trace(A, samples=20)
    for operator in (aslinearoperator(A), csr_array(A)):
        assert trace(operator, samples=20).value == pytest.approx(expected.value, rel=1e-12)
    by_vector = trace(lambda v: A @ v, samples=20, size=len(A))
    assert by_vector.value == pytest.approx(expected.value, rel=1e-12)


class OnlyMatvec:
    """The least that an operator needs."""

    shape = (40, 40)

    def matvec(self, v: np.ndarray) -> np.ndarray:
        return general() @ v


def test_an_operator_of_single_products() -> None:
    assert trace(OnlyMatvec(), samples=20).value == pytest.approx(
        trace(general(), samples=20).value, rel=1e-12
    )


@pytest.mark.backends("torch", "jax", "cupy", "torch-cuda", "jax-cuda")
def test_arrays_of_every_library(backend: Any) -> None:
    A = general()
    array = backend.xp.asarray(A, device=backend.device)
    for method in METHODS:
        expected = trace(A, method, samples=20)
        assert trace(array, method, samples=20).value == pytest.approx(expected.value, rel=1e-11)
    estimate = diagonal(array, samples=20)
    assert isinstance(estimate.value, np.ndarray)
    np.testing.assert_allclose(estimate.value, diagonal(A, samples=20).value, rtol=1e-11)


def test_float32_bars_include_its_rounding() -> None:
    A = matrix("rank 7").astype(np.float32)
    exact = float(np.trace(A.astype(np.float64)))
    estimates = [trace(A, samples=40, seed=seed) for seed in range(100)]
    within = [abs(e.value - exact) <= 3 * e.standard_error for e in estimates]
    assert np.mean(within) >= 0.97


def test_integers_count_as_numbers() -> None:
    A = np.arange(16).reshape(4, 4)
    assert trace(A).value == 30.0


# ------------------------------------------------------------------------------------- bad input


def nan_operator(v: np.ndarray) -> np.ndarray:
    return v * np.nan


@pytest.mark.parametrize("estimate", [trace, diagonal])
@pytest.mark.parametrize(
    ("operator", "options", "error", "says"),
    [
        (np.ones((3, 4)), {}, ShapeError, r"operator has shape \(3, 4\), a square"),
        (np.ones(3), {}, ShapeError, r"shape \(3,\)"),
        (np.ones((0, 0)), {}, ShapeError, r"shape \(0, 0\)"),
        (np.eye(3), {"size": 4}, ShapeError, "size=4"),
        (np.eye(3) + 1j, {}, DTypeError, "complex128, float32 or float64"),
        (np.eye(3, dtype=np.float16), {}, DTypeError, "float16"),
        (np.eye(9), {"samples": 0}, OptionError, "samples=0: expected a whole number, 1 or more"),
        (np.eye(9), {"samples": 2.5}, OptionError, "samples=2.5"),
        (np.eye(9), {"samples": 2}, OptionError, "samples=2: .*9 give the exact"),
        (nan_operator, {"size": 9, "samples": 8}, CurvatureError, "holds NaN or infinity"),
        (lambda v: v[:-1], {"size": 9}, ShapeError, r"has shape \(8, 9\)"),
        (lambda v: v, {}, OptionError, "size="),
        (lambda v: v, {"size": 0}, OptionError, "size=0"),
        ("A", {}, OptionError, "operator is a str"),
    ],
)
def test_bad_input(estimate: Any, operator: Any, options: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        estimate(operator, **options)


def test_an_unknown_method_is_told_the_near_ones() -> None:
    with pytest.raises(OptionError, match=r"did you mean hutch\+\+"):
        trace(np.eye(3), "hutchpp")
    with pytest.raises(OptionError, match="choose one of xtrace, hutch"):
        trace(np.eye(3), "exact")
