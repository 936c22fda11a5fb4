"""Eigenpairs, sharpness and densities, against dense decompositions."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator

from hessarray.curvature import eigenpairs, sharpness, spectral_density, trace
from hessarray.errors import BackendError, CurvatureError, OptionError, ShapeError


def symmetric(n: int, seed: int = 0) -> np.ndarray:
    S = np.random.default_rng(seed).standard_normal((n, n))
    return np.asarray(S + S.T)


def outermost(A: np.ndarray, k: int, which: str) -> np.ndarray:
    values = np.linalg.eigvalsh(A)
    key = {"LA": -values, "SA": values, "LM": -np.abs(values)}[which]
    return np.asarray(values[np.argsort(key)][:k])


# ---------------------------------------------------------------------------------- eigenpairs


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@pytest.mark.parametrize("method", ["lanczos", "lobpcg"])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (20, 20), (150, 1), (150, 6)])
def test_pairs_are_those_of_the_dense_matrix(n: int, k: int, method: str, which: str) -> None:
    A = symmetric(n)
    for operator in (A, aslinearoperator(A)):
        found = eigenpairs(operator, k, which, method)
        np.testing.assert_allclose(found.values, outermost(A, k, which), rtol=1e-9)
        U = found.vectors
        np.testing.assert_allclose(U.T @ U, np.eye(k), atol=1e-7)
        left = np.linalg.norm(A @ U - U * found.values, axis=0)
        np.testing.assert_allclose(found.residuals, left, atol=1e-12)
        assert left.max() < 1e-6 * np.linalg.norm(A, 2)


def test_products_are_counted() -> None:
    A, seen = symmetric(150), 0

    def product(v: np.ndarray) -> Any:
        nonlocal seen
        seen += 1
        return A @ v

    assert eigenpairs(product, 2, size=150).products == seen < 150


@pytest.mark.parametrize("method", ["lanczos", "lobpcg"])
def test_a_null_space_and_a_zero_matrix(method: str) -> None:
    J = np.random.default_rng(0).standard_normal((90, 100))
    assert eigenpairs(J.T @ J, 2, "SA", method).values == pytest.approx([0.0, 0.0], abs=1e-6)
    assert eigenpairs(np.zeros((60, 60)), 2, "LM", method).values == pytest.approx([0.0, 0.0])


def test_the_same_seed_gives_the_same_pairs() -> None:
    A = symmetric(100)
    first, again = eigenpairs(A, 2, seed=3), eigenpairs(A, 2, seed=3)
    np.testing.assert_array_equal(first.vectors, again.vectors)


def test_small_matrices_need_no_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    assert eigenpairs(np.diag([1.0, 3.0, 2.0])).values == pytest.approx([3.0])
    assert sharpness(symmetric(200)) > 0
    with pytest.raises(BackendError, match=r"pip install 'hessarray\[scipy\]'"):
        eigenpairs(symmetric(200))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"k": 0}, "k=0: expected a whole number, 1 or more"),
        ({"k": 101}, "k=101: a matrix of 100 columns has 100 eigenpairs"),
        ({"which": "SM"}, "which='SM' is unknown: choose one of LA, SA, LM"),
        ({"seed": -1}, "seed=-1"),
        ({"method": "lobcg"}, "did you mean lobpcg"),
        ({"tolerance": -1.0}, "tolerance=-1.0"),
    ],
)
def test_bad_options_of_eigenpairs(options: Any, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        eigenpairs(symmetric(100), **options)


def test_what_does_not_converge_is_told() -> None:
    A = symmetric(300)
    with pytest.raises(CurvatureError, match="0 of 3 eigenpairs converged: raise iterations="):
        eigenpairs(A, 3, iterations=1)
    with pytest.raises(CurvatureError, match="iterations= is too low"):
        eigenpairs(A, 3, method="lobpcg", iterations=2)
    with pytest.raises(CurvatureError, match="raise max_products= or tolerance="):
        sharpness(A, max_products=5)


@pytest.mark.parametrize("n", [10, 100])
@pytest.mark.parametrize("method", [eigenpairs, sharpness, spectral_density])
def test_matrices_that_are_not_symmetric_are_refused(method: Any, n: int) -> None:
    with pytest.raises(CurvatureError, match="not symmetric"):
        method(np.random.default_rng(0).standard_normal((n, n)))
    with pytest.raises(ShapeError, match="a square"):
        method(np.ones((n, n + 1)))
    with pytest.raises(CurvatureError, match="NaN"):
        method(np.full((n, n), np.nan))


# ----------------------------------------------------------------------------------- sharpness


@pytest.mark.parametrize("n", [1, 2, 7, 200])
def test_sharpness_is_the_norm(n: int) -> None:
    for A in (symmetric(n), -symmetric(n) - 5 * np.eye(n)):
        assert sharpness(A) == pytest.approx(np.linalg.norm(A, 2), rel=1e-10)


def test_sharpness_of_repeated_and_of_no_eigenvalues() -> None:
    assert sharpness(-3.0 * np.eye(50)) == pytest.approx(3.0, rel=1e-14)
    assert sharpness(np.diag([5.0, -5.0, 5.0, 1.0])) == pytest.approx(5.0, rel=1e-12)
    assert sharpness(np.zeros((50, 50))) == 0.0


def test_sharpness_in_float32() -> None:
    A = symmetric(200).astype(np.float32)
    assert sharpness(A) == pytest.approx(np.linalg.norm(A, 2), rel=1e-5)


# ------------------------------------------------------------------------------------- density


def test_moments_of_the_density() -> None:
    """Weights and nodes have the moments of the spectrum, within the scatter of the samples."""
    A = symmetric(200) / np.sqrt(200)
    eigenvalues = np.linalg.eigvalsh(A)
    found = spectral_density(A, samples=40, steps=30)
    assert found.weights.sum() == pytest.approx(1.0, rel=1e-12)
    for power in range(1, 6):
        scatter = 4 * np.std(eigenvalues**power) * np.sqrt(2 / (200 * 40))
        error = found.weights @ found.nodes**power - np.mean(eigenvalues**power)
        assert abs(error) < scatter


def test_the_density_of_a_known_spectrum() -> None:
    """Against the exact eigenvalues, smoothed by the same Gaussians."""
    eigenvalues = np.concatenate([np.linspace(-1.0, 1.0, 240), np.full(60, 3.0)])
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((300, 300)))[0]
    A = (Q * eigenvalues) @ Q.T
    grid = np.linspace(-2.0, 4.0, 400)
    found = spectral_density(A, samples=20, steps=80, grid=grid, width=0.1)
    np.testing.assert_array_equal(found.grid, grid)
    gaussians = np.exp(-0.5 * ((grid[:, None] - eigenvalues) / 0.1) ** 2)
    exact = gaussians.sum(axis=1) / (300 * 0.1 * np.sqrt(2 * np.pi))
    assert np.abs(found.density - exact).max() < 0.08 * exact.max()
    # The integral of the difference is small beside 1.
    assert np.trapezoid(np.abs(found.density - exact), grid) < 0.06


def test_the_density_integrates_to_one() -> None:
    for A in (symmetric(60), 2.0 * np.eye(60), np.zeros((60, 60)), np.array([[-4.0]])):
        found = spectral_density(A, samples=4, steps=20)
        assert np.trapezoid(found.density, found.grid) == pytest.approx(1.0, abs=1e-5)


def test_every_step_of_a_full_run_is_an_eigenvalue() -> None:
    """Reorthogonalised, n steps give the n eigenvalues and no ghosts."""
    A = np.diag(np.logspace(-8, 3, 60))
    nodes = np.sort(spectral_density(A, samples=1, steps=60).nodes)
    np.testing.assert_allclose(nodes, np.diag(A), rtol=1e-6, atol=1e-12 * 1e3)


def test_a_trace_by_quadrature() -> None:
    A = symmetric(100) / 10 + 4 * np.eye(100)
    found = spectral_density(A, samples=30, steps=20)
    expected = np.sum(1.0 / np.linalg.eigvalsh(A))
    assert 100 * found.weights @ (1.0 / found.nodes) == pytest.approx(expected, rel=0.02)
    assert 100 * found.weights @ found.nodes == pytest.approx(trace(A, samples=100).value, rel=0.02)


@pytest.mark.backends("torch", "jax", "cupy", "torch-cuda", "jax-cuda")
def test_arrays_of_every_library(backend: Any) -> None:
    A = symmetric(80)
    array = backend.xp.asarray(A, device=backend.device)
    assert eigenpairs(array, 2).values == pytest.approx(outermost(A, 2, "LA"), rel=1e-9)
    assert sharpness(array) == pytest.approx(np.linalg.norm(A, 2), rel=1e-9)
    expected = spectral_density(A, samples=2, steps=10)
    np.testing.assert_allclose(
        spectral_density(array, samples=2, steps=10).nodes, expected.nodes, rtol=1e-9
    )


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"samples": 0}, OptionError, "samples=0"),
        ({"steps": 0}, OptionError, "steps=0"),
        ({"grid": 1}, OptionError, "grid=1"),
        ({"grid": np.ones((2, 2))}, ShapeError, r"grid has shape \(2, 2\)"),
        ({"width": 0.0}, OptionError, "width=0.0: expected a positive number"),
    ],
)
def test_bad_options_of_the_density(options: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        spectral_density(symmetric(10), **options)
