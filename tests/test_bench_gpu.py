"""What `make bench-gpu` does, on the CuPy of ``fake_cupy`` and with a stub of torch.cuda.

A device is not needed; its speeds are whatever NumPy's are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_cupy import NO_COMPILER, installed

import hessarray as ha
from hessarray.bench import machine
from hessarray.bench.cases import Case, cases
from hessarray.bench.libraries import LIBRARIES, library
from hessarray.bench.memory import peak_on
from hessarray.bench.problem import costs, problem
from hessarray.bench.run import memory_rows
from hessarray.cli import main

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(NO_COMPILER is not None, reason=str(NO_COMPILER)),
]
ROOT = Path(__file__).parents[1]
NET = partial(ha.fully_connected, [3, 8, 8, 2], act="tanh", seed=0)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("PJRT_NPROC", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.setenv(name, "1" if name == "PJRT_NPROC" else "false")
    with installed() as module:
        yield module


def test_the_command_of_the_makefile(
    cupy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own options, small cases, on the one library that is pretended to be here."""
    recipe = (ROOT / "Makefile").read_text().partition("\nbench-gpu:")[2].partition("\n\n")[0]
    (options,) = re.findall(r"hessarray bench (.*)", recipe.replace("\\\n", " "))
    words = options.replace("$(BENCH_ARGS)", "").split()
    assert words[words.index("--device") + 1] == "cuda"
    assert words[words.index("--backend") + 1] == "cupy,torch"
    assert words[words.index("--write") + 1] == "docs/benchmarks-gpu.md"
    words[words.index("--backend") + 1] = "cupy"
    words = [str(tmp_path / w.rpartition("/")[2]) if "docs/" in w else w for w in words]
    monkeypatch.setenv("HESSARRAY_CUDA_GRAPHS", "1")
    few = "--only", "mlp,one-sample,growth,memory"
    assert main(["bench", "--quick", "--threads", "1", *few, *words]) == 0

    page = (tmp_path / "benchmarks-gpu.md").read_text()
    assert page.startswith("# Benchmarks on Fake GPU\n")
    for line in ("GEMM by cupy", "copy by cupy", "device | Fake GPU", "HESSARRAY_CUDA_GRAPHS=1"):
        assert f"| {line}" in page or f" {line}" in page
    assert "targets were set for two threads of a CPU" in page
    assert "| of the limit |" in page
    data = json.loads((tmp_path / "benchmarks-gpu.json").read_text())
    assert min(data["limits"]["cupy"].values()) > 0
    groups = [row["group"] for row in data["rows"]]
    assert groups == ["mlp"] * 2 + ["one-sample"] + ["growth"] * 3 + ["memory"]
    for row in data["rows"]:
        assert row["backend"] == "cupy"
        if row["group"] == "memory":
            assert set(row["figures"]) == {"result_MiB", "above_MiB"}
        else:
            assert min(row["seconds"], row["flops"], row["bytes"], row["share"]) > 0
    peers = {o["peer"] for row in data["rows"] for o in row["outcomes"]}
    assert {"torch", "jax"} <= peers  # on the same device, or with the reason why not


def test_every_case_runs_on_a_device() -> None:
    """Of the issue's list only two threads against one is for CPUs."""
    assert {case.group for case in cases() if case.only_on} == {"threads"}


def test_the_plan_is_the_librarys_own(cupy: Any) -> None:
    made = problem(Case("mlp", "", partial(ha.fully_connected, [10, 64, 64, 1], act="tanh"), 10))
    flops, size = costs(made, library("cupy", "cuda", 1))
    ours, theirs = (net_plan(made.network, name) for name in ("numpy", "cupy"))
    assert flops == theirs.flops
    assert costs(made, library("numpy", "cpu", 1)) == (ours.flops, size)
    assert made.network.value(np.ones(10)).shape == (1,)  # still pinned to nothing


def net_plan(net: Any, name: str) -> Any:
    from copy import deepcopy

    return deepcopy(net).to(name).plan(10)


def test_limits_of_a_device_are_measured_on_large_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[int]] = {"gemm": [], "copy": []}
    monkeypatch.setattr(machine, "_gemm", lambda lib, size, dtype: seen["gemm"].append(size) or 1.0)
    monkeypatch.setattr(machine, "_copy", lambda lib, n, size: seen["copy"].append(size) or 1.0)
    for device in ("cpu", "cuda"):
        machine.limits(SimpleNamespace(name="torch", device=device), 1)  # type: ignore[arg-type]
    assert seen["gemm"] == [1024, 1536, 2048] * 2 + [4096, 8192] * 2
    assert seen["copy"] == [256 << 20, 2048 << 20]


def test_peak_of_memory_on_a_device() -> None:
    kept: list[Any] = []

    def measured(call: Any) -> int:
        call()
        return 5_000_000

    lib = library("numpy", "cpu", 1)
    fake = SimpleNamespace(
        name="cupy", array=lib.array, wait=kept.append, peak=measured, device="cuda"
    )
    found = peak_on(fake, 1000)  # type: ignore[arg-type]
    result = 8 * 1000 * 111
    assert found == {
        "result_MiB": result / 2**20,
        "above_MiB": (5_000_000 - result) / 2**20,
    }
    assert [a.shape for a in kept[0]] == [(1000, 1), (1000, 10, 1), (1000, 10, 10, 1)]
    (row,) = memory_rows(fake, quick=True)  # type: ignore[arg-type]
    assert (row.backend, row.n) == ("cupy", 1000)
    fake.peak = None
    assert not [*memory_rows(fake, quick=True)]  # type: ignore[arg-type]
    fake.peak = lambda call: 1 / 0
    (row,) = memory_rows(fake, quick=True)  # type: ignore[arg-type]
    assert "division by zero" in str(row.reason)


def test_peak_of_cupys_pool(cupy: Any) -> None:
    lib = library("cupy", "cuda", 1)
    sizes = iter([1000, 5000])
    cupy.get_default_memory_pool().total_bytes = lambda: next(sizes)
    assert lib.peak is not None
    assert lib.peak(lambda: None) == 4000


def test_torch_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    stats = {"allocated": 100, "max": 0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Fake GPU")
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: stats["allocated"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: stats.update(max=100))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: stats["max"])
    threads, tf32 = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        lib = LIBRARIES["torch"]("cuda", 1)
        assert torch.backends.cuda.matmul.allow_tf32  # the user's choice is left as it is
    finally:
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = tf32
    assert lib.hardware == "Fake GPU"
    assert lib.peak is not None
    assert lib.peak(lambda: stats.update(max=700)) == 600
