"""Functions that move entries: shapes, axes, joints and indices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hessarray.errors import SampleIndexError, ShapeError
from hessarray.graph import checks
from hessarray.graph.array import TracedArray
from hessarray.graph.operands import (
    Axis,
    broadcast_shapes,
    builder_of,
    node_of,
    real,
    traced,
    wrap,
)
from hessarray.graph.where import trace_error

__all__ = [
    "broadcast_arrays",
    "broadcast_to",
    "concat",
    "expand_dims",
    "flip",
    "getitem",
    "matrix_transpose",
    "moveaxis",
    "permute_dims",
    "reshape",
    "roll",
    "squeeze",
    "stack",
    "take",
]


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
    return wrap(x.builder.reshape(x.node, tuple(dims)), x.builder)


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
    return wrap(x.builder.permute(real(x), order), x.builder)


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
    if broadcast_shapes(x.shape, target) != target:
        raise ShapeError(f"cannot broadcast one sample's {x.shape} to {target}")
    return wrap(x.builder.broadcast(x.node, target), x.builder)


def broadcast_arrays(*arrays: Any) -> list[Any]:
    shape = broadcast_shapes(*(a.shape for a in arrays))
    return [broadcast_to(a, shape) for a in arrays]


def concat(arrays: Sequence[Any], /, *, axis: int | None = 0) -> Any:
    if not any(isinstance(a, TracedArray) for a in arrays):
        return np.concatenate(arrays, axis=axis)
    builder = builder_of(*arrays)
    nodes = [node_of(a, builder) for a in arrays]
    if not all(n.truth for n in nodes):
        nodes = [real(wrap(n, builder)) for n in nodes]
    if axis is None:
        nodes = [builder.reshape(n, (n.size,)) for n in nodes]
        axis = 0
    a = checks.axis("concat", axis, len(nodes[0].shape))
    for n in nodes[1:]:
        if n.shape[:a] + n.shape[a + 1 :] != nodes[0].shape[:a] + nodes[0].shape[a + 1 :]:
            shown = ", ".join(str(m.shape) for m in nodes)
            raise ShapeError(f"cannot concatenate one sample's shapes {shown} along axis {axis}")
    return wrap(builder.concat([n for n in nodes if n.shape[a]] or nodes[:1], a), builder)


def stack(arrays: Sequence[Any], /, *, axis: int = 0) -> Any:
    like = next((a for a in arrays if isinstance(a, TracedArray)), None)
    if like is None:
        return np.stack(arrays, axis=axis)
    parts = [traced(a, like) for a in arrays]
    if len({t.shape for t in parts}) > 1:
        shown = ", ".join(str(t.shape) for t in parts)
        raise ShapeError(f"stack needs arrays of one shape, one sample has {shown}")
    a = checks.axis("stack", axis, parts[0].ndim + 1)
    return concat([expand_dims(t, axis=a) for t in parts], axis=a)


def flip(x: Any, /, *, axis: Axis = None) -> Any:
    if not isinstance(x, TracedArray):
        return np.flip(x, axis)  # type: ignore[arg-type]
    node = x.node
    for a in checks.axes("flip", axis, x.ndim):
        node = x.builder.flip(node, a)
    return wrap(node, x.builder)


def roll(x: Any, /, shift: int | Sequence[int], *, axis: Axis = None) -> Any:
    if axis is None:
        return reshape(roll(reshape(x, (-1,)), shift, axis=0), x.shape)
    axes = checks.axes("roll", axis, x.ndim)
    shifts = checks.integers("roll", "shift", shift)
    b, node = x.builder, real(x)
    for a, s in checks.pairs("roll", axes, shifts * len(axes) if len(shifts) == 1 else shifts):
        n = node.shape[a]
        cut = (n - s) % n if n else 0
        if cut:
            node = b.concat([b.slice(node, a, cut, n), b.slice(node, a, 0, cut)], a)
    return wrap(node, b)


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
    return wrap(x.builder.reshape(node, shape), x.builder)


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
    return wrap(x.builder.slice(x.node, axis, i % n, i % n + 1), x.builder)


def _sliced(x: TracedArray, axis: int, key: slice) -> TracedArray:
    span = range(*key.indices(x.shape[axis]))
    b = x.builder
    if span.step == 1 or len(span) <= 1:
        start = span.start if len(span) else 0
        return wrap(b.slice(x.node, axis, start, start + len(span)), b)
    if span.step == -1:
        low = span[-1]
        return wrap(b.flip(b.slice(x.node, axis, low, low + len(span)), axis), b)
    return wrap(b.take(x.node, axis, list(span)), b)
