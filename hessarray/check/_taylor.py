"""The Taylor test: the orders in h of the errors of value, gradient and Hessian."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hessarray.check._probe import Array, Probe
from hessarray.check._report import TaylorCheck


@np.errstate(over="ignore", invalid="ignore")  # steps may leave the model far behind
def check_derivatives(
    net: Any,
    x: Any,
    *,
    do_hessian: bool = True,
    seed: int = 0,
    step: float = 1.0,
    base: float = 2.0,
    num_steps: int | None = None,
    tolerance: float | None = None,
) -> TaylorCheck:
    r"""Taylor test: the errors of f(x + hp) are of order 1, 2 and 3 in h.

    With a random unit direction p for each sample,

        E0 = |f(x + hp) - f(x)|, E1 takes h p.grad f off, E2 also h^2/2 p.H.p

    A wrong gradient leaves E1 at order 1, a wrong Hessian leaves E2 at order 2 (E. Haber,
    Computational Methods in Geophysical Electromagnetics, SIAM 2014, ch. 5). Each sample is judged
    by itself, from the smallest steps at which its error stands out of the rounding. Where
    the function itself has a kink within the smallest step of x, the sample counts as inconclusive.

    Parameters
    ----------
    net : Function or any object with ``value``, ``gradient`` and ``hessian``
        What to test.
    x : array, or a tuple of arrays where there are several inputs
        Where: ``(..., *in)``.
    do_hessian : bool
        Test the Hessian, too.
    seed : int
        Of the directions.
    step : float
        The largest h; x + hp should be in the domain, samples where it is not finite are left out.
    base : float
        h = step base^-k.
    num_steps : int, optional
        How many; 30 in float64 and 16 in float32 where left out.
    tolerance : float, optional
        By how much an order may be low; 0.5 in float64 and 0.7 in float32 where left out.

    Returns
    -------
    TaylorCheck

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> net = ha.fully_connected([3, 8, 2], act="tanh", seed=0)
    >>> check = check_derivatives(net, np.ones((4, 3)))
    >>> bool(check), round(check.gradient_order), round(check.hessian_order)
    (True, 2, 3)
    """
    probe = Probe(net, x)
    f, df = probe.value(probe.x), probe.gradient(probe.x)
    d2f = probe.hessian(probe.x) if do_hessian else None
    p = np.random.default_rng(seed).standard_normal(probe.x.shape)
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    steps, tolerance = defaults(probe, step, base, num_steps, tolerance)

    rows, errors = np.arange(probe.n), [[], [], []]  # type: tuple[Array, list[list[Array]]]
    widths, floors, resolved = [], [], []
    for h in steps:
        moved, first, second, size, delta = _residuals(probe, rows, h * p, f, df, d2f)
        for kept, r in zip(errors, (moved, first, second), strict=True):
            kept.append(np.linalg.norm(r, axis=1))
        widths.append(np.linalg.norm(delta, axis=1))
        floors.append(4.0 * probe.eps * size)
        # A step of few ulp of x points elsewhere than p.
        resolved.append(widths[-1] > 64.0 * probe.eps * np.abs(probe.x).max(axis=1))
    e0, e1, e2 = (np.array(e) for e in errors)
    usable = np.array(resolved) & np.isfinite(e0)
    floor = np.maximum(np.array(floors), 4.0 * noise_of(e1, usable))

    width = np.array(widths)
    low = 2.0 - tolerance
    gradient = orders_of(e1, width, floor, usable, 2.0)
    wrong = np.flatnonzero(gradient < low)
    curvature = wrong2 = None
    if d2f is not None:
        curvature = orders_of(e2, width, floor, usable, 3.0)
        wrong2 = np.flatnonzero(curvature < 3.0 - tolerance)
    suspects = wrong if wrong2 is None else np.union1d(wrong, wrong2)
    kinks = _kinks(probe, suspects, steps, p, f, df, floor, tolerance)
    kinked = {*kinks[0], *kinks[1], *np.flatnonzero(np.isnan(gradient)).tolist()}
    wrong = np.array([i for i in wrong if i not in kinks[0]], dtype=int)
    if wrong2 is not None:
        wrong2 = np.array([i for i in wrong2 if i not in kinked], dtype=int)
    return TaylorCheck(
        steps=tuple(steps.tolist()),
        value_errors=_total(e0),
        gradient_errors=_total(e1),
        hessian_errors=None if d2f is None else _total(e2),
        gradient_order=_summary(gradient, wrong, kinked),
        hessian_order=None if curvature is None else _summary(curvature, wrong2, kinked),
        gradient_failed=tuple(wrong.tolist()),
        hessian_failed=() if wrong2 is None else tuple(wrong2.tolist()),
        inconclusive=tuple(sorted(map(int, kinked))),
        samples=probe.n,
        base=base,
    )


def defaults(
    probe: Probe, step: float, base: float, num_steps: int | None, tolerance: float | None
) -> tuple[Array, float]:
    """The steps, and by how much an order may be low: float32 leaves fewer of both to see."""
    double = probe.eps < 1e-10
    count = num_steps or (30 if double else 16)
    steps = step * base ** -np.arange(count, dtype=np.float64)
    return steps, (0.5 if double else 0.7) if tolerance is None else tolerance


def _residuals(
    probe: Probe, rows: Array, move: Array, f: Array, df: Array, d2f: Array | None
) -> tuple[Array, Array, Array, Array, Array]:
    """f(x + move) - f(x) less nothing, less the gradient, less the Hessian; size; the true move."""
    x = probe.x[rows]
    there = probe.rounded(x + move)
    delta = there - x
    value = probe.value(there)
    slope = np.einsum("na,nam->nm", delta, df[rows])
    bend = np.zeros_like(slope)
    if d2f is not None:
        bend = 0.5 * np.einsum("na,nb,nabm->nm", delta, delta, d2f[rows], optimize=True)
    with np.errstate(invalid="ignore", over="ignore"):
        moved = value - f[rows]
        size = sum(np.linalg.norm(a, axis=1) for a in (value, f[rows], slope, bend))
        return moved, moved - slope, moved - slope - bend, size, delta


def noise_of(e1: Array, usable: Array) -> Array:
    """What is left at the smallest steps: rounding within f, where that exceeds eps |f|.

    Of a wrong gradient some error is left there, too, but far less than at larger steps.
    """
    noise = np.zeros(e1.shape[1])
    for i in range(e1.shape[1]):
        last = e1[usable[:, i], i][-3:]
        noise[i] = last.max() if len(last) == 3 else 0.0
    return noise


def orders_of(errors: Array, width: Array, floor: Array, usable: Array, expected: float) -> Array:
    return np.array(
        [
            _order(errors[keep, i], width[keep, i], floor[keep, i], expected)
            for i, keep in enumerate(usable.T)
        ]
    )


def _order(e: Array, h: Array, low: Array, expected: float) -> float:
    """Slope of log error over log step where the error is small but not yet rounding."""
    above = np.flatnonzero(~(e <= low))
    if not np.isfinite(e).all():
        return -math.inf  # f is finite, its derivative is not
    if above.size == 0:
        return math.inf if e.size else math.nan
    last = int(above[-1])
    if last + 1 < e.size:
        fall = math.log(e[last] / low[last + 1]) / math.log(h[last] / h[last + 1])
        if fall > expected + 1.0:
            return math.inf  # behind a kink, beyond which f is of low degree
    first = last
    while first > 0 and e[first - 1] > low[first - 1]:
        first -= 1
    if last - first < 3:
        return math.inf  # rounding, but for so few steps that no order can be told
    slopes = np.diff(np.log(e[first : last + 1])) / np.diff(np.log(h[first : last + 1]))
    # Where terms of two orders cancel at some step, one of these is still right; where the lower
    # order remains, none of them reaches the higher.
    return float(max(slopes[-2:].mean(), slopes[-3:].mean(), np.median(slopes[-7:])))


def _kinks(
    probe: Probe,
    suspects: Array,
    steps: Array,
    p: Array,
    f: Array,
    df: Array,
    floor: Array,
    tolerance: float,
) -> tuple[set[int], set[int]]:
    """The suspects where f itself, whatever its derivatives claim, has a kink, or f' has one.

    f(x + hp) + f(x - hp) - 2 f(x) is of order 2, unless f has a kink; and f(x + hp) - f(x - hp)
    - 2h p.grad is of order 3 with the right gradient, unless f'' jumps.
    """
    if suspects.size == 0:
        return set(), set()
    even, odd, width, usable = [], [], [], []
    for h in steps:
        move = h * p[suspects]
        _, right, _, _, delta = _residuals(probe, suspects, move, f, df, None)
        _, left, _, _, _ = _residuals(probe, suspects, -move, f, df, None)
        even.append(np.linalg.norm(right + left, axis=1))
        odd.append(np.linalg.norm(right - left, axis=1))
        width.append(np.linalg.norm(delta, axis=1))
        x = probe.x[suspects]
        usable.append(width[-1] > 64.0 * probe.eps * np.abs(x).max(axis=1))
    e, o, h = np.array(even), np.array(odd), np.array(width)
    keep = np.array(usable) & np.isfinite(e)
    low = floor[:, suspects]
    first = orders_of(e, h, low, keep, 2.0) < 2.0 - tolerance
    second = orders_of(o, h, low, keep, 3.0) < 3.0 - tolerance
    slope = orders_of(o, h, low, keep, 2.0) < 2.0 - tolerance  # the gradient itself is wrong
    found = suspects.tolist()
    return (
        {i for i, k in zip(found, first, strict=True) if k},
        {i for i, k, s in zip(found, second, slope, strict=True) if k and not s},
    )


def _total(errors: Array) -> tuple[float, ...]:
    return tuple(np.linalg.norm(errors, axis=1).tolist())


def _summary(orders: Array, failed: Array | None, kinked: set[int]) -> float:
    if failed is not None and failed.size:
        return float(orders[failed].min())
    kept = np.array([o for i, o in enumerate(orders) if i not in kinked and not math.isnan(o)])
    finite = kept[np.isfinite(kept)]
    if finite.size:
        return float(np.median(finite))
    return math.inf if kept.size else math.nan
