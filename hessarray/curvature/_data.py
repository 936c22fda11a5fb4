"""Inputs and targets as arrays of n samples, checked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from hessarray._arguments import DTYPES, progress_callback, refuse_mask, same_library
from hessarray.backends import Backend, backend_of, known_backends
from hessarray.curvature._samples import Samples
from hessarray.curvature.losses import Loss, name_of
from hessarray.errors import BackendError, OptionError, ShapeError, near_names
from hessarray.function import Function

__all__ = ["Data", "Options", "gather"]

Shape = tuple[int, ...]
_PIECE = 64 << 20  # bytes of what comes back for the samples of one piece


@dataclass(frozen=True)
class Data:
    """The samples, each array (n, ...), and what the caller's batch looked like."""

    backend: Backend
    arrays: tuple[Any, ...]  # inputs, and the target where there is a loss
    n: int
    batch: Shape
    target: Shape | None  # of one sample

    @property
    def xp(self) -> Any:
        return self.backend.xp

    def zeros(self, shape: Shape, dtype: str | None = None) -> Any:
        """Beside the arrays: in their library, on their device, in their dtype."""
        backend, x = self.backend, self.arrays[0]
        dtype = dtype or backend.dtype_name(x)
        return backend.asarray(np.zeros(shape), dtype, backend.device(x))

    @property
    def itemsize(self) -> int:
        return 4 if self.backend.dtype_name(self.arrays[0]) == "float32" else 8


def gather(
    model: Function, loss: Loss | None, inputs: Any, target: Any, is_batch: bool | None
) -> Data:
    """Check and flatten what the caller passed; with ``is_batch`` None any batch axes will do."""
    xs = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    shapes = model.in_shapes
    if len(xs) != len(shapes):
        raise ShapeError(f"the model takes {len(shapes)} inputs, got {len(xs)}")
    backend = backend_of(xs[0])
    if backend is None:
        kind = type(xs[0])
        raise BackendError(
            f"inputs are a {kind.__module__}.{kind.__name__}: pass an array of "
            f"{', '.join(known_backends())}"
        )
    batch = _batch(xs[0], shapes[0], is_batch)
    n = math.prod(batch)
    flat = []
    for x, s in zip(xs, shapes, strict=True):
        if _batch(x, s, is_batch) != batch:
            got = [tuple(map(int, a.shape)) for a in xs]
            raise ShapeError(f"inputs have shapes {got}: make their batch axes equal")
        flat.append(backend.xp.reshape(x, (n, *s)))
    if loss is None:
        return Data(backend, tuple(flat), n, batch, None)
    if target is None:
        raise OptionError("a loss needs a target: pass target=")
    t = _target(target, backend, flat[0])
    found = tuple(map(int, t.shape))
    if found[: len(batch)] != batch:
        raise ShapeError(
            f"target has shape {found}, the inputs' batch is {batch}: one target for each sample"
        )
    one = found[len(batch) :]
    expected = _expected(loss, model.out_shape)
    if expected and one not in expected:
        shown = " or ".join(str((*batch, *s)) for s in expected)
        raise ShapeError(f"target has shape {found}, {shown} is expected, as the model's output is")
    return Data(backend, (*flat, backend.xp.reshape(t, (n, *one))), n, batch, one)


def _batch(x: Any, shape: Shape, is_batch: bool | None) -> Shape:
    refuse_mask("inputs", x)
    got = tuple(map(int, x.shape)) if hasattr(x, "shape") else ()
    lead = got[: len(got) - len(shape)]
    fits = len(got) >= len(shape) and got[len(lead) :] == shape
    if not fits or (is_batch is not None and len(lead) != int(is_batch)):
        expected = {None: "...", True: "n", False: ""}[is_batch]
        axes = ", ".join(filter(None, [expected, *map(str, shape)]))
        mend = "" if is_batch is None else f"; is_batch={is_batch} was given"
        raise ShapeError(f"inputs have shape {got}, ({axes}) is expected{mend}")
    return lead


def _target(target: Any, backend: Backend, x: Any) -> Any:
    refuse_mask("target", target)
    target = target if hasattr(target, "shape") else np.asarray(target)
    return backend.asarray(same_library(target, backend), backend.dtype_name(x), backend.device(x))


def _expected(loss: Loss, out: Shape) -> list[Shape]:
    """Shapes that one sample's target may have; empty where only the loss knows."""
    name = name_of(loss)
    if name == "cross_entropy":
        return [out[:-1], out]
    return [] if name is None else [out]


@dataclass(frozen=True)
class Options:
    """What every sum over samples takes: see ``docs/curvature.md``."""

    memory_limit: int | None = None
    threads: int | None = None
    progress: Any = None
    accumulate: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Options:
        """From keywords; a misspelt one is named."""
        known = [f.name for f in fields(cls)]
        for name in options:
            if name not in known:
                near = near_names(name, [*known, "frozen"])
                raise OptionError(
                    f"option '{name}' is unknown: {near or 'use frozen, ' + ', '.join(known)}"
                )
        return cls(**options)

    def __post_init__(self) -> None:
        if self.accumulate not in (*DTYPES, None):
            raise OptionError(f"accumulate={self.accumulate!r}: use 'float64' or 'float32'")

    def piece(self, per_sample: int, n: int, held: int) -> int:
        """Samples at a time, of so many bytes each."""
        room = _PIECE
        if self.memory_limit is not None:  # half of it for what the programs hold
            room = min(room, max((self.memory_limit - held) // 2, per_sample))
        most = min(max(room // per_sample, 1), max(n, 1))
        # Of the same length: the program would be made once more for a short last one.
        return -(-n // -(-n // most)) if n else 1

    def pieces(
        self,
        samples: Samples,
        data: Data,
        extra: int = 0,
        seeds: Mapping[str, Any] | None = None,
        held: int = 0,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """What ``samples`` gives, a piece of the samples at a time: (how many, by name).

        ``extra`` numbers per sample are made of it, ``held`` bytes stay until the end.
        """
        if not samples.nodes:
            return
        per_sample = max((samples.entries + extra) * data.itemsize, 1)
        size = self.piece(per_sample, data.n, held)
        report = progress_callback(self.progress, data.n)
        for start in range(0, data.n, size):
            part = [a[start : start + size, ...] for a in data.arrays]
            count = min(size, data.n - start)
            found = samples(part, seeds, threads=self.threads)
            yield count, found
            if report is not None:
                report(start + count)

    def whole(
        self, samples: Samples, data: Data, seeds: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """What ``samples`` gives for all samples at once."""
        return samples(
            data.arrays,
            seeds,
            memory_limit=self.memory_limit,
            threads=self.threads,
            progress=self.progress,
        )
