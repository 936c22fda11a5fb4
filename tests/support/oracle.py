"""The independent oracle of the elementwise tests: mpmath definitions, differentiated numerically.

A case gives the textbook definition of s, and nothing else: s' and s'' of the truth are central
differences of that definition with a step of 2^-133 of the scale of x, carried out with so many
digits (hundreds to a thousand) that neither truncation nor cancellation reaches the 20th digit. So
no formula of the library is repeated here.

Errors are in ulp of the truth: the spacing of the dtype at the true value, which is the subnormal
spacing where the truth is subnormal. The bound is 16 ulp, with two stated exceptions:

* near an isolated zero of s, s' or s'' other than at x = 0 (a case names them in ``zeros``), that
  is within a tenth of its distance from 0, the result may also have the error that a relative
  perturbation of x by 16 eps makes: 16 eps |x truth'(x)|;
* where exp(-c x^2) decides, 2 x^2 ulp more: always if the case is ``amplified``, otherwise only
  where the truth is so small that exp(-c x^2) itself is subnormal or nearly so.

A truth beyond the largest number must come out as infinite or as that number; nothing is ever NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mpmath import mp, mpf

import hessarray
from hessarray.backends import _special
from hessarray.graph.elementary import Elementary

XP = _special.Extended(np)
DTYPES = (np.float32, np.float64)
BOUND = 16.0


@dataclass(frozen=True)
class Case:
    """A function to check: its definition, where it is defined, where its derivatives vanish."""

    label: str
    function: Elementary
    s: Callable[[Any], Any]
    low: float = -math.inf  # the open domain
    high: float = math.inf
    zeros: tuple[Sequence[float], Sequence[float], Sequence[float]] = ((), (), ())
    gaussian: bool = False
    amplified: bool = False
    near: tuple[float, ...] = ()  # points of interest besides the kinks
    bends: tuple[float, ...] = ()  # where s'' alone jumps, or a pole: no two-sided difference
    bound: Callable[[float], float] = field(default=lambda x: BOUND)

    def __str__(self) -> str:
        return self.label


def erf(x: Any) -> Any:
    """mpmath's erf; beyond 28.5, where it takes seconds, it differs from 1 by less than 10^-354."""
    return mp.sign(x) if abs(x) > 28.5 else mp.erf(x)


def erfc(x: Any) -> Any:
    """mpmath's erfc; beyond 28.5 it is less than 10^-354."""
    return 1 - mp.sign(x) if abs(x) > 28.5 else mp.erfc(x)


def evaluate(function: Elementary, order: int, x: np.ndarray) -> np.ndarray:
    """s, s' or s'' on NumPy arrays."""
    code = (function.s, function.s1, function.s2)[order]
    if not callable(code):
        return np.full_like(x, code)
    with np.errstate(all="ignore"):
        result = code(XP, x)
    assert result.dtype == x.dtype, f"{function.name} order {order} gives {result.dtype}"
    assert result.shape == x.shape
    return result


def differences(case: Case, x: float, orders: Sequence[int], dtype: Any) -> list[Any]:
    """s and its derivatives of the orders at x, by central differences in mpmath."""
    magnitude = abs(math.log10(abs(x))) if x else 0.0
    # s'' / s is above 10^-40 up to here; beyond, it may be the least number that the dtype holds.
    near = abs(x) <= (8.0 if case.gaussian else 40.0)
    tail = 60 if near or dtype is np.float32 else 340
    mp.dps = int(130 + tail + (3.0 if abs(x) < 1.0 else 2.2) * magnitude)
    if 3 in orders:
        mp.dps += 60
    center = mpf(x)
    h = mp.ldexp(1, -133 + (min(math.frexp(x)[1], 0) if x else 0))
    v = {k: case.s(center + k * h) for k in (range(-2, 3) if 3 in orders else (-1, 0, 1))}
    rules = {
        0: lambda: v[0],
        1: lambda: (v[1] - v[-1]) / (2 * h),
        2: lambda: (v[1] - 2 * v[0] + v[-1]) / h**2,
        3: lambda: (v[2] - 2 * v[1] + 2 * v[-1] - v[-2]) / (2 * h**3),
    }
    values = [rules[k]() for k in orders]
    # What is left of a derivative that is zero: the rounding of s, and at x = 0, where alone the
    # step is not relative to x, the step (the slope of x^3 comes out as h^2).
    rounding = max(map(abs, v.values())) * mpf(10) ** (6 - mp.dps)
    least = [rounding / h**k if k else 0 for k in orders]
    if x == 0.0:
        least = [max(e, h) for e in least]
    return [mpf(0) if abs(t) < e else t for t, e in zip(values, least, strict=True)]


def ulp(truth: Any, dtype: Any) -> Any:
    """The spacing of the dtype at a real number."""
    info = np.finfo(dtype)
    exponent = info.minexp if truth == 0 else max(mp.frexp(truth)[1] - 1, info.minexp)
    return mp.ldexp(1, int(exponent) - info.nmant)


