"""`hessarray eval`: formats in and out, blocks, backends, and what interrupts leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hessarray as ha
from hessarray.cli import main
from hessarray.commands import _csv, _job

NET = ha.fully_connected([3, 8, 2], act="tanh", seed=0)


def two(x: Any, y: Any) -> Any:
    return (x @ x)[None] * y[0] + y


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, which is the current one."""
    NET.save(tmp_path / "net.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def evaluate(*arguments: object) -> int:
    return main(["eval", "net.npz", *map(str, arguments)])


def assert_close(a: Any, b: Any, rtol: float = 1e-13) -> None:
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def left_over(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name not in ("net.npz", "x.npy"))


# ---- results -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (1, 3), (700, 3), (5, 4, 3), (0, 3)])
@pytest.mark.parametrize("block", [64 << 20, 5000])
def test_npy(folder: Path, shape: Any, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_job, "_BLOCK", block)
    x = normal(*shape)
    np.save("x.npy", x)
    for i, (name, option) in enumerate(
        (name, f"--{name.replace('_', '-')}") for name in _job.RESULTS
    ):
        assert evaluate("x.npy", option, "-o", f"o{i}.npy") == 0
        assert_close(np.load(f"o{i}.npy", mmap_mode="r"), getattr(NET, name)(x))
    assert evaluate("x.npy", "-o", "plain.npy") == 0
    assert_close(np.load("plain.npy"), NET.value(x))
    assert evaluate("x.npy", "--weights", "2,-1", "-o", "w.npy") == 0
    assert_close(np.load("w.npy"), NET.weighted_hessian(x, np.array([2.0, -1.0])))


def test_several_results_in_npz(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_job, "_BLOCK", 5000)
    x = normal(300, 3)
    np.save("x.npy", x)
    np.save("lam.npy", [1.0, 3.0])
    options = ["--value", "--gradient", "--hessian", "--laplacian", "--hessian-diagonal"]
    assert evaluate("x.npy", *options, "--weights", "lam.npy", "-o", "o.npz") == 0
    with np.load("o.npz") as found:
        assert found.files == [*_job.RESULTS, "weighted_hessian"]
        for name in _job.RESULTS:
            assert_close(found[name], getattr(NET, name)(x))
        assert_close(found["weighted_hessian"], NET.weighted_hessian(x, np.array([1.0, 3.0])))
    assert left_over(folder) == ["lam.npy", "o.npz"]


def test_members_of_npz_one_after_another(folder: Path) -> None:
    a, b = normal(10, 3), normal(2, 5, 3, seed=1).astype("float32")
    np.savez_compressed("x.npz", a=a, b=b)
    assert evaluate("x.npz", "--gradient", "-o", "o.npz") == 0
    with np.load("o.npz") as found:
        assert_close(found["a.gradient"], NET.gradient(a))
        assert_close(found["b.gradient"], NET.gradient(b), 1e-5)
    np.savez("one.npz", a=a)
    assert evaluate("one.npz", "-o", "one.npy") == 0
    assert_close(np.load("one.npy"), NET.value(a))


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("1,2,3\n4,5,6\n", 2),
        ("a,b,c\n1,2,3\n\n# note\n4,5,6", 2),
        ("1;2;3\n4;5;6\n7;8;9", 3),
        ("x\ty\tz\n1e0\t2\t3\r\n", 1),
        ("  1   2 3\n", 1),
        ("\ufeff1, 2, 3\n", 1),
        ("a,b,c\n", 0),
        ("", 0),
    ],
)
def test_csv(folder: Path, text: str, rows: int, capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.csv").write_text(text, encoding="utf-8")
    x = np.arange(1.0, 3.0 * rows + 1.0).reshape(rows, 3)
    assert evaluate("x.csv", "--value", "--gradient") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split(",") == [
        *("value_0", "value_1"),
        *(f"gradient_{a}_{m}" for a in range(3) for m in range(2)),
    ]
    found = np.array([[float(c) for c in line.split(",")] for line in lines]).reshape(rows, 8)
    np.testing.assert_allclose(found[:, :2], NET.value(x), rtol=1e-14)
    np.testing.assert_allclose(found[:, 2:], NET.gradient(x).reshape(rows, 6), rtol=1e-13)
    assert evaluate("x.csv", "-o", "o.npy") == 0
    assert_close(np.load("o.npy"), NET.value(x))


def test_a_long_csv_comes_in_pieces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_csv, "_MOST_ROWS", 7)
    x = normal(100, 3)
    np.savetxt("x.csv", x, delimiter=",", fmt="%.17g")
    for suffix in ("npy", "npz", "csv"):
        assert evaluate("x.csv", "--laplacian", "-o", f"o.{suffix}") == 0
    expected = NET.laplacian(x)
    assert_close(np.load("o.npy"), expected)
    with np.load("o.npz") as found:
        assert_close(found["laplacian"], expected)
    found = np.loadtxt("o.csv", delimiter=",", skiprows=1)
    assert_close(found, expected.reshape(100, 2))


