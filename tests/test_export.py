"""Exported modules: no import of hessarray, the bits of its programs, files whole or absent."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hessarray as ha
from hessarray.errors import OptionError, OverwriteError
from hessarray.export.programs import FUNCTIONS, LIBRARIES

ALL = tuple(FUNCTIONS)


def normal(*shape: int, dtype: str = "float64", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def imported(path: Path) -> Any:
    spec = spec_from_file_location(f"exported_{path.stem}_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def elementary(x: Any) -> Any:
    """Every call that a program can hold: elementary functions, tests, sums, gathers, pads."""
    xp = x.__array_namespace__()
    y = 0.3 * xp.tanh(x) + 0.5
    smooth = [xp.exp(y), xp.expm1(y), xp.log(y), xp.log1p(y), xp.log2(y), xp.log10(y), xp.sqrt(y)]
    smooth += [xp.sin(y), xp.cos(y), xp.tan(y), xp.asin(y), xp.acos(y), xp.atan(y)]
    smooth += [xp.sinh(y), xp.cosh(y), xp.asinh(y), xp.acosh(y + 1.0), xp.atanh(y), y**1.7, 1.0 / y]
    bent = [xp.abs(x), xp.sign(x) * x, xp.maximum(x, y), xp.minimum(x, 0.2), xp.floor(y) * x]
    bent += [xp.where(xp.logical_or(x > 0.1, ~(y < 0.5)), x * y, y), xp.round(y) * x]
    bent += [xp.where(xp.logical_and(x >= 0.1, y != 0.5), x, y * y), xp.ceil(y) * xp.trunc(x)]
    rows = xp.stack([*smooth, *bent])
    twisted = xp.flip(rows, axis=1)[:, :2] * xp.sum(rows, axis=0)[1:3]
    taken = xp.take(rows, xp.asarray([3, 3, 0]), axis=0)
    return xp.concat([xp.reshape(twisted, (-1,)), xp.reshape(taken @ x, (-1,))])


def attention(x: Any, w: Any) -> Any:
    xp = x.__array_namespace__()
    scores = (x @ w["q"]) @ xp.matrix_transpose(x @ w["k"])
    e = xp.exp(scores - 2.0)
    return (e / xp.sum(e, axis=1, keepdims=True)) @ x


def two(x: Any, y: Any) -> Any:
    return (x @ x)[None] * y[0, 0] + y[:, 1] * x[0]


FUNCTIONS_TO_EXPORT: dict[str, Callable[[], ha.Function]] = {
    "tanh": lambda: ha.fully_connected([3, 16, 16, 2], act="tanh", seed=0),
    "gelu": lambda: ha.fully_connected([3, 8, 1], act="gelu", seed=1),
    "erf": lambda: ha.Network(ha.Dense(3, 4, act=elementary_erf), ha.Dense(4, 2), seed=1),
    "convex": lambda: ha.icnn(3, [8, 8], seed=2),
    "quadratic": lambda: ha.Network(ha.Dense(3, 5, act="silu"), ha.Quadratic(5, 2), seed=3),
    "float32": lambda: ha.fully_connected([3, 8, 2], act="antitanh", seed=4, dtype="float32"),
    "elementary": lambda: ha.Function(elementary, (3,)),
    "affine": lambda: ha.Network(ha.Dense(3, 2, act="identity"), seed=5),
    "identity": lambda: ha.Function(lambda x: x, (3,)),
    "constant": lambda: ha.Function(lambda x: x[:2] * 0.0 + 1.0, (3,)),
    "scalar output": lambda: ha.Function(lambda x: x @ x * x[0], (3,)),
    "matrices": lambda: ha.Function(
        attention, (3, 4), {"q": normal(4, 2), "k": normal(4, 2, seed=1)}
    ),
    "derived": lambda: ha.fully_connected([3, 8, 1], act="tanh", seed=6).gradient_function(),
}


def elementary_erf(x: Any) -> Any:
    from hessarray.graph.elementary import PRIMITIVES

    return PRIMITIVES["erf"](x) + 0.1 * PRIMITIVES["erfc"](x)


def calls(f: ha.Function, name: str, batch: tuple[int, ...], dtype: str) -> tuple[Any, ...]:
    """Arguments of one function of the module."""
    x = tuple(0.7 * normal(*batch, *s, dtype=dtype, seed=i) for i, s in enumerate(f.in_shapes))
    if FUNCTIONS[name].direction == "p":
        return (*x, *(normal(*s, dtype=dtype, seed=7) for s in f.in_shapes))
    if FUNCTIONS[name].direction == "lam":
        return (*x, normal(*f.out_shape, dtype=dtype, seed=8))
    return x


def flat(found: Any) -> list[Any]:
    """The arrays of a result, whatever their nesting."""
    return [a for part in found for a in flat(part)] if isinstance(found, tuple) else [found]


def assert_same_bits(ours: Any, theirs: Any) -> None:
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.tobytes() == b.tobytes()


def assert_close(ours: Any, theirs: Any, units: float) -> None:
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        scale = np.abs(b).max(initial=0.0) + 1.0
        np.testing.assert_allclose(a, b, rtol=0, atol=units * np.finfo(b.dtype).eps * scale)


# ---- the same numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS_TO_EXPORT)
def test_the_module_gives_the_bits_of_its_programs(name: str, tmp_path: Path) -> None:
    f = FUNCTIONS_TO_EXPORT[name]()
    weights = ("beside", "inside")[len(name) % 2]
    same = ha.export(f, tmp_path / "m.py", want=ALL, weights=weights)
    module = imported(tmp_path / "m.py")
    assert module.__all__ == sorted(ALL)
    for each in ALL:
        for batch in ((), (1,), (2, 3), (700,), (0,)):
            for dtype in ("float64", "float32"):
                x = calls(f, each, batch, dtype)
                ours = getattr(module, each)(*x)
                assert_same_bits(ours, tuple(flat(getattr(same, each)(*x))))
                assert_close(ours, tuple(flat(getattr(f, each)(*x))), 2000)


def test_several_inputs_come_in_blocks(tmp_path: Path) -> None:
    f = ha.Function(two, ((3,), (2, 2)))
    same = ha.export(f, tmp_path / "m.py", want=ALL)
    module = imported(tmp_path / "m.py")
    for each in set(ALL) - {"weighted_hessian"}:
        for batch in ((), (4,), (2, 3)):
            x = calls(f, each, batch, "float64")
            assert_same_bits(getattr(module, each)(*x), getattr(same, each)(*x))
    x = calls(f, "weighted_hessian", (4,), "float64")
    assert_close(module.weighted_hessian(*x), f.weighted_hessian(*x), 100)
    with pytest.raises(ValueError, match="the inputs differ in batch shape or dtype"):
        module.value(x[0], x[1][:2])


@pytest.mark.parametrize("each", ALL)
def test_chunks_and_layouts_change_nothing_but_memory(each: str, tmp_path: Path) -> None:
    f = ha.fully_connected([4, 32, 32, 2], act="tanh", seed=0)
    same = ha.export(f, tmp_path / "m.py", want=each, weights="inside")
    module = imported(tmp_path / "m.py")
    x, *more = calls(f, each, (1501,), "float64")
    expected = getattr(same, each)(x, *more)
    assert_same_bits(getattr(module, each)(x, *more), expected)
    for other in (np.asfortranarray(x), x[::-1][::-1], x.astype(">f8"), np.repeat(x, 2, 0)[::2]):
        assert_same_bits(getattr(module, each)(other, *more), expected)
    module.CHUNK_BYTES = 1000
    assert_close(getattr(module, each)(x, *more), expected, 200)
    results = flat(getattr(module, each)(x, *more))
    assert all(a.flags.c_contiguous and a.flags.writeable for a in results)
    assert not any(np.may_share_memory(a, x) for a in results)


def test_a_weight_or_direction_for_each_sample(tmp_path: Path) -> None:
    f = ha.fully_connected([3, 8, 2], act="tanh", seed=0)
    ha.export(f, tmp_path / "m.py", want=("hvp", "weighted_hessian"))
    module = imported(tmp_path / "m.py")
    x, p, lam = normal(100, 3), normal(100, 3, seed=1), normal(100, 2, seed=2)
    assert_close(module.hvp(x, p), f.hvp(x, p), 20)
    assert_close(module.weighted_hessian(x, lam), f.weighted_hessian(x, lam), 20)
    assert_close(module.weighted_hessian(x, [1, 2]), f.weighted_hessian(x, np.array([1.0, 2])), 20)


def test_memory_stays_bounded(tmp_path: Path) -> None:
    import tracemalloc

    f = ha.fully_connected([8, 64, 64, 1], act="softplus", seed=0)
    ha.export(f, tmp_path / "m.py", want="hessian")
    module = imported(tmp_path / "m.py")
    x = normal(5_000, 8)
    module.hessian(x[:1000])
    tracemalloc.start()
    found = module.hessian(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < found.nbytes + 3 * module.CHUNK_BYTES


def test_the_returned_function_keeps_the_weights_of_the_file(tmp_path: Path) -> None:
    f = ha.fully_connected([3, 8, 1], act="tanh", seed=0)
    same = ha.export(f, tmp_path / "m.py", want="value")
    f.initialize(np.random.default_rng(1))
    x = normal(10, 3)
    assert_same_bits(imported(tmp_path / "m.py").value(x), same.value(x))
    assert not np.allclose(f.value(x), same.value(x))
    assert_close(same.laplacian(x), imported_laplacian(same, x), 10)  # what was not exported


def imported_laplacian(f: ha.Function, x: Any) -> Any:
    return np.trace(f.hessian(x), axis1=-3, axis2=-2)[..., None, :]


# ---- other libraries -----------------------------------------------------------------------------


def test_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for name, make in FUNCTIONS_TO_EXPORT.items():
        f = make()
        same = ha.export(f, tmp_path / f"{name[:4]}.py", want=ALL, backend="torch", force=True)
        module = imported(tmp_path / f"{name[:4]}.py")
        for each in ALL:
            for batch, dtype in (((), "float64"), ((2, 3), "float32"), ((0,), "float64")):
                x = tuple(map(torch.tensor, calls(f, each, batch, dtype)))
                ours, theirs = getattr(module, each)(*x), getattr(same, each)(*x)
                for a, b in zip(flat(ours), flat(tuple(flat(theirs))), strict=True):
                    torch.testing.assert_close(a, b, equal_nan=True)


def test_torch_gradients_and_chunks(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    f = ha.fully_connected([3, 8, 1], act="gelu", seed=0)
    ha.export(f, tmp_path / "m.py", want=("value", "gradient"), backend="torch", weights="inside")
    module = imported(tmp_path / "m.py")
    x = torch.tensor(normal(100, 3), requires_grad=True)
    whole = module.gradient(x)
    module.CHUNK_BYTES = 1000
    torch.testing.assert_close(module.gradient(x), whole)
    (slopes,) = torch.autograd.grad(module.value(x).sum(), x)
    torch.testing.assert_close(slopes, whole[..., 0])
    with pytest.raises(TypeError, match=r"pass a tensor of torch\.float32 or torch.float64"):
        module.value(normal(3))
    with pytest.raises(ValueError, match=r"x has shape \(4,\), \(..., 3\) is expected"):
        module.value(torch.zeros(4))


def test_torch_is_planned_with_its_own_costs() -> None:
    pytest.importorskip("torch")
    from hessarray.backends.torch_backend import TorchBackend

    assert LIBRARIES["torch"] == TorchBackend.costs


@pytest.mark.backends("cupy")
def test_cupy(backend: Any, tmp_path: Path) -> None:
    for name in ("gelu", "elementary", "matrices"):
        f = FUNCTIONS_TO_EXPORT[name]()
        ha.export(f, tmp_path / f"{name}.py", want=ALL, backend="cupy")
        module = imported(tmp_path / f"{name}.py")
        for each in ALL:
            x = calls(f, each, (50,), "float64")
            ours = getattr(module, each)(*map(backend.asarray, x))
            found = tuple(backend.to_numpy(a) for a in flat(ours))
            assert_close(found, tuple(flat(getattr(f, each)(*x))), 1e5)


def test_cupy_says_cupy_only(tmp_path: Path) -> None:
    f = FUNCTIONS_TO_EXPORT["gelu"]()
    ha.export(f, tmp_path / "m.py", want=ALL, backend="cupy")
    text = (tmp_path / "m.py").read_text()
    ast.parse(text)
    assert "from cupyx.scipy import special" in text
    code = text[text.index("# ---- evaluation") :]
    assert not re.search(r"\bnp\.", code)


# ---- without hessarray ---------------------------------------------------------------------------

BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in allowed and name.split(".")[0] not in sys.stdlib_module_names:
            raise ImportError(f"{name} is not to be imported")
allowed = {"numpy", "model"}
sys.meta_path.insert(0, Blocker())
sys.path.insert(0, folder)
import model
import numpy as np
x = np.load(folder + "/x.npy")
np.savez(folder + "/found.npz", **{k: getattr(model, k)(x) for k in model.__all__ if k not in
         ("hvp", "weighted_hessian", "value_gradient_hessian")})
assert "hessarray" not in sys.modules
"""


