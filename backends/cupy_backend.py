"""CuPy: array API code with fused elementwise kernels, on pooled device memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import array_api_compat.cupy as xp_cupy
import cupy
import cupyx.scipy.special
import numpy as np

from hessarray.backends._special import Extended
from hessarray.backends.cupy_source import cupy_source
from hessarray.backends.protocol import (
    Costs,
    Executable,
    FunctionalExecutable,
    Run,
    Work,
    load_source,
)

__all__ = ["CupyBackend"]

_STREAMS = 2  # for chunks: the end of one, which leaves the device half idle, beside the next


class CupyBackend:
    """Arrays on CUDA devices."""

    name = "cupy"
    # No price on a call: layers that stand side by side to save calls cost more of them here, as
    # what is elementwise in a layer is one kernel already (decision 15 has the counts).
    costs = Costs(call=0.0, flop=3e-14, entry=6e-12, row=1e-12, matrix=1e-9)
    in_place = False

    def __init__(self) -> None:
        self.xp = Extended(xp_cupy, erf=cupyx.scipy.special.erf, erfc=cupyx.scipy.special.erfc)

    def owns(self, array: Any) -> bool:
        return isinstance(array, cupy.ndarray)

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype)

    def device(self, array: Any) -> Any:
        return int(array.device.id)

    def asarray(self, array: Any, dtype: str | None, device: Any) -> Any:
        if device is None:
            return cupy.asarray(array, dtype=dtype, order="C")
        with cupy.cuda.Device(device):
            return cupy.asarray(array, dtype=dtype, order="C")

    def to_numpy(self, array: Any) -> Any:
        return np.asarray(cupy.asnumpy(array))

    def traced(self, arrays: Sequence[Any]) -> bool:
        return False

    def stamp(self, array: Any) -> Any:
        return None if self.owns(array) else id(array)  # its own can be written to, unseen

    def parameter(self, array: Any, dtype: str | None, device: Any) -> Any:
        return self.asarray(array, dtype, device)

    def compile(self, program: Any, source: str, layout: Any) -> Executable:
        return _CupyExecutable(self.xp, program, cupy_source(program, source))

    def schedule(self, work: Work) -> tuple[int, int]:
        """One chunk where everything fits; else chunks in turn on two streams, or on one."""
        # Half of what the pool and the card have free, where no limit is given. A quarter stays
        # for what the plan does not count: blocks of the pool that are larger than what was asked
        # for, workspace of GEMMs, results of kernels that come earlier than they are needed.
        room = (work.room or self.memory() // 2) * 3 // 4
        if work.fitting(room) >= work.n:
            return work.n, 1
        streams = min(work.threads or _STREAMS, _STREAMS)
        return work.fitting(room // streams), streams

    def memory(self) -> int:
        pool = cupy.get_default_memory_pool().free_bytes()
        return int(cupy.cuda.runtime.memGetInfo()[0]) + int(pool)

    def synchronize(self) -> None:
        cupy.cuda.get_current_stream().synchronize()


@cache
def _kernel(inputs: str, outputs: str, body: str) -> Any:
    """One kernel for all programs that print the same; CuPy compiles it at its first call.

    Without contraction to fused multiply-adds it gives the bits of the operations one by one.
    """
    return cupy.ElementwiseKernel(
        inputs, outputs, body, "hessarray_fused", options=("--fmad=false",)
    )


class _CupyExecutable(FunctionalExecutable):
    """Functional code with kernels; chunks go into the results, alternately on two streams."""

    def __init__(self, xp: Any, program: Any, source: str) -> None:
        self.xp = xp
        self.source = source
        scope = load_source(source, "program", {"kernel": _kernel})
        self._bind, self._seed, self._run = scope["bind"], scope["seed"], scope["run"]
        self._shapes = [v.shape for v in program.outputs.values()]

    def bind(self, parameters: Mapping[str, Any], constants: Mapping[str, Any]) -> Any:
        """The folded constants, and the event after which they are there on any stream."""
        bound = super().bind(parameters, constants)
        return bound, cupy.cuda.get_current_stream().record()

    def run(
        self, bound: Any, inputs: Mapping[str, Any], seeds: Mapping[str, Any], run: Run
    ) -> tuple[Any, ...]:
        folded, made = bound
        caller = cupy.cuda.get_current_stream()
        caller.wait_event(made)
        if run.chunk >= run.n:
            return super().run(folded, inputs, seeds, run)
        b = self._seed(self.xp, folded, seeds)
        dtype = next(iter(inputs.values())).dtype
        results = tuple(cupy.empty((run.n, *shape), dtype) for shape in self._shapes)
        streams = _streams(cupy.cuda.Device().id)[: run.threads] if run.threads > 1 else [caller]
        ready = caller.record()
        for stream in streams:
            stream.wait_event(ready)
        try:
            self._chunks(b, inputs, run, results, streams)
        finally:
            # What the caller does next comes after the chunks, and what the next caller's chunks
            # write into the streams' memory comes after that.
            for stream in streams:
                caller.wait_event(stream.record())
        return results

    def _chunks(
        self,
        b: Any,
        inputs: Mapping[str, Any],
        run: Run,
        results: Sequence[Any],
        streams: Sequence[Any],
    ) -> None:
        pending: list[tuple[Any, int]] = []
        for k, start in enumerate(range(0, run.n, run.chunk)):
            stop = min(start + run.chunk, run.n)
            piece = {name: a[start:stop, ...] for name, a in inputs.items()}
            stream = streams[k % len(streams)]
            with stream:
                found = self._run(self.xp, b, stop - start, piece, piece)
                for whole, part in zip(results, found, strict=True):
                    whole[start:stop, ...] = part
                del found, part
            if run.progress is not None:
                pending.append((stream.record(), stop))
                if len(pending) == len(streams):
                    _report(pending.pop(0), run.progress)
        for entry in pending:
            _report(entry, run.progress)


def _report(entry: tuple[Any, int], progress: Any) -> None:
    """Samples that are done, not those that are under way."""
    event, done = entry
    event.synchronize()
    progress(done)


_local = threading.local()


def _streams(device: int) -> list[Any]:
    """Streams of the calling thread: two threads never write into one stream's memory."""
    known: dict[int, list[Any]] = _local.__dict__.setdefault("streams", {})
    if device not in known:
        known[device] = [cupy.cuda.Stream(non_blocking=True) for _ in range(_STREAMS)]
    return known[device]
