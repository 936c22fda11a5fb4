"""Peak memory of many samples, above the result; measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json
import numpy as np
import hessarray as ha
layers = [ha.Dense(10, 64, act="tanh"), *(ha.Dense(64, 64, act="tanh") for _ in range(3))]
net = ha.Network(*layers, ha.Dense(64, 1), seed=0)
x = np.random.default_rng(0).standard_normal((200_000, 10))
net.value_gradient_hessian(x[:10])
def peak():  # kB; getrusage would report the parent's where that was larger
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
before = peak()
result = net.value_gradient_hessian(x)
after = peak()
out = sum(a.nbytes for a in result)
print(json.dumps({"result_MiB": out / 2**20, "above_MiB": (after - before) / 2**10 - out / 2**20}))
"""


def test_peak_of_200_000_samples(benchmark, capsys):
    def measure():
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    found = benchmark.pedantic(measure, rounds=1)
    benchmark.extra_info.update(found)
    with capsys.disabled():
        print(f"\n200,000 samples: {found}")
    assert 0 <= found["above_MiB"] <= 96


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
