"""The machine: what it is, how fast it multiplies and copies, and how many threads it may use."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController, threadpool_limits

from hessarray.bench.host import cores, cpu, total_bytes
from hessarray.bench.libraries import Library

__all__ = ["Speed", "describe", "limits", "speed", "use_threads"]

_PACKAGES = ("hessarray", "numpy", "torch", "jax", "jaxlib", "hessQuik", "folx", "NeuralFoil")
_CUPY = ("cupy", "cupy-cuda12x", "cupy-cuda13x")
# What changes how a library computes: it belongs beside the figures.
_SETTINGS = ("HESSARRAY_CUDA_GRAPHS", "CUPY_TF32", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "XLA_FLAGS")


@contextmanager
def use_threads(threads: int) -> Iterator[None]:
    """Hold NumPy's BLAS and XLA to this many threads; torch is told where it is imported.

    XLA has no option for it. It sizes its pool by the variable PJRT_NPROC when JAX makes its first
    array, so this comes before (jaxlib 0.10: one thread with PJRT_NPROC=1, where the flag
    --xla_cpu_multi_thread_eigen=false still uses all of them).
    """
    os.environ["PJRT_NPROC"] = str(threads)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave others some of a GPU
    with threadpool_limits(threads):
        yield


def describe(library: Library, threads: int) -> dict[str, Any]:
    """Processor, memory, versions and threads."""
    return {
        "cpu": cpu(),
        "cores": cores(),
        "memory_GiB": round(total_bytes() / 2**30, 1),
        "device": library.hardware,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {k: v for k in (*_PACKAGES, *_CUPY) if (v := _version(k))},
        "settings": {k: os.environ[k] for k in _SETTINGS if k in os.environ},
        "threads": threads,
        "date": time.strftime("%Y-%m-%d"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# ---- limits ----------------------------------------------------------------------------------


def limits(library: Library, threads: int, *, quick: bool = False) -> dict[str, float]:
    """Measured flop/s of GEMMs in float64 and float32, and bytes/s of a copy.

    GEMMs of 1024 to 2048 squared and a copy of 256 MiB, whose bytes count as read and as written;
    on a CUDA device, which needs more to be busy, GEMMs of 4096 and 8192 squared and 2 GiB.
    """
    cuda = library.device == "cuda"
    sizes = (64,) if quick else (4096, 8192) if cuda else (1024, 1536, 2048)
    size = 1 if quick else 2048 if cuda else 256
    found = {
        f"{dtype}_flops": max(_gemm(library, size, dtype) for size in sizes)
        for dtype in ("float64", "float32")
    }
    return found | {"bytes": _copy(library, threads, size << 20)}


@dataclass(frozen=True)
class Speed:
    """GEMMs in float64, to be timed in turn with what is measured.

    Attributes
    ----------
    run : callable
        Multiplies once in every thread, and returns when that is done.
    flops : int
        Of a call.
    seen : list of float
        Seconds of a call, the best ones of each case so far.
    """

    run: Callable[[], Any]
    flops: int
    seen: list[float] = field(default_factory=list)

    def undisturbed(self, seconds: float) -> float:
        """What a call takes, where it took so long: no more than in half of the cases so far."""
        self.seen.append(seconds)
        return min(seconds, float(np.median(self.seen)))


def speed(library: Library, threads: int, *, quick: bool = False) -> Speed:
    """How fast this machine multiplies just now, on so many threads.

    On NumPy each thread has a product of its own: the threads of a BLAS library look for more work
    for some milliseconds after a product, in the way of whoever is measured next.
    """
    size = 64 if quick else 8192 if library.device == "cuda" else 1024
    rng = np.random.default_rng(0)
    a, b = (library.array(rng.standard_normal((size, size))) for _ in range(2))
    if library.name != "numpy":
        return Speed(lambda: library.wait(a @ b), 2 * size**3)
    blas, pool = ThreadpoolController(), ThreadPoolExecutor(threads)
    results = [np.empty((size, size)) for _ in range(threads)]

    def run() -> None:
        with blas.limit(limits=1, user_api="blas"):
            list(pool.map(lambda out: np.matmul(a, b, out=out), results))

    return Speed(run, threads * 2 * size**3)


def _best(call: Callable[[], Any], rounds: int = 5) -> float:
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _gemm(library: Library, size: int, dtype: str) -> float:
    rng = np.random.default_rng(0)
    a, b = (library.array(rng.standard_normal((size, size)).astype(dtype)) for _ in range(2))
    return 2.0 * size**3 / _best(lambda: library.wait(a @ b))


def _copy(library: Library, threads: int, size: int) -> float:
    source, target = (library.array(np.ones(size // 8)) for _ in range(2))
    if library.name == "numpy":
        pieces = list(
            zip(np.array_split(target, threads), np.array_split(source, threads), strict=True)
        )
        with ThreadPoolExecutor(threads) as pool:
            return 2.0 * size / _best(lambda: list(pool.map(lambda p: np.copyto(*p), pieces)))
    return 2.0 * size / _best(lambda: library.wait(library.copy(target, source)))
