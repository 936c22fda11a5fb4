"""Functions of one entry at a time: arithmetic, elementary functions, comparison, selection."""

from __future__ import annotations

import builtins
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hessarray.graph.array import TracedArray
from hessarray.graph.builder import LETTERS, Builder
from hessarray.graph.elementary import PRIMITIVES, Elementary, power
from hessarray.graph.node import Node
from hessarray.graph.operands import (
    broadcast_shapes,
    builder_of,
    node_of,
    operands,
    real,
    scalar,
    traced,
    wrap,
)
from hessarray.graph.shapes import broadcast_to
from hessarray.graph.where import trace_error

# As reciprocal; a product with it is lowered to a division.
_DIVISOR = dataclasses.replace(PRIMITIVES["reciprocal"], name="divisor")

__all__ = [
    "abs",
    "acos",
    "acosh",
    "add",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "ceil",
    "clip",
    "cos",
    "cosh",
    "divide",
    "equal",
    "erf",
    "erfc",
    "exp",
    "expm1",
    "floor",
    "floor_divide",
    "greater",
    "greater_equal",
    "hypot",
    "isnan",
    "less",
    "less_equal",
    "log",
    "log10",
    "log1p",
    "log2",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "not_equal",
    "positive",
    "pow",
    "reciprocal",
    "remainder",
    "round",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "stop_gradient",
    "subtract",
    "tan",
    "tanh",
    "trunc",
    "where",
]


# ---- arithmetic ------------------------------------------------------------------------------


def _sum_of(a: Any, b: Any, sign: float) -> TracedArray:
    builder, (x, y), shape = operands(a, b)
    return wrap(
        builder.add([(1.0, builder.broadcast(x, shape)), (sign, builder.broadcast(y, shape))]),
        builder,
    )


def add(a: Any, b: Any) -> TracedArray:
    if scalar(b) == 0.0:
        return positive(a)
    if scalar(a) == 0.0:
        return positive(b)
    return _sum_of(a, b, 1.0)


def subtract(a: Any, b: Any) -> TracedArray:
    return positive(a) if scalar(b) == 0.0 else _sum_of(a, b, -1.0)


def multiply(a: Any, b: Any) -> TracedArray:
    for x, c in ((a, scalar(b)), (b, scalar(a))):
        if c is not None and isinstance(x, TracedArray):
            return wrap(x.builder.scale(real(x), c), x.builder)
    builder, (x, y), shape = operands(a, b)
    if x is y:
        return wrap(builder.elementwise(PRIMITIVES["square"], x), builder)
    return wrap(_product(builder, x, y, shape), builder)


def _product(builder: Builder, x: Node, y: Node, shape: tuple[int, ...]) -> Node:
    letters = LETTERS[: len(shape)]
    terms, nodes = [], []
    for node in (x, y):
        tail = letters[len(shape) - len(node.shape) :]
        keep = [i for i, n in enumerate(node.shape) if n != 1 or shape[i - len(node.shape)] == 1]
        terms.append("".join(tail[i] for i in keep))
        nodes.append(builder.reshape(node, tuple(node.shape[i] for i in keep)))
    present = "".join(c for c in letters if any(c in t for t in terms))
    return builder.reshape(builder.einsum(terms, present, nodes), shape)


def divide(a: Any, b: Any) -> TracedArray:
    """a times the divisor's reciprocal in the graph; the program divides (49 / 49 is 1)."""
    c = scalar(b)
    if c and math.isfinite(c) and builtins.abs(math.frexp(c)[0]) == 0.5:  # a power of two: exact
        return multiply(a, 1.0 / c)
    like = a if isinstance(a, TracedArray) else b
    return multiply(traced(a, like), _apply(_DIVISOR, traced(b, like)))


def remainder(a: Any, b: Any) -> Any:
    """a - b floor(a / b), of the sign of b; the floor is locally constant."""
    return subtract(a, multiply(b, floor_divide(a, b)))


def floor_divide(a: Any, b: Any) -> Any:
    return floor(divide(a, b))


def negative(x: Any) -> TracedArray:
    return multiply(x, -1.0)


def positive(x: Any) -> TracedArray:
    return wrap(real(x), x.builder)


def pow(a: Any, b: Any) -> Any:
    c = scalar(b)
    if c is not None:
        return _apply(power(c), a)
    if not isinstance(b, TracedArray):
        exponents = np.asarray(b, dtype=np.float64)
        if exponents.size and np.all(exponents == exponents.flat[0]):
            shape = broadcast_shapes(a.shape, exponents.shape)
            return _apply(power(float(exponents.flat[0])), broadcast_to(a, shape))
    base = scalar(a)
    # a**b with a variable exponent is exp(b log a): the base must be positive, as in the reals.
    return exp(multiply(b, math.log(base) if base and base > 0 else log(traced(a, b))))


# ---- elementary functions --------------------------------------------------------------------


def _apply(function: Elementary, x: Any) -> TracedArray:
    return wrap(x.builder.elementwise(function, real(x)), x.builder)


def _elementary(name: str) -> Callable[[Any], Any]:
    def function(x: Any) -> Any:
        if isinstance(x, TracedArray):
            return _apply(PRIMITIVES[name], x)
        return getattr(np, name)(x)

    function.__name__ = name
    return function


