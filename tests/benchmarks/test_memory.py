"""Peak memory of many samples, above the result, and the import; each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from hessarray.bench.cases import TARGETS
from hessarray.bench.memory import peak


def test_peak_of_200_000_samples(benchmark, capsys):
    found = benchmark.pedantic(peak, [200_000], rounds=1)
    benchmark.extra_info.update(found)
    with capsys.disabled():
        print(f"\n200,000 samples: {found}")
    assert 0 <= found["above_MiB"] <= TARGETS["memory"]["above_MiB"]


def test_import(benchmark):
    """`import hessarray` in a fresh interpreter, beside `import numpy` in the report."""
    code = "import time; t = time.perf_counter(); import hessarray; print(time.perf_counter() - t)"

    def measure():
        return float(
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            ).stdout
        )

    benchmark.extra_info["seconds"] = min(measure() for _ in range(5))
    benchmark.pedantic(measure, rounds=5)
