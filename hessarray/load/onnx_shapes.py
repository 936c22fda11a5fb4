"""ONNX operators that make, move, cut and repeat entries; shapes and indices are constants."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hessarray.load.onnx_node import Node, axes_of, constant, integers, is_constant, namespace_of
from hessarray.load.onnx_samples import check_entries

__all__ = ["SHAPE_OPERATORS", "spread"]


def _constant(node: Node) -> Any:
    for name, value in node.attributes.items():
        if name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
            dtype = {"value_f": np.float32, "value_i": np.int64}.get(name[:7])
            return np.asarray(value, dtype=dtype)
    raise ValueError("it holds no numbers")


def _constant_of_shape(node: Node, shape: Any) -> Any:
    sizes = integers(shape, "shape")
    check_entries(sizes)
    value = node.get("value", np.zeros(1, dtype=np.float32))
    return np.full(sizes, value.reshape(-1)[0])


def _shape(node: Node, x: Any) -> Any:
    return np.asarray(x.shape[slice(node.get("start", 0), node.get("end"))], dtype=np.int64)


def _range(node: Node, start: Any, limit: Any, delta: Any) -> Any:
    bounds = [constant(v, k) for v, k in ((start, "start"), (limit, "limit"), (delta, "delta"))]
    first, last, step = (b.reshape(-1)[0].item() for b in bounds)
    count = max(math.ceil((last - first) / step), 0)
    check_entries((count,))
    return (first + np.arange(count) * step).astype(bounds[0].dtype)


def _trilu(node: Node, x: Any, k: Any = None) -> Any:
    offset = 0 if k is None else integers(k, "k")[0]
    offset = max(-x.shape[-2], min(x.shape[-1], offset))
    mask = np.ones(x.shape[-2:], dtype=bool)
    kept = np.triu(mask, offset) if node.get("upper", 1) else np.tril(mask, offset)
    if is_constant(x):
        return np.where(kept, x, np.zeros((), dtype=x.dtype))
    return namespace_of(x).where(kept, x, 0.0)


# ---- shape -----------------------------------------------------------------------------------


def _reshape(node: Node, x: Any, shape: Any) -> Any:
    sizes = integers(shape, "shape")
    if not node.get("allowzero", 0):
        if any(n == 0 and i >= x.ndim for i, n in enumerate(sizes)):
            raise ValueError(f"its shape {sizes} copies an axis that {x.shape} does not have")
        sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(sizes)]
    known = math.prod(n for n in sizes if n != -1)
    if sizes.count(-1) == 1 and known:
        sizes[sizes.index(-1)] = x.size // known
    if math.prod(sizes) != x.size or min(sizes, default=0) < 0:
        raise ValueError(f"{x.shape} cannot be reshaped to {tuple(sizes)}")
    return namespace_of(x).reshape(x, tuple(sizes))


def _flatten(node: Node, x: Any) -> Any:
    axis = node.get("axis", 1)
    if not -x.ndim <= axis <= x.ndim:
        raise ValueError(f"axis {axis} of an array with {x.ndim} axes")
    axis = axis + x.ndim if axis < 0 else axis
    shape = (math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
    return namespace_of(x).reshape(x, shape)


def _transpose(node: Node, x: Any) -> Any:
    order = axes_of(list(node.get("perm", range(x.ndim)[::-1])), x.ndim)
    if len(order) != x.ndim:
        raise ValueError(f"its perm {order} does not name the {x.ndim} axes")
    return namespace_of(x).permute_dims(x, order)


def _axes_input(node: Node, axes: Any, version: int = 13) -> list[int] | None:
    given = node.get("axes") if node.version < version else axes
    return None if given is None else integers(given, "axes")


def _squeeze(node: Node, x: Any, axes: Any = None) -> Any:
    given = _axes_input(node, axes)
    gone = [i for i, n in enumerate(x.shape) if n == 1] if given is None else given
    found = axes_of(gone, x.ndim)
    if any(x.shape[a] != 1 for a in found):
        raise ValueError(f"axes {gone} of {x.shape} are not all of length 1")
    kept = tuple(n for i, n in enumerate(x.shape) if i not in found)
    return namespace_of(x).reshape(x, kept)


def _unsqueeze(node: Node, x: Any, axes: Any = None) -> Any:
    new = _axes_input(node, axes) or []
    found = axes_of(new, x.ndim + len(new))
    sizes = iter(x.shape)
    shape = tuple(1 if i in found else next(sizes) for i in range(x.ndim + len(new)))
    return namespace_of(x).reshape(x, shape)


def _expand(node: Node, x: Any, shape: Any) -> Any:
    target = np.broadcast_shapes(x.shape, tuple(integers(shape, "shape")))
    return namespace_of(x).broadcast_to(x, target)


def _tile(node: Node, x: Any, repeats: Any) -> Any:
    times = integers(repeats, "repeats")
    if len(times) != x.ndim or min(times, default=1) < 0:
        raise ValueError(f"its repeats {times} do not fit an array of shape {x.shape}")
    check_entries([n * r for n, r in zip(x.shape, times, strict=True)])
    xp = namespace_of(x)
    pairs = [k for n, r in zip(x.shape, times, strict=True) for k in (1, n)]
    wide = [k for n, r in zip(x.shape, times, strict=True) for k in (r, n)]
    spread_out = xp.broadcast_to(xp.reshape(x, tuple(pairs)), tuple(wide))
    return xp.reshape(spread_out, tuple(n * r for n, r in zip(x.shape, times, strict=True)))


# ---- parts -----------------------------------------------------------------------------------


def _concat(node: Node, *args: Any) -> Any:
    (axis,) = axes_of([node.get("axis")], args[0].ndim)
    check_entries(
        (sum(x.shape[axis] for x in args), *args[0].shape[:axis], *args[0].shape[axis + 1 :])
    )
    return namespace_of(*args).concat(list(args), axis=axis)


def _split(node: Node, x: Any, sizes: Any = None) -> Any:
    (axis,) = axes_of([node.get("axis", 0)], x.ndim)
    given = node.get("split") if node.version < 13 else sizes
    count, n = len(node.outputs), x.shape[axis]
    if given is None:
        part = -(-n // count)
        lengths = [part] * (count - 1) + [n - part * (count - 1)]
    else:
        lengths = integers(given, "split")
    if len(lengths) != count or sum(lengths) != n or min(lengths) < 0:
        raise ValueError(f"parts of lengths {lengths} do not make an axis of length {n}")
    ends = np.cumsum([0, *lengths]).tolist()
    return tuple(_cut(x, axis, slice(i, j)) for i, j in itertools.pairwise(ends))


def _cut(x: Any, axis: int, span: slice) -> Any:
    return x[(*(slice(None),) * axis, span)]


def _slice(node: Node, x: Any, *inputs: Any) -> Any:
    if node.version < 10:
        inputs = tuple(map(node.get, ("starts", "ends", "axes")))
    starts, ends, axes, steps = [*inputs, None, None, None][:4]
    first, last = integers(starts, "starts"), integers(ends, "ends")
    where = axes_of(list(range(len(first))) if axes is None else integers(axes, "axes"), x.ndim)
    by = [1] * len(first) if steps is None else integers(steps, "steps")
    if not len(first) == len(last) == len(where) == len(by) or 0 in by:
        raise ValueError(f"starts {first}, ends {last}, axes {where} and steps {by} do not fit")
    for axis, i, j, step in zip(where, first, last, by, strict=True):
        n = x.shape[axis]
        # An end before the first entry is None for a slice, where -1 is the last entry.
        stop = None if step < 0 and j < -n else j
        # A start before the first entry is the first one, where a slice backwards finds none.
        x = _cut(x, axis, slice(max(i, -n), stop, step))
    return x


def _gather(node: Node, x: Any, indices: Any) -> Any:
    (axis,) = axes_of([node.get("axis", 0)], x.ndim)
    at = constant(indices, "indices")
    if at.dtype.kind not in "iu":
        raise ValueError("its indices must be integers")
    if at.size and not (-x.shape[axis] <= at.min() and at.max() < x.shape[axis]):
        raise ValueError(f"an index is out of range for an axis of length {x.shape[axis]}")
    check_entries((*x.shape[:axis], *at.shape, *x.shape[axis + 1 :]))
    return namespace_of(x).take(x, at, axis=axis)


# ---- padding ---------------------------------------------------------------------------------


def _pad(node: Node, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    if node.version < 11:
        pads, value = node.get("pads"), np.asarray(node.get("value", 0.0))
    widths = integers(pads, "pads")
    where = list(range(x.ndim)) if axes is None else integers(axes, "axes")
    found, half = axes_of(where, x.ndim), len(widths) // 2
    if len(widths) != 2 * len(found):
        raise ValueError(f"its pads {widths} do not fit {len(found)} axes")
    fill = np.zeros(()) if value is None else constant(value, "constant_value").reshape(())
    for axis, before, after in zip(found, widths[:half], widths[half:], strict=True):
        x = spread(x, axis, before, after, node.get("mode", "constant"), fill)
    return x


def spread(x: Any, axis: int, before: int, after: int, mode: str, fill: Any) -> Any:
    """x with entries put before and after those of an axis, or cut off where negative."""
    x = _cut(x, axis, slice(max(-before, 0), x.shape[axis] - max(-after, 0)))
    left, right, n = max(before, 0), max(after, 0), x.shape[axis]
    check_entries((*x.shape[:axis], left + n + right, *x.shape[axis + 1 :]))
    if not left and not right:
        return x
    xp = namespace_of(x)
    if mode != "constant":
        return xp.take(x, _mirrored(n, left, right, mode), axis=axis)

    def block(size: int) -> list[Any]:
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        filled = np.full(shape, fill)
        return [filled.astype(x.dtype) if is_constant(x) else filled] if size else []

    return xp.concat([*block(left), x, *block(right)], axis=axis)


def _mirrored(n: int, left: int, right: int, mode: str) -> np.ndarray[Any, Any]:
    """Which entries the padding repeats."""
    at = np.arange(-left, n + right)
    if n == 0 or mode not in ("reflect", "edge", "wrap"):
        raise ValueError(f"mode {mode!r} of an axis of length {n} is not supported")
    if mode == "edge":
        return np.clip(at, 0, n - 1)
    if mode == "wrap":
        return at % n
    period = max(2 * (n - 1), 1)
    return (n - 1) - np.abs(at % period - (n - 1))


def _identity(node: Node, x: Any) -> Any:
    return x


def _size(node: Node, x: Any) -> Any:
    return np.asarray(x.size, dtype=np.int64)


SHAPE_OPERATORS: dict[str, Callable[..., Any]] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": _identity,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