def points(case: Case, dtype: Any) -> np.ndarray:
    """The whole range of the dtype, denser where the functions live."""
    info = np.finfo(dtype)
    double = dtype is np.float64
    smallest = math.log10(float(info.smallest_subnormal))
    ladder = 10.0 ** np.linspace(smallest + 0.1, math.log10(float(info.max)) - 0.001, 34)
    # mpmath's erf is slow at hundreds of digits, so the Gaussian family has fewer points.
    count = 44 if case.gaussian else 64
    dense = np.linspace(0.03, 40.0, count) + 0.01 * np.sin(np.arange(float(count)))
    tails = np.linspace(41.0, 760.0 if double else 110.0, 16)
    small = 10.0 ** np.linspace(-9.0, -1.5, 14)
    extremes = [float(info.max), float(info.smallest_normal), float(info.smallest_subnormal)]
    magnitudes = np.concatenate([ladder, dense, tails, small, extremes])
    jumps = (*case.function.kinks, *case.bends)
    special = [*jumps, *case.near, *(z for zs in case.zeros for z in zs)]
    special += [v for v in (case.low, case.high) if math.isfinite(v)]
    around = []
    for p in special:
        p = dtype(p)
        up = down = p
        for _ in range(2):
            up, down = np.nextafter(up, dtype(np.inf)), np.nextafter(down, dtype(-np.inf))
            around += [up, down]
        scale = float(abs(p)) or 1.0
        around += [float(p) + t * scale for t in (-0.05, -1e-3, -1e-5, 1e-5, 1e-3, 0.05)]
        if p not in jumps:
            around.append(p)
    x = np.concatenate([magnitudes, -magnitudes, np.asarray(around, dtype=np.float64)]).astype(
        dtype
    )
    if 0.0 not in jumps:
        x = np.append(x, dtype(0.0))
    x = np.unique(x[np.isfinite(x) & (x > case.low) & (x < case.high)])
    return x[~np.isin(x, np.asarray(jumps, dtype=dtype))]


def raw(case: Case, x: np.ndarray) -> list[np.ndarray]:
    """(s, s', s'') by the function's own code."""
    return [evaluate(case.function, order, x) for order in range(3)]


def planned(case: Case, x: np.ndarray) -> list[np.ndarray]:
    """(s, s', s'') as value, gradient and Hessian of a traced, planned and lowered program."""
    with np.errstate(all="ignore"):
        jet = hessarray.Function(lambda z: case.function(z), in_shape=(1,)).value_gradient_hessian(
            x[:, None]
        )
    assert all(v.dtype == x.dtype for v in jet)
    return [v.reshape(x.shape) for v in jet]


def failures(
    case: Case,
    dtype: Any,
    x: np.ndarray | None = None,
    ways: Sequence[Callable[[Case, np.ndarray], list[np.ndarray]]] = (raw,),
) -> list[str]:
    """What breaks the bound, one line each."""
    x = points(case, dtype) if x is None else x
    jets = [(way.__name__, way(case, x)) for way in ways]
    bad: list[str] = []
    for i, xi in enumerate(map(float, x)):
        for order, truth in enumerate(differences(case, xi, (0, 1, 2), dtype)):
            unit = ulp(truth, dtype)
            allowed = _allowed(case, order, xi, truth, dtype)
            for way, jet in jets:
                value = float(jet[order][i])
                error = _error(value, truth, dtype, allowed)
                if error > allowed:
                    bad.append(
                        f"{case.label} order {order} {way} {np.dtype(dtype)} x={xi!r}: {value!r} "
                        f"for {mp.nstr(truth, 17)}, {mp.nstr(error / unit, 4)} ulp"
                    )
    return bad


def _allowed(case: Case, order: int, x: float, truth: Any, dtype: Any) -> Any:
    """The bound of the module's docstring."""
    info = np.finfo(dtype)
    unit = ulp(truth, dtype)
    allowed = case.bound(x) * unit
    tiny = abs(truth) < 16 * (1 + x * x) * float(info.smallest_normal)
    if case.gaussian and (case.amplified or tiny):
        allowed += 2 * mpf(x) ** 2 * unit
    if any(abs(x - z) <= 0.1 * abs(z) for z in case.zeros[order]):
        slope = differences(case, x, (order + 1,), dtype)[0]
        allowed += 16 * float(info.eps) * abs(x * slope)
    return allowed


def _error(value: float, truth: Any, dtype: Any, allowed: Any) -> Any:
    if math.isnan(value):
        return mp.inf
    largest = float(np.finfo(dtype).max)
    if abs(truth) > mpf(largest) - allowed and abs(value) >= largest and value * mp.sign(truth) > 0:
        return mpf(0)
    return abs(mpf(value) - truth)


def check(case: Case, dtype: Any) -> None:
    """The code itself and the program that is planned from it both keep the bound."""
    bad = failures(case, dtype, ways=(raw, planned))
    assert not bad, f"{len(bad)} beyond the bound:\n" + "\n".join(bad[:12])
