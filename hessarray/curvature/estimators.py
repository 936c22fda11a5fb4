"""Trace and diagonal of a matrix from few products with random vectors, with error bars.

With as many samples as the matrix has columns, the unit vectors replace the random ones and the
result is exact: an estimator never costs more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from hessarray._arguments import whole
from hessarray.curvature._operator import Array, Products, generator
from hessarray.errors import OptionError, near_names

__all__ = ["DiagonalEstimate", "TraceEstimate", "diagonal", "trace"]


class TraceEstimate(NamedTuple):
    """tr A: its estimate, one standard error of it, and the products that it took."""

    value: float
    standard_error: float
    products: int


class DiagonalEstimate(NamedTuple):
    """diag A: its estimate (n,), one standard error of each entry (n,), and the products taken."""

    value: Array
    standard_error: Array
    products: int


def trace(
    operator: Any,
    method: str = "xtrace",
    samples: int = 60,
    seed: int | np.random.Generator = 0,
    size: int | None = None,
) -> TraceEstimate:
    r"""The trace :math:`\sum_i A_{ii}`, estimated from products with A alone.

    ``"hutchinson"``, s = samples:
        :math:`\frac{1}{s} \sum_i \omega_i^T A \omega_i` with random signs :math:`\omega_i`. Its
        variance is :math:`\frac{2}{s} \sum_{i \ne j} A_{ij}^2` for a symmetric A.
    ``"hutch++"``, k = s // 3:
        :math:`Q = \mathrm{orth}(A S)` of k random columns S takes the large eigenvalues, and
        g = s - 2k probes the rest:
        :math:`\mathrm{tr}\, Q^T A Q + \frac{1}{g} \sum_i \omega_i^T P A P \omega_i`, with
        :math:`P = I - Q Q^T`.
    ``"xtrace"``, k = s // 2:
        Each of k probes serves for both. :math:`\omega_i` estimates the rest behind
        :math:`Q_{(i)} = \mathrm{orth}(A \Omega_{-i})` of all the others,

        .. math:: t_i = \mathrm{tr}\, Q_{(i)}^T A Q_{(i)}
                  + \frac{n - k + 1}{|P_i \omega_i|^2} \omega_i^T P_i A P_i \omega_i,

        and the estimate is their mean. The least error wherever eigenvalues decay.

    Each is unbiased for any square A. The first two state the standard error of a mean of s or g
    terms, times the spread :math:`\sqrt{(s - 1) / (s - 3)}` of Student's t. The terms of XTrace
    depend on each other, and their scatter, which its paper takes, was found to be low by up to
    1.8; here the jackknife :math:`\frac{k - 1}{k} \sum_j (t_{(j)} - \bar t)^2` over the estimates
    without probe j, which take no further products, is its variance: by the inequality of Efron
    and Stein not too small on average, and in practice one to three times the error. All include
    the rounding of the operator's dtype.

    Parameters
    ----------
    operator : LinearOperator, array (n, n) or callable
        A.
    method : {"xtrace", "hutch++", "hutchinson"}
        The estimator.
    samples : int
        Vectors that A may be multiplied with; at least 8 for XTrace, 10 for Hutch++ and 4 for
        Hutchinson. From n on the trace is exact and its standard error 0. With fewer than thirty
        the error is itself known poorly.
    seed : int or numpy.random.Generator
        Of the random vectors.
    size : int, optional
        n, where the operator is a function of one vector.

    Returns
    -------
    TraceEstimate
        ``(value, standard_error, products)``.

    Raises
    ------
    OptionError
        An unknown method, or too few samples.
    ShapeError, DTypeError
        The operator is not square or not real.
    CurvatureError
        A product is not finite.

    References
    ----------
    M. F. Hutchinson, Commun. Stat. Simul. Comput. 18 (1989) 1059. R. A. Meyer, C. Musco, C. Musco,
    D. P. Woodruff, Hutch++: Optimal stochastic trace estimation, SOSA 2021. E. N. Epperly,
    J. A. Tropp, R. J. Webber, XTrace: Making the most of every sample in stochastic trace
    estimation, SIAM J. Matrix Anal. Appl. 45 (2024) 1. B. Efron, C. Stein, The jackknife estimate
    of variance, Ann. Stat. 9 (1981) 586.

    Examples
    --------
    >>> import numpy as np
    >>> from hessarray.curvature import trace
    >>> A = np.diag(1.0 / np.arange(1, 1001) ** 2)
    >>> estimate = trace(A, samples=60)
    >>> estimate.products
    60
    >>> bool(abs(estimate.value - np.trace(A)) < 3 * estimate.standard_error)
    True
    >>> estimate.standard_error < 0.01 * estimate.value
    True
    """
    if method not in _TRACES:
        known = near_names(str(method), _TRACES) or f"choose one of {', '.join(_TRACES)}"
        raise OptionError(f"method={method!r} is unknown: {known}")
    products = Products(operator, size)
    estimate, least = _TRACES[method]
    samples = whole("samples", samples, 1)
    if samples >= products.n:
        value = sum(float(np.sum(e * products(e))) for e in products.units())
        return TraceEstimate(value, 0.0, products.count)
    if samples < least:
        raise OptionError(
            f"samples={samples}: {method} needs {least} for an estimate and its error, "
            f"{products.n} give the exact trace"
        )
    value, error = estimate(products, samples, generator(seed))
    return TraceEstimate(value, error, products.count)


def diagonal(
    operator: Any,
    samples: int = 100,
    seed: int | np.random.Generator = 0,
    size: int | None = None,
) -> DiagonalEstimate:
    r"""The diagonal :math:`A_{ii}`, estimated from products with A alone.

    .. math:: d = \frac{\sum_s \omega_s \circ A \omega_s}{\sum_s \omega_s \circ \omega_s}

    with random signs :math:`\omega_s`, for which the denominator is their number. It is unbiased,
    with variance :math:`\frac{1}{s} \sum_{j \ne i} A_{ij}^2` of entry i: small beside diagonals
    that dominate, and exact for diagonal matrices.

    Parameters
    ----------
    operator : LinearOperator, array (n, n) or callable
        A.
    samples : int
        Vectors that A may be multiplied with, at least 4. From n on the diagonal is exact and its
        standard error 0.
    seed : int or numpy.random.Generator
        Of the random signs.
    size : int, optional
        n, where the operator is a function of one vector.

    Returns
    -------
    DiagonalEstimate
        ``(value, standard_error, products)``, the first two of shape (n,).

    Raises
    ------
    OptionError
        Too few samples.
    ShapeError, DTypeError
        The operator is not square or not real.
    CurvatureError
        A product is not finite.

    References
    ----------
    C. Bekas, E. Kokiopoulou, Y. Saad, An estimator for the diagonal of a matrix, Appl. Numer.
    Math. 57 (2007) 1214.

    Examples
    --------
    >>> import numpy as np
    >>> from hessarray.curvature import diagonal
    >>> A = np.diag([3.0, -1.0, 2.0, 5.0]) + 0.1
    >>> diagonal(A, samples=4).value
    array([ 3.1, -0.9,  2.1,  5.1])
    """
    products = Products(operator, size)
    samples = whole("samples", samples, 1)
    if samples >= products.n:
        exact = np.concatenate([np.sum(e * products(e), axis=0) for e in products.units()])
        return DiagonalEstimate(exact, np.zeros(products.n), products.count)
    if samples < 4:
        raise OptionError(
            f"samples={samples}: 4 are needed for an estimate and its error, "
            f"{products.n} give the exact diagonal"
        )
    # Mean and squared deviations block by block (Chan, Golub, LeVeque 1983): the samples of a large
    # operator are never in memory together.
    n, seen = products.n, 0
    mean, deviations, magnitude = np.zeros(n), np.zeros(n), np.zeros(n)
    for signs in _signs(generator(seed), products, samples):
        terms = signs * products(signs)
        k, shift = signs.shape[1], terms.mean(axis=1) - mean
        deviations += np.sum((terms - terms.mean(axis=1, keepdims=True)) ** 2, axis=1)
        deviations += shift**2 * (seen * k / (seen + k))
        mean += shift * (k / (seen + k))
        magnitude += np.abs(terms).sum(axis=1)
        seen += k
    rounding = products.eps * magnitude / samples
    scatter = deviations / (samples * (samples - 1)) * _student(samples)
    error = np.sqrt(scatter + rounding**2)
    return DiagonalEstimate(mean, error, products.count)


def _hutchinson(products: Products, samples: int, rng: np.random.Generator) -> tuple[float, float]:
    terms, magnitudes = [], []
    for signs in _signs(rng, products, samples):
        product = signs * products(signs)
        terms.append(product.sum(axis=0))
        magnitudes.append(np.abs(product).sum(axis=0))
    return _mean(np.concatenate(terms), products.eps * float(np.mean(np.concatenate(magnitudes))))


def _hutchpp(products: Products, samples: int, rng: np.random.Generator) -> tuple[float, float]:
    k = samples // 3
    Q = np.linalg.qr(products(_signs_at_once(rng, products.n, k)))[0]
    H = Q.T @ products(Q)
    terms = []
    for signs in _signs(rng, products, samples - 2 * k):
        rest = signs - Q @ (Q.T @ signs)
        terms.append(np.sum(rest * products(rest), axis=0))
    value, error = _mean(np.concatenate(terms), _rounding(products, H))
    return value + float(np.trace(H)), error


def _xtrace(products: Products, samples: int, rng: np.random.Generator) -> tuple[float, float]:
    n, k = products.n, samples // 2
    # Normal vectors, because their part outside Q is again of random direction; only so may its
    # length be scaled to what it is on average.
    omega = rng.standard_normal((n, k))
    Q, R = np.linalg.qr(products(omega))
    Z = products(Q)
    return _xtrace_terms(Q.T @ Z, R, Q.T @ omega, Z.T @ omega, np.sum(omega**2, axis=0), products)


def _xtrace_terms(
    H: Array, R: Array, W: Array, T: Array, lengths: Array, products: Products
) -> tuple[float, float]:
    """The mean of all t_i, and its jackknife error, from k x k matrices alone.

    In the basis Q, what Q_(i) lacks is a unit vector s_i, and what it lacks without another column
    j is one more, u. Hence t_i and all t_ij (the same with column j left out) are rank-one changes
    of one another, and all of them together take O(k^3).
    """
    n, k = products.n, len(H)
    S = _left_out(R)
    HS, overlaps, total = H @ S, S.T @ S, np.trace(H)
    terms, without = np.zeros(k), np.zeros(k)
    for i in range(k):
        s, w, t = S[:, i], W[:, i], T[:, i] + R[:, i]
        c = w - s * (s @ w)  # what Q_(i) holds of omega_i
        Hc, length, kept = H @ c, lengths[i] - c @ c, total - s @ HS[:, i]
        rest = w @ R[:, i] - t @ c + c @ Hc
        terms[i] = kept + (n - k + 1) / length * rest
        others = np.arange(k) != i
        g = overlaps[i, others]
        scale = np.sqrt(np.maximum(1.0 - g**2, np.finfo(np.float64).eps))
        U = (S[:, others] - np.outer(s, g)) / scale
        HU = (HS[:, others] - np.outer(HS[:, i], g)) / scale
        a, uHu = w @ U, np.sum(U * HU, axis=0)
        rests = rest + a * (t @ U - Hc @ U - c @ HU + a * uHu)
        without[others] += kept - uHu + (n - k + 2) / (length + a**2) * rests
    without /= k - 1
    value, spread = float(np.mean(terms)), np.sum((without - np.mean(without)) ** 2)
    variance = spread * (k - 1) / k * _student(k)
    return value, float(np.sqrt(variance + _rounding(products, H) ** 2))


_TRACES: dict[str, tuple[Callable[..., tuple[float, float]], int]] = {
    "xtrace": (_xtrace, 8),
    "hutch++": (_hutchpp, 10),
    "hutchinson": (_hutchinson, 4),
}


def _left_out(R: Array) -> Array:
    """Column i: the unit vector that is orthogonal to all columns of R but column i.

    These are the columns of R^-T, normalised; singular values below rounding are raised to it,
    where any direction is as good as another.
    """
    u, s, vt = np.linalg.svd(R)
    s = np.maximum(s, np.finfo(np.float64).eps * max(s[0], np.finfo(np.float64).tiny))
    S = (u * (s[-1] / s)) @ vt
    return np.asarray(S / np.linalg.norm(S, axis=0))


def _mean(terms: Array, rounding: float) -> tuple[float, float]:
    """The mean of independent terms, and its standard error, not less than rounding."""
    scatter = np.var(terms, ddof=1) / len(terms) * _student(len(terms))
    return float(np.mean(terms)), float(np.sqrt(scatter + rounding**2))


def _student(terms: int) -> float:
    """The variance of Student's t: a scatter that was itself estimated from few terms."""
    return (terms - 1) / (terms - 3)


def _rounding(products: Products, H: Array) -> float:
    """Of a trace whose eigenvalues Q^T A Q = H has caught: they do not cancel in its error."""
    return products.eps * float(np.linalg.norm(H, "nuc"))


def _signs(rng: np.random.Generator, products: Products, samples: int) -> Iterator[Array]:
    """Random signs (n, k), in as many blocks as make up the samples."""
    for start in range(0, samples, products.block):
        yield _signs_at_once(rng, products.n, min(products.block, samples - start))


def _signs_at_once(rng: np.random.Generator, n: int, k: int) -> Array:
    return 2.0 * rng.integers(0, 2, size=(n, k), dtype=np.int8) - 1.0
