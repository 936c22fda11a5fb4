"""Cuts recorded operations into parts that several threads may do at once.

One sample, or a few, cannot be cut into chunks that are worth a thread each. But its products can
be: by rows, or, where the constant matrix is the larger operand, by columns, so that each thread
reads its share of the constants. A part is an operation like any other; the parts of one operation
are a group (``_helpers.h``). Every entry is computed as in one piece: results do not depend on the
number of threads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from hessarray.backends.numpy_kernels import _loops

__all__ = ["Operation", "core_axes", "cut"]

_MOST_PARTS = 4
_LEAST = 5e-7  # seconds for a part: handing it over takes 2e-7
_CLOSE = 1 << 18  # bytes of a constant that every thread may have in its own cache
_FLOP, _ENTRY, _BYTE = 2.5e-11, 6e-10, 3e-11  # seconds, roughly


@lru_cache(maxsize=64)
def core_axes(ufunc: Any) -> tuple[tuple[str, ...], ...]:
    """The names of the axes inside each operand and result of a generalised ufunc."""
    return tuple(
        tuple(re.findall(r"\w", part)) for part in re.findall(r"\((.*?)\)", ufunc.signature)
    )


class Operation(NamedTuple):
    """A call of an inner loop, as ``_loops.Program`` reads it."""

    kind: int
    ufunc: Any
    types: str
    bases: tuple[int, ...]
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    core: tuple[int, ...] = ()
    core_strides: tuple[int, ...] = ()

    @property
    def itemsize(self) -> int:
        return 4 if self.types[-1] == "f" else 8

    @property
    def results(self) -> int:
        return 1 if self.ufunc is None else int(self.ufunc.nout)

    @property
    def inside(self) -> list[list[tuple[str, int]]]:
        """The axes inside each operand, some of one name, and bytes from entry to entry."""
        if self.kind != _loops.GENERALISED:
            return [[] for _ in self.bases]
        steps = iter(self.core_strides)
        return [[(name, next(steps)) for name in names] for names in core_axes(self.ufunc)]

    @property
    def lengths(self) -> dict[str, int]:
        """Of the axes inside."""
        names = dict.fromkeys(name for axes in self.inside for name, _ in axes)
        return dict(zip(names, self.core, strict=False))

    def part(self, later: Sequence[int], **changes: Any) -> Operation:
        """The same for other entries: each operand starts so many bytes later."""
        offsets = tuple(a + b for a, b in zip(self.offsets, later, strict=True))
        return self._replace(offsets=offsets, **changes)


def cut(operations: Sequence[Operation], parts: int) -> tuple[list[Operation], Any]:
    """The operations in their order, large ones in parts; and how many belong together."""
    found: list[Operation] = []
    groups = []
    for op in operations:
        wanted = min(parts, _MOST_PARTS, int(_seconds(op) / _LEAST))
        pieces = _parts(op, wanted) if wanted > 1 and not _entangled(op) else [op]
        found += pieces
        groups.append(len(pieces))
    return found, tuple(groups)


def _seconds(op: Operation) -> float:
    often, at = math.prod(op.shape), op.lengths
    if "q" in at:
        return often * 2 * at["m"] * at["k"] * at["p"] * _FLOP + at["q"] * op.itemsize * _BYTE
    if "a" in dict(op.inside[-1]):  # J diag(w) J^T, for one w or m
        return often * at["a"] ** 2 * at["i"] * at.get("m", 1) * _FLOP
    if len(at) == 3:  # np.matmul
        return often * 2 * math.prod(op.core) * _FLOP
    return often * math.prod(at.values()) * _ENTRY


def _parts(op: Operation, wanted: int) -> list[Operation]:
    if "q" in op.lengths and "p" not in dict(op.inside[-1]):  # of few rows and a small constant
        return [op]
    if "q" in op.lengths and math.prod(op.shape) == 1:  # a packed product
        rows, _, packed, _ = op.core
        by_rows = rows >= 4 * wanted and packed * op.itemsize <= _CLOSE
        return _by_rows(op, wanted) if by_rows else _by_columns(op, wanted)
    axis = max(range(len(op.shape)), key=lambda k: _evenness(op, k, wanted), default=None)
    if axis is None or _evenness(op, axis, wanted) == 0:
        return [op]
    found = []
    for start, stop in _spans(op.shape[axis], wanted):
        shape = (*op.shape[:axis], stop - start, *op.shape[axis + 1 :])
        found.append(op.part([start * s[axis] for s in op.strides], shape=shape))
    return found


def _evenness(op: Operation, axis: int, wanted: int) -> float:
    """Of parts along an axis; 0 where all along it is added to the same results."""
    length = op.shape[axis]
    if length < 2 or any(s[axis] == 0 for s in op.strides[-op.results :]):
        return 0.0
    return length / (-(-length // wanted) * wanted)


def _spans(length: int, wanted: int) -> list[tuple[int, int]]:
    wanted = min(wanted, length)
    ends = [length * k // wanted for k in range(wanted + 1)]
    return list(pairwise(ends))


def _by_rows(op: Operation, wanted: int) -> list[Operation]:
    rows, *others = op.core
    found = []
    for start, stop in _spans(rows, wanted):
        later = [start * dict(steps).get("m", 0) for steps in op.inside]
        found.append(op.part(later, core=(stop - start, *others)))
    return found


def _by_columns(op: Operation, wanted: int) -> list[Operation]:
    rows, inner, _, columns = op.core
    lanes = _loops.VECTOR // op.itemsize
    tile = 3 * lanes
    found = []
    for first, last in _spans(-(-columns // tile), wanted):
        start, stop = first * tile, min(last * tile, columns)
        later = [start * dict(steps).get("p", 0) for steps in op.inside]
        later[1] = start * inner * op.itemsize  # B's columns are packed tile after tile
        packed = inner * -(-(stop - start) // lanes) * lanes
        found.append(op.part(later, core=(rows, inner, packed, stop - start)))
    return found


def _entangled(op: Operation) -> bool:
    """Whether an operand may hold what another part writes: it overlaps a result elsewhere."""
    places = list(zip(op.bases, op.offsets, op.strides, op.inside, strict=True))
    extents = [_extent(op, place) for place in places]
    for r in range(len(places) - op.results, len(places)):
        for k, place in enumerate(places):
            apart = place[0] != places[r][0] or extents[k][1] <= extents[r][0]
            if not (apart or extents[r][1] <= extents[k][0] or _same(place, places[r])):
                return True
    return False


def _same(a: Any, b: Any) -> bool:
    """Entries in the same places."""
    return a[:3] == b[:3] and [s for _, s in a[3]] == [s for _, s in b[3]]


def _extent(op: Operation, place: Any) -> tuple[int, int]:
    _, low, strides, inside = place
    high, at = low + op.itemsize, op.lengths
    spans = [*zip(op.shape, strides, strict=True), *((at[k], s) for k, s in inside)]
    for length, step in spans:
        low, high = low + min((length - 1) * step, 0), high + max((length - 1) * step, 0)
    return low, high
