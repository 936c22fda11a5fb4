"""NumPy: in-place calls on planned buffers, chunks in threads, BLAS at one thread each."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from hessarray.backends._special import Extended, erf, erfc
from hessarray.backends.protocol import Executable, Run, Work, load_source

__all__ = ["NumpyBackend"]

# Intermediates of one chunk: large enough that the interpreter lock is rarely asked for, small
# enough to stay in the last-level cache (docs/performance.md has the measurement).
_CACHE_BYTES = 6 << 20
# Few large samples: GEMMs over fewer samples than this lose more than the cache gives back.
_LEAST_CHUNK, _MOST_BYTES = 32, 24 << 20
_WORTH_A_THREAD = 2_000_000  # flops, below which handing them to a thread costs more
_KEEP_BYTES = 64 << 20  # of a thread's work buffer, between calls
_KEEP_VIEWS = 64  # of programs and chunk sizes


class NumpyBackend:
    """The array library of last resort and of most scientific scripts."""

    name = "numpy"
    in_place = True

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

    def schedule(self, work: Work) -> tuple[int, int]:
        threads = work.threads or _cores()
        if work.n * work.flops_per_sample < _WORTH_A_THREAD:
            threads = 1
        chunk = max(work.fitting(_CACHE_BYTES), min(_LEAST_CHUNK, work.fitting(_MOST_BYTES)))
        if work.room is not None:
            chunk = min(chunk, work.fitting(work.room // threads))
        # As many chunks for every thread: the last one must not leave the others waiting.
        pieces = -(-work.n // (chunk * threads)) * threads
        return max(-(-work.n // pieces), 1), threads

    def memory(self) -> int | None:
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):
            return None

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

    def bind(self, parameters: Mapping[str, Any], constants: Mapping[str, Any]) -> Any:
        with np.errstate(all="ignore"):
            return self._bind(self.xp, parameters, constants)

    def run(
        self, bound: Any, inputs: Mapping[str, Any], seeds: Mapping[str, Any], run: Run
    ) -> tuple[Any, ...]:
        b = self._seed(self.xp, bound, seeds)
        n = run.n
        x = {k: np.ascontiguousarray(a) for k, a in inputs.items()}
        dtype = next(iter(x.values())).dtype
        out = {k: np.empty((n, *shape), dtype) for k, shape in self.shapes.items()}
        if run.chunk >= n:
            self._piece(b, n, x, out, dtype)
            if run.progress is not None:
                run.progress(n)
        else:
            self._pieces(b, x, out, dtype, run)
        return tuple(out.values())

    def _pieces(self, b: Any, inputs: Any, out: Any, dtype: Any, run: Run) -> None:
        def work(start: int) -> int:
            stop = min(start + run.chunk, run.n)
            x = {k: a[start:stop] for k, a in inputs.items()}
            self._piece(b, stop - start, x, {k: a[start:stop] for k, a in out.items()}, dtype)
            return stop - start

        done = 0
        each = map if run.threads == 1 else _pool(run.threads, os.getpid()).map
        with _one_blas_thread:
            sizes: Iterable[int] = each(work, range(0, run.n, run.chunk))
            for size in sizes:
                done += size
                if run.progress is not None:
                    run.progress(done)

    def _piece(self, b: Any, n: int, inputs: Any, out: Any, dtype: Any) -> None:
        w = self._buffers(n, dtype)
        with np.errstate(all="ignore"):
            self._run(self.xp, b, n, inputs, inputs, w, out)
        _scratch.release()

    def _buffers(self, n: int, dtype: Any) -> Any:
        """The views of one thread for n samples: made for the chunk and for the remainder."""
        return _scratch.views(self._workspace, self.xp, n, self.layout.entries, dtype)


class _Scratch(threading.local):
    """One work buffer a thread, for all programs: it grows, and is dropped when very large."""

    def __init__(self) -> None:
        self.drop()

    def drop(self) -> None:
        self.memory = np.empty(0, np.float64)
        self.laid: dict[Any, Any] = {}  # (workspace, n, dtype) -> its views of the memory

    def views(self, workspace: Any, xp: Any, n: int, entries: int, dtype: Any) -> Any:
        key = (workspace, n, dtype)
        found = self.laid.get(key)
        if found is None:
            size = n * entries * dtype.itemsize
            if self.memory.nbytes < size:
                self.drop()
                self.memory = np.empty(-(-size // 8), np.float64)
            elif len(self.laid) >= _KEEP_VIEWS:
                self.laid.clear()
            found = self.laid[key] = workspace(xp, n, self.memory.view(dtype)[: n * entries])
        return found

    def release(self) -> None:
        if self.memory.nbytes > _KEEP_BYTES:
            self.drop()


_scratch = _Scratch()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


class _OneBlasThread:
    """BLAS at one thread while anybody runs chunks: the first in saves, the last restores.

    threadpoolctl heeds only the thread that set a limit, so one thread of ours does both.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.limits: Any = None

    def __enter__(self) -> None:
        with self.lock:
            if not self.users:
                self._governed(self._limit)
            self.users += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                self._governed(self._restore)

    def _governed(self, call: Callable[[], None]) -> None:
        _governor(os.getpid()).submit(call).result()

    def _limit(self) -> None:
        self.limits = _controller().limit(limits=1, user_api="blas")
        self.limits.__enter__()

    def _restore(self) -> None:
        self.limits.__exit__(None, None, None)


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@lru_cache(maxsize=2)
def _governor(pid: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="hessarray-blas")


_one_blas_thread = _OneBlasThread()
