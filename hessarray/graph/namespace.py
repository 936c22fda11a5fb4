"""The array API namespace of traced arrays: each function adds its nodes to the graph."""

from __future__ import annotations

import builtins
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hessarray._arguments import is_masked
from hessarray.errors import SampleIndexError, ShapeError, TraceAttributeError, near_names
from hessarray.graph import checks
from hessarray.graph.array import TracedArray
from hessarray.graph.builder import LETTERS, Builder
from hessarray.graph.elementary import PRIMITIVES, Elementary, power
from hessarray.graph.node import Node
from hessarray.graph.where import trace_error

__array_api_version__ = "2025.12"

# Creation functions and constants make plain NumPy arrays: they enter the graph when they meet a
# traced array.
pi, e, inf, nan, newaxis = math.pi, math.e, math.inf, math.nan, None
bool = np.bool_
float32, float64 = np.float32, np.float64
int32, int64 = np.int32, np.int64

Axis = int | Sequence[int] | None


def _np(name: str) -> Callable[..., Any]:
    def create(*args: Any, dtype: Any = None, device: Any = None, **kwargs: Any) -> Any:
        return getattr(np, name)(*args, **({} if dtype is None else {"dtype": dtype}), **kwargs)

    return create


zeros, ones, full, eye, arange, linspace, tril, triu = map(
    _np, ["zeros", "ones", "full", "eye", "arange", "linspace", "tril", "triu"]
)


def asarray(obj: Any, *, dtype: Any = None, device: Any = None, copy: Any = None) -> Any:
    if isinstance(obj, TracedArray):
        return obj if dtype is None else astype(obj, dtype)
    return np.asarray(obj, dtype=dtype)


def astype(x: Any, dtype: Any, *, copy: Any = True, device: Any = None) -> Any:
    if isinstance(x, TracedArray):
        kind = np.dtype(dtype).kind
        if kind == "f":
            return _wrap(_real(x), x.builder)
        if kind == "b" and x.node.truth:
            return x
        raise trace_error(
            f"astype(x, {np.dtype(dtype)})", "it has no derivative", "keep x real floating"
        )
    return np.asarray(x, dtype=dtype)


