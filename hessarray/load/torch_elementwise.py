"""ATen's elementwise operators and activations as array API code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hessarray.activations import activation
from hessarray.errors import LoadError

__all__ = ["ELEMENTWISE", "add", "cast", "multiply", "subtract"]

Operator = Callable[..., Any]


def _narrowed(operator: Operator) -> Operator:
    """The elementwise operator without the axes that have length one: one shape for one thing."""

    def narrowed(xp: Any, *args: Any, **options: Any) -> Any:
        shapes = [a.shape for a in args if hasattr(a, "shape")]
        wide = np.broadcast_shapes(*shapes)
        out = operator(xp, *(_without_ones(xp, a, wide) for a in args), **options)
        return xp.reshape(out, wide)

    return narrowed


def _without_ones(xp: Any, a: Any, wide: tuple[int, ...]) -> Any:
    if not hasattr(a, "shape"):
        return a
    pairs = zip(a.shape, wide[len(wide) - len(a.shape) :], strict=True)
    return xp.reshape(a, tuple(n for n, m in pairs if m != 1))


# ---- elementwise ---------------------------------------------------------------------------


def _act(name: str, *parameters: str, **fixed: Any) -> Operator:
    """An activation of the table, whose parameters are the operator's further arguments."""

    def act(xp: Any, x: Any, *values: Any) -> Any:
        given = dict(zip(parameters, values, strict=False))
        return activation(name, **given, **fixed)(x)

    return _narrowed(act)


def _unary(name: str) -> Operator:
    return _narrowed(lambda xp, x: getattr(xp, name)(x))


def _binary(name: str) -> Operator:
    return _narrowed(lambda xp, x, y: getattr(xp, name)(x, y))


def _add(xp: Any, x: Any, y: Any, alpha: float = 1) -> Any:
    return xp.add(x, y if alpha == 1 else y * alpha)


def _subtract(xp: Any, x: Any, y: Any, alpha: float = 1) -> Any:
    return xp.subtract(x, y if alpha == 1 else y * alpha)


def _divide(xp: Any, x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    rounded = {None: lambda q: q, "floor": xp.floor, "trunc": xp.trunc}
    return rounded[rounding_mode](xp.divide(x, y))


def _elu(xp: Any, x: Any, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Any:
    """ATen's elu is selu and celu, too."""
    if input_scale == 1:
        return activation("elu", alpha=alpha)(x) * scale
    below = xp.expm1(xp.minimum(x, 0.0) * input_scale) * alpha
    return xp.where(x > 0.0, x, below) * scale


def _clamp(xp: Any, x: Any, min: Any = None, max: Any = None) -> Any:
    return xp.clip(x, min, max)


def _power(xp: Any, x: Any, y: Any) -> Any:
    return xp.pow(x, y)


def cast(xp: Any, x: Any, dtype: str | None = None, **_: Any) -> Any:
    """A traced array has no dtype of its own, but truth values and numbers differ."""
    if dtype is None:
        return x
    if dtype == "bool":
        return x if x.dtype.kind == "b" else xp.not_equal(x, 0.0)
    if dtype not in ("float32", "float64"):
        raise LoadError(f"a conversion to {dtype} has no derivative: keep float32 or float64")
    return xp.positive(x)


def _logical_not(xp: Any, x: Any) -> Any:
    return xp.logical_not(cast(xp, x, "bool"))


def _logical(name: str) -> Operator:
    def logical(xp: Any, x: Any, y: Any) -> Any:
        return getattr(xp, name)(cast(xp, x, "bool"), cast(xp, y, "bool"))

    return _narrowed(logical)


add, subtract, multiply = _narrowed(_add), _narrowed(_subtract), _binary("multiply")

# ---- the table -----------------------------------------------------------------------------

#: Rows of the table of all operators.
ELEMENTWISE: dict[str, Operator] = {
    # arithmetic
    "add": add,
    "sub": subtract,
    "rsub": _narrowed(lambda xp, x, y, alpha=1: _subtract(xp, y, x, alpha)),
    "mul": multiply,
    "div": _narrowed(_divide),
    "pow": _narrowed(_power),
    "remainder": _binary("remainder"),
    "neg": _unary("negative"),
    "rsqrt": _narrowed(lambda xp, x: xp.pow(x, -0.5)),
    "clamp": _narrowed(_clamp),
    "clamp_min": _narrowed(lambda xp, x, low: xp.clip(x, low, None)),
    "clamp_max": _narrowed(lambda xp, x, high: xp.clip(x, None, high)),
    **{k: _binary(k) for k in "maximum minimum atan2 hypot logaddexp".split()},
    **{
        k: _unary(k)
        for k in """abs acos acosh asin asinh atan atanh ceil cos cosh erf erfc exp expm1 floor log
        log10 log1p log2 reciprocal round sign sin sinh sqrt square tan tanh trunc isnan""".split()
    },
    # choice
    "where": _narrowed(lambda xp, c, x, y: xp.where(cast(xp, c, "bool"), x, y)),
    "eq": _binary("equal"),
    "ne": _binary("not_equal"),
    "gt": _binary("greater"),
    "ge": _binary("greater_equal"),
    "lt": _binary("less"),
    "le": _binary("less_equal"),
    "logical_and": _logical("logical_and"),
    "logical_or": _logical("logical_or"),
    "logical_xor": _logical("logical_xor"),
    "bitwise_and": _logical("logical_and"),
    "bitwise_or": _logical("logical_or"),
    "bitwise_xor": _logical("logical_xor"),
    "logical_not": _narrowed(_logical_not),
    "bitwise_not": _narrowed(_logical_not),
    # activations
    "relu": _act("relu"),
    "relu6": _act("relu6"),
    "leaky_relu": _act("leaky_relu", "negative_slope"),
    "elu": _narrowed(_elu),
    "selu": _act("selu"),
    "celu": _act("celu", "alpha"),
    "gelu": _narrowed(
        lambda xp, x, approximate="none": activation("gelu", approximate=approximate)(x)
    ),
    "silu": _act("silu"),
    "mish": _act("mish"),
    "sigmoid": _act("sigmoid"),
    "log_sigmoid": _act("log_sigmoid"),
    "softplus": _narrowed(
        lambda xp, x, beta=1.0, threshold=20.0: activation(
            "softplus", beta=float(beta), threshold=float(threshold), one_sided=True
        )(x)
    ),
    "hardtanh": _act("hardtanh", "min_val", "max_val"),
    "hardsigmoid": _act("hard_sigmoid"),
    "hardswish": _act("hard_swish"),
}
