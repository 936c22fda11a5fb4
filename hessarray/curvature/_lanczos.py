"""The Lanczos process with full reorthogonalisation, on any operator."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hessarray.curvature._operator import Array, Products
from hessarray.errors import CurvatureError

__all__ = ["ritz", "tridiagonals"]


def tridiagonals(products: Products, start: Array, steps: int) -> Iterator[tuple[Array, Array]]:
    r"""The matrices T = V^T A V of 1, 2, ... steps: diagonals alpha (j,), off-diagonals beta (j,).

    The last beta is the length of what A V has outside V, so that an eigenpair (theta, s) of T has
    the residual beta_j |s_j|. Ends early where V is invariant. Each new vector is made orthogonal
    to all before it, twice: with the three-term recurrence alone, converged eigenvalues would come
    again as ghosts.

    Raises
    ------
    CurvatureError
        A V is not tridiagonal in V: the operator is not symmetric.
    """
    steps = min(steps, products.n)
    V = np.empty((steps, products.n))
    alpha, beta = np.zeros(steps), np.zeros(steps)
    v = start / np.linalg.norm(start)
    for j in range(steps):
        V[j] = v
        w = products(v)
        length = np.linalg.norm(w)
        known = V[: j + 1]
        inside = known @ w
        # A symmetric operator leaves nothing here but the loss of orthogonality.
        if j > 1 and np.abs(inside[:-2]).max() > np.sqrt(products.eps) * max(
            length, beta[:j].max()
        ):
            raise CurvatureError(
                "the operator is not symmetric, and its eigenvalues need not be real: pass "
                "(A + A^T) / 2, or a Hessian"
            )
        w = w - inside @ known
        w -= (known @ w) @ known
        alpha[j], beta[j] = inside[-1], np.linalg.norm(w)
        scale = np.abs(alpha[: j + 1]).max() + beta[:j].max(initial=0.0)
        if beta[j] <= 10 * products.eps * scale or j + 1 == products.n:
            beta[j] = 0.0
        yield alpha[: j + 1], beta[: j + 1]
        if beta[j] == 0.0:
            return
        v = w / beta[j]


def ritz(alpha: Array, beta: Array) -> tuple[Array, Array, Array]:
    """Eigenvalues of T in ascending order, their residuals, and their weights (s_1)^2."""
    T = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
    values, s = np.linalg.eigh(T)
    return values, beta[-1] * np.abs(s[-1]), s[0] ** 2