@pytest.mark.parametrize("weights", ["beside", "inside"])
@pytest.mark.parametrize("name", ["tanh", "gelu"])
def test_in_an_interpreter_without_hessarray(name: str, weights: str, tmp_path: Path) -> None:
    f = FUNCTIONS_TO_EXPORT[name]()
    same = ha.export(f, tmp_path / "model.py", want=ALL, weights=weights)
    x = normal(2000, 3)
    np.save(tmp_path / "x.npy", x)
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    code = f"folder = {str(tmp_path)!r}\n{BLOCKED}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz") as found:
        assert len(found.files) == len(ALL) - 3
        for each in found.files:
            assert_same_bits(found[each], getattr(same, each)(x))
    if weights == "inside":
        assert [p.name for p in tmp_path.glob("*.npz")] == ["found.npz"]


def test_exporting_needs_no_library_but_numpy(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'cupy', 'cupyx', 'jax', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "import hessarray as ha\n"
        "net = ha.fully_connected([3, 8, 1], act='gelu')\n"
        "for name in ('numpy', 'cupy', 'torch'):\n"
        "    ha.export(net, f'{name}_model.py', backend=name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*_model.py"))) == 3


def test_the_text_says_where_it_comes_from(tmp_path: Path) -> None:
    f = ha.fully_connected([3, 8, 2], act="tanh", seed=0)
    ha.export(f, tmp_path / "a.py", want="hessian")
    ha.export(f, tmp_path / "b.py", want="hessian")
    text = (tmp_path / "a.py").read_text()
    assert text == (tmp_path / "b.py").read_text().replace("b_weights", "a_weights")
    doc = ast.get_docstring(ast.parse(text))
    assert doc is not None
    for part in (ha.__version__, "Dense(3, 8)", "tanh", "hessian", "(..., 3)", "a_weights.npz"):
        assert part in doc
    module = imported(tmp_path / "a.py")
    assert module.hessian.__doc__ == "d2f_m/dx_a dx_b: x (..., 3) gives (..., 3, 3, 2)."
    assert max(map(len, text.splitlines())) <= 100


