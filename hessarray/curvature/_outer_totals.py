"""Outer products summed over all samples: in threads on NumPy, a piece at a time elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from hessarray.curvature._data import Data, Options
from hessarray.curvature._gradients import OuterSums
from hessarray.curvature._problem import Problem
from hessarray.curvature._samples import Consumed, Samples
from hessarray.plan.split import Split, split

__all__ = ["OuterTotals", "kept_apart", "outer_samples", "outer_totals", "watched"]

_KEPT = 256 << 20  # bytes of what does not change between products


def outer_totals(
    task: Problem,
    key: Any,
    what: OuterSums,
    data: Data,
    how: Options,
    seeds: Mapping[str, Any],
) -> dict[int, Any]:
    """Sums (psi) over all samples, by the place of psi."""
    return OuterTotals(task, key, what, data, how).sums(seeds)


class OuterTotals:
    """Sums (psi) over all samples, for seeds that come later.

    Where only the seeds named in ``changing`` come later, whatever does not need them is kept for
    all samples: with the other ``seeds``, and as parameters are now.
    """

    def __init__(
        self,
        task: Problem,
        key: Any,
        what: OuterSums,
        data: Data,
        how: Options,
        changing: Collection[str] = (),
        seeds: Mapping[str, Any] | None = None,
    ) -> None:
        self.what, self.data, self.how = what, data, how
        parts = kept_apart(task, key, what, data, how, changing)
        if parts is not None:
            kept = task.samples(("kept", key), parts.kept, what.inj.builder)
            silent = replace(how, progress=None)  # which is for products
            found = silent.whole(kept, data, seeds) if parts.kept else {}
            flat = tuple(
                data.xp.reshape(found[k], (data.n, node.size)) for k, node in parts.kept.items()
            )
            self.data = replace(data, arrays=data.arrays + flat)
        self.samples = outer_samples(task, key, what, data, parts) if what.nodes else None

    def sums(self, seeds: Mapping[str, Any], **options: Any) -> dict[int, Any]:
        """By the place of psi; what is not there is zero."""
        total = _InOrder(self.what, self.data.xp, self.how.accumulate)
        if self.samples is None:
            return total.sums
        if isinstance(self.samples, Consumed):
            options |= {"memory_limit": self.how.memory_limit, "threads": self.how.threads}
            options["progress"] = self.how.progress
            self.samples.consume(self.data.arrays, total, seeds, **options)
        else:
            pieces = self.how.pieces(self.samples, self.data, seeds=seeds, **options)
            for i, (_, found) in enumerate(pieces):
                total(i, found)
        return total.sums


def kept_apart(
    task: Problem, key: Any, what: OuterSums, data: Data, how: Options, changing: Collection[str]
) -> Split | None:
    """What is kept between calls and what is left to do in each; None where keeping is no use.

    That is where it takes much memory, or where a tape or a compiler wants to see all of it.
    """
    if not changing or not what.nodes:
        return None
    count = len(data.arrays)
    parts: Split = task.kept(
        ("split", key), lambda: split(what.nodes, changing, lambda i: f"x{i + count}")
    )
    room = _KEPT if how.memory_limit is None else min(_KEPT, how.memory_limit // 2)
    if watched(task, data) or data.n * parts.entries * data.itemsize > room:
        return None
    return parts


def watched(task: Problem, data: Data) -> bool:
    """Does a tape or a compiler watch samples or parameters? Then nothing may be kept."""
    own = [a for a in task.model._parameters().values() if data.backend.owns(a)]
    return data.backend.traced([*data.arrays, *own])


def outer_samples(task: Problem, key: Any, what: OuterSums, data: Data, parts: Split | None) -> Any:
    """The program for each sample: on NumPy one whose values are used up span by span."""
    kind = Consumed if data.backend.name == "numpy" else Samples
    if parts is None:
        return task.samples(key, what.nodes, what.inj.builder, (), kind)
    more = [(node.size,) for node in parts.kept.values()]
    return task.samples(("moving", key), parts.nodes, parts.builder, more, kind)


class _InOrder:
    """Adds up what threads bring in the order of the spans: every time the same digits."""

    def __init__(self, what: OuterSums, xp: Any, dtype: str | None) -> None:
        self.what, self.xp, self.dtype = what, xp, dtype
        self.sums: dict[int, Any] = {}
        self.waiting: dict[int, dict[int, Any]] = {}
        self.next = 0
        self.lock = threading.Lock()

    def __call__(self, span: int, found: Mapping[str, Any]) -> None:
        part = self.what.summed(self.xp, found)
        with self.lock:
            self.waiting[span] = part
            while self.next in self.waiting:
                self._add(self.waiting.pop(self.next))
                self.next += 1

    def _add(self, parts: dict[int, Any]) -> None:
        for i, part in parts.items():
            if self.dtype is not None:
                part = self.xp.astype(part, getattr(self.xp, self.dtype))
            if i not in self.sums:
                self.sums[i] = part
            elif isinstance(part, np.ndarray):
                self.sums[i] += part
            else:
                self.sums[i] = self.sums[i] + part
