"""`hessarray bench` on tiny cases: what it writes, what it refuses, and that its peers are right.

No time is asserted.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hessarray as ha
from hessarray.bench import command, peers, run
from hessarray.bench.autodiff import programs
from hessarray.bench.cases import GROUPS, TARGETS, WANTS, Case, cases, mlp, model_case
from hessarray.bench.libraries import LIBRARIES, library
from hessarray.bench.machine import limits, speed
from hessarray.bench.measure import difference, in_turn, median_ratio
from hessarray.bench.memory import peak
from hessarray.bench.peers import PEERS, NotMeasured, missing
from hessarray.bench.problem import Call, costs, ours, problem
from hessarray.bench.report import duration, markdown, table, write_json
from hessarray.bench.rows import Outcome, Report, Row
from hessarray.cli import main

# What the peers warn about is theirs.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

RESIDUAL = partial(
    ha.Network,
    ha.Dense(3, 5, act="antitanh"),
    ha.Network(ha.Residual(5, h=0.5, act="tanh"), ha.Residual(5, act="sigmoid")),
    ha.Dense(5, 2),
    seed=1,
)


@pytest.fixture(autouse=True)
def settings_of_libraries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A benchmark sets up its whole process; the next test finds it as it was."""
    for name in ("PJRT_NPROC", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        if not os.environ[name]:
            monkeypatch.delenv(name)
    jax, torch = pytest.importorskip("jax"), pytest.importorskip("torch")
    names = "jax_enable_x64", "jax_default_device", "jax_default_matmul_precision"
    before = {name: getattr(jax.config, name) for name in names}
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for name, value in before.items():
        jax.config.update(name, value)


def bench(*arguments: str | Path) -> int:
    return main(["bench", "--quick", "--threads", "1", *map(str, arguments)])


# ------------------------------------------------------------------------------------ the peers


def calls(name: str, case: Case) -> tuple[Call, dict[str, Call]]:
    reason = missing(name)
    if reason is not None:
        pytest.skip(reason)
    made = problem(case)
    return ours(made, library("numpy", "cpu", 1)), PEERS[name].prepare(made, "cpu", 1)


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize(
    ("name", "want"), [(name, want) for name, peer in PEERS.items() for want in peer.wants]
)
def test_every_peer_computes_the_same(name: str, want: str, n: int) -> None:
    mine, theirs = calls(name, Case("mlp", "", RESIDUAL, n, want))
    assert theirs
    for variant, call in theirs.items():
        assert difference(mine, call) < 1e-12, variant


@pytest.mark.parametrize("name", ["torch", "jax"])
@pytest.mark.parametrize("act", ["quadratic", "softplus", "relu", "silu"])
def test_activations_of_the_twins(name: str, act: str) -> None:
    network = partial(ha.fully_connected, [3, 5, 2], act=act, dtype="float32", seed=0)
    for call in (found := calls(name, Case("mlp", "", network, 4)))[1].values():
        assert difference(found[0], call) < 1e-12


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_ours_on_every_library(name: str) -> None:
    made = problem(Case("mlp", "", RESIDUAL, 4))
    on_numpy = ours(made, library("numpy", "cpu", 1))
    assert difference(on_numpy, ours(made, library(name, "cpu", 1))) < 1e-12


@pytest.mark.parametrize(
    ("name", "layer", "sentence"),
    [
        ("jax", ha.InputConvex(3, None, 2), "no twin of the layer InputConvex"),
        ("torch", ha.Dense(3, 2, act="mish"), "no twin of the activation 'mish'"),
        ("jax", ha.Dense(3, 2, act=ha.activations.softplus(beta=2.0)), "no twin of the activation"),
        ("jax", ha.Dense(3, 2, act=lambda z: z * z), "no twin of the activation"),
        ("hessquik", ha.Dense(3, 2, act="silu"), "hessQuik has no twin"),
        ("hessquik", ha.Dense(3, 2, bias=False), "hessQuik has no twin"),
    ],
)
def test_a_network_without_twin_is_not_measured(name: str, layer: Any, sentence: str) -> None:
    with pytest.raises(NotMeasured, match=sentence):
        calls(name, Case("mlp", "", lambda: ha.Network(layer), 4))


def test_hessquik_is_not_asked_for_more_memory_than_there_is() -> None:
    with pytest.raises(NotMeasured, match="would need about 67055 GiB"):
        calls("hessquik", Case("mlp", "", partial(mlp, 2, 1000, 2, 1), 3000))


def test_reverse_over_reverse_only_for_one_output() -> None:
    jax = pytest.importorskip("jax")
    names = [set(programs(jax, jax.numpy, abs, "hessian", m, None)) for m in (1, 2)]
    assert names == [{"forward over reverse", "reverse over reverse"}, {"forward over reverse"}]


# ------------------------------------------------------------------------------- the cases, time


@pytest.mark.parametrize("options", [{}, {"full_grid": True}, {"quick": True}])
def test_cases_are_known_and_named_once(options: dict[str, bool]) -> None:
    found = cases(**options)
    assert {case.group for case in found} == set(GROUPS) - {"memory", "model", "planning"}
    assert len({(case.group, case.name, case.n) for case in found}) == len(found)
    assert {case.want for case in found} == set(WANTS)
    assert {peer for targets in TARGETS.values() for peer in targets} <= {*PEERS, "above_MiB"}
    assert set(TARGETS) <= set(GROUPS)


def test_the_papers_grid_is_whole() -> None:
    grid = [case.name for case in cases(full_grid=True) if case.group == "paper"]
    assert grid == [f"d={2**i}, m={2**j}" for j in range(7) for i in range(11)]


def test_costs_are_those_of_the_plan() -> None:
    made = problem(Case("mlp", "", RESIDUAL, 10))
    flops, size = costs(made, library("numpy", "cpu", 1))
    assert flops == made.network.plan(10, want=("value", "gradient", "hessian")).flops
    assert size == 8 * 10 * (3 + 2 + 6 + 18)


def test_in_turn() -> None:
    order = []

    def call(name: str, seconds: float) -> Call:
        def run(i: int) -> None:
            order.append((name, i))
            time.sleep(seconds)

        return Call(run, [(0,), (1,)], lambda found: ())

    seconds = in_turn([call("A", 2e-2), call("B", 2e-2)], 0.0, least=3)
    assert seconds.shape == (3, 2)
    assert [name for name, _ in order[6:]] == ["A", "B"] * 3  # after the warm readings
    order.clear()
    in_turn([call("A", 1e-4)], 0.0, least=1)
    assert [i for _, i in order[3:]] == [i % 2 for i in range(len(order) - 3)]
    assert len(order) > 4
    assert median_ratio(np.asarray([[1.0, 3.0], [2.0, 4.0], [1.0, 9.0]])) == 3.0


def test_the_limit_is_measured_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    case, lib = Case("mlp", "", RESIDUAL, 4), library("numpy", "cpu", 1)
    products = speed(lib, 2, quick=True)
    assert products.flops == 2 * 2 * 64**3
    assert products.run() is None

    def both(found: list[Call], *rest: Any, **options: Any) -> np.ndarray:
        assert found[-1].run is products.run
        return np.asarray([[1e-3, 4e-3], [4e-3, 2e-3], [2e-3, 3e-3]])

    monkeypatch.setattr(run, "in_turn", both)
    monkeypatch.setattr(run, "alone", lambda *rest, **options: np.asarray([5.0]))
    row = run.run_case(case, lib, {"bytes": 1e9}, products, run.Settings([], 1, 0.0, 1))
    assert row.error is None
    assert row.seconds == 5.0
    limit = row.flops / products.flops * 2e-3 + row.bytes / 1e9
    assert row.share == pytest.approx(limit / 1e-3)  # each at its best
    assert [products.undisturbed(t) for t in (1e-3, 9e-3, 4e-3)] == [1e-3, 2e-3, 3e-3]


def test_limits_and_memory() -> None:
    found = limits(library("numpy", "cpu", 1), 1, quick=True)
    assert set(found) == {"float64_flops", "float32_flops", "bytes"}
    assert min(found.values()) > 0
    if Path("/proc/self/status").exists():
        figures = peak(1000)
        assert figures["result_MiB"] == pytest.approx(8 * 1000 * 111 / 2**20)
        assert 0 <= figures["above_MiB"] < 96


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are listed by Linux only")
def test_xla_keeps_to_the_threads() -> None:
    code = """
import os
from hessarray.bench.machine import use_threads
with use_threads(1):
    import jax
    jax.numpy.ones((300, 300)).sum().block_until_ready()
names = [open(f"/proc/self/task/{t}/comm").read().strip() for t in os.listdir("/proc/self/task")]
print(sum("XLAEigen" in name for name in names))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 1


# ---------------------------------------------------------------------------------- the command


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = "--json", tmp_path / "b.json", "--write", tmp_path / "b.md"
    assert bench("--only", "mlp,one-sample,hvp,threads", "--against", "jax,torch", *files) == 0
    shown = capsys.readouterr()
    assert "[1/5] mlp: d=3, 2x8, m=1, n = 20, on numpy, JAX jit, torch.func: " in shown.err
    data = json.loads((tmp_path / "b.json").read_text())
    assert data["quick"] is True
    assert data["machine"]["threads"] == 1
    assert data["machine"]["versions"]["hessarray"] == ha.__version__
    rows = [Row(**{**r, "outcomes": [Outcome(**o) for o in r["outcomes"]]}) for r in data["rows"]]
    assert [row.group for row in rows] == ["mlp", "mlp", "one-sample", "hvp", "threads"]
    for row in rows:
        assert row.backend == "numpy"
        assert min(row.seconds, row.flops, row.bytes, row.share) > 0
        for outcome in row.outcomes:
            assert min(outcome.seconds, outcome.ratio) > 0
            assert outcome.rounds >= 2
            assert outcome.error is outcome.reason is None
    variants = {o.variant for o in rows[2].outcomes if o.peer == "jax"}
    assert "forward over reverse, NumPy in and out" in variants
    assert len(variants) == 4
    assert {o.peer for o in rows[0].outcomes} == {"jax", "torch"}
    page = (tmp_path / "b.md").read_text()
    for text in (shown.out, page):
        assert GROUPS["one-sample"] in text
        assert GROUPS["paper"] not in text
        assert "JAX jit (≥ " in text
        assert "not measured" not in text
    assert page.startswith("# Benchmarks\n\nWritten by `hessarray bench --quick ")
    assert "say nothing about speed" in page
    assert "| threads | 1 for everyone |" in page


def test_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page, folder = tmp_path / "b.md", tmp_path / "figures" / "here"
    assert bench("--only", "paper", "--against", "jax", "--plot", folder, "--write", page) == 0
    names = "time-one-output.png", "time-many-outputs.png"
    for name in names:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
        assert f"](figures/here/{name})" in page.read_text()
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)


def test_figures_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert bench("--plot", tmp_path) == 2
    sentence = "figures need matplotlib: pip install 'hessarray[bench]'"
    assert capsys.readouterr().err == f"hessarray bench: {sentence}\n"


def test_a_missing_peer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PEERS, "folx", replace(PEERS["folx"], modules=("no_such_library",)))
    assert bench("--only", "laplacian", "--against", "jax,folx") == 0
    shown = capsys.readouterr()
    sentence = "folx is not installed and so not measured: pip install folx"
    assert shown.err.count(sentence) == 1
    assert "not measured" in shown.out
    assert sentence in shown.out


@pytest.mark.parametrize("fault", ["wrong", "raises", "cannot be prepared"])
def test_a_peer_that_disagrees_is_an_error(
    fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def prepare(*arguments: Any) -> dict[str, Call]:
        if fault == "cannot be prepared":
            raise RuntimeError("no luck\nat all")
        found = {}
        for variant, call in peers._jax(*arguments).items():
            wrong = partial(_scaled, call) if fault == "wrong" else _raise
            found[variant] = replace(call, results=wrong)
        return found

    monkeypatch.setitem(PEERS, "jax", replace(PEERS["jax"], prepare=prepare))
    assert bench("--only", "hvp", "--against", "jax", "--json", tmp_path / "b.json") == 1
    (row,) = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert row["seconds"] > 0
    for outcome in row["outcomes"]:
        assert outcome["seconds"] is outcome["ratio"] is None
        text = "results differ by 1.0e-07" if fault == "wrong" else "RuntimeError: no luck"
        assert outcome["error"] == text
    assert "error" in capsys.readouterr().out


def _scaled(call: Call, found: Any) -> tuple[Any, ...]:
    return tuple(a * (1.0 + 1e-7) for a in call.results(found))


def _raise(found: Any) -> tuple[Any, ...]:
    raise RuntimeError("no luck")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "mpl"], "group 'mpl' is unknown: did you mean mlp"),
        (["--only", "mlp,x"], "group 'x' is unknown: use paper, mlp, "),
        (["--against", "jaxx"], "peer 'jaxx' is unknown: did you mean jax"),
        (["--backend", "nunpy"], "backend 'nunpy' is unknown: did you mean numpy"),
        (["--want", "hesian"], "result 'hesian' is unknown: did you mean hessian"),
        (["--threads", "0"], "'0' is no positive integer"),
        (["--samples", "many"], "'many' is no positive integer"),
        (["--seconds", "-1"], "'-1' is no positive number of seconds"),
        (["--seconds", "nan"], "'nan' is no positive number of seconds"),
        (["--json", "/no/such/folder/b.json"], "there is no folder /no/such/folder to write into"),
        (["--write", "/"], "/ is a folder, a file is expected"),
        (["--device", "gpu"], "invalid choice: 'gpu'"),
        (["--plot", __file__], "is a file, a folder is expected"),
    ],
)
def test_what_is_refused(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench(*arguments)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--samples", "9"), ("--act", "tanh"), ("--want", "hvp")])
def test_options_of_a_model_need_one(
    option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(*option) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        said
        == f"hessarray bench: {option[0]} is for a network of yours: name its file with --model"
    )


def test_planning_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--only", "planning", "--quick", "--json", tmp_path / "b.json") == 0
    (row,) = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert set(row["figures"]) == {"first_ms", "most_ms", "another_ms", "few_ms"}
    assert row["figures"]["most_ms"] == 50.0
    assert row["figures"]["first_ms"] > 0
    assert "first n, ms" in capsys.readouterr().out


def test_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is there")
    for arguments, sentence in (
        (("--backend", "torch", "--device", "cuda"), "no CUDA device answers torch.cuda."),
        (("--backend", "jax", "--device", "cuda"), "no device answers jax.devices('cuda')"),
        (("--device", "cuda"), "numpy has no device 'cuda': choose cupy, torch or jax"),
        (("--backend", "cupy"), "cupy "),
    ):
        assert bench(*arguments) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith(f"hessarray bench: {sentence}")
    assert set(LIBRARIES) == {"cupy", "jax", "numpy", "torch"}


def test_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RESIDUAL().save(tmp_path / "net.npz")
    files = "--model", tmp_path / "net.npz", "--json", tmp_path / "b.json"
    assert bench(*files, "--samples", "7", "--want", "laplacian", "--against", "jax") == 0
    (row,) = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert (row["group"], row["name"], row["n"], row["d"], row["m"]) == (
        "model",
        "net.npz",
        7,
        3,
        2,
    )
    assert row["outcomes"][0]["ratio"] > 0
    capsys.readouterr()

    ha.icnn(3, [4]).save(tmp_path / "icnn.npz")
    assert bench("--model", tmp_path / "icnn.npz", "--against", "jax") == 0
    assert "no twin of the layer InputConvex" in capsys.readouterr().out


def test_a_model_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pairs.npz"
    np.savez(path, K0=np.ones((3, 4)), b0=np.ones(4), K1=np.ones((4, 1)), b1=np.ones(1))
    for arguments, sentence in (
        (("--model", path), "act"),
        (("--model", path, "--act", "tahn"), "tanh"),
        (("--model", tmp_path / "none.npz"), "no such file"),
    ):
        assert bench(*arguments) == 2
        said = capsys.readouterr().err
        assert said.startswith("hessarray bench: ")
        assert len(said.splitlines()) == 1
        assert sentence in said
    assert model_case(path, "tanh", 5, "hvp").network().in_features == 3


def test_results_beyond_the_memory_are_not_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def small(device: str, threads: int) -> Any:
        return replace(library("numpy", device, threads), free=lambda: 100)

    monkeypatch.setitem(LIBRARIES, "numpy", LIBRARIES["numpy"])
    small_library = small("cpu", 1)
    monkeypatch.setattr(command, "library", lambda *_: small_library)
    assert bench("--only", "mlp", "--against", "jax") == 0
    assert "there is no room for more" in capsys.readouterr().out


def test_a_failure_of_ours_is_an_error_and_the_rest_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ha.ShapeError("no such luck")

    monkeypatch.setattr(ha.Network, "laplacian", fail)
    assert bench("--only", "laplacian,hvp", "--against", "jax") == 1
    shown = capsys.readouterr()
    assert "d=3, 2x8, m=1: ShapeError: no such luck" in shown.out
    assert "hvp: d=3, 2x8, m=1, n = 20, on numpy, JAX jit: " in shown.err


# ------------------------------------------------------------------------------------- files


def test_an_interrupted_run_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[Row] = []

    def run_case(case: Case, *rest: Any) -> Row:
        if measured:
            raise KeyboardInterrupt
        measured.append(Row(case.group, case.name, case.want, case.n, "numpy", seconds=1.0))
        return measured[0]

    monkeypatch.setattr(command, "run_case", run_case)
    files = "--json", tmp_path / "b.json", "--write", tmp_path / "b.md"
    assert bench("--only", "mlp", *files) == 130
    shown = capsys.readouterr()
    assert "interrupted: 1 rows are kept" in shown.err
    assert "d=3, 2x8, m=1" in shown.out
    assert len(json.loads((tmp_path / "b.json").read_text())["rows"]) == 1
    assert not (tmp_path / "b.md").exists()


def test_files_are_replaced_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    path = tmp_path / "b.json"
    path.write_text("the old report")
    monkeypatch.setattr(os, "fsync", full)
    assert bench("--only", "hvp", "--against", "jax", "--json", path) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "hessarray bench: no space left on device"
    assert path.read_text() == "the old report"
    assert [p.name for p in tmp_path.iterdir()] == ["b.json"]


def report(**machine: Any) -> Report:
    about = {"cpu": "C", "cores": 2, "memory_GiB": 8, "device": "", "system": "S", "python": "3"}
    about |= {"versions": {"numpy": "2"}, "threads": 2, "date": "2026-01-01"}
    fast = {"float64_flops": 6e13, "float32_flops": 5e13, "bytes": 4e12}
    return Report({**about, **machine}, {"cupy": fast}, quick=False)


def test_a_page_of_a_gpu() -> None:
    found = report(device="a fast device")
    row = Row("mlp", "net", "hessian", 10, "cupy", 3, 1, 2e-3, share=0.25)
    row.outcomes = [
        Outcome("jax", "one way", 4e-3, 2.0, 5),
        Outcome("jax", "another", 2e-3, 0.5, 5),
        Outcome("torch", reason="it is not there"),
        Outcome("hessquik", "forward", error="results differ by 1e-3"),
    ]
    found.rows += [row, Row("memory", "in memory", "hessian", 10, "numpy", reason="no /proc")]
    page = markdown(found, "hessarray bench")
    assert page.startswith("# Benchmarks on a fast device\n")
    assert "| GEMM by cupy | 60,000 Gflop/s in float64, 50,000 Gflop/s in float32 |" in page
    assert "| copy by cupy | 4,000.0 GB/s |" in page
    assert (
        "| net | 10 | cupy | 2 ms | 200 µs | error | not measured | 0.50 (missed) | 25% |" in page
    )
    assert "- it is not there\n" in page
    assert "- net, hessQuik forward: results differ by 1e-3\n" in page
    assert "- in memory: no /proc\n" in page
    assert "say nothing" not in page


def test_memory_targets_and_units(tmp_path: Path) -> None:
    found = report()
    figures = {"result_MiB": 169.4, "above_MiB": 200.0}
    found.rows.append(Row("memory", "in memory", "hessian", 10, "numpy", figures=figures))
    assert "169          200 (missed)" in table(found.rows)
    write_json(found, tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text())["rows"][0]["figures"] == figures
    shown = [duration(t) for t in (None, 2.0, 0.5, 1.234e-5, 9e-9)]
    assert shown == ["not measured", "2 s", "500 ms", "12.3 µs", "9 ns"]


# ------------------------------------------------------------------------------ the command line


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with open(Path(__file__).parents[1] / "pyproject.toml", "rb") as file:
        assert tomllib.load(file)["project"]["scripts"] == {"hessarray": "hessarray.cli:main"}
    for arguments, status in ((["--version"], 0), (["bench", "--help"], 0), ([], 2), (["x"], 2)):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == status
    shown = capsys.readouterr()
    assert ha.__version__ in shown.out
    assert "--against" in shown.out
    assert "invalid choice: 'x'" in shown.err


def test_every_option_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    options = set(re.findall(r"--[a-z]+", capsys.readouterr().out)) - {"--help"}
    page = (Path(__file__).parents[1] / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert len(options) > 10
    assert {option for option in options if f"`{option}" not in page} == set()