def test_numbers_in_csv_are_exact(folder: Path) -> None:
    for dtype in ("float32", "float64"):
        x = normal(50, 3).astype(dtype)
        np.save("x.npy", x)
        assert evaluate("x.npy", "-o", "o.csv", "--force") == 0
        found = np.loadtxt("o.csv", dtype, delimiter=",", skiprows=1)
        assert evaluate("x.npy", "-o", "o.npy", "--force") == 0
        np.testing.assert_array_equal(found, np.load("o.npy"))


@pytest.mark.parametrize("layout", ["fortran", "integers", "big-endian", "float32", "fortran npz"])
def test_layouts_and_dtypes(folder: Path, layout: str) -> None:
    x = np.round(normal(40, 3) * 5)
    name = "x.npz" if "npz" in layout else "x.npy"
    stored: Any = {
        "fortran": np.asfortranarray(x),
        "fortran npz": np.asfortranarray(x),
        "integers": x.astype("int16"),
        "big-endian": x.astype(">f8"),
        "float32": x.astype("float32"),
    }[layout]
    if name == "x.npz":
        np.savez(name, stored)
    else:
        np.save(name, stored)
    assert evaluate(name, "-o", "o.npy") == 0
    dtype = "float32" if layout == "float32" else "float64"
    assert_close(np.load("o.npy"), NET.value(x.astype(dtype)), 1e-5)
    assert evaluate(name, "-o", "o.npy", "--force", "--dtype", "float32") == 0
    assert np.load("o.npy").dtype == np.float32


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_backends(folder: Path, library: str) -> None:
    pytest.importorskip(library)
    x = normal(20, 3)
    np.save("x.npy", x)
    options = ["--value", "--hessian", "--weights", "1,2", "--backend", library]
    assert evaluate("x.npy", *options, "-o", "o.npz") == 0
    with np.load("o.npz") as found:
        assert_close(found["value"], NET.value(x), 1e-12)
        assert_close(found["hessian"], NET.hessian(x), 1e-12)
        assert_close(
            found["weighted_hessian"], NET.weighted_hessian(x, np.array([1.0, 2.0])), 1e-12
        )


def test_several_inputs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    f = ha.Function(two, ((3,), (2,)))
    monkeypatch.setattr(ha, "load", lambda path: f)
    x, y = normal(30, 3), normal(30, 2, seed=1)
    np.savez("x.npz", x0=x, x1=y)
    assert evaluate("x.npz", "--value", "--gradient", "--hessian", "-o", "o.npz") == 0
    with np.load("o.npz") as found:
        assert_close(found["value"], f.value(x, y))
        for i, a in enumerate(f.gradient(x, y)):
            assert_close(found[f"gradient.x{i}"], a)
        for i, row in enumerate(f.hessian(x, y)):
            for k, a in enumerate(row):
                assert_close(found[f"hessian.x{i}.x{k}"], a)
    f.input_names = ("shape", "flow")  # type: ignore[attr-defined]
    np.savez("named.npz", flow=y, shape=x)
    assert evaluate("named.npz", "-o", "named.npy") == 0
    assert_close(np.load("named.npy"), f.value(x, y))
    for name in ("x.npz", "x.csv"):
        Path("x.csv").write_text("1,2\n")
        assert evaluate(name) == 2
    np.savez("short.npz", shape=x, flow=y[:5])
    assert evaluate("short.npz") == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith("x.npz: the model has several inputs, it lacks shape, flow")
    assert said[1].endswith("several inputs: pass an .npz file with shape, flow")
    assert said[2].endswith("the inputs have batch shapes (30,) and (5,): make them equal")


