"""Eigenvalues (q,) and vectors (n, q) of an operator, q >= k, by LAPACK, ARPACK or LOBPCG."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from hessarray.curvature._operator import Array, Products, missing
from hessarray.errors import CurvatureError

__all__ = ["arpack", "dense", "lobpcg"]


def dense(products: Products) -> tuple[Array, Array]:
    """All of them, by n products."""
    A = products.dense()
    if np.abs(A - A.T).max() > np.sqrt(products.eps) * np.abs(A).max():
        raise CurvatureError(
            "the operator is not symmetric, and its eigenvalues need not be real: pass "
            "(A + A^T) / 2, or a Hessian"
        )
    values, vectors = np.linalg.eigh((A + A.T) / 2)
    return values, vectors


def arpack(
    products: Products,
    k: int,
    which: str,
    tolerance: float,
    iterations: int | None,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """By implicitly restarted Lanczos."""
    library, start = _scipy(), rng.standard_normal(products.n)
    try:
        found: tuple[Array, Array] = library.eigsh(
            _linear_operator(products), k, which=which, tol=tolerance, maxiter=iterations, v0=start
        )
    except library.ArpackNoConvergence as error:
        raise CurvatureError(
            f"{len(error.eigenvalues)} of {k} eigenpairs converged: raise iterations= or tolerance="
        ) from None
    except library.ArpackError as error:
        if products.norm > 0.0:
            raise CurvatureError(f"the eigenvalues were not found: {error}") from None
        return _of_zero(products.n, k)
    return found


def lobpcg(
    products: Products,
    k: int,
    which: str,
    tolerance: float,
    iterations: int | None,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """By LOBPCG, at both ends for "LM"; whether it converged, the caller sees by the residuals."""
    library = _scipy()
    operator = _linear_operator(products)
    found = []
    for largest in {"LA": (True,), "SA": (False,), "LM": (True, False)}[which]:
        start = rng.standard_normal((products.n, k))
        products(start)
        if products.norm == 0.0:
            return _of_zero(products.n, k)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            values, vectors = library.lobpcg(
                operator,
                start,
                largest=largest,
                tol=max(tolerance, 10 * products.eps) * products.norm,  # absolute
                maxiter=1000 if iterations is None else iterations,
            )
        found.append((values, vectors))
    return np.concatenate([v for v, _ in found]), np.concatenate([v for _, v in found], axis=1)


def _of_zero(n: int, k: int) -> tuple[Array, Array]:
    return np.zeros(k), np.eye(n, k)


def _linear_operator(products: Products) -> Any:
    return _scipy().LinearOperator(
        (products.n, products.n), matvec=products, matmat=products, dtype=np.float64
    )


def _scipy() -> Any:
    try:
        import scipy.sparse.linalg
    except ImportError:
        raise missing("scipy", "scipy") from None
    return scipy.sparse.linalg