def zeros_like(x: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
    return full_like(x, 0.0)


def ones_like(x: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
    return full_like(x, 1.0)


def full_like(x: Any, /, fill_value: float, *, dtype: Any = None, device: Any = None) -> Any:
    if not isinstance(x, TracedArray):
        return np.full(x.shape, fill_value)
    return _wrap(x.builder.broadcast(x.builder.constant(fill_value), x.shape), x.builder)


# ---- plumbing --------------------------------------------------------------------------------


def _builder(*args: Any) -> Builder:
    for a in args:
        if isinstance(a, TracedArray):
            return a.builder
    raise trace_error(
        "a function of constants only",
        "none of its arguments depends on x or on parameters",
        "compute constants with the functions of NumPy",
    )


def _node(x: Any, builder: Builder) -> Node:
    if isinstance(x, TracedArray):
        return x.node
    if is_masked(x):
        raise trace_error(
            "a masked array", "its mask would be ignored", "pass its .filled(0.0) instead"
        )
    try:
        array = np.asarray(x)
    except Exception as error:
        raise trace_error(
            f"a constant of type {type(x).__name__}",
            f"it is no array ({error})",
            "pass a NumPy array, or name it in params={...}",
        ) from error
    if array.dtype.kind not in "fbiu":
        raise trace_error(
            f"a constant of dtype {array.dtype}", "it is not real", "use real floating numbers"
        )
    return builder.constant(array)


def _real(x: TracedArray) -> Node:
    if not x.node.truth:
        return x.node
    b = x.builder
    one, zero = b.broadcast(b.constant(1.0), x.shape), b.broadcast(b.constant(0.0), x.shape)
    return b.select(x.node, one, zero)


def _operands(*args: Any) -> tuple[Builder, list[Node], tuple[int, ...]]:
    """Real nodes of the arguments and their broadcast shape."""
    builder = _builder(*args)
    nodes = [_real(_wrap(_node(a, builder), builder)) for a in args]
    return builder, nodes, _broadcast_shapes(*(n.shape for n in nodes))


def _broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return tuple(int(s) for s in np.broadcast_shapes(*shapes))
    except ValueError:
        shown = " and ".join(str(s) for s in shapes)
        raise ShapeError(
            f"shapes {shown} of one sample do not broadcast: a traced function sees one sample, "
            "without the batch axis"
        ) from None


def _wrap(node: Node, builder: Builder) -> TracedArray:
    return TracedArray(node, builder)


def _scalar(x: Any) -> float | None:
    """The value of a plain number or 0-d constant, else None."""
    if isinstance(x, TracedArray):
        return None
    if isinstance(x, (int, float)) or (np.ndim(x) == 0 and np.asarray(x).dtype.kind in "fiub"):
        return float(x)
    return None


# As reciprocal; a product with it is lowered to a division.
_DIVISOR = dataclasses.replace(PRIMITIVES["reciprocal"], name="divisor")

# ---- arithmetic ------------------------------------------------------------------------------


def _sum_of(a: Any, b: Any, sign: float) -> TracedArray:
    builder, (x, y), shape = _operands(a, b)
    return _wrap(
        builder.add([(1.0, builder.broadcast(x, shape)), (sign, builder.broadcast(y, shape))]),
        builder,
    )


def add(a: Any, b: Any) -> TracedArray:
    if _scalar(b) == 0.0:
        return positive(a)
    if _scalar(a) == 0.0:
        return positive(b)
    return _sum_of(a, b, 1.0)


def subtract(a: Any, b: Any) -> TracedArray:
    return positive(a) if _scalar(b) == 0.0 else _sum_of(a, b, -1.0)


def multiply(a: Any, b: Any) -> TracedArray:
    for x, c in ((a, _scalar(b)), (b, _scalar(a))):
        if c is not None and isinstance(x, TracedArray):
            return _wrap(x.builder.scale(_real(x), c), x.builder)
    builder, (x, y), shape = _operands(a, b)
    if x is y:
        return _wrap(builder.elementwise(PRIMITIVES["square"], x), builder)
    return _wrap(_product(builder, x, y, shape), builder)


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
    c = _scalar(b)
    if c and math.isfinite(c) and builtins.abs(math.frexp(c)[0]) == 0.5:  # a power of two: exact
        return multiply(a, 1.0 / c)
    like = a if isinstance(a, TracedArray) else b
    return multiply(_traced(a, like), _apply(_DIVISOR, _traced(b, like)))


def remainder(a: Any, b: Any) -> Any:
    """a - b floor(a / b), of the sign of b; the floor is locally constant."""
    return subtract(a, multiply(b, floor_divide(a, b)))


def floor_divide(a: Any, b: Any) -> Any:
    return floor(divide(a, b))


def negative(x: Any) -> TracedArray:
    return multiply(x, -1.0)


def positive(x: Any) -> TracedArray:
    return _wrap(_real(x), x.builder)


def pow(a: Any, b: Any) -> Any:
    c = _scalar(b)
    if c is not None:
        return _apply(power(c), a)
    if not isinstance(b, TracedArray):
        exponents = np.asarray(b, dtype=np.float64)
        if exponents.size and np.all(exponents == exponents.flat[0]):
            shape = _broadcast_shapes(a.shape, exponents.shape)
            return _apply(power(float(exponents.flat[0])), broadcast_to(a, shape))
    base = _scalar(a)
    # a**b with a variable exponent is exp(b log a): the base must be positive, as in the reals.
    return exp(multiply(b, math.log(base) if base and base > 0 else log(_traced(a, b))))


def _traced(a: Any, like: TracedArray) -> TracedArray:
    return a if isinstance(a, TracedArray) else _wrap(_node(a, like.builder), like.builder)


# ---- elementary functions --------------------------------------------------------------------


def _apply(function: Elementary, x: Any) -> TracedArray:
    return _wrap(x.builder.elementwise(function, _real(x)), x.builder)


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
    a, b = _traced(a, like), _traced(b, like)
    largest = maximum(abs(a), abs(b))
    s = stop_gradient(where(greater(largest, 0.0), largest, 1.0))
    return multiply(s, sqrt(add(square(divide(a, s)), square(divide(b, s)))))


def atan2(y: Any, x: Any) -> Any:
    """The angle of (x, y): atan of the quotient that is at most one, plus a constant."""
    like = y if isinstance(y, TracedArray) else x
    y, x = _traced(y, like), _traced(x, like)
    flat = greater_equal(abs(x), abs(y))
    zero = logical_and(equal(x, 0.0), equal(y, 0.0))
    left = where(less(x, 0.0), where(less(y, 0.0), -math.pi, math.pi), 0.0)
    near_x = add(atan(divide(y, where(logical_and(flat, logical_not(zero)), x, 1.0))), left)
    up = where(less(y, 0.0), -math.pi / 2, math.pi / 2)
    near_y = subtract(up, atan(divide(x, where(flat, 1.0, y))))
    return where(flat, near_x, near_y)


def stop_gradient(x: TracedArray) -> TracedArray:
    """x, held constant under differentiation."""
    return _wrap(x.builder.freeze(x.node), x.builder)


# ---- comparison and selection ----------------------------------------------------------------


def _test(name: str) -> Callable[[Any, Any], TracedArray]:
    def function(a: Any, b: Any) -> TracedArray:
        builder, (x, y), shape = _operands(a, b)
        x, y = builder.broadcast(x, shape), builder.broadcast(y, shape)
        return _wrap(builder.test(name, x, y), builder)

    function.__name__ = name
    return function


less, less_equal, greater, greater_equal, equal, not_equal = map(
    _test, ["less", "less_equal", "greater", "greater_equal", "equal", "not_equal"]
)


def _mask(x: Any, builder: Builder) -> Node:
    node = _node(x, builder)
    if not node.truth:
        raise trace_error(
            "a logical operation on real numbers", "it has no derivative", "compare first: x > 0"
        )
    return node


def _logical(name: str) -> Callable[..., TracedArray]:
    def function(*args: Any) -> TracedArray:
        builder = _builder(*args)
        masks = [_mask(a, builder) for a in args]
        shape = _broadcast_shapes(*(m.shape for m in masks))
        return _wrap(builder.test(name, *(builder.broadcast(m, shape) for m in masks)), builder)

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
    builder = _builder(condition, a, b)
    mask = _mask(condition, builder)
    x, y = (_real(_traced(v, TracedArray(mask, builder))) for v in (a, b))
    shape = _broadcast_shapes(mask.shape, x.shape, y.shape)
    mask, x, y = (builder.broadcast(v, shape) for v in (mask, x, y))
    return _wrap(builder.select(mask, x, y), builder)


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


# ---- reductions ------------------------------------------------------------------------------


def sum(x: Any, /, *, axis: Axis = None, dtype: Any = None, keepdims: Any = False) -> Any:
    if not isinstance(x, TracedArray):
        return np.sum(x, axis=axis, keepdims=keepdims)
    axes = checks.axes("sum", axis, x.ndim)
    node = x.builder.sum(_real(x), axes)
    if keepdims:
        node = x.builder.reshape(node, tuple(1 if i in axes else n for i, n in enumerate(x.shape)))
    return _wrap(node, x.builder)


def mean(x: Any, /, *, axis: Axis = None, keepdims: Any = False) -> Any:
    count = math.prod(x.shape[a] for a in checks.axes("mean", axis, x.ndim))
    return divide(sum(x, axis=axis, keepdims=keepdims), float(count))


def var(x: Any, /, *, axis: Axis = None, correction: float = 0.0, keepdims: Any = False) -> Any:
    count = math.prod(x.shape[a] for a in checks.axes("var", axis, x.ndim))
    centred = subtract(x, mean(x, axis=axis, keepdims=True))
    return divide(sum(square(centred), axis=axis, keepdims=keepdims), float(count - correction))


def std(x: Any, /, *, axis: Axis = None, correction: float = 0.0, keepdims: Any = False) -> Any:
    return sqrt(var(x, axis=axis, correction=correction, keepdims=keepdims))


def prod(x: Any, /, *, axis: Axis = None, dtype: Any = None, keepdims: Any = False) -> Any:
    """Product over an axis, as a balanced tree of products (meant for short axes)."""
    axes = checks.axes("prod", axis, x.ndim)
    out = x
    for a in sorted(axes, reverse=True):
        parts = [
            _wrap(out.builder.slice(_real(out), a, i, i + 1), out.builder)
            for i in range(out.shape[a])
        ]
        while len(parts) > 1:
            pairs = [multiply(p, q) for p, q in zip(parts[::2], parts[1::2], strict=False)]
            parts = pairs + parts[2 * len(pairs) :]
        out = (
            parts[0] if parts else ones(tuple(1 if i == a else n for i, n in enumerate(out.shape)))
        )
    return out if keepdims else squeeze(out, axes)


def max(x: Any, /, *, axis: Axis = None, keepdims: Any = False) -> Any:
    """Largest entry over an axis; at ties the derivative is that of the first."""
    return _extreme(maximum, x, axis, keepdims)


def min(x: Any, /, *, axis: Axis = None, keepdims: Any = False) -> Any:
    """Smallest entry over an axis; at ties the derivative is that of the first."""
    return _extreme(minimum, x, axis, keepdims)


def _extreme(pick: Callable[[Any, Any], Any], x: Any, axis: Axis, keepdims: Any) -> Any:
    axes = checks.axes("max" if pick is maximum else "min", axis, x.ndim)
    out = x
    for a in sorted(axes, reverse=True):
        while out.shape[a] > 1:
            n, node, b = out.shape[a], out.node, out.builder
            even = 2 * (n // 2)
            # Neighbours meet, so that at ties the first entry wins.
            first = _wrap(b.take(node, a, range(0, even, 2)), b)
            best = pick(first, _wrap(b.take(node, a, range(1, even, 2)), b))
            out = best if n == even else concat([best, _wrap(b.slice(node, a, even, n), b)], axis=a)
    return out if keepdims else squeeze(out, axes)


# ---- contraction -----------------------------------------------------------------------------


def einsum(subscripts: str, *args: Any) -> TracedArray:
    """Einstein sum with explicit output, ``'ij,j->i'``; an extension of the standard."""
    terms, output = checks.subscripts(subscripts, len(args))
    builder = _builder(*args)
    nodes = [_real(_wrap(_node(a, builder), builder)) for a in args]
    for term, node in zip(terms, nodes, strict=True):
        if len(term) != len(node.shape):
            raise ShapeError(
                f"einsum: '{term}' names {len(term)} axes, one sample has shape {node.shape}"
            )
    return _wrap(builder.einsum(terms, output, nodes), builder)


def matmul(a: Any, b: Any) -> TracedArray:
    builder = _builder(a, b)
    x, y = (_real(_wrap(_node(v, builder), builder)) for v in (a, b))
    if not x.shape or not y.shape:
        raise ShapeError("matmul needs arrays of one or more axes; multiply scalars with *")
    inner = (x.shape[-1], y.shape[-2] if len(y.shape) > 1 else y.shape[-1])
    if inner[0] != inner[1]:
        raise ShapeError(
            f"matmul of shapes {x.shape} and {y.shape} of one sample: {inner[0]} features meet "
            f"{inner[1]} rows"
        )
    batch = _broadcast_shapes(x.shape[:-2], y.shape[:-2])
    letters = LETTERS[3 : 3 + len(batch)]
    # Axes of length one are broadcast by leaving them out of the sum.
    terms, nodes = [], []
    for node, core in (
        (x, "ab" if len(x.shape) > 1 else "b"),
        (y, "bc" if len(y.shape) > 1 else "b"),
    ):
        lead = len(node.shape) - len(core)
        keep = [i for i in range(lead) if node.shape[i] == batch[len(batch) - lead + i]]
        terms.append("".join(letters[len(batch) - lead + i] for i in keep) + core)
        nodes.append(builder.reshape(node, tuple(node.shape[i] for i in keep) + node.shape[lead:]))
    output = letters + ("a" if len(x.shape) > 1 else "") + ("c" if len(y.shape) > 1 else "")
    return _wrap(builder.einsum(terms, output, nodes), builder)


def tensordot(a: Any, b: Any, /, *, axes: Any = 2) -> TracedArray:
    builder = _builder(a, b)
    x, y = (_real(_wrap(_node(v, builder), builder)) for v in (a, b))
    if isinstance(axes, Sequence) and len(axes) == 2:
        left = checks.axes("tensordot", axes[0], len(x.shape))
        right = checks.axes("tensordot", axes[1], len(y.shape))
    else:
        count = checks.integer("tensordot", "axes", axes)
        if not 0 <= count <= builtins.min(len(x.shape), len(y.shape)):
            raise ShapeError(
                f"tensordot over {count} axes of one sample's shapes {x.shape} and {y.shape}: "
                "contract no more axes than each has"
            )
        left = tuple(range(len(x.shape) - count, len(x.shape)))
        right = tuple(range(count))
    first = list(LETTERS[: len(x.shape)])
    second = list(LETTERS[len(x.shape) : len(x.shape) + len(y.shape)])
    for i, j in checks.pairs("tensordot", left, right):
        second[j] = first[i]
    output = [c for i, c in enumerate(first) if i not in left]
    output += [c for j, c in enumerate(second) if j not in right]
    return _wrap(
        builder.einsum(["".join(first), "".join(second)], "".join(output), [x, y]), builder
    )


def vecdot(a: Any, b: Any, /, *, axis: int = -1) -> Any:
    return sum(multiply(a, b), axis=axis)


# ---- shape -----------------------------------------------------------------------------------


def reshape(x: Any, shape: int | Sequence[int], *, copy: Any = None) -> Any:
    if not isinstance(x, TracedArray):
        return np.reshape(x, shape)
    dims = checks.integers("reshape", "shape", shape)
    wanted = tuple(dims)
    if dims.count(-1) == 1:
        rest = -math.prod(dims)
        dims[dims.index(-1)] = x.size // rest if rest else 0
    if math.prod(dims) != x.size or any(n < 0 for n in dims):
        raise ShapeError(
            f"cannot reshape one sample's {x.shape} to {wanted}: a traced function sees one "
            "sample, without the batch axis"
        )
    return _wrap(x.builder.reshape(x.node, tuple(dims)), x.builder)


def permute_dims(x: Any, axes: Sequence[int] | None = None) -> Any:
    """x with its axes in this order; reversed where there is none, as by np.transpose(x)."""
    if not isinstance(x, TracedArray):
        return np.transpose(x, axes)
    order = checks.axes("permute_dims", range(x.ndim)[::-1] if axes is None else axes, x.ndim)
    if len(order) != x.ndim:
        raise trace_error(
            f"permute_dims to axes {order}",
            f"one sample has {x.ndim} axes",
            f"name all of {tuple(range(x.ndim))}, in the new order",
        )
    return _wrap(x.builder.permute(_real(x), order), x.builder)


def matrix_transpose(x: Any) -> Any:
    if x.ndim < 2:
        raise ShapeError(f"matrix_transpose needs two axes or more, one sample has shape {x.shape}")
    return permute_dims(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def moveaxis(x: Any, source: Any, destination: Any) -> Any:
    sources = checks.axes("moveaxis", source, x.ndim)
    targets = checks.axes("moveaxis", destination, x.ndim)
    rest = [i for i in range(x.ndim) if i not in sources]
    for target, origin in sorted(checks.pairs("moveaxis", targets, sources)):
        rest.insert(target, origin)
    return permute_dims(x, rest)


def expand_dims(x: Any, /, *, axis: int | Sequence[int] = 0) -> Any:
    if not isinstance(x, TracedArray):
        return np.expand_dims(x, axis)
    count = len(checks.integers("expand_dims", "axis", axis))
    axes = checks.axes("expand_dims", axis, x.ndim + count)
    sizes = iter(x.shape)
    return reshape(x, [1 if i in axes else next(sizes) for i in range(x.ndim + count)])


def squeeze(x: Any, /, axis: int | Sequence[int]) -> Any:
    axes = checks.axes("squeeze", axis, x.ndim)
    for a in axes:
        if x.shape[a] != 1:
            raise ShapeError(
                f"cannot squeeze axis {a} of length {x.shape[a]}, it must be 1: take one of its "
                "entries by an index, or sum over it"
            )
    return reshape(x, [n for i, n in enumerate(x.shape) if i not in axes])


def broadcast_to(x: Any, /, shape: Sequence[int]) -> Any:
    if not isinstance(x, TracedArray):
        return np.broadcast_to(x, shape)
    target = tuple(checks.integers("broadcast_to", "shape", shape))
    if _broadcast_shapes(x.shape, target) != target:
        raise ShapeError(f"cannot broadcast one sample's {x.shape} to {target}")
    return _wrap(x.builder.broadcast(x.node, target), x.builder)


def broadcast_arrays(*arrays: Any) -> list[Any]:
    shape = _broadcast_shapes(*(a.shape for a in arrays))
    return [broadcast_to(a, shape) for a in arrays]


def concat(arrays: Sequence[Any], /, *, axis: int | None = 0) -> Any:
    if not any(isinstance(a, TracedArray) for a in arrays):
        return np.concatenate(arrays, axis=axis)
    builder = _builder(*arrays)
    nodes = [_node(a, builder) for a in arrays]
    if not all(n.truth for n in nodes):
        nodes = [_real(_wrap(n, builder)) for n in nodes]
    if axis is None:
        nodes = [builder.reshape(n, (n.size,)) for n in nodes]
        axis = 0
    a = checks.axis("concat", axis, len(nodes[0].shape))
    for n in nodes[1:]:
        if n.shape[:a] + n.shape[a + 1 :] != nodes[0].shape[:a] + nodes[0].shape[a + 1 :]:
            shown = ", ".join(str(m.shape) for m in nodes)
            raise ShapeError(f"cannot concatenate one sample's shapes {shown} along axis {axis}")
    return _wrap(builder.concat([n for n in nodes if n.shape[a]] or nodes[:1], a), builder)


def stack(arrays: Sequence[Any], /, *, axis: int = 0) -> Any:
    like = next((a for a in arrays if isinstance(a, TracedArray)), None)
    if like is None:
        return np.stack(arrays, axis=axis)
    traced = [_traced(a, like) for a in arrays]
    if len({t.shape for t in traced}) > 1:
        shown = ", ".join(str(t.shape) for t in traced)
        raise ShapeError(f"stack needs arrays of one shape, one sample has {shown}")
    a = checks.axis("stack", axis, traced[0].ndim + 1)
    return concat([expand_dims(t, axis=a) for t in traced], axis=a)


def flip(x: Any, /, *, axis: Axis = None) -> Any:
    if not isinstance(x, TracedArray):
        return np.flip(x, axis)  # type: ignore[arg-type]
    node = x.node
    for a in checks.axes("flip", axis, x.ndim):
        node = x.builder.flip(node, a)
    return _wrap(node, x.builder)


def roll(x: Any, /, shift: int | Sequence[int], *, axis: Axis = None) -> Any:
    if axis is None:
        return reshape(roll(reshape(x, (-1,)), shift, axis=0), x.shape)
    axes = checks.axes("roll", axis, x.ndim)
    shifts = checks.integers("roll", "shift", shift)
    b, node = x.builder, _real(x)
    for a, s in checks.pairs("roll", axes, shifts * len(axes) if len(shifts) == 1 else shifts):
        n = node.shape[a]
        cut = (n - s) % n if n else 0
        if cut:
            node = b.concat([b.slice(node, a, cut, n), b.slice(node, a, 0, cut)], a)
    return _wrap(node, b)


def take(x: Any, indices: Any, /, *, axis: int | None = None) -> Any:
    index = checks.index_array("take(x, indices)", indices)
    if not isinstance(x, TracedArray):
        return np.take(x, index, axis=axis)
    if axis is None:
        x, axis = (x, 0) if x.ndim == 1 else (reshape(x, (-1,)), 0)
    return _gather(x, checks.axis("take", axis, x.ndim), index)


def _gather(x: TracedArray, axis: int, index: np.ndarray[Any, Any]) -> TracedArray:
    n = x.shape[axis]
    flat = index.reshape(-1)
    if flat.size and (flat.min() < -n or flat.max() >= n):
        bad = int(flat[(flat < -n) | (flat >= n)][0])
        raise SampleIndexError(
            f"index {bad} is out of range for axis {axis} of length {n} of one sample "
            "(a traced function sees no batch axis)"
        )
    node = x.builder.take(x.node, axis, [int(i) % n for i in flat])
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    return _wrap(x.builder.reshape(node, shape), x.builder)


def getitem(x: TracedArray, key: Any) -> TracedArray:
    """x[key] with integers, slices, ``...``, ``None`` and one list or integer array."""
    axis = 0
    out = x
    for k in checks.index_keys(key, x.shape):
        if k is None:
            out = expand_dims(out, axis=axis)
            axis += 1
        elif isinstance(k, slice):
            out = _sliced(out, axis, k)
            axis += 1
        elif isinstance(k, int):
            out = squeeze(_gather_one(out, axis, k), axis)
        else:
            out = _gather(out, axis, k)
            axis += k.ndim
    return out


def _gather_one(x: TracedArray, axis: int, i: int) -> TracedArray:
    n = x.shape[axis]
    if not -n <= i < n:
        raise SampleIndexError(
            f"index {i} is out of range for axis {axis} of length {n} of one sample "
            "(a traced function sees no batch axis)"
        )
    return _wrap(x.builder.slice(x.node, axis, i % n, i % n + 1), x.builder)


def _sliced(x: TracedArray, axis: int, key: slice) -> TracedArray:
    span = range(*key.indices(x.shape[axis]))
    b = x.builder
    if span.step == 1 or len(span) <= 1:
        start = span.start if len(span) else 0
        return _wrap(b.slice(x.node, axis, start, start + len(span)), b)
    if span.step == -1:
        low = span[-1]
        return _wrap(b.flip(b.slice(x.node, axis, low, low + len(span)), axis), b)
    return _wrap(b.take(x.node, axis, list(span)), b)


# NumPy's spellings of the standard's names, for np.f(x) called on a traced array.
NUMPY_NAMES = {
    "absolute": "abs",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "arctan2": "atan2",
    "concatenate": "concat",
    "transpose": "permute_dims",
    "true_divide": "divide",
    "power": "pow",
    "float_power": "pow",
    "amax": "max",
    "amin": "min",
    "bitwise_and": "logical_and",
    "bitwise_or": "logical_or",
    "bitwise_xor": "logical_xor",
    "invert": "logical_not",
    "mod": "remainder",
}

FUNCTIONS = frozenset(
    """
    abs acos acosh add asin asinh atan atan2 atanh broadcast_arrays broadcast_to ceil clip
    concat cos cosh divide einsum equal erf erfc exp expand_dims expm1 flip floor floor_divide
    full_like greater greater_equal hypot isnan less less_equal log log10 log1p log2 logaddexp
    logical_and logical_not logical_or logical_xor matmul matrix_transpose max maximum mean min
    minimum moveaxis multiply negative not_equal ones_like permute_dims positive pow prod
    reciprocal remainder reshape roll round sign sin sinh sqrt square squeeze stack std
    stop_gradient subtract sum take tan tanh tensordot trunc var vecdot where zeros_like
    """.split()
)


_CREATION = """arange asarray astype bool e eye float32 float64 full inf int32 int64 linspace nan
    newaxis
    ones pi tril triu zeros""".split()
__all__ = sorted([*FUNCTIONS, *_CREATION, "FUNCTIONS", "NUMPY_NAMES", "getitem"])


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise trace_error(
        f"xp.{name}",
        "hessarray knows no derivative of it",
        near_names(name, __all__)
        or "compose it from functions of the array API standard, see docs/tracing.md",
        TraceAttributeError,
    )
