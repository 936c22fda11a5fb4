"""Inputs and targets as arrays of n samples, checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from hessarray._arguments import (
    DTYPES,
    dtype_name,
    evaluation_options,
    progress_callback,
    refuse_mask,
    same_library,
)
from hessarray.backends import Backend, backend_of, known_backends
from hessarray.curvature._samples import Samples
from hessarray.curvature.losses import Loss, name_of
from hessarray.errors import BackendError, DTypeError, OptionError, ShapeError, near_names
from hessarray.function import Function

__all__ = ["Data", "Options", "gather"]

Shape = tuple[int, ...]
_OTHERS = ("diagonal_only", "frozen", "is_batch", "params", "per_layer")
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
    if isinstance(inputs, (tuple, list)) and (not xs or backend_of(xs[0]) is None):
        raise BackendError(
            f"inputs are a {type(inputs).__name__} of no arrays: pass an array of "
            f"{', '.join(known_backends())} for each of the model's {len(model.in_shapes)}"
        )
    backend, _, batch = model._check_inputs(xs)
    _check_batch(batch, is_batch)
    n = math.prod(batch)
    flat = [backend.xp.reshape(x, (n, *s)) for x, s in zip(xs, model.in_shapes, strict=True)]
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
    if expected and one != model.out_shape:
        _check_classes(target, model.out_shape[-1])
    return Data(backend, (*flat, backend.xp.reshape(t, (n, *one))), n, batch, one)


def _check_batch(batch: Shape, is_batch: bool | None) -> None:
    if is_batch is None:
        return
    if not isinstance(is_batch, (bool, np.bool_)):
        raise OptionError(f"is_batch={is_batch!r}: expected True or False")
    if len(batch) != int(is_batch):
        expected = "(n,)" if is_batch else "()"
        raise ShapeError(
            f"inputs have the batch shape {batch}, {expected} is expected with is_batch={is_batch}"
        )


def _target(target: Any, backend: Backend, x: Any) -> Any:
    refuse_mask("target", target)
    if not hasattr(target, "shape"):
        try:
            target = np.asarray(target)
        except ValueError:
            raise ShapeError("target is a ragged list: make all of its rows equally long") from None
    kind = dtype_name(target)
    if not kind.startswith(("float", "int", "uint", "bool")):
        raise DTypeError(f"target has dtype {kind}: numbers are expected, float64 or int64")
    return backend.asarray(same_library(target, backend), backend.dtype_name(x), backend.device(x))


def _check_classes(target: Any, count: int) -> None:
    """Numbers that are no class would count as samples without one."""
    backend = backend_of(target)
    try:
        classes = np.asarray(target if backend is None else backend.to_numpy(target))
    except Exception:  # inside a transformation there are no values to look at
        return
    wrong = ~np.isin(classes, np.arange(count))
    if wrong.any():
        raise OptionError(
            f"target has class {classes[wrong].flat[0]}: whole numbers from 0 to {count - 1} are "
            "expected, as the model's output has so many entries"
        )


def _expected(loss: Loss, out: Shape) -> list[Shape]:
    """Shapes that one sample's target may have; empty where only the loss knows."""
    name = name_of(loss)
    if name == "cross_entropy":
        if not out:
            raise ShapeError(
                "cross_entropy is for one output for each class, the model's output is one number: "
                "take 'binary_cross_entropy'"
            )
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
                near = near_names(name, [k for k in (*known, *_OTHERS) if k != name])
                raise OptionError(
                    f"option '{name}' is unknown here: {near or 'use frozen, ' + ', '.join(known)}"
                )
        checked = {k: options.get(k) for k in ("memory_limit", "threads")}
        limit, threads, *_ = evaluation_options(checked)
        return cls(**{**options, "memory_limit": limit, "threads": threads})

    def __post_init__(self) -> None:
        if self.accumulate not in (*DTYPES, None):
            raise OptionError(f"accumulate={self.accumulate!r}: use 'float64' or 'float32'")

    def for_passes(self, n: int) -> Options:
        """With one progress for several passes over the n samples: it never falls back."""
        report = progress_callback(self.progress, n)
        return self if report is None else replace(self, progress=_rising(report))

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
        **more: Any,
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
            found = samples(part, seeds, threads=self.threads, **more)
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


def _rising(report: Callable[[int], None]) -> Callable[[int], None]:
    most = 0

    def rising(done: int) -> None:
        nonlocal most
        if done > most:
            most = done
            report(done)

    return rising