exp, expm1, log, log1p, log2, log10, sqrt, square, reciprocal = map(
    _elementary,
    ["exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "square", "reciprocal"],
)
sin, cos, tan, asin, acos, atan = map(_elementary, ["sin", "cos", "tan", "asin", "acos", "atan"])
sinh, cosh, tanh, asinh, acosh, atanh = map(
    _elementary, ["sinh", "cosh", "tanh", "asinh", "acosh", "atanh"]
)
abs, sign, floor, ceil, round, trunc = map(
    _elementary, ["abs", "sign", "floor", "ceil", "round", "trunc"]
)
erf, erfc = map(_elementary, ["erf", "erfc"])


def logaddexp(a: Any, b: Any) -> Any:
    """log(exp(a) + exp(b)); both branches are the same smooth function, so is each derivative."""
    d = subtract(a, b)

    def softplus_of_nonpositive(z: TracedArray) -> Any:
        return log1p(exp(z))

    return where(
        greater_equal(d, 0.0),
        add(a, softplus_of_nonpositive(minimum(negative(d), 1.0))),
        add(b, softplus_of_nonpositive(minimum(d, 1.0))),
    )


def hypot(a: Any, b: Any) -> Any:
    """sqrt(a^2 + b^2) = s hypot(a/s, b/s) for any s; here s = max(|a|, |b|), held constant."""
    like = a if isinstance(a, TracedArray) else b
    a, b = traced(a, like), traced(b, like)
    largest = maximum(abs(a), abs(b))
    s = stop_gradient(where(greater(largest, 0.0), largest, 1.0))
    return multiply(s, sqrt(add(square(divide(a, s)), square(divide(b, s)))))


def atan2(y: Any, x: Any) -> Any:
    """The angle of (x, y): atan of the quotient that is at most one, plus a constant."""
    like = y if isinstance(y, TracedArray) else x
    y, x = traced(y, like), traced(x, like)
    flat = greater_equal(abs(x), abs(y))
    zero = logical_and(equal(x, 0.0), equal(y, 0.0))
    left = where(less(x, 0.0), where(less(y, 0.0), -math.pi, math.pi), 0.0)
    near_x = add(atan(divide(y, where(logical_and(flat, logical_not(zero)), x, 1.0))), left)
    up = where(less(y, 0.0), -math.pi / 2, math.pi / 2)
    near_y = subtract(up, atan(divide(x, where(flat, 1.0, y))))
    return where(flat, near_x, near_y)


def stop_gradient(x: TracedArray) -> TracedArray:
    """x, held constant under differentiation."""
    return wrap(x.builder.freeze(x.node), x.builder)


# ---- comparison and selection ----------------------------------------------------------------


def _test(name: str) -> Callable[[Any, Any], TracedArray]:
    def function(a: Any, b: Any) -> TracedArray:
        builder, (x, y), shape = operands(a, b)
        x, y = builder.broadcast(x, shape), builder.broadcast(y, shape)
        return wrap(builder.test(name, x, y), builder)

    function.__name__ = name
    return function


less, less_equal, greater, greater_equal, equal, not_equal = map(
    _test, ["less", "less_equal", "greater", "greater_equal", "equal", "not_equal"]
)


def _mask(x: Any, builder: Builder) -> Node:
    node = node_of(x, builder)
    if not node.truth:
        raise trace_error(
            "a logical operation on real numbers", "it has no derivative", "compare first: x > 0"
        )
    return node


def _logical(name: str) -> Callable[..., TracedArray]:
    def function(*args: Any) -> TracedArray:
        builder = builder_of(*args)
        masks = [_mask(a, builder) for a in args]
        shape = broadcast_shapes(*(m.shape for m in masks))
        return wrap(builder.test(name, *(builder.broadcast(m, shape) for m in masks)), builder)

    function.__name__ = name
    return function


logical_and, logical_or, logical_xor, logical_not = map(
    _logical, ["logical_and", "logical_or", "logical_xor", "logical_not"]
)


def isnan(x: Any) -> TracedArray:
    return not_equal(x, x)


def where(condition: Any, a: Any, b: Any) -> Any:
    if not any(isinstance(x, TracedArray) for x in (condition, a, b)):
        return np.where(condition, a, b)
    builder = builder_of(condition, a, b)
    mask = _mask(condition, builder)
    x, y = (real(traced(v, TracedArray(mask, builder))) for v in (a, b))
    shape = broadcast_shapes(mask.shape, x.shape, y.shape)
    mask, x, y = (builder.broadcast(v, shape) for v in (mask, x, y))
    return wrap(builder.select(mask, x, y), builder)


def maximum(a: Any, b: Any) -> Any:
    """The larger; at a tie value and derivative are those of the first argument."""
    return where(greater_equal(a, b), a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller; at a tie value and derivative are those of the first argument."""
    return where(less_equal(a, b), a, b)


def clip(x: Any, min: Any = None, max: Any = None) -> Any:
    """x within [min, max]; at a bound the derivative is that of x (1)."""
    x = x if min is None else maximum(x, min)
    return x if max is None else minimum(x, max)
