"""Two ways to the same derivative: finite differences, traces, directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hessarray.check._probe import Array, Probe, to_numpy
from hessarray.check._report import Comparison, ErrorCheck


def _compare(
    name: str, a: Array, b: Array, tolerance: float, kinked: Array | None = None
) -> Comparison:
    """The largest difference over the largest entry; entries at a kink count in neither."""
    skipped = 0
    if kinked is not None:
        skipped = int(kinked.sum())
        a, b = np.where(kinked, 0.0, a), np.where(kinked, 0.0, b)
    scale = max(float(np.abs(a).max(initial=0.0)), float(np.abs(b).max(initial=0.0)))
    error = float(np.abs(a - b).max(initial=0.0))
    return Comparison(name, error / scale if scale else error, tolerance, skipped)


def _central(
    function: Callable[[Array], Array], probe: Probe, exact: Array, axes: Sequence[int]
) -> tuple[Array, Array]:
    """d function / dx_a for each of the axes, (n, len(axes), ...), and where there is a kink.

    Of several steps each entry takes what is nearest to ``exact`` (n, len(axes), ...): truncation,
    rounding and a kink on one side spoil one step or another, a wrong derivative all of them. The
    difference of the two one-sided quotients falls with the step, unless a kink is within it.
    """
    here = function(probe.x)
    best = np.full(exact.shape, np.inf)
    jumps = []
    for factor in (8.0, 1.0, 1.0 / 8.0):
        found, jump = [], []
        for a in axes:
            move = np.zeros_like(probe.x)
            move[:, a] = factor * probe.eps ** (1 / 3) * np.maximum(np.abs(probe.x[:, a]), 1.0)
            plus, minus = probe.rounded(probe.x + move), probe.rounded(probe.x - move)
            above, below = function(plus), function(minus)
            column = (-1, *[1] * (above.ndim - 1))
            right, left = ((q - probe.x)[:, a].reshape(column) for q in (plus, minus))
            found.append((above - below) / (right - left))
            jump.append((above - here) / right - (below - here) / left)
        estimate = np.stack(found, axis=1)
        best = np.where(np.abs(estimate - exact) < np.abs(best - exact), estimate, best)
        jumps.append(np.abs(np.stack(jump, axis=1)))
    # A kink near the end of the smallest step shows in the next one.
    rounding = 64.0 * probe.eps ** (2 / 3) * np.abs(here).max(initial=0.0)
    within = (jumps[2] > 0.5 * jumps[1]) & (jumps[2] > rounding)
    return best, within | ((jumps[1] > 0.7 * jumps[0]) & (jumps[1] > rounding))


def check_finite_differences(
    net: Any,
    x: Any,
    *,
    do_hessian: bool = True,
    tolerance: float | None = None,
    coordinates: int = 64,
    seed: int = 0,
) -> ErrorCheck:
    """Compare the gradient with differences of the value, the Hessian with those of the gradient.

    Central differences, (f(x + h e_a) - f(x - h e_a)) / 2h, with three steps about eps^(1/3).

    Parameters
    ----------
    net, x
        As in ``check_derivatives``.
    do_hessian : bool
        Test the Hessian, too.
    tolerance : float, optional
        Largest difference relative to the largest entry; 10 sqrt(eps) where left out.
    coordinates : int
        Where there are more inputs, so many drawn from ``seed``.
    seed : int
        Of the draw.

    Returns
    -------
    ErrorCheck
        With comparisons ``gradient`` and ``hessian``.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> bool(check_finite_differences(ha.resnet(3, 2, act="tanh", seed=0), np.ones((4, 3))))
    True
    """
    probe = Probe(net, x)
    tolerance = 10.0 * math.sqrt(probe.eps) if tolerance is None else tolerance
    axes = _axes(probe, coordinates, seed)
    df = probe.gradient(probe.x)[:, axes]
    differences, kinked = _central(probe.value, probe, df, axes)
    comparisons = [_compare("gradient", df, differences, tolerance, kinked)]
    if do_hessian:
        d2f = probe.hessian(probe.x)[:, axes]
        differences, kinked = _central(probe.gradient, probe, d2f, axes)
        comparisons.append(_compare("hessian", d2f, differences, tolerance, kinked))
    return ErrorCheck(tuple(comparisons))


def _axes(probe: Probe, coordinates: int, seed: int) -> list[int]:
    if probe.d <= coordinates:
        return list(range(probe.d))
    drawn = np.random.default_rng(seed).choice(probe.d, coordinates, replace=False)
    return sorted(drawn.tolist())


def check_laplacian(net: Any, x: Any, *, tolerance: float | None = None) -> ErrorCheck:
    """Compare the Laplacian and the diagonal with the Hessian and with finite differences.

    Parameters
    ----------
    net, x
        As in ``check_derivatives``; net needs ``laplacian``, and ``hessian_diagonal`` is compared
        where it has one.
    tolerance : float, optional
        Against the Hessian sqrt(eps), against finite differences ten times as much.

    Returns
    -------
    ErrorCheck

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> bool(check_laplacian(ha.resnet(3, 2, act="tanh", seed=0), np.ones((4, 3))))
    True
    """
    probe = Probe(net, x)
    near = math.sqrt(probe.eps) if tolerance is None else tolerance
    lap = to_numpy(net.laplacian(*probe.inputs(probe.x))).reshape(probe.n, -1)
    d2f = probe.hessian(probe.x)
    diagonal = np.einsum("naam->nam", d2f)
    found = [_compare("laplacian, trace of the Hessian", lap, diagonal.sum(axis=1), near)]
    if hasattr(net, "hessian_diagonal"):
        own = probe.joined(net.hessian_diagonal(*probe.inputs(probe.x)), probe.n)
        found.append(_compare("diagonal of the Hessian", own, diagonal, near))
    axes = list(range(probe.d))
    differences, kinked = _central(probe.gradient, probe, d2f, axes)
    traced, jumps = np.einsum("naam->nm", differences), np.einsum("naam->nm", kinked) > 0
    found.append(_compare("laplacian, finite differences", lap, traced, 10.0 * near, jumps))
    return ErrorCheck(tuple(found))


def check_directions(
    net: Any, x: Any, *, k: int = 3, seed: int = 0, tolerance: float | None = None
) -> ErrorCheck:
    """Compare derivatives along directions with full ones that are contracted afterwards.

    From the left v df and v d2f v^T with v (k, d), and the sum of v_i d2f v_i; from the right df v
    and d2f v with v (m, k); Hessian-vector products and weighted Hessians.

    Parameters
    ----------
    net : Function
        What to test.
    x : array, or a tuple of arrays where there are several inputs
        Where: ``(..., *in)``.
    k : int
        Number of directions.
    seed : int
        Of the directions.
    tolerance : float, optional
        sqrt(eps) where left out.

    Returns
    -------
    ErrorCheck

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> bool(check_directions(ha.resnet(3, 2, act="tanh", seed=0), np.ones((4, 3))))
    True
    """
    probe = Probe(net, x)
    near = math.sqrt(probe.eps) if tolerance is None else tolerance
    f, df, d2f = probe.value(probe.x), probe.gradient(probe.x), probe.hessian(probe.x)
    n, d, m = df.shape
    rng = np.random.default_rng(seed)
    v, w = (probe.rounded(rng.standard_normal(s)) for s in ((k, d), (m, k)))
    lam, p = (probe.rounded(rng.standard_normal(s)) for s in ((n, m), (n, d)))
    inputs = probe.inputs(probe.x)
    found = []

    def compare(name: str, a: Array, b: Array) -> None:
        found.append(_compare(name, a.reshape(b.shape), b, near))

    options = {"do_gradient": True, "v": probe.to_library(v), "forward_mode": True}
    curved = np.einsum("ka,nabm,lb->nklm", v, d2f, v, optimize=True)
    left = net.derivatives(*inputs, do_Hessian=True, **options)
    compare("left, value", to_numpy(left[0]), f)
    compare("left, gradient", to_numpy(left[1]), np.einsum("ka,nam->nkm", v, df))
    compare("left, Hessian", to_numpy(left[2]), curved)
    traced = net.derivatives(*inputs, do_Laplacian=True, **options)
    compare("left, Laplacian", to_numpy(traced[2]), np.einsum("nkkm->nm", curved))
    right = net.derivatives(
        *inputs, do_gradient=True, do_Hessian=True, v=probe.to_library(w), forward_mode=False
    )
    compare("right, value", to_numpy(right[0]), f)
    compare("right, gradient", probe.joined(right[1], n), df @ w)
    compare("right, Hessian", probe.joined2(right[2], n), d2f @ w)
    product = net.hvp(*inputs, *probe.inputs(p))
    compare("Hessian-vector product", probe.joined(product, n), np.einsum("nabm,nb->nam", d2f, p))
    shaped = probe.to_library(lam.reshape(n, *net.out_shape))
    weighted = net.weighted_hessian(*inputs, shaped)
    compare(
        "weighted Hessian",
        probe.joined2(weighted, n),
        np.einsum("nabm,nm->nab", d2f, lam)[..., None],
    )
    return ErrorCheck(tuple(found))
