"""Products with an inverse: (A + damping I)^-1 b by conjugate gradients, from products with A."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from hessarray._arguments import plain, whole
from hessarray.curvature._lanczos import ritz, tridiagonals
from hessarray.curvature._operator import Array, Products
from hessarray.errors import CurvatureError, OptionError, ShapeError

__all__ = ["Solution", "solve"]


class Solution(NamedTuple):
    """x of the shape of b, and how it was reached.

    ``residual`` is |b - (A + damping I) x| / |b|, computed anew at the end, the largest of all
    columns; ``converged`` says whether it is within the tolerance.
    """

    solution: Array
    iterations: int
    residual: float
    converged: bool
    products: int


def solve(
    operator: Any,
    b: Any,
    damping: float = 0.0,
    tolerance: float = 1e-8,
    max_products: int | None = None,
    preconditioner: Any = None,
    size: int | None = None,
) -> Solution:
    r"""The inverse-Hessian product :math:`x = (A + \lambda I)^{-1} b`, by conjugate gradients.

    For an A that is symmetric and, with its damping :math:`\lambda`, positive definite. The columns
    of a block b share their products with A, and are otherwise independent.

    Parameters
    ----------
    operator : LinearOperator, array (n, n) or callable
        A.
    b : array (n,) or (n, k)
        Right-hand sides.
    damping : float
        :math:`\lambda`, from 0.
    tolerance : float
        Of the residual :math:`|b - (A + \lambda I) x| / |b|` of each column.
    max_products : int, optional
        Vectors that A may be multiplied with; otherwise 10 n for each column. What was reached by
        then is returned with ``converged`` false.
    preconditioner : array (n,), optional
        The diagonal of A, exact or estimated by `diagonal`: b is solved for in the scale
        :math:`1 / (|A_{ii}| + \lambda)`.
    size : int, optional
        n, where the operator is a function of one vector.

    Returns
    -------
    Solution
        ``(solution, iterations, residual, converged, products)``.

    Raises
    ------
    CurvatureError
        :math:`p^T (A + \lambda I) p \le 0` for a direction p; the message has the damping that
        would do. Or a product is not finite.
    ShapeError, DTypeError, OptionError
        The operator is not square or not real, b or the preconditioner does not fit, or an option
        cannot be.

    References
    ----------
    M. R. Hestenes, E. Stiefel, Methods of conjugate gradients for solving linear systems, J. Res.
    NBS 49 (1952) 409. J. Martens, Deep learning via Hessian-free optimization, ICML 2010 (the
    damping).

    Examples
    --------
    >>> import numpy as np
    >>> from hessarray.curvature import solve
    >>> A = np.diag(np.linspace(1.0, 100.0, 200))
    >>> found = solve(A, np.ones(200), damping=0.5)
    >>> found.converged, found.solution[:2].round(6)
    (True, array([0.666667, 0.500629]))
    """
    products = Products(operator, size)
    right = _right_hand_sides(b, products.n)
    for name, value in (("damping", damping), ("tolerance", tolerance)):
        if not 0.0 <= value < math.inf:
            raise OptionError(f"{name}={value!r}: expected a number from 0")
    k = right.shape[1]
    allowed = (
        10 * products.n * k if max_products is None else whole("max_products", max_products, 1)
    )
    scale = _scale(preconditioner, products.n, damping)
    x, iterations = _conjugate_gradients(products, right, damping, tolerance, allowed, scale)
    norms = np.linalg.norm(right, axis=0)
    left = np.linalg.norm(right - products(x) - damping * x, axis=0)
    residual = float(np.max(left / np.where(norms > 0.0, norms, 1.0), initial=0.0))
    shaped = x.reshape(np.shape(b))
    # The recursive residual that stops the iteration strays from the true one by rounding.
    return Solution(shaped, iterations, residual, residual <= 2 * tolerance, products.count)


def _conjugate_gradients(
    products: Products, b: Array, damping: float, tolerance: float, allowed: int, scale: Array
) -> tuple[Array, int]:
    """x (n, k) and the number of steps; columns that are done are multiplied no more."""
    x, r = np.zeros_like(b), b.copy()
    p = scale * r
    rho = np.sum(r * p, axis=0)
    goal = tolerance * np.linalg.norm(b, axis=0)
    iterations = 0
    while True:
        active = np.flatnonzero(np.linalg.norm(r, axis=0) > goal)
        # One more for each column of b tells the residual.
        if not active.size or products.count + active.size + b.shape[1] > allowed:
            return x, iterations
        direction = p[:, active]
        product = products(direction) + damping * direction
        curvature = np.sum(direction * product, axis=0)
        lengths = np.sum(direction**2, axis=0)
        # Curvature within rounding of zero has no sign to rely upon.
        flat = curvature <= products.eps * (products.norm + damping) * lengths
        if flat.any():
            _refuse(products, direction[:, np.argmax(flat)], damping)
        step = rho[active] / curvature
        x[:, active] += step * direction
        r[:, active] -= step * product
        z = scale * r[:, active]
        new = np.sum(r[:, active] * z, axis=0)
        p[:, active] = z + (new / rho[active]) * direction
        rho[active] = new
        iterations += 1


def _refuse(products: Products, direction: Array, damping: float) -> None:
    """The error that says how negative the curvature is, and which damping would do."""
    at = products.count
    values = residuals = np.zeros(1)
    for alpha, beta in tridiagonals(products, direction, 40):
        values, residuals, _ = ritz(alpha, beta)
        if residuals[0] <= 1e-2 * abs(values[0]):
            break
    # An eigenvalue lies within the residual; a tenth more, and what makes a singular A solvable.
    least = float(values[0] - residuals[0])
    enough = max(-1.1 * least, 1e-6 * products.norm, 1.1 * damping, 1e-8)
    raise CurvatureError(
        f"the operator{f' + {damping:g} I' if damping else ''} is not positive definite, as a "
        f"direction after {at} products shows, and its least eigenvalue is about "
        f"{values[0] + damping:.3g}: pass a damping of at least {_rounded_up(enough)}"
    )


def _rounded_up(value: float) -> str:
    """To two figures."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / unit - 1e-6) * unit:.2g}"


def _right_hand_sides(b: Any, n: int) -> Array:
    array = np.asarray(plain(b), dtype=np.float64)
    if array.ndim not in (1, 2) or array.shape[0] != n:
        raise ShapeError(f"b has shape {array.shape}, ({n},) or ({n}, k) is expected")
    if not np.isfinite(array).all():
        raise OptionError("b holds NaN or infinity: expected finite right-hand sides")
    return array.reshape(n, -1)


def _scale(preconditioner: Any, n: int, damping: float) -> Array:
    """What divides by the diagonal, (n, 1): its magnitude, and not less than its rounding."""
    if preconditioner is None:
        return np.ones((n, 1))
    diagonal = np.abs(np.asarray(plain(preconditioner), dtype=np.float64)) + damping
    if diagonal.shape != (n,):
        raise ShapeError(
            f"preconditioner has shape {diagonal.shape}, the diagonal ({n},) is expected"
        )
    largest = diagonal.max()
    if not np.isfinite(largest) or largest == 0.0:
        raise OptionError(
            "preconditioner holds NaN, infinity or only zeros: pass the diagonal of A"
        )
    # An estimated entry may come out near zero by chance, and would blow its direction up.
    return np.asarray(1.0 / np.maximum(diagonal, 1e-6 * largest))[:, None]
