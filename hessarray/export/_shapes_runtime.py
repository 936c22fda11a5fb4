"""What an exported module holds on any library: copied there after the library's own runtime.

As in ``_array_runtime``, ``IN_SHAPES`` stands in for the module's.
"""

from __future__ import annotations

from typing import Any

__all__: list[str] = []

_Shape = tuple[int, ...]
IN_SHAPES: tuple[_Shape, ...] = ()


def _product(lengths: _Shape) -> int:
    """The number of entries."""
    size = 1
    for length in lengths:
        size *= length
    return size


def _blocks(found: Any, batch: _Shape, out: _Shape, times: int) -> Any:
    """A gradient or Hessian with the inputs joined, as blocks: one for each input or pair."""
    spans, start = [], 0
    for shape in IN_SHAPES:
        stop = start + _product(shape)
        spans.append((shape, slice(start, stop)))
        start = stop
    if times == 1:
        return tuple(found[:, i].reshape(batch + s + out) for s, i in spans)
    return tuple(
        tuple(found[:, i, k].reshape(batch + s + t + out) for t, k in spans) for s, i in spans
    )
