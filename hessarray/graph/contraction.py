"""Functions that sum: reductions, and products of arrays."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hessarray.errors import ShapeError
from hessarray.graph import checks
from hessarray.graph.array import TracedArray
from hessarray.graph.builder import LETTERS
from hessarray.graph.operands import Axis, broadcast_shapes, builder_of, node_of, real, wrap
from hessarray.graph.pointwise import divide, maximum, minimum, multiply, sqrt, square, subtract
from hessarray.graph.shapes import concat, squeeze

__all__ = [
    "einsum",
    "matmul",
    "max",
    "mean",
    "min",
    "prod",
    "std",
    "sum",
    "tensordot",
    "var",
    "vecdot",
]


# ---- reductions ------------------------------------------------------------------------------


def sum(x: Any, /, *, axis: Axis = None, dtype: Any = None, keepdims: Any = False) -> Any:
    if not isinstance(x, TracedArray):
        return np.sum(x, axis=axis, keepdims=keepdims)
    axes = checks.axes("sum", axis, x.ndim)
    node = x.builder.sum(real(x), axes)
    if keepdims:
        node = x.builder.reshape(node, tuple(1 if i in axes else n for i, n in enumerate(x.shape)))
    return wrap(node, x.builder)


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
            wrap(out.builder.slice(real(out), a, i, i + 1), out.builder)
            for i in range(out.shape[a])
        ]
        while len(parts) > 1:
            pairs = [multiply(p, q) for p, q in zip(parts[::2], parts[1::2], strict=False)]
            parts = pairs + parts[2 * len(pairs) :]
        out = (
            parts[0]
            if parts
            else np.ones(tuple(1 if i == a else n for i, n in enumerate(out.shape)))
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
            first = wrap(b.take(node, a, range(0, even, 2)), b)
            best = pick(first, wrap(b.take(node, a, range(1, even, 2)), b))
            out = best if n == even else concat([best, wrap(b.slice(node, a, even, n), b)], axis=a)
    return out if keepdims else squeeze(out, axes)


# ---- contraction -----------------------------------------------------------------------------


def einsum(subscripts: str, *args: Any) -> TracedArray:
    """Einstein sum with explicit output, ``'ij,j->i'``; an extension of the standard."""
    terms, output = checks.subscripts(subscripts, len(args))
    builder = builder_of(*args)
    nodes = [real(wrap(node_of(a, builder), builder)) for a in args]
    for term, node in zip(terms, nodes, strict=True):
        if len(term) != len(node.shape):
            raise ShapeError(
                f"einsum: '{term}' names {len(term)} axes, one sample has shape {node.shape}"
            )
    return wrap(builder.einsum(terms, output, nodes), builder)


def matmul(a: Any, b: Any) -> TracedArray:
    builder = builder_of(a, b)
    x, y = (real(wrap(node_of(v, builder), builder)) for v in (a, b))
    if not x.shape or not y.shape:
        raise ShapeError("matmul needs arrays of one or more axes; multiply scalars with *")
    inner = (x.shape[-1], y.shape[-2] if len(y.shape) > 1 else y.shape[-1])
    if inner[0] != inner[1]:
        raise ShapeError(
            f"matmul of shapes {x.shape} and {y.shape} of one sample: {inner[0]} features meet "
            f"{inner[1]} rows"
        )
    batch = broadcast_shapes(x.shape[:-2], y.shape[:-2])
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
    return wrap(builder.einsum(terms, output, nodes), builder)


def tensordot(a: Any, b: Any, /, *, axes: Any = 2) -> TracedArray:
    builder = builder_of(a, b)
    x, y = (real(wrap(node_of(v, builder), builder)) for v in (a, b))
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
    return wrap(builder.einsum(["".join(first), "".join(second)], "".join(output), [x, y]), builder)


def vecdot(a: Any, b: Any, /, *, axis: int = -1) -> Any:
    return sum(multiply(a, b), axis=axis)
