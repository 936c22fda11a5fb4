"""Peak memory of many samples above the result; `python -m hessarray.bench.memory N [--stream]`.

A peak belongs to a process, so each measurement has a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from hessarray.bench.cases import mlp
from hessarray.bench.host import entry
from hessarray.bench.libraries import Library

__all__ = ["peak", "peak_on"]

_MIB = 2.0**20


def peak(n: int, *, stream: bool = False) -> dict[str, float]:
    """MiB of the result, and MiB above it, for n samples of the reference MLP in a new process.

    With ``stream`` the results go to memory-mapped files, and what counts is memory that no file
    stands behind.

    Raises
    ------
    RuntimeError
        The process failed; its last line.
    """
    command = [sys.executable, "-m", "hessarray.bench.memory", str(n), *["--stream"] * stream]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(next(iter(done.stderr.splitlines()[-1:]), "the process failed"))
    found: dict[str, float] = json.loads(done.stdout)
    return found


def peak_on(library: Library, n: int) -> dict[str, float]:
    """The same on a device, in this process, within twice the result and 64 MiB.

    Twice, because libraries that cannot write into a result join the chunks at the end.
    """
    net = mlp(10, 64, 4, 1)
    x = library.array(np.random.default_rng(0).standard_normal((n, 10)))
    few = library.array(np.zeros((10, 10)))
    result = sum(8 * n * int(np.prod(a.shape[1:])) for a in net.value_gradient_hessian(few))

    def call() -> None:
        library.wait(net.value_gradient_hessian(x, memory_limit=2 * result + (64 << 20)))

    assert library.peak is not None
    return {"result_MiB": result / _MIB, "above_MiB": (library.peak(call) - result) / _MIB}


def _status(name: str) -> int:
    """Bytes in /proc/self/status; getrusage would report the parent's peak where it was larger."""
    found = entry("/proc/self/status", name)
    if found is None:
        raise SystemExit("the peak of memory is read from /proc/self/status, which is not here")
    return int(found.split()[0]) * 1024


def _main(n: int, stream: bool) -> dict[str, float]:
    net = mlp(10, 64, 4, 1)
    x = np.random.default_rng(0).standard_normal((n, 10))
    shapes = [a.shape[1:] for a in net.value_gradient_hessian(x[:10])]
    result = sum(8 * n * int(np.prod(shape)) for shape in shapes)
    if not stream:
        before = _status("VmHWM")
        kept = net.value_gradient_hessian(x)
        above = _status("VmHWM") - before - sum(a.nbytes for a in kept)
        return {"result_MiB": result / _MIB, "above_MiB": above / _MIB}
    with tempfile.TemporaryDirectory() as folder:
        out = tuple(
            np.memmap(Path(folder, str(i)), dtype=np.float64, mode="w+", shape=(n, *shape))
            for i, shape in enumerate(shapes)
        )
        before = _status("RssAnon")
        sizes = [before]
        net.value_gradient_hessian(x, out=out, progress=lambda _: sizes.append(_status("RssAnon")))
    return {"result_MiB": result / _MIB, "above_MiB": (max(sizes) - before) / _MIB}


if __name__ == "__main__":
    print(json.dumps(_main(int(sys.argv[1]), "--stream" in sys.argv)))