# ---- what is refused -----------------------------------------------------------------------------


def test_bad_arrays_are_refused_in_one_sentence(tmp_path: Path) -> None:
    f = ha.fully_connected([3, 8, 2], act="tanh", seed=0)
    ha.export(f, tmp_path / "m.py", want=("value", "hvp", "weighted_hessian"))
    module = imported(tmp_path / "m.py")
    with pytest.raises(ValueError, match=r"^x has shape \(4,\), \(..., 3\) is expected$"):
        module.value(np.zeros(4))
    with pytest.raises(TypeError, match=r"^x has dtype complex128, float32 or float64"):
        module.value(np.zeros(3, complex))
    with pytest.raises(ValueError, match=r"^the direction has shape \(4,\), \(3,\) or \(5, 3\) fi"):
        module.hvp(np.zeros((5, 3)), np.zeros(4))
    with pytest.raises(TypeError, match=r"^the direction has dtype complex128, real numbers"):
        module.weighted_hessian(np.zeros(3), np.zeros(2, complex))
    assert_same_bits(module.value([1, 2, 3]), module.value(np.array([1.0, 2.0, 3.0])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"want": "hessain"}, "want='hessain' is no function .*: did you mean hessian"),
        ({"want": ()}, "want is empty: name some of value, gradient"),
        ({"backend": "jax"}, "backend='jax': expected one of numpy, cupy, torch"),
        ({"weights": "outside"}, "weights='outside': expected one of beside, inside"),
        ({"n": 0}, "n=0: expected a whole number, 1 or more"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        ha.export(ha.fully_connected([3, 1]), tmp_path / "m.py", **options)
    assert not any(tmp_path.iterdir())


def test_bad_paths_and_functions(tmp_path: Path) -> None:
    net = ha.fully_connected([3, 1])
    with pytest.raises(OptionError, match=r"m\.txt is no name of a module: let it end in \.py"):
        ha.export(net, tmp_path / "m.txt")
    with pytest.raises(OptionError, match="function is a function: pass a network"):
        ha.export(lambda x: x, tmp_path / "m.py")  # type: ignore[arg-type]
    with pytest.raises(OSError, match="No such file or directory"):
        ha.export(net, tmp_path / "no" / "m.py")


@pytest.mark.parametrize("taken", ["m.py", "m_weights.npz"])
def test_nothing_is_replaced_without_force(taken: str, tmp_path: Path) -> None:
    (tmp_path / taken).write_text("mine")
    with pytest.raises(OverwriteError, match=rf"{re.escape(taken)} exists: pass force=True"):
        ha.export(ha.fully_connected([3, 1]), tmp_path / "m.py")
    assert [p.name for p in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "mine"
    ha.export(ha.fully_connected([3, 1]), tmp_path / "m.py", force=True)
    assert imported(tmp_path / "m.py").value(np.zeros(3)).shape == (1,)


def test_an_interrupted_export_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["hessarray.load.npz"], "write_npz", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ha.export(ha.fully_connected([3, 1]), tmp_path / "m.py")
    assert not any(tmp_path.iterdir())


def test_names_of_parameters_are_only_text(tmp_path: Path) -> None:
    names = ['"""', "a'b", "x y, z " * 20, "\\n", "constant 0.5", "file", "__import__('os')"]
    params = {k: np.float64(i + 1.0) * np.ones(()) for i, k in enumerate(names)}
    f = ha.Function(lambda x, p: sum((p[k] for k in names), 0.5 * x[0]) * x, (2,), params)
    for weights in ("beside", "inside"):
        same = ha.export(f, tmp_path / f"{weights}.py", want="hessian", weights=weights)
        module = imported(tmp_path / f"{weights}.py")
        assert_same_bits(module.hessian(normal(3, 2)), same.hessian(normal(3, 2)))
