"""Programs for numbers of samples that were not recorded.

Lengths, strides and offsets of recorded operations are linear in the number of samples. Two records
say how; a third shows whether it is so. From then on a new number of samples costs a little
arithmetic instead of a record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hessarray.backends.numpy_parts import Operation

__all__ = ["Sizes"]

_FIELDS = ("offsets", "shape", "strides", "core", "core_strides")


class Sizes:
    """The operations of one program, for any number of samples from two on."""

    def __init__(self) -> None:
        self._known: dict[int, Sequence[Operation]] = {}
        self._lines: list[tuple[Operation, dict[str, Any]]] = []
        self.shared: tuple[int, Any] = (0, None)
        self._alike: bool | None = None  # whether a third record was as expected

    def learn(self, n: int, operations: Sequence[Operation], shared: tuple[int, Any]) -> None:
        """What was recorded for n samples, on so many arrays, with these literals."""
        if n < 2 or n in self._known or self._alike is not None:
            return
        if not self._known:
            self.shared = shared
        if len(self._known) == 2:
            (arrays, literals), (expected, same) = shared, self.shared
            alike = arrays == expected and literals.tobytes() == same.tobytes()
            self._alike = alike and self._at(n) == list(operations)
            self._known.clear()
            return
        self._known[n] = operations
        if len(self._known) == 2:
            (least, first), (most, second) = self._known.items()
            try:
                pairs = zip(first, second, strict=True)
                self._lines = [(a, _lines(a, b, least, most)) for a, b in pairs]
            except ValueError:
                self._alike = False

    def at(self, n: int) -> list[Operation] | None:
        """The operations for n samples; None as long as they have to be recorded."""
        return self._at(n) if self._alike and n > 1 else None

    def _at(self, n: int) -> list[Operation]:
        return [
            operation._replace(**{name: _values(line, n) for name, line in lines.items()})
            for operation, lines in self._lines
        ]


def _lines(a: Operation, b: Operation, m: int, n: int) -> dict[str, Any]:
    """By field that differs, each number as (at zero, for each sample); ValueError if none fits."""
    return {
        name: _line(getattr(a, name), getattr(b, name), m, n)
        for name in _FIELDS
        if getattr(a, name) != getattr(b, name)
    }


def _line(a: Any, b: Any, m: int, n: int) -> Any:
    if isinstance(a, tuple):
        return [_line(p, q, m, n) for p, q in zip(a, b, strict=True)]
    slope, rest = divmod(b - a, n - m)
    if rest:
        raise ValueError(f"{a} and {b} for {m} and {n} samples")
    return a - slope * m, slope


def _values(line: Any, n: int) -> Any:
    if line and isinstance(line[0], list):
        return tuple([_values(part, n) for part in line])
    return tuple([start + n * slope for start, slope in line])
