"""Emits array operations with the batch axis: views where they cost nothing, copies where not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hessarray.graph.node import SAMPLE
from hessarray.plan.step import Step, Value, dims, row_major, view_strides

__all__ = ["Emitter"]


class Emitter:
    """The steps so far; equal operations on equal arguments are one step."""

    def __init__(self) -> None:
        self.hint = "t"  # names of what is emitted now start with it
        self.steps: list[Step] = []
        self.constants: dict[str, Any] = {}
        self._seen: dict[Any, Value] = {}
        self._same: dict[Any, str] = {}  # constants by their bytes
        self._divisors: dict[int, Value] = {}  # a reciprocal that divides -> its argument
        self._reshaped: dict[int, Value] = {}  # a reshaped value -> what it was reshaped from

    def emit(
        self,
        op: str,
        args: Sequence[Value | float],
        rows: int,
        shape: tuple[int, ...],
        *,
        lead: int = 0,
        truth: bool = False,
        strides: tuple[int, ...] | None = None,
        **attributes: Any,
    ) -> Value:
        key = (
            op,
            tuple(a if isinstance(a, float) else id(a) for a in args),
            tuple(attributes.items()),
            rows,
            shape,
            lead,
        )
        if args and key in self._seen:
            return self._seen[key]
        stage = max(
            (a.stage for a in args if isinstance(a, Value)), default=attributes.get("stage", 0)
        )
        stage = SAMPLE if rows else stage
        if strides is None:
            strides = row_major(dims(rows, shape, lead))
        name = f"{self.hint}{len(self.steps)}"
        value = Value(name, rows, shape, stage, truth, lead, strides)
        self.steps.append(Step(op, value, tuple(args), attributes))
        self._seen[key] = value
        return value

    # ---- constants ---------------------------------------------------------------------------

    def scalar(self, number: float) -> Value:
        return self.constant(np.asarray(number))

    def constant(self, array: np.ndarray[Any, Any]) -> Value:
        bits = (array.shape, array.dtype.str, array.tobytes())
        if bits not in self._same:
            number = len(self.constants)
            while f"c{number}" in self.constants:  # of a program that some are gone from
                number += 1
            self._same[bits] = f"c{number}"
            self.constants[f"c{number}"] = array
        return self._stored(self._same[bits], array.shape, array.dtype.kind == "b")

    def recipe(self, key: str, make: Callable[[], Any], shape: tuple[int, ...]) -> Value:
        """A constant that is made when the program is bound: a plan takes no memory for it."""
        self.constants[key] = make
        return self._stored(key, shape, False)

    def _stored(self, key: str, shape: tuple[int, ...], truth: bool) -> Value:
        seen = self._seen.get(("constant", key))
        if seen is None:
            seen = self._seen["constant", key] = self.emit(
                "constant", [], 0, shape, truth=truth, key=key
            )
        return seen

    # ---- views -------------------------------------------------------------------------------

    def viewable(self, v: Value, rows: int, shape: tuple[int, ...], lead: int = 0) -> bool:
        """Whether this reshape takes no copy."""
        return view_strides(v.dims, v.strides, dims(rows, shape, lead)) is not None

    def made(self, v: Value) -> Value:
        """v, or what was reshaped to v."""
        return self._reshaped.get(id(v), v)

    def reshape(self, v: Value, rows: int, shape: tuple[int, ...], lead: int = 0) -> Value:
        """The entries of v in the same order in another shape."""
        if (v.rows, v.shape, v.lead) == (rows, shape, lead):
            return v
        origin = self.made(v)
        if (origin.rows, origin.shape, origin.lead) == (rows, shape, lead):
            return origin
        target = dims(rows, shape, lead)
        strides = view_strides(origin.dims, origin.strides, target)
        if strides is None:
            origin = self.emit("copy", [v], v.rows, v.shape, lead=v.lead, truth=v.truth)
            if (origin.rows, origin.shape, origin.lead) == (rows, shape, lead):
                return origin
            strides = row_major(target)
        out = self.emit("reshape", [origin], rows, shape, lead=lead, truth=v.truth, strides=strides)
        self._reshaped[id(out)] = origin
        return out

    def permute(self, v: Value, axes: Sequence[int], lead: int = 0) -> Value:
        """The sample's axes in another order, with the batch axis before axis ``lead``."""
        order = [v.place(a) for a in axes]
        if v.rows:
            order.insert(lead, v.lead)
        shape = tuple(v.shape[a] for a in axes)
        if order == sorted(order) and lead == v.lead:
            return v
        lengths = v.dims
        moved = [p for p in order if lengths[p] != 1]
        if moved == sorted(moved):
            return self.reshape(v, v.rows, shape, lead)
        strides = tuple(v.strides[p] for p in order)
        return self.emit(
            "permute",
            [v],
            v.rows,
            shape,
            lead=lead,
            truth=v.truth,
            strides=strides,
            axes=tuple(order),
        )

    def samples_first(self, v: Value) -> Value:
        return self.permute(v, range(len(v.shape)))

    def slice(self, v: Value, axis: int, start: int, stop: int) -> Value:
        shape = (*v.shape[:axis], stop - start, *v.shape[axis + 1 :])
        place = v.place(axis)
        strides = tuple(
            0 if p == place and stop - start == 1 else s for p, s in enumerate(v.strides)
        )
        return self.emit(
            "slice",
            [v],
            v.rows,
            shape,
            lead=v.lead,
            truth=v.truth,
            strides=strides,
            axis=place,
            start=start,
            stop=stop,
        )

    def broadcast(self, v: Value, shape: tuple[int, ...]) -> Value:
        """v with the sample's axes grown to ``shape``, by the standard's rules."""
        if v.shape == shape:
            return v
        new = len(shape) - len(v.shape)
        lead = 0
        if v.rows:
            lead = v.lead + new if v.lead or not new else 0
            v = self._fitted(v, len(shape), lead)
        lengths = dims(v.rows, shape, lead)
        # The operand's axes stand behind the new ones.
        own = (0,) * (len(lengths) - len(v.dims)) + v.strides
        have = (1,) * (len(lengths) - len(v.dims)) + v.dims
        strides = tuple(s if n == h else 0 for n, h, s in zip(lengths, have, own, strict=True))
        return self.emit("broadcast", [v], v.rows, shape, lead=lead, truth=v.truth, strides=strides)

    def batched(self, v: Value, lead: int = 0) -> Value:
        """v repeated for every sample."""
        if v.rows:
            return self.permute(v, range(len(v.shape)), lead)
        strides = (*v.strides[:lead], 0, *v.strides[lead:])
        apart = self._with_axis(v, lead) if lead else v
        return self.emit("batch", [apart], 1, v.shape, lead=lead, truth=v.truth, strides=strides)

    def _with_axis(self, v: Value, at: int) -> Value:
        """An array without batch axis, with an axis of length one where that would stand."""
        return self.reshape(v, 0, (*v.shape[:at], 1, *v.shape[at:]))

    # ---- operations that broadcast -------------------------------------------------------------

    def elementwise(
        self,
        op: str,
        operands: Sequence[Value | float],
        *,
        truth: bool = False,
        **attributes: Any,
    ) -> Value:
        """An operation on aligned operands; numbers stay numbers."""
        values = [v for v in operands if isinstance(v, Value)]
        shape = tuple(np.broadcast_shapes(*(v.shape for v in values)))
        samples = [v for v in values if v.rows]
        if not samples:
            return self.emit(op, operands, 0, shape, truth=truth, **attributes)
        # The batch axis stands where the largest operand has it.
        largest = max(samples, key=lambda v: (v.size, v.lead))
        lead = largest.lead + len(shape) - len(largest.shape)
        fitted = [
            self._fitted(v, len(shape), lead) if isinstance(v, Value) else v for v in operands
        ]
        return self.emit(op, fitted, 1, shape, lead=lead, truth=truth, **attributes)

    def _fitted(self, v: Value, ndim: int, lead: int) -> Value:
        """v as an operand among ``ndim`` axes with the batch axis before axis ``lead``."""
        new = ndim - len(v.shape)  # axes of length one in front, implicit where nothing precedes
        if not v.rows:
            return v if new >= lead else self._with_axis(v, lead - new)
        if v.lead + new == lead:
            return v
        if lead >= new:
            return self.permute(v, range(len(v.shape)), lead - new)
        v = self.samples_first(v)
        return self.reshape(v, v.rows, (1,) * (new - lead) + v.shape)

    def times(self, a: Value, b: Value | float) -> Value:
        """a b, or a / c where b was made as the reciprocal of a divisor c."""
        op, *pair = self._divided(a, b)
        return self.elementwise(op, pair)

    def _divided(self, a: Value, b: Value | float) -> tuple[str, Value, Value | float]:
        for x, y in ((a, b), (b, a)):
            if isinstance(x, Value) and isinstance(y, Value):
                divisor = self._divisors.get(id(self.made(y)))
                if divisor is not None:
                    return "divide", x, self.reshape(divisor, y.rows, y.shape, y.lead)
        return "multiply", a, b
