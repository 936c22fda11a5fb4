"""The straight-line program: values and the array operations that make them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

__all__ = ["Program", "Step", "VIEWS", "Value"]

# Operations that may share their operand's memory.
VIEWS = frozenset({"reshape", "permute", "slice", "flip", "broadcast"})


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """An array of the program.

    ``rows`` is 0 for a value without batch axis; else the first axis has length ``rows * n`` and
    the others are ``shape``. Rows exceeds one where a GEMM sees samples and directions as one axis.
    """

    name: str
    rows: int
    shape: tuple[int, ...]
    stage: int
    truth: bool = False
    contiguous: bool = True

    @property
    def size(self) -> int:
        """Entries, per sample where there is a batch axis."""
        return max(self.rows, 1) * math.prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape) + (self.rows > 0)


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
        return max(a.size for a in (self.out, *self.args) if isinstance(a, Value))


@dataclass(frozen=True, eq=False)
class Program:
    """All steps in order, the constants they use, and the values that are returned."""

    steps: tuple[Step, ...]
    constants: dict[str, Any]
    outputs: dict[str, Value]
    paths: tuple[str, ...]

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
