"""NumPy: in-place calls on planned buffers, chunks in threads, BLAS at one thread each."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from hessarray.backends._special import Extended, erf, erfc
from hessarray.backends.protocol import Executable, Run, load_source

__all__ = ["NumpyBackend"]

# Intermediates of one chunk: large enough that the interpreter lock is rarely asked for, small
# enough to stay in the last-level cache (docs/performance.md has the measurement).
_CACHE_BYTES = 2 << 20


class NumpyBackend:
    """The array library of last resort and of most scientific scripts."""

    name = "numpy"

    def __init__(self) -> None:
        self.xp = Extended(np, erf=lambda x: erf(np, x), erfc=lambda x: erfc(np, x))

    def owns(self, array: Any) -> bool:
        return isinstance(array, (np.ndarray, np.floating))

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype)

    def device(self, array: Any) -> str:
        return "cpu"

    def asarray(self, array: Any, dtype: str | None, device: Any) -> Any:
        return np.asarray(array, dtype=dtype, order="C")

    def to_numpy(self, array: Any) -> Any:
        return np.asarray(array)

    def traced(self, arrays: Sequence[Any]) -> bool:
        return False

    def stamp(self, array: Any) -> Any:
        return None if array.flags.writeable else id(array)

    def parameter(self, array: Any, dtype: str | None, device: Any) -> Any:
        return np.array(array, dtype=dtype, order="C", copy=True)

    def compile(self, program: Any, source: str, layout: Any) -> Executable:
        return _NumpyExecutable(self.xp, program, source, layout)

    def chunk(self, n: int, bytes_per_sample: int, limit: int | None, traced: bool) -> int:
        size = _CACHE_BYTES // max(bytes_per_sample, 1)
        if limit is not None:
            size = min(size, limit // max(bytes_per_sample, 1))
        size = max(size, 1)
        return size if size < 8 else size - size % 8  # keeps buffers on cache lines

    def synchronize(self) -> None:
        return None


class _NumpyExecutable:
    """A program on NumPy. Work buffers belong to a thread; everything else is shared."""

    def __init__(self, xp: Any, program: Any, source: str, layout: Any) -> None:
        self.xp = xp
        self.source = source
        self.layout = layout
        self.shapes = {k: v.shape for k, v in program.outputs.items()}
        names = "copyto add multiply subtract matmul concatenate take".split()
        scope = {k: getattr(np, k) for k in [*names, *_ufunc_names()]}
        scope |= {"erf": xp.erf, "erfc": xp.erfc}
        scope = load_source(source, "program", scope)
        self._bind, self._seed = scope["bind"], scope["seed"]
        self._workspace, self._run = scope["workspace"], scope["run"]
        self._local = threading.local()

    def bind(self, parameters: Mapping[str, Any], constants: Mapping[str, Any]) -> Any:
        with np.errstate(all="ignore"):
            return self._bind(self.xp, parameters, constants)

    def run(
        self, bound: Any, inputs: Mapping[str, Any], seeds: Mapping[str, Any], run: Run
    ) -> tuple[Any, ...]:
        b = self._seed(self.xp, bound, seeds)
        n = run.n
        dtype = next(iter(inputs.values())).dtype
        out = {k: np.empty((n, *shape), dtype) for k, shape in self.shapes.items()}
        if run.chunk >= n:
            self._piece(b, n, inputs, out, dtype)
            if run.progress is not None:
                run.progress(n)
        else:
            self._pieces(b, inputs, out, dtype, run)
        return tuple(out.values())

    def _pieces(self, b: Any, inputs: Any, out: Any, dtype: Any, run: Run) -> None:
        starts = range(0, run.n, run.chunk)

        def work(start: int) -> int:
            stop = min(start + run.chunk, run.n)
            self._piece(
                b,
                stop - start,
                {k: a[start:stop] for k, a in inputs.items()},
                {k: a[start:stop] for k, a in out.items()},
                dtype,
            )
            return stop - start

        done = 0
        each = map if run.threads == 1 else _pool(run.threads, os.getpid()).map
        sizes: Iterable[int] = each(work, starts)
        with _controller().limit(limits=1, user_api="blas"):
            for size in sizes:
                done += size
                if run.progress is not None:
                    run.progress(done)

    def _piece(self, b: Any, n: int, inputs: Any, out: Any, dtype: Any) -> None:
        w = self._buffers(n, dtype)
        with np.errstate(all="ignore"):
            self._run(self.xp, b, n, inputs, inputs, w, out)

    def _buffers(self, n: int, dtype: Any) -> Any:
        """The views of one thread for n samples: made for the chunk and for the remainder."""
        cache = self._local.__dict__.setdefault("buffers", {})
        key = (n, dtype)
        if key not in cache:
            if len(cache) >= 3:
                cache.clear()
            arena = np.empty(n * self.layout.entries, dtype)
            cache[key] = self._workspace(self.xp, n, arena)
        return cache[key]


def _ufunc_names() -> list[str]:
    names = """absolute arccos arccosh arcsin arcsinh arctan arctanh ceil cos cosh divide equal exp
    expm1 floor greater greater_equal less less_equal log log10 log1p log2 logical_and logical_not
    logical_or logical_xor maximum minimum not_equal power reciprocal rint sign sin sinh sqrt square
    tan tanh trunc"""
    return names.split()


@lru_cache(maxsize=8)
def _pool(threads: int, pid: int) -> ThreadPoolExecutor:
    """Workers for this process (a fork must not inherit them)."""
    return ThreadPoolExecutor(threads, thread_name_prefix="hessarray")


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