def test_memory_stays_bounded(folder: Path) -> None:
    np.save("x.npy", normal(200_000, 3))
    code = (
        "import resource, sys; from hessarray.cli import main\n"
        "main(['eval', 'net.npz', 'x.npy', '-o', 'warm.npy', '--memory-limit', '8MB'])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "main(['eval', 'net.npz', 'x.npy', '--hessian', '-o', 'o.npy', '--memory-limit', '8MB'])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    assert (folder / "o.npy").stat().st_size > 28e6
    assert int(done.stdout) < 16_000  # KiB


def test_a_block_that_exceeds_the_limit_is_halved(folder: Path) -> None:
    """What one sample takes is known to the planner only, after the samples are read."""
    x = normal(3000, 3)
    np.save("x.npy", x)
    plan = NET.plan(1, ["hessian"])
    least = 8 * (plan.entries_once + plan.entries_per_sample + plan.result_entries)
    for limit in (int(1.2 * least), 2 * least, 1 << 20):
        arguments = ("x.npy", "--hessian", "--memory-limit", limit, "-o", "o.npy", "--force")
        assert evaluate(*arguments) == 0
        assert_close(np.load("o.npy"), NET.hessian(x))


def test_weights_may_begin_with_a_minus(folder: Path) -> None:
    np.save("x.npy", normal(5, 3))
    for text in ("-1,2", "-.5,-1e-3"):
        assert evaluate("x.npy", "--weights", text, "-o", "w.npy", "--force") == 0
        lam = np.array([float(v) for v in text.split(",")])
        assert_close(np.load("w.npy"), NET.weighted_hessian(normal(5, 3), lam))


@pytest.mark.parametrize("missing", [(), ("tqdm",), ("tqdm", "rich")])
def test_progress(
    folder: Path,
    missing: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.save("x.npy", normal(20, 3))
    for name in (*missing, *(f"{name}.{part}" for name in missing for part in ("progress",))):
        monkeypatch.setitem(sys.modules, name, None)
    status = evaluate("x.npy", "-o", "o.npy", "--progress")
    said = capsys.readouterr()
    if len(missing) == 2:
        assert status == 2
        assert said.err == (
            "hessarray eval: --progress needs tqdm or rich: pip install 'hessarray[cli]'\n"
        )
        assert left_over(folder) == []
    else:
        assert status == 0
        assert "100%" in said.err
        assert said.out == ""


# ---- what is refused -----------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence of a command that fails."""
    capsys.readouterr()
    assert evaluate(*arguments) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith("hessarray eval: ")
    return said.err.removeprefix("hessarray eval: ").rstrip()


def test_nothing_is_replaced_without_force(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("x.npy", normal(2, 3))
    Path("o.npy").write_text("mine")
    assert refused(capsys, "x.npy", "-o", "o.npy") == "o.npy exists: pass --force to replace it"
    assert Path("o.npy").read_text() == "mine"
    assert evaluate("x.npy", "-o", "o.npy", "--force") == 0
    assert np.load("o.npy").shape == (2, 2)
    for name in ("x.npy", "net.npz"):
        sentence = f"{name} is what is read: give the output another name"
        assert refused(capsys, "x.npy", "-o", name, "--force") == sentence


def test_bad_samples(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("wide.npy", normal(5, 4))
    np.save("complex.npy", np.zeros((5, 3), complex))
    np.save("half.npy", np.zeros((5, 3), "float16"))
    np.save("objects.npy", np.array([[1, "a", None]], object), allow_pickle=True)
    np.save("whole.npy", normal(50, 3))
    data = Path("whole.npy").read_bytes()
    Path("short.npy").write_bytes(data[:-100])
    Path("noise.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': oops}\n")
    Path("text.npy").write_text("1,2,3\n")
    Path("x.txt").write_text("1 2 3\n")
    Path("bad.csv").write_text("1,2,3\n4,five,6\n")
    Path("first.csv").write_text("one,2,3\n4,5,6\n")
    Path("ragged.csv").write_text("1,2,3\n4,5\n")
    Path("binary.csv").write_bytes(b"\xff\xfe\x00\x01" * 10)
    Path("no.npz").write_bytes(b"PK\x03\x04 but not really")
    np.savez("empty.npz")
    for name, sentence in {
        "wide.npy": "wide.npy has shape (5, 4), (..., 3) is expected",
        "complex.npy": "complex.npy has dtype complex128, float32 or float64 is expected",
        "half.npy": "half.npy has dtype float16: convert it to float32 or float64",
        "objects.npy": "objects.npy holds Python objects, not numbers",
        "short.npy": "short.npy is truncated: 100 bytes are missing",
        "noise.npy": "noise.npy: not a readable npy file (",
        "text.npy": "text.npy: not a readable npy file (",
        "x.txt": "x.txt: samples of type '.txt': supported are .npy, .npz and .csv",
        "bad.csv": "bad.csv: line 2: 'five' is no number",
        "first.csv": "first.csv: line 1: 'one' is no number",
        "ragged.csv": "ragged.csv: line 2 has 2 columns, expected 3",
        "binary.csv": "binary.csv: not a text file (",
        "no.npz": "no.npz: not a readable npz file (",
        "empty.npz": "empty.npz: the file holds no arrays",
        "none.npy": "none.npy: no such file",
    }.items():
        assert refused(capsys, name, "-o", "o.npy").startswith(sentence)
        assert not Path("o.npy").exists()
        assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_a_header_that_promises_too_much_takes_no_memory(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("x.npy", "wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**14, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"\0" * 240)
    assert refused(capsys, "x.npy", "-o", "o.npy").startswith("x.npy is truncated")
    with zipfile.ZipFile("x.npz", "w") as archive:
        archive.write("x.npy")
    assert refused(capsys, "x.npz", "-o", "o.npy").startswith("x.npz: x is truncated")
    assert left_over(folder) == ["x.npz"]


def test_bad_options(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", normal(5, 3))
    np.savez("two.npz", a=normal(5, 3), b=normal(5, 3))
    np.save("lam.npy", normal(2, 2))
    for arguments, sentence in (
        (
            ("x.npy", "--value", "--hessian", "-o", "o.npy"),
            "o.npy: 2 arrays do not fit into one .npy",
        ),
        (("x.npy", "-o", "o.txt"), "o.txt: results of type '.txt': supported are .npy, .npz"),
        (("two.npz",), "X holds 2 arrays, which do not fit into one table: -o OUT.npz"),
        (("two.npz", "-o", "o.npy"), "o.npy: 2 arrays do not fit into one .npy file: choose o"),
        (("x.npy", "--weights", "1,2,3"), "--weights 1,2,3: expected 2 numbers, one for each"),
        (("x.npy", "--weights", "1,b"), "--weights 1,b: expected 2 numbers with commas, or a"),
        (("x.npy", "--weights", "lam.npy"), "--weights lam.npy: expected 2 numbers, one for each"),
        (("x.npy", "-o", "no/o.npy"), "there is no folder no to write o.npy into"),
        (
            ("x.npy", "--memory-limit", "10B", "--hessian"),
            "--memory-limit of 10 bytes is too little: hessian of one sample would take",
        ),
        (("x.npy", "--device", "cuda"), "numpy has no device 'cuda'"),
        (("x.npy", "--load", "colour=1"), "hessarray.load takes no 'colour': known are act, "),
    ):
        assert refused(capsys, *arguments).startswith(sentence)
    for arguments, sentence in (
        (("x.npy", "--memory-limit", "much"), "'much' is no number of bytes such as 500MB or 2GiB"),
        (("x.npy", "--backend", "trch"), "backend 'trch' is unknown: did you mean torch"),
        (("x.npy", "--dtype", "float16"), "invalid choice: 'float16'"),
        (("x.npy", "--load", "colour"), "'colour' is not of the form NAME=VALUE"),
        ((), "the following arguments are required: X"),
    ):
        with pytest.raises(SystemExit, match="2"):
            evaluate(*arguments)
        assert sentence in capsys.readouterr().err


# ---- interrupts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["o.npy", "o.npz", "o.csv"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(folder: Path, output: str, number: Any) -> None:
    ha.fully_connected([3, 64, 64, 2], act="tanh", seed=0).save("net.npz")
    np.save("x.npy", np.zeros((3_000_000, 3)))
    command = [sys.executable, "-m", "hessarray", "eval", "net.npz", "x.npy", "--hessian"]
    process = subprocess.Popen(
        [*command, "-o", output, "--threads", "1", "--memory-limit", "10MB"],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not any(p.name.startswith(f".{output}") for p in folder.rglob("*")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "hessarray eval: interrupted"
    assert left_over(folder) == []


def test_a_reader_that_has_seen_enough(folder: Path) -> None:
    np.save("x.npy", np.zeros((200_000, 3)))
    done = subprocess.run(
        f"{sys.executable} -m hessarray eval net.npz x.npy | head -n 1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert done.stdout == "value_0,value_1\n"
    assert done.stderr == ""
