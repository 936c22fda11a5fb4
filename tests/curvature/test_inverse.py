"""Inverse-Hessian products: against dense solvers, mpmath, and what is not positive definite."""

from __future__ import annotations

import re
from typing import Any

import mpmath
import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator, cg

from hessarray.curvature import diagonal, solve
from hessarray.errors import CurvatureError, OptionError, ShapeError

N = 120


def symmetric(eigenvalues: np.ndarray, seed: int = 1) -> np.ndarray:
    n = len(eigenvalues)
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    A = (Q * eigenvalues) @ Q.T
    return np.asarray((A + A.T) / 2)


A = symmetric(np.logspace(-1, 2, N))
B = np.random.default_rng(2).standard_normal((N, 4))


@pytest.mark.parametrize("damping", [0.0, 0.7])
@pytest.mark.parametrize("b", [B[:, 0], B, B[:, :1]], ids=["vector", "block", "column"])
def test_it_is_the_dense_solution(b: np.ndarray, damping: float) -> None:
    expected = np.linalg.solve(A + damping * np.eye(N), b)
    for operator in (A, aslinearoperator(A)):
        found = solve(operator, b, damping=damping, tolerance=1e-12)
        assert found.solution.shape == b.shape
        np.testing.assert_allclose(found.solution, expected, rtol=1e-8, atol=1e-9)
        assert found.converged
        assert found.residual <= 2e-12


def test_the_residual_is_the_true_one() -> None:
    found = solve(A, B, tolerance=1e-4)
    true = np.linalg.norm(A @ found.solution - B, axis=0) / np.linalg.norm(B, axis=0)
    assert found.residual == pytest.approx(true.max(), rel=1e-9)
    assert true.max() <= 1e-4 * 1.0001


def test_as_many_steps_as_scipy() -> None:
    steps = 0

    def count(_: Any) -> None:
        nonlocal steps
        steps += 1

    x, _ = cg(A, B[:, 0], rtol=1e-8, atol=0.0, callback=count)
    found = solve(A, B[:, 0], tolerance=1e-8)
    assert abs(found.iterations - steps) <= 2
    assert found.products == found.iterations + 1
    np.testing.assert_allclose(found.solution, x, rtol=1e-5, atol=1e-6)


def test_an_ill_conditioned_matrix_by_mpmath() -> None:
    """Hilbert's matrix, condition 5e5, with a right-hand side of ones."""
    n = 5
    with mpmath.workdps(40):
        exact = mpmath.lu_solve(mpmath.hilbert(n), mpmath.ones(n, 1))
        expected = np.array([float(v) for v in exact])
    H = 1.0 / (np.arange(n)[:, None] + np.arange(n) + 1.0)
    found = solve(H, np.ones(n), tolerance=1e-13)
    np.testing.assert_allclose(found.solution, expected, rtol=1e-8)


def test_a_preconditioner_saves_products() -> None:
    scaled = np.diag(np.logspace(0, 5, N)) + 0.1 * symmetric(np.linspace(0.0, 1.0, N))
    expected = np.linalg.solve(scaled, B[:, 0])
    plain = solve(scaled, B[:, 0])
    for d in (np.diag(scaled), diagonal(scaled, samples=20).value):
        found = solve(scaled, B[:, 0], preconditioner=d)
        np.testing.assert_allclose(found.solution, expected, rtol=1e-5, atol=1e-8)
        assert found.products < 0.1 * plain.products


def test_a_preconditioner_with_entries_of_the_wrong_sign() -> None:
    estimate = np.diag(A).copy()
    estimate[3], estimate[4] = -1e-9, 0.0
    found = solve(A, B, preconditioner=estimate, tolerance=1e-10)
    np.testing.assert_allclose(found.solution, np.linalg.solve(A, B), rtol=1e-5, atol=1e-7)


def test_columns_that_are_done_are_left_alone() -> None:
    b = np.zeros((N, 3))
    b[:, 1] = np.linalg.eigh(A)[1][:, 0]  # one step
    b[:, 2] = B[:, 0]
    found = solve(A, b)
    np.testing.assert_array_equal(found.solution[:, 0], 0.0)
    assert found.products < found.iterations + 3 + 5
    np.testing.assert_allclose(A @ found.solution, b, atol=1e-7)


def test_too_few_products_are_told() -> None:
    found = solve(A, B, max_products=40)
    assert not found.converged
    assert found.residual > 1e-8
    assert found.products <= 40


@pytest.mark.parametrize(
    "eigenvalues",
    [
        np.concatenate([[-0.7, -0.3], np.logspace(-2, 1, N - 2)]),
        np.concatenate([[-1e-3], np.linspace(1.0, 10.0, N - 1)]),
        np.concatenate([np.zeros(40), np.ones(N - 40)]),
        -np.ones(N),
        np.linspace(-3.0, 3.0, N),
    ],
    ids=["two", "one small", "singular", "negative", "half"],
)
@pytest.mark.parametrize("damping", [0.0, 1e-5])
def test_negative_curvature_names_a_damping_that_does(
    eigenvalues: np.ndarray, damping: float
) -> None:
    M = symmetric(eigenvalues)
    if eigenvalues.min() + damping > 0:
        assert solve(M, B, damping=damping).converged
        return
    with pytest.raises(CurvatureError, match="not positive definite") as caught:
        solve(M, B, damping=damping)
    said = re.search(r"pass a damping of at least (\S+)$", str(caught.value))
    assert said is not None
    enough = float(said[1])
    assert enough < max(-1.5 * eigenvalues.min(), 1e-5)
    found = solve(M, B, damping=enough)
    assert found.converged
    np.testing.assert_allclose((M + enough * np.eye(N)) @ found.solution, B, atol=1e-6)


def test_nothing_to_solve() -> None:
    found = solve(A, np.zeros(N))
    assert (found.iterations, found.residual, found.converged) == (0, 0.0, True)
    assert solve(A, np.zeros((N, 0))).solution.shape == (N, 0)


@pytest.mark.backends("torch", "jax", "cupy", "torch-cuda", "jax-cuda")
def test_arrays_of_every_library(backend: Any) -> None:
    array, b = (backend.xp.asarray(a, device=backend.device) for a in (A, B))
    found = solve(array, b, tolerance=1e-10)
    np.testing.assert_allclose(found.solution, np.linalg.solve(A, B), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "says"),
    [
        ((A[:, 1:], B), {}, ShapeError, "a square"),
        ((A, B.T), {}, ShapeError, r"b has shape \(4, 120\), \(120,\) or \(120, k\)"),
        ((A, B[None]), {}, ShapeError, "b has shape"),
        ((A, B * np.nan), {}, OptionError, "b holds NaN"),
        ((A * np.nan, B), {}, CurvatureError, "a product with the operator holds NaN"),
        ((A, B), {"damping": -1.0}, OptionError, "damping=-1.0: expected a number from 0"),
        ((A, B), {"damping": np.nan}, OptionError, "damping=nan"),
        ((A, B), {"tolerance": -1.0}, OptionError, "tolerance=-1.0"),
        ((A, B), {"max_products": 0}, OptionError, "max_products=0"),
        ((A, B), {"preconditioner": np.ones(3)}, ShapeError, r"preconditioner has shape \(3,\)"),
        ((A, B), {"preconditioner": np.zeros(N)}, OptionError, "only zeros"),
    ],
)
def test_bad_input(arguments: Any, options: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        solve(*arguments, **options)
