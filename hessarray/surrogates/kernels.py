"""Covariance functions of Gaussian processes, as plain data and as array API code of one sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessarray.errors import OptionError
from hessarray.graph.elementary import Elementary, power

__all__ = ["KERNELS", "checked_kernel", "covariance", "own_variance"]

# ---- functions of the squared distance -------------------------------------------------------
#
# Matern's covariances have the distance r = sqrt(t) in them, which has no derivative at t = 0.
# As functions of t they have: what is singular there is always multiplied by dt/dx = 0, and its
# limit is zero. So the derivatives of the root are set to zero at t = 0, and those of the
# covariances are written without a quotient of the form 0/0.


def _reciprocal_root(xp: Any, t: Any) -> Any:
    """1 / sqrt(t), and 0 at t = 0."""
    positive = t > 0.0
    root = xp.sqrt(xp.where(positive, t, xp.ones_like(t)))
    return xp.where(positive, xp.reciprocal(root), xp.zeros_like(t))


def _root2(xp: Any, t: Any) -> Any:
    r = _reciprocal_root(xp, t)
    return (r * -0.25) * (r * r)


_ROOT = Elementary(
    "distance",
    lambda xp, t: xp.sqrt(t),
    lambda xp, t: _reciprocal_root(xp, t) * 0.5,
    _root2,
)


def _scaled(t: Any, c: float) -> Any:
    return _ROOT(t) * math.sqrt(c)


def _decay(xp: Any, a: Any) -> Any:
    return xp.exp(-a)


# With a = sqrt(3 t): s = (1 + a) e^-a, s' = -3/2 e^-a, s'' = 9/4 e^-a / a.
_MATERN32 = Elementary(
    "matern32",
    lambda xp, t: (1.0 + _scaled(t, 3.0)) * _decay(xp, _scaled(t, 3.0)),
    lambda xp, t: _decay(xp, _scaled(t, 3.0)) * -1.5,
    lambda xp, t: _decay(xp, _scaled(t, 3.0)) * (_reciprocal_root(xp, t) * (2.25 / math.sqrt(3.0))),
)


def _matern52(xp: Any, t: Any) -> Any:
    a = _scaled(t, 5.0)
    return (1.0 + (a + t * (5.0 / 3.0))) * _decay(xp, a)


# With a = sqrt(5 t): s = (1 + a + a^2/3) e^-a, s' = -5/6 (1 + a) e^-a, s'' = 25/12 e^-a.
_MATERN52 = Elementary(
    "matern52",
    _matern52,
    lambda xp, t: ((1.0 + _scaled(t, 5.0)) * -(5.0 / 6.0)) * _decay(xp, _scaled(t, 5.0)),
    lambda xp, t: _decay(xp, _scaled(t, 5.0)) * (25.0 / 12.0),
)
_MATERN: dict[float, Callable[[Any], Any]] = {1.5: _MATERN32, 2.5: _MATERN52}


def _squared_distances(x: Any, X: Any, lengths: tuple[float, ...]) -> Any:
    """t_i = sum_k ((x_k - X_ik) / l_k)^2, (N,).

    A polynomial of degree two is its own expansion about any point, here about x itself, held
    constant: t = |z|^2 + 2 z . dx + |dx|^2 with z = x - X and dx = 0. So the value has the
    accuracy of the differences (|x|^2 - 2 x . X + |X|^2 would cancel), and the only curvature
    is that of the d numbers dx, not of the N d numbers z.
    """
    xp = x.__array_namespace__()
    rates = 1.0 / np.broadcast_to(np.asarray(lengths), (x.shape[0],))
    here = xp.stop_gradient(x)
    z, dx = (here - X) * rates, (x - here) * rates
    return xp.sum(z * z, axis=1) + 2.0 * (z @ dx) + xp.sum(xp.square(dx))


def _rational(alpha: float, t: Any) -> Any:
    return power(-alpha)(1.0 + t * (0.5 / alpha))


# ---- kernels ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kernel:
    """What a kernel's description holds besides its name, and how it is evaluated.

    ``numbers`` come first, each positive, or zero where ``_MAY_BE_ZERO`` says so; then length
    scales, one or one for each column, where it has any; then ``parts``, kernels again.
    """

    between: Callable[..., Any]  # (x, X, numbers, lengths, values of the parts) -> (N,) or number
    own: Callable[..., Any]  # (x, numbers, values of the parts) -> number of one sample
    numbers: int = 0
    lengths: bool = False
    parts: int = 0


def _one(x: Any, numbers: Any, parts: Any) -> float:
    return 1.0


def _dot(x: Any, y: Any, sigma: float) -> Any:
    return y @ x + sigma * sigma


KERNELS: dict[str, Kernel] = {
    "constant": Kernel(lambda x, X, c, ls, p: c[0], lambda x, c, p: c[0], numbers=1),
    "white": Kernel(lambda x, X, c, ls, p: 0.0, lambda x, c, p: c[0], numbers=1),
    "dot": Kernel(
        lambda x, X, c, ls, p: _dot(x, X, c[0]), lambda x, c, p: _dot(x, x, c[0]), numbers=1
    ),
    "rbf": Kernel(
        lambda x, X, c, ls, p: x.__array_namespace__().exp(_squared_distances(x, X, ls) * -0.5),
        _one,
        lengths=True,
    ),
    "matern": Kernel(
        lambda x, X, c, ls, p: _MATERN[c[0]](_squared_distances(x, X, ls)),
        _one,
        numbers=1,
        lengths=True,
    ),
    "rational_quadratic": Kernel(
        lambda x, X, c, ls, p: _rational(c[0], _squared_distances(x, X, ls)),
        _one,
        numbers=1,
        lengths=True,
    ),
    "sum": Kernel(lambda x, X, c, ls, p: p[0] + p[1], lambda x, c, p: p[0] + p[1], parts=2),
    "product": Kernel(lambda x, X, c, ls, p: p[0] * p[1], lambda x, c, p: p[0] * p[1], parts=2),
    "power": Kernel(
        lambda x, X, c, ls, p: p[0] ** c[0], lambda x, c, p: p[0] ** c[0], numbers=1, parts=1
    ),
}
_MAY_BE_ZERO = ("constant", "dot", "white")
_DEPTH = 50


def checked_kernel(kernel: Any, features: int, depth: int = 0) -> tuple[Any, ...]:
    """The description as nested tuples of names, floats and descriptions.

    Raises
    ------
    OptionError
        It names an unknown kernel, or holds other numbers than that kernel takes.
    """
    if depth > _DEPTH:
        raise OptionError(f"a kernel is nested more than {_DEPTH} deep")
    if not isinstance(kernel, (list, tuple)) or not kernel or kernel[0] not in KERNELS:
        shown = kernel[0] if isinstance(kernel, (list, tuple)) and kernel else kernel
        raise OptionError(f"kernel {str(shown)[:80]!r} is unknown, known are {', '.join(KERNELS)}")
    name, *rest = kernel
    known = KERNELS[name]
    parts = tuple(checked_kernel(k, features, depth + 1) for k in rest if not _is_number(k))
    numbers = tuple(float(v) for v in rest if _is_number(v))
    lengths = len(numbers) - known.numbers
    wanted = (1, features) if known.lengths else (0,)
    if len(parts) != known.parts or lengths not in wanted:
        raise OptionError(
            f"kernel '{name}' has {len(numbers)} numbers and {len(parts)} parts, expected are "
            f"{' or '.join(str(known.numbers + n) for n in wanted)} and {known.parts}"
        )
    low = [v for v in numbers if v < 0.0 or (v == 0.0 and name not in _MAY_BE_ZERO)]
    if low:
        raise OptionError(f"kernel '{name}' has the number {low[0]}, a positive one is expected")
    if name == "matern" and numbers[0] not in _MATERN:
        raise OptionError(
            f"kernel 'matern' has nu={numbers[0]}, expected are {' and '.join(map(str, _MATERN))}"
        )
    return (name, *numbers, *parts)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _split(kernel: tuple[Any, ...]) -> tuple[Kernel, tuple[float, ...], tuple[float, ...], Any]:
    name, *rest = kernel
    known = KERNELS[name]
    numbers = tuple(v for v in rest if isinstance(v, float))
    parts = [k for k in rest if isinstance(k, tuple)]
    return known, numbers[: known.numbers], numbers[known.numbers :], parts


def covariance(kernel: tuple[Any, ...], x: Any, X: Any) -> Any:
    """k(x, X_i): (N,), or a number where it is the same for all."""
    known, numbers, lengths, parts = _split(kernel)
    return known.between(x, X, numbers, lengths, [covariance(p, x, X) for p in parts])


def own_variance(kernel: tuple[Any, ...], x: Any) -> Any:
    """k(x, x), with the noise of ``white``: a number."""
    known, numbers, _, parts = _split(kernel)
    return known.own(x, numbers, [own_variance(p, x) for p in parts])
