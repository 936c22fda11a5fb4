"""Evaluates a model block by block: a bounded part of the samples and results at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import hessarray as ha
from hessarray.bench.libraries import Library
from hessarray.commands._results import Output
from hessarray.commands._samples import Samples
from hessarray.errors import MemoryLimitError

__all__ = ["RESULTS", "Job", "tails"]

Shape = tuple[int, ...]

#: What can be asked for by an option of that name, with its meaning.
RESULTS = {
    "value": "f; what you get where nothing is asked for",
    "gradient": "df_m/dx_a",
    "hessian": "d2f_m/dx_a dx_b",
    "hessian_diagonal": "d2f_m/dx_a^2",
    "laplacian": "sum_a d2f_m/dx_a^2",
}
_BLOCK = 64 << 20  # bytes of samples and results at a time, where no limit is given
_ONE_PASS = ("value", "gradient", "hessian")


def tails(net: ha.Function, wanted: Sequence[str]) -> dict[str, Shape]:
    """Shapes of the results for one sample; several inputs have a block each, or each pair."""
    found: dict[str, Shape] = {}
    inputs, out = net.in_shapes, net.out_shape
    for name in wanted:
        if name == "value":
            found[name] = out
        elif name == "laplacian":
            found[name] = (1, *out)
        elif name in ("gradient", "hessian_diagonal"):
            found |= {_key(name, inputs, i): (*s, *out) for i, s in enumerate(inputs)}
        else:
            rest = () if name == "weighted_hessian" else out
            for i, s in enumerate(inputs):
                found |= {_key(name, inputs, i, k): (*s, *t, *rest) for k, t in enumerate(inputs)}
    return found


def _key(name: str, inputs: Sequence[Shape], *place: int) -> str:
    return name if len(inputs) == 1 else ".".join([name, *(f"x{i}" for i in place)])


@dataclass(frozen=True)
class Job:
    """A model, what is wanted of it, and with which means."""

    net: ha.Function
    wanted: Sequence[str]
    lam: Any  # weights for the weighted Hessian
    library: Library
    dtype: str | None
    limit: int | None
    threads: int | None

    def evaluate(self, samples: Samples, output: Output, advance: Callable[[int], object]) -> None:
        """The results for all samples, handed to the output in order."""
        dtype = np.dtype(self.dtype or samples.dtype)
        shapes = tails(self.net, self.wanted)
        inputs = sum(map(math.prod, self.net.in_shapes)) * dtype.itemsize
        each = inputs + sum(map(math.prod, shapes.values())) * dtype.itemsize
        rows = max((self.limit // 2 if self.limit else _BLOCK) // each, 1)
        options: dict[str, Any] = {}
        if self.limit is not None:
            options["memory_limit"] = max(self.limit - rows * inputs, 1)
        if self.threads is not None:
            options["threads"] = self.threads
        output.begin(samples.name, samples.batch, shapes, dtype)
        for block in samples.blocks(rows):
            try:
                for part in self._parts(block, dtype, options):
                    found = zip(shapes, part, strict=True)
                    output.write({name: np.asarray(self.library.numpy(a)) for name, a in found})
            except MemoryLimitError as error:
                needs = str(error).partition(", the limit is")[0].replace("1 samples", "one sample")
                raise MemoryLimitError(
                    f"--memory-limit of {self.limit:,} bytes is too little: {needs}, and samples "
                    f"are held in {rows * inputs:,} beside"
                ) from None
            advance(len(block[0]))
            del block, part, found  # before the next block is read
        output.end()

    def _parts(
        self, block: tuple[Any, ...], dtype: Any, options: dict[str, Any]
    ) -> Iterator[list[Any]]:
        """The results of a block, in halves where they do not fit into the limit together."""
        n = len(block[0])
        x = tuple(self.library.array(a.astype(dtype, copy=False)) for a in block)
        try:
            found = self._results(x, dtype, options)
        except MemoryLimitError:
            if n == 1:
                raise
        else:
            yield found
            return
        for half in (slice(n // 2), slice(n // 2, n)):
            yield from self._parts(tuple(a[half] for a in block), dtype, options)

    def _results(self, x: tuple[Any, ...], dtype: Any, options: dict[str, Any]) -> list[Any]:
        """What is wanted of one block, in order; what can be had in one pass takes one."""
        net, found = self.net, {}
        if sum(name in _ONE_PASS for name in self.wanted) > 1:
            f, df, d2f = net.derivatives(
                *x,
                do_gradient="gradient" in self.wanted,
                do_Hessian="hessian" in self.wanted,
                **options,
            )
            found = {"value": f, "gradient": df, "hessian": d2f}
        for name in self.wanted:
            if name == "weighted_hessian":
                lam = self.library.array(self.lam.astype(dtype))
                found[name] = net.weighted_hessian(*x, lam, **options)
            elif found.get(name) is None:
                found[name] = getattr(net, name)(*x, **options)
        return [a for name in self.wanted for a in _flat(found[name])]


def _flat(found: Any) -> list[Any]:
    return [a for part in found for a in _flat(part)] if isinstance(found, tuple) else [found]
