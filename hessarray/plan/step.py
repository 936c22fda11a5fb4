"""The straight-line program: values and the array operations that make them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

__all__ = [
    "Program",
    "SOME",
    "Step",
    "VIEWS",
    "Value",
    "row_major",
    "view_strides",
]

# Operations that may share their operand's memory.
VIEWS = frozenset({"reshape", "permute", "slice", "flip", "broadcast"})

SOME = 1_000_003  # stands for the number of samples where strides are compared: no product of axes


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """An array of the program.

    ``shape`` is that of one sample. ``rows`` is 0 for a value without batch axis; else an axis of
    length ``rows * n`` stands before axis number ``lead`` of the sample. Rows exceeds one where a
    GEMM sees samples and directions as one axis. Direction axes stand before the batch axis where
    they can (``lead`` > 0): products with a row per sample then run over long contiguous rows.
    ``strides`` says where the entries lie, in entries, for ``SOME`` samples.
    """

    name: str
    rows: int
    shape: tuple[int, ...]
    stage: int
    truth: bool = False
    lead: int = 0
    strides: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Entries, per sample where there is a batch axis."""
        return max(self.rows, 1) * math.prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape) + (self.rows > 0)

    @property
    def dims(self) -> tuple[int, ...]:
        """Lengths of all axes, for ``SOME`` samples."""
        return dims(self.rows, self.shape, self.lead)

    @property
    def contiguous(self) -> bool:
        return self.strides == row_major(self.dims)

    def place(self, axis: int) -> int:
        """Where the sample's axis stands in the array."""
        return axis + (self.rows > 0 and axis >= self.lead)


def dims(rows: int, shape: Sequence[int], lead: int) -> tuple[int, ...]:
    return (*shape[:lead], rows * SOME, *shape[lead:]) if rows else tuple(shape)


def row_major(lengths: Sequence[int]) -> tuple[int, ...]:
    """Strides of a contiguous array; 0 along axes of length one, where none is ever taken."""
    strides, step = [], 1
    for n in reversed(lengths):
        strides.append(0 if n == 1 else step)
        step *= n
    return tuple(strides[::-1])


def view_strides(
    lengths: Sequence[int], strides: Sequence[int], new: Sequence[int]
) -> tuple[int, ...] | None:
    """Strides of the same entries in another shape, or None where that takes a copy.

    Axes are matched in groups of equal length, as NumPy does: inside a group on the old side every
    axis must continue the one behind it.
    """
    old = [(n, s) for n, s in zip(lengths, strides, strict=True) if n != 1]
    if not all(lengths) or not all(new):
        return row_major(new)
    found: list[int] = []
    i = j = 0
    wanted = [n for n in new if n != 1]
    while i < len(old) or j < len(wanted):
        i0, j0 = i, j
        a, b = old[i][0], wanted[j]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                a *= old[i][0]
                i += 1
            else:
                b *= wanted[j]
                j += 1
        if any(old[k][1] != old[k + 1][0] * old[k + 1][1] for k in range(i0, i - 1)):
            return None
        step, group = old[i - 1][1], []
        for n in reversed(wanted[j0:j]):
            group.append(step)
            step *= n
        found += reversed(group)
    steps = iter(found)
    return tuple(0 if n == 1 else next(steps) for n in new)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """``out = op(*args)``; numbers among the arguments are literals."""

    op: str
    out: Value
    args: tuple[Value | float, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def flops(self) -> int:
        if self.op in VIEWS or not self.args:
            return 0
        if self.op == "matmul":
            left = self.args[0]
            assert isinstance(left, Value)
            return 2 * self.out.size * left.shape[-1]
        if self.op == "gram":
            a, width = self.args[0].shape  # type: ignore[union-attr]
            return a * (a + 2) * width * math.prod(self.out.shape[2:])  # J . w, and half of J J^T
        return max(a.size for a in (self.out, *self.args) if isinstance(a, Value))


@dataclass(frozen=True, eq=False)
class Program:
    """All steps in order, the constants they use, and the values that are returned."""

    steps: tuple[Step, ...]
    constants: dict[str, Any]
    outputs: dict[str, Value]
    paths: tuple[str, ...]
    joins: bool = False  # operations where it runs in place: see join.py

    def at(self, stage: int) -> list[Step]:
        return [s for s in self.steps if s.out.stage == stage]

    def made_constants(self) -> Iterator[tuple[str, Any]]:
        """Name and array of each constant; identities are made here, not kept in the plan."""
        return ((k, c() if callable(c) else c) for k, c in self.constants.items())

    @cached_property
    def flops(self) -> tuple[int, int]:
        """Flops once per binding or call, and per sample."""
        once = sum(s.flops for s in self.steps if not s.out.rows)
        return once, sum(s.flops for s in self.steps if s.out.rows)
