"""The independent oracle of the elementwise tests: definitions in mpmath, differentiated numerically.

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
    bound: Callable[[float], float] = field(default=lambda x: BOUND)

    def __str__(self) -> str:
        return self.label


def erf(x: Any) -> Any:
    """mpmath's erf; beyond 60 it differs from 1 by less than 10^-1500."""
    return mp.sign(x) if abs(x) > 60 else mp.erf(x)


def erfc(x: Any) -> Any:
    """mpmath's erfc; beyond 60 it is less than 10^-1500."""
    return 1 - mp.sign(x) if abs(x) > 60 else mp.erfc(x)


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


def differences(s: Callable[[Any], Any], x: float, orders: Sequence[int], double: bool) -> list[Any]:
    """s and its derivatives of the orders at x, by central differences in mpmath."""
    magnitude = abs(math.log10(abs(x))) if x else 0.0
    mp.dps = int(130 + (340 if double else 70) + (3.0 if abs(x) < 1.0 else 2.2) * magnitude)
    if 3 in orders:
        mp.dps += 60
    center = mpf(x)
    h = mp.ldexp(1, -133 + (min(math.frexp(x)[1], 0) if x else 0))
    v = {k: s(center + k * h) for k in (range(-2, 3) if 3 in orders else (-1, 0, 1))}
    rules = {
        0: lambda: v[0],
        1: lambda: (v[1] - v[-1]) / (2 * h),
        2: lambda: (v[1] - 2 * v[0] + v[-1]) / h**2,
        3: lambda: (v[2] - 2 * v[1] + 2 * v[-1] - v[-2]) / (2 * h**3),
    }
    return [rules[k]() for k in orders]


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
    ladder = 10.0 ** np.linspace(smallest + 0.1, math.log10(float(info.max)) - 0.001, 45)
    dense = np.linspace(0.03, 40.0, 90) + 0.01 * np.sin(np.arange(90.0))
    tails = np.linspace(41.0, 760.0 if double else 110.0, 24)
    small = 10.0 ** np.linspace(-9.0, -1.5, 14)
    extremes = [float(info.max), float(info.smallest_normal), float(info.smallest_subnormal)]
    magnitudes = np.concatenate([ladder, dense, tails, small, extremes])
    special = [*case.function.kinks, *case.near, *(z for zs in case.zeros for z in zs)]
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
        if p not in case.function.kinks:
            around.append(p)
    x = np.concatenate([magnitudes, -magnitudes, np.asarray(around, dtype=np.float64)]).astype(dtype)
    if 0.0 not in case.function.kinks:
        x = np.append(x, dtype(0.0))
    x = np.unique(x[np.isfinite(x) & (x > case.low) & (x < case.high)])
    return x[~np.isin(x, np.asarray(case.function.kinks, dtype=dtype))]


def _near_zero(case: Case, order: int, x: float) -> bool:
    return any(abs(x - z) <= 0.1 * abs(z) for z in case.zeros[order])


def failures(case: Case, dtype: Any, x: np.ndarray | None = None) -> tuple[list[str], list[Any]]:
    """What breaks the bound, and for each order the worst (ulp, x) where no exception applies."""
    x = points(case, dtype) if x is None else x
    info = np.finfo(dtype)
    double = dtype is np.float64
    got = [evaluate(case.function, order, x) for order in range(3)]
    bad: list[str] = []
    worst: list[Any] = [(0.0, 0.0)] * 3
    for i, xi in enumerate(map(float, x)):
        truths = differences(case.s, xi, (0, 1, 2), double)
        for order, truth in enumerate(truths):
            value = float(got[order][i])
            spot = f"{case.label} order {order} {np.dtype(dtype)} x={xi!r}: {value!r}"
            if math.isnan(value):
                bad.append(f"{spot} for {mp.nstr(truth, 9)}")
                continue
            unit = ulp(truth, dtype)
            allowed = case.bound(xi) * unit
            plain = True
            if case.gaussian and (
                case.amplified or abs(truth) < 16 * (1 + xi * xi) * float(info.smallest_normal)
            ):
                allowed += 2 * mpf(xi) ** 2 * unit
                plain = False
            if _near_zero(case, order, xi):
                slope = differences(case.s, xi, (order + 1,), double)[0]
                allowed += 16 * float(info.eps) * abs(xi * slope)
                plain = False
            if abs(truth) > mpf(float(info.max)) - allowed and abs(value) >= info.max:
                if math.copysign(1.0, value) == mp.sign(truth):
                    continue
            if math.isinf(value):
                bad.append(f"{spot} for {mp.nstr(truth, 9)}")
                continue
            error = abs(mpf(value) - truth)
            if error > allowed:
                bad.append(f"{spot} for {mp.nstr(truth, 17)}, {mp.nstr(error / unit, 4)} ulp")
            if plain and error / unit > worst[order][0]:
                worst[order] = (float(error / unit), xi)
    return bad, worst


def check(case: Case, dtype: Any, x: np.ndarray | None = None) -> None:
    bad, _ = failures(case, dtype, x)
    assert not bad, f"{len(bad)} beyond the bound:\n" + "\n".join(bad[:12])
