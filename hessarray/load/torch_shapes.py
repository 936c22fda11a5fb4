"""ATen operators that move, take and join entries, and compute nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from hessarray.errors import LoadError

__all__ = ["SHAPES", "axes_of"]


def axes_of(x: Any, dim: Any) -> tuple[int, ...]:
    """Axes from the front, of one number, several, or none for all."""
    dims = range(len(x.shape)) if dim is None else [dim] if isinstance(dim, int) else dim
    return tuple(d % len(x.shape) for d in dims) or tuple(range(len(x.shape)))


def _transpose(xp: Any, x: Any, first: int, second: int) -> Any:
    order = list(range(len(x.shape)))
    order[first], order[second] = order[second], order[first]
    return xp.permute_dims(x, order)


def _squeeze(xp: Any, x: Any, dim: Any = None) -> Any:
    dims = [d for d in axes_of(x, dim) if x.shape[d] == 1]
    return xp.reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in dims))


def _expand(xp: Any, x: Any, size: Sequence[int], implicit: bool = False) -> Any:
    own = (1,) * (len(size) - len(x.shape)) + tuple(x.shape)
    return xp.broadcast_to(x, tuple(n if n >= 0 else o for n, o in zip(size, own, strict=True)))


def _repeat(xp: Any, x: Any, repeats: Sequence[int]) -> Any:
    x = xp.reshape(x, (1,) * (len(repeats) - len(x.shape)) + tuple(x.shape))
    for axis, count in enumerate(repeats):
        if count != 1:
            x = xp.concat([x] * count, axis=axis)
    return x


def _slice(
    xp: Any, x: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    return x[(*[slice(None)] * (dim % len(x.shape)), slice(start, end, step))]


def _select(xp: Any, x: Any, dim: int, index: int) -> Any:
    return x[(*[slice(None)] * (dim % len(x.shape)), index)]


def _split(xp: Any, x: Any, sizes: int | Sequence[int], dim: int = 0) -> list[Any]:
    n = x.shape[dim]
    if isinstance(sizes, int):
        sizes = [min(sizes, n - i) for i in range(0, n, sizes)]
    ends = np.cumsum([0, *sizes]).tolist()
    return [_slice(xp, x, dim, i, j) for i, j in pairwise(ends)]


def _unbind(xp: Any, x: Any, dim: int = 0) -> list[Any]:
    return [_select(xp, x, dim, i) for i in range(x.shape[dim])]


def _pad(xp: Any, x: Any, pad: Sequence[int], value: float = 0.0) -> Any:
    """``pad`` holds (before, after) of the last axis, then of the one before it."""
    for i in range(len(pad) // 2):
        axis, (before, after) = len(x.shape) - 1 - i, pad[2 * i : 2 * i + 2]
        x = _slice(xp, x, axis, max(0, -before), x.shape[axis] - max(0, -after))
        shape = list(x.shape)
        parts = []
        for count in (before, after):
            shape[axis] = max(0, count)
            parts.append(np.full(shape, value))
        x = xp.concat([p for p in (parts[0], x, parts[1]) if p.shape[axis]], axis=axis)
    return x


def _flatten(xp: Any, x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    n = len(x.shape)
    start, stop = start_dim % n, end_dim % n + 1
    return xp.reshape(x, (*x.shape[:start], math.prod(x.shape[start:stop]), *x.shape[stop:]))


def _positions(x: Any) -> Any:
    return np.arange(math.prod(x.shape)).reshape(x.shape)


def _taken(xp: Any, x: Any, positions: Any) -> Any:
    """Entries of x by their flat positions, which are constants of the model."""
    return xp.take(xp.reshape(x, (-1,)), positions, axis=0)


def _index(xp: Any, x: Any, indices: Sequence[Any]) -> Any:
    keys = tuple(slice(None) if i is None else _fixed(i) for i in indices)
    return _taken(xp, x, _positions(x)[keys])


def _scattered(xp: Any, x: Any, source: Any, key: Any) -> Any:
    """x with ``source`` in place of x[key]: both side by side, and taken from."""
    positions = _positions(x)
    positions[key] = positions.size + np.arange(math.prod(source.shape)).reshape(source.shape)
    flat = [xp.reshape(a, (-1,)) for a in (x, source)]
    return xp.take(xp.concat(flat, axis=0), positions, axis=0)


def _index_put(
    xp: Any, x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False
) -> Any:
    if accumulate:
        raise LoadError("index_put with accumulate=True is not supported: add the arrays instead")
    key = tuple(slice(None) if i is None else _fixed(i) for i in indices)
    return _scattered(xp, x, xp.broadcast_to(values, _positions(x)[key].shape), key)


def _slice_scatter(
    xp: Any,
    x: Any,
    source: Any,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Any:
    key = (*[slice(None)] * (dim % len(x.shape)), slice(start, end, step))
    return _scattered(xp, x, source, key)


def _select_scatter(xp: Any, x: Any, source: Any, dim: int, index: int) -> Any:
    return _scattered(xp, x, source, (*[slice(None)] * (dim % len(x.shape)), index))


def _fixed(index: Any) -> Any:
    if not isinstance(index, np.ndarray):
        raise LoadError("an index that depends on the input has no derivative: index by constants")
    return index


def _gather(xp: Any, x: Any, dim: int, index: Any, sparse_grad: bool = False) -> Any:
    return _taken(xp, x, np.take_along_axis(_positions(x), _fixed(index), dim))


def _index_select(xp: Any, x: Any, dim: int, index: Any) -> Any:
    return xp.take(x, _fixed(index), axis=dim)


def _embedding(xp: Any, weight: Any, indices: Any, *_: Any, **__: Any) -> Any:
    if not isinstance(indices, np.ndarray):
        raise LoadError(
            "an embedding of the input has no derivative in it, as it takes whole numbers: give "
            "the module the embedded features"
        )
    return xp.take(weight, indices, axis=0)


SHAPES: dict[str, Callable[..., Any]] = {
    **{k: lambda xp, x, size: xp.reshape(x, tuple(size)) for k in ("view", "reshape")},
    "flatten": _flatten,
    "permute": lambda xp, x, dims: xp.permute_dims(x, tuple(d % len(x.shape) for d in dims)),
    "transpose": _transpose,
    "squeeze": _squeeze,
    "unsqueeze": lambda xp, x, dim: xp.expand_dims(x, axis=dim),
    "expand": _expand,
    "repeat": _repeat,
    "slice": _slice,
    "select": _select,
    "split": _split,
    "split_with_sizes": _split,
    "unbind": _unbind,
    "cat": lambda xp, arrays, dim=0: xp.concat(list(arrays), axis=dim),
    "stack": lambda xp, arrays, dim=0: xp.stack(list(arrays), axis=dim),
    "flip": lambda xp, x, dims: xp.flip(x, axis=axes_of(x, dims)),
    "roll": lambda xp, x, shifts, dims=(): xp.roll(
        x, tuple(shifts) if dims else shifts[0], axis=tuple(dims) or None
    ),
    "constant_pad_nd": _pad,
    "index": _index,
    "index_put": _index_put,
    "gather": _gather,
    "index_select": _index_select,
    "embedding": _embedding,
    "slice_scatter": _slice_scatter,
    "select_scatter": _select_scatter,
    "copy": lambda xp, x, source, *_: xp.broadcast_to(source, x.shape),
}
