"""Eigenvalues of a symmetric matrix from its products: the outermost pairs, and their density."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hessarray._arguments import whole
from hessarray.curvature._eigensolvers import arpack, dense, lobpcg
from hessarray.curvature._lanczos import ritz, tridiagonals
from hessarray.curvature._operator import Array, Products, generator
from hessarray.errors import CurvatureError, OptionError, ShapeError, near_names

__all__ = ["EigenPairs", "SpectralDensity", "eigenpairs", "sharpness", "spectral_density"]

_WHICH = ("LA", "SA", "LM")
_METHODS = ("lanczos", "lobpcg")


class EigenPairs(NamedTuple):
    """Eigenvalues (k,), orthonormal eigenvectors (n, k), |A v - lambda v| (k,), products taken."""

    values: Array
    vectors: Array
    residuals: Array
    products: int


class SpectralDensity(NamedTuple):
    r"""The density (g,) on a grid (g,), and the weighted nodes (q,) that it was smoothed from.

    The weights sum to 1, and :math:`n \sum_q w_q f(\theta_q)` estimates the trace of f(A).
    """

    grid: Array
    density: Array
    nodes: Array
    weights: Array


def eigenpairs(
    operator: Any,
    k: int = 1,
    which: str = "LA",
    method: str = "lanczos",
    tolerance: float = 1e-8,
    iterations: int | None = None,
    seed: int | np.random.Generator = 0,
    size: int | None = None,
) -> EigenPairs:
    """The k outermost eigenvalues and eigenvectors, A v = lambda v.

    Implicitly restarted Lanczos (ARPACK) or LOBPCG, both of SciPy; small matrices are formed by n
    products and decomposed, without SciPy.

    Parameters
    ----------
    operator : LinearOperator, array (n, n) or callable
        A symmetric A.
    k : int
        How many pairs, 1 to n.
    which : {"LA", "SA", "LM"}
        The largest, in descending order; the smallest, in ascending order; or those of largest
        magnitude, in descending order of it.
    method : {"lanczos", "lobpcg"}
        LOBPCG multiplies blocks of k vectors, which suits operators that do so cheaply, but needs
        more products; for "LM" it looks at both ends.
    tolerance : float
        Of the eigenvalues, relative; 0 is as good as the dtype allows (Lanczos only).
    iterations : int, optional
        At most so many restarts, or steps of LOBPCG; otherwise 10 n, or 1000.
    seed : int or numpy.random.Generator
        Of the vectors to start from.
    size : int, optional
        n, where the operator is a function of one vector.

    Returns
    -------
    EigenPairs
        ``(values, vectors, residuals, products)``.

    Raises
    ------
    OptionError
        k, ``which`` or ``method`` cannot be.
    ShapeError, DTypeError, BackendError
        The operator is not square or not real; SciPy is not installed.
    CurvatureError
        A product is not finite, the operator is not symmetric, or the iteration did not converge.

    References
    ----------
    R. B. Lehoucq, D. C. Sorensen, C. Yang, ARPACK users' guide, SIAM 1998. A. V. Knyazev, Toward
    the optimal preconditioned eigensolver, SIAM J. Sci. Comput. 23 (2001) 517.

    Examples
    --------
    >>> import numpy as np
    >>> from hessarray.curvature import eigenpairs
    >>> A = np.diag(np.arange(-60.0, 41.0))
    >>> eigenpairs(A, k=2, which="LM").values.round(6)
    array([-60., -59.])
    """
    products = Products(operator, size)
    n = products.n
    k = whole("k", k, 1)
    if k > n:
        raise OptionError(f"k={k}: a matrix of {n} columns has {n} eigenpairs")
    for name, value, known in (("which", which, _WHICH), ("method", method, _METHODS)):
        if value not in known:
            hint = near_names(str(value), known) or f"choose one of {', '.join(known)}"
            raise OptionError(f"{name}={value!r} is unknown: {hint}")
    if not tolerance >= 0.0:
        raise OptionError(f"tolerance={tolerance!r}: expected a number from 0")
    rng = generator(seed)
    if n <= max(32, 5 * k):  # as many products as Lanczos would take; LOBPCG needs 5 k < n
        values, vectors = dense(products)
    else:
        solver = arpack if method == "lanczos" else lobpcg
        values, vectors = solver(products, k, which, tolerance, iterations, rng)
    order = np.argsort({"LA": -values, "SA": values, "LM": -np.abs(values)}[which], kind="stable")
    values, vectors = values[order[:k]], vectors[:, order[:k]]
    residuals = np.linalg.norm(products(vectors) - vectors * values, axis=0)
    allowed = np.sqrt(products.eps) + 1e2 * tolerance
    if residuals.max() > allowed * products.norm:
        raise CurvatureError(
            f"an eigenpair has the residual {residuals.max():.2g} in a matrix of norm "
            f"{products.norm:.2g} or more: the operator is not symmetric, or iterations= is too low"
        )
    return EigenPairs(values, vectors, residuals, products.count)


def sharpness(
    operator: Any,
    tolerance: float = 1e-6,
    max_products: int = 300,
    seed: int | np.random.Generator = 0,
    size: int | None = None,
) -> float:
    r"""The largest absolute eigenvalue, :math:`\max_i |\lambda_i|`, of a symmetric matrix.

    By Lanczos steps, until the residual :math:`|A v - \lambda v|` is below
    ``tolerance`` :math:`|\lambda|`; the error of the eigenvalue is of the order of its square.
    Needs NumPy only, and 8 n bytes for each product.

    Parameters
    ----------
    operator : LinearOperator, array (n, n) or callable
        A symmetric A.
    tolerance : float
        Of the residual.
    max_products : int
        After which to give up.
    seed : int or numpy.random.Generator
        Of the vector to start from.
    size : int, optional
        n, where the operator is a function of one vector.

    Raises
    ------
    CurvatureError
        A product is not finite, the operator is not symmetric, or ``max_products`` did not do.
    ShapeError, DTypeError, OptionError
        The operator is not square or not real, or an option cannot be.

    Examples
    --------
    >>> import numpy as np
    >>> from hessarray.curvature import sharpness
    >>> round(sharpness(np.diag(np.linspace(-3.0, 2.0, 500))), 6)
    3.0
    """
    products = Products(operator, size)
    steps = whole("max_products", max_products, 1)
    start = generator(seed).standard_normal(products.n)
    value = residual = 0.0
    for alpha, beta in tridiagonals(products, start, steps):
        values, residuals, _ = ritz(alpha, beta)
        i = int(np.argmax(np.abs(values)))
        value, residual = abs(float(values[i])), float(residuals[i])
        if residual <= max(tolerance, products.eps) * value:
            return value
    raise CurvatureError(
        f"the largest eigenvalue is {value:.6g} with a residual of {residual:.2g} after {steps} "
        "products: raise max_products= or tolerance="
    )


def spectral_density(
    operator: Any,
    samples: int = 10,
    steps: int = 60,
    grid: int | Array = 500,
    width: float | None = None,
    seed: int | np.random.Generator = 0,
    size: int | None = None,
) -> SpectralDensity:
    r"""The density of eigenvalues, :math:`\phi(t) = \frac{1}{n} \sum_i \delta(t - \lambda_i)`.

    Stochastic Lanczos quadrature: from each of s random vectors, Lanczos steps give a tridiagonal
    matrix with eigenpairs :math:`(\theta_j, y_j)`, whose weights :math:`(y_{j1})^2 / s` at
    :math:`\theta_j` have the moments of the density. It is smoothed by Gaussians,

    .. math:: \phi(t) \approx \sum_q w_q \frac{1}{\sigma \sqrt{2 \pi}}
              \exp\left(-\frac{(t - \theta_q)^2}{2 \sigma^2}\right).

    Parameters
    ----------
    operator : LinearOperator, array (n, n) or callable
        A symmetric A.
    samples, steps : int
        Random vectors s, and Lanczos steps from each, at most n; as many products as both
        together. Needs 8 n bytes for each step.
    grid : int or array (g,)
        Points t, or how many, evenly spaced, five widths beyond the outermost nodes.
    width : float, optional
        sigma; otherwise a fiftieth of the range of the nodes.
    seed : int or numpy.random.Generator
        Of the random vectors.
    size : int, optional
        n, where the operator is a function of one vector.

    Returns
    -------
    SpectralDensity
        ``(grid, density, nodes, weights)``; the density integrates to 1.

    Raises
    ------
    OptionError
        samples, steps or width is not positive.
    ShapeError, DTypeError
        The operator is not square or not real, or the grid is no vector.
    CurvatureError
        A product is not finite, or the operator is not symmetric.

    References
    ----------
    L. Lin, Y. Saad, C. Yang, Approximating spectral densities of large matrices, SIAM Rev. 58
    (2016) 34. S. Ubaru, J. Chen, Y. Saad, Fast estimation of tr(f(A)) via stochastic Lanczos
    quadrature, SIAM J. Matrix Anal. Appl. 38 (2017) 1075. B. Ghorbani, S. Krishnan, Y. Xiao, An
    investigation into neural net optimization via Hessian eigenvalue density, ICML 2019.

    Examples
    --------
    The logarithm of a determinant is the trace of a logarithm:

    >>> import numpy as np
    >>> from hessarray.curvature import spectral_density
    >>> A = np.diag(np.linspace(1.0, 3.0, 400))
    >>> found = spectral_density(A, samples=20, steps=20)
    >>> estimate = 400 * found.weights @ np.log(found.nodes)
    >>> bool(abs(estimate / np.linalg.slogdet(A)[1] - 1) < 0.02)
    True
    """
    products = Products(operator, size)
    samples, steps = whole("samples", samples, 1), whole("steps", steps, 1)
    if width is not None and not 0.0 < width < np.inf:
        raise OptionError(f"width={width!r}: expected a positive number")
    rng = generator(seed)
    nodes, weights = [], []
    for _ in range(samples):
        *_, (alpha, beta) = tridiagonals(products, rng.standard_normal(products.n), steps)
        values, _, weight = ritz(alpha, beta)
        nodes.append(values)
        weights.append(weight / samples)
    at, weight = np.concatenate(nodes), np.concatenate(weights)
    low, high = float(at.min()), float(at.max())
    if width is None:  # not less than what tells the grid's points apart
        width = max((high - low) / 50, 1e-6 * max(abs(low), abs(high))) or 1.0
    if isinstance(grid, (int, np.integer)):
        points = np.linspace(low - 5 * width, high + 5 * width, whole("grid", grid, 2))
    else:
        points = np.asarray(grid, dtype=np.float64)
        if points.ndim != 1 or not points.size:
            raise ShapeError(f"grid has shape {points.shape}, (g,) is expected")
    density = np.zeros(len(points))
    for t, w in zip(at, weight, strict=True):  # not all at once: a grid may be long
        density += w * np.exp(-0.5 * ((points - t) / width) ** 2)
    return SpectralDensity(points, density / (width * np.sqrt(2 * np.pi)), at, weight)
