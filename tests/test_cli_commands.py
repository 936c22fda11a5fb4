"""The command line apart from `eval` and `bench`: what each command says, and its exit status."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hessarray as ha
from hessarray.cli import COMMANDS, main
from hessarray.commands._table import show_table


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a smooth network, one with a kink, and weights alone."""
    ha.fully_connected([3, 8, 2], act="tanh", seed=0).save(tmp_path / "net.npz")
    inner = ha.Network(ha.Dense(8, 2, act="gelu"))
    ha.Network(ha.Dense(3, 8, act="relu"), inner, seed=0).save(tmp_path / "kink.safetensors")
    weights = {"K0": np.ones((3, 4)), "b0": np.ones(4), "K1": np.ones((4, 1)), "b1": np.ones(1)}
    np.savez(tmp_path / "pairs.npz", **weights)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return tmp_path


def run(*arguments: object) -> int:
    return main(list(map(str, arguments)))


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence of a command that fails."""
    capsys.readouterr()
    assert run(*arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said.err
    head = f"hessarray {arguments[0]}: "
    assert said.err.startswith(head)
    return said.err.removeprefix(head).rstrip()


# ---- info ----------------------------------------------------------------------------------------


def test_info(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", "net.npz") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"net.npz  ({Path('net.npz').stat().st_size:,} bytes)",
        "input       (..., 3)",
        "output      (..., 2)",
        "parameters  50 of float64, 400 bytes",
        "layer  kind   in  out  activation  parameters",
        "0      Dense   3    8  tanh                32",
        "1      Dense   8    2  tanh                18",
        "kinks       none",
    ]


def test_info_names_kinks_and_layers_inside(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("info", "kink.safetensors") == 0
    said = capsys.readouterr().out
    assert re.search(r"^1\.0 +Dense +8 +2 +gelu +18$", said, re.M)
    assert re.search(r"^kinks .*relu$", said, re.M)
    assert "hessarray.kinks(net, x)" in said


def test_info_of_a_function(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {f"[b]w{i}": np.ones((2, 3)) for i in range(300)}
    f = ha.Function(lambda x, y, p: p["[b]w0"] @ x + abs(y), ((3,), (2,)), params)
    f.output_names = ("lift", "drag")
    monkeypatch.setattr(ha, "load", lambda path: f)
    assert run("info", "net.npz") == 0
    said = capsys.readouterr().out
    assert "input       (..., 3), (..., 2)" in said
    assert "output      (..., 2)  lift, drag" in said
    assert "parameters  1,800 of float64, 14,400 bytes" in said
    assert re.search(r"^\[b\]w0 +\(2, 3\) +6$", said, re.M)
    assert "... and 100 more" in said
    assert "kinks       abs" in said


# ---- check ---------------------------------------------------------------------------------------


def test_check_passes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "net.npz") == 0
    said = capsys.readouterr().out
    for part in ("at 20 samples", "Gradient PASSED!", "Hessian PASSED!", "trace", "all passed"):
        assert part in said
    assert " x 2^(" not in said
    x = np.random.default_rng(0).normal(size=(50, 3)).astype("float32")
    np.save("x.npy", x)
    assert run("check", "net.npz", "x.npy", "--samples", 7, "--table") == 0
    said = capsys.readouterr().out
    assert "at 7 samples: x.npy" in said
    assert " x 2^(" in said


def test_check_fails(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ha.Function.hessian

    def wrong(self: Any, *x: Any, **options: Any) -> Any:
        return 1.01 * right(self, *x, **options)

    monkeypatch.setattr(ha.Function, "hessian", wrong)
    assert run("check", "net.npz") == 1
    said = capsys.readouterr()
    assert "Gradient PASSED!" in said.out
    assert "Hessian FAILED." in said.out
    assert said.out.endswith("\nFAILED\n")
    assert said.err == ""


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--seed", -1, "'-1' is no whole number from 0 on"),
        ("--step", "nan", "'nan' is no positive number"),
        ("--step", "-1", "'-1' is no positive number"),
        ("--step", "far", "'far' is no positive number"),
        ("--samples", 0, "'0' is no positive integer"),
    ],
)
def test_check_refuses_options_as_wrong_input(
    folder: Path, capsys: pytest.CaptureFixture[str], option: str, value: Any, sentence: str
) -> None:
    """Status 2: 1 would say that the derivatives are wrong."""
    with pytest.raises(SystemExit, match="2"):
        run("check", "net.npz", option, value)
    assert sentence in capsys.readouterr().err


def test_a_closed_standard_output_is_a_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert run("info", "net.npz") == 2
    assert capsys.readouterr().err == "hessarray info: standard output is closed\n"


def test_check_of_several_inputs(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    f = ha.Function(lambda x, y: x * x * y[0], ((2,), (3,)))
    monkeypatch.setattr(ha, "load", lambda path: f)
    assert run("check", "net.npz") == 0
    assert "all passed" in capsys.readouterr().out


# ---- plan, export, demo --------------------------------------------------------------------------


def test_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "net.npz", "-n", 7, "--want", "laplacian", "--mode", "forward") == 0
    said = capsys.readouterr().out
    net = ha.load("net.npz")
    assert said == f"{net.plan(7, 'laplacian', forward_mode=True)}\n"
    assert "n = 7" in said
    assert run("plan", "net.npz", "--source") == 0
    said = capsys.readouterr().out
    assert "def run(xp, b, n, x, v):" in said


def test_export(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", "net.npz", "out.py", "--want", "hessian,laplacian") == 0
    assert capsys.readouterr().out == "out.py\nout_weights.npz\n"
    spec = importlib.util.spec_from_file_location("out", folder / "out.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    x = np.random.default_rng(0).normal(size=(10, 3))
    net = ha.load("net.npz")
    np.testing.assert_allclose(module.hessian(x), net.hessian(x), atol=1e-14)
    assert module.__all__ == ["hessian", "laplacian"]
    said = refused(capsys, "export", "net.npz", "out.py")
    assert said == "out.py exists: pass --force to replace it"
    assert run("export", "net.npz", "out.py", "--force", "--weights", "inside") == 0
    said = refused(capsys, "export", "net.npz", "no/out.py")
    assert said == "there is no folder no to write out.py into"
    said = refused(capsys, "export", "net.npz", "other.txt")
    assert said == "other.txt is no name of a module: let it end in .py"


def test_an_export_never_replaces_its_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("net.npz").rename("net_weights.npz")
    said = refused(capsys, "export", "net_weights.npz", "net.py", "--force")
    assert said == "net_weights.npz is what is read: give the output another name"


@pytest.mark.parametrize("neuralfoil", [True, False])
def test_demo(
    neuralfoil: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    if not neuralfoil:
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda k, *a: None if k == "neuralfoil" else find(k, *a)
        )
    elif find("neuralfoil") is None:
        pytest.skip("neuralfoil: not installed, so its network is not shown")
    assert run("demo", "-n", 20) == 0
    said = capsys.readouterr().out
    assert ("The network of NeuralFoil" in said) is neuralfoil
    assert ("pip install --no-deps neuralfoil" in said) is not neuralfoil
    assert "Taylor test of gradient and Hessian: passed" in said


# ---- the model -----------------------------------------------------------------------------------


def test_how_to_read_the_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", "pairs.npz", "--act", "tanh", "--final-act", "sigmoid") == 0
    said = capsys.readouterr().out
    assert "tanh" in said
    assert "sigmoid" in said
    assert run("info", "pairs.npz", "--load", "act=silu", "--load", "max_bytes=1000") == 0
    assert "silu" in capsys.readouterr().out
    for arguments, sentence in (
        (("pairs.npz", "--act", "tahn"), "tanh"),
        (("pairs.npz",), "say which activation follows its dense layers, --act tanh"),
        (("pairs.npz", "--act", "tanh", "--load", "max_bytes=10"), "max_bytes is 10"),
        (("none.npz",), "none.npz: no such file"),
        (("net.npz", "--load", "colour=1"), "hessarray.load takes no 'colour': known are act"),
        (("net.npz", "--architecture", "none.npz"), "none.npz: no such file"),
        (("net.npz", "--outputs", "y"), "hessarray.load takes no 'outputs': known are act"),
        (("net.onnx", "--act", "tanh"), "hessarray.from_onnx takes no 'act': known are "),
    ):
        assert sentence in refused(capsys, "info", *arguments)


def test_an_architecture_from_another_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arch = ha.Network(ha.Dense(3, 4, act="silu"), ha.Dense(4, 4, act="gelu"), ha.Dense(4, 1))
    arch.save("arch.npz")
    tensors = {f"{i}.{k}": v for i in range(3) for k, v in arch[i].parameters().items()}
    np.savez("bare.npz", **{k: v + 1.0 for k, v in tensors.items()})
    assert run("info", "bare.npz", "--architecture", "arch.npz") == 0
    said = capsys.readouterr().out
    assert "silu" in said
    assert "gelu" in said


def test_an_onnx_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx")
    h = onnx.helper
    nodes = [
        h.make_node("MatMul", ["x", "K"], ["z"]),
        h.make_node("Tanh", ["z"], ["y"]),
        h.make_node("Exp", ["y"], ["e"]),
    ]
    x, y, e = (h.make_tensor_value_info(k, 1, ["n", d]) for k, d in (("x", 3), ("y", 2), ("e", 2)))
    K = onnx.numpy_helper.from_array(np.ones((3, 2), "float32"), "K")
    graph = h.make_graph(nodes, "g", [x], [y, e], [K])
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.save(model, "net.onnx")
    assert run("info", "net.onnx") == 0
    said = capsys.readouterr().out
    assert "output      (..., 4)" in said
    assert "operators   1 MatMul, 1 Tanh, 1 Exp\n" in said
    assert run("info", "net.onnx", "--outputs", "e") == 0
    assert "output      (..., 2)  e" in capsys.readouterr().out
    assert run("check", "net.onnx") == 0
    np.save("x.npy", np.zeros((5, 3)))
    assert run("eval", "net.onnx", "x.npy", "--hessian", "-o", "h.npy") == 0
    assert np.load("h.npy").shape == (5, 3, 3, 4)


def test_a_file_without_an_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path("net.npz").read_bytes()
    Path("net.npz").write_bytes(data[: len(data) // 2])
    assert refused(capsys, "info", "net.npz").startswith("net.npz: not a readable npz file")


def test_a_folder_is_no_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("dir.npz").mkdir()
    assert refused(capsys, "info", "dir.npz") == "dir.npz: no such file"


# ---- the frame -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run(name, "--help")
    said = capsys.readouterr().out
    assert said.startswith(f"usage: hessarray {name} ")
    assert COMMANDS[name].HELP.split()[0] in said


def test_python_m_hessarray(folder: Path) -> None:
    for arguments, status, text in (
        (["--version"], 0, ha.__version__),
        (["info", "net.npz"], 0, "tanh"),
        (["info", "none.npz"], 2, "hessarray info: none.npz: no such file\n"),
        ([], 2, "{info,eval,check,plan,bench,export,demo}"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "hessarray", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == status
        assert text in (done.stderr if status else done.stdout)
        assert "Traceback" not in done.stderr


def test_warnings_are_sentences(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ha.load

    def load(path: Any) -> Any:
        warnings.warn("mind the gap", stacklevel=2)
        return read(path)

    monkeypatch.setattr(ha, "load", load)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert run("info", "net.npz") == 0
    assert capsys.readouterr().err == "hessarray info: warning: mind the gap\n"


def test_other_errors_are_sentences(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: BaseException) -> None:
        def load(path: Any) -> Any:
            raise error

        monkeypatch.setattr(ha, "load", load)

    fail(MemoryError())
    assert refused(capsys, "info", "net.npz") == "MemoryError"
    fail(ImportError("reading .onnx needs onnx: pip install 'hessarray[onnx]'"))
    assert refused(capsys, "info", "net.npz").startswith("reading .onnx needs onnx: pip install")
    fail(ValueError("no luck"))
    assert refused(capsys, "info", "net.npz") == "net.npz: no luck"
    fail(KeyboardInterrupt())
    assert run("info", "net.npz") == 130
    assert capsys.readouterr().err == "hessarray info: interrupted\n"


# ---- tables --------------------------------------------------------------------------------------

ROWS = [("a [red]name[/red]", 5, "x"), ("b", 12345, "")]


def test_a_table_in_a_pipe_is_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(["name", "number", "note"], ROWS, "number")
    assert capsys.readouterr().out.splitlines() == [
        "name               number  note",
        "a [red]name[/red]       5  x",
        "b                   12345",
    ]


@pytest.mark.parametrize("rich", [True, False])
def test_a_table_in_a_terminal(
    rich: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    show_table(["name", "number", "note"], ROWS, "number")
    said = capsys.readouterr().out
    assert ("┃" in said) is rich
    assert "a [red]name[/red]" in said
    assert "12345" in said


def test_commands_need_neither_rich_nor_tqdm(folder: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('rich', 'tqdm', 'matplotlib', 'torch', 'jax', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "from hessarray.cli import main\n"
        "sys.exit(main(['info', 'net.npz']) or main(['check', 'net.npz']) or main(['demo']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "FORCE_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "Taylor test" in done.stdout
