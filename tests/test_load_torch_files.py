"""State dicts in .pt files and architectures to fill: equal to torch; hostile files refused."""

from __future__ import annotations

import io
import os
import pickle
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402
from compare import assert_close, normal  # noqa: E402
from torch import nn  # noqa: E402

import hessarray as ha  # noqa: E402
from hessarray.errors import LoadError  # noqa: E402


def mlp() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2)
    ).double()


def written(module: Any, path: Path) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(module.state_dict(), path)
    else:
        torch.save(module.state_dict(), path)
    return path


def values(module: Any, x: Any) -> Any:
    return module(torch.asarray(x)).detach().numpy()


X = normal(1, 6, 3)


# ---- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_dense_layers_with_an_activation(suffix: str, tmp_path: Path) -> None:
    net = ha.load(written(mlp(), tmp_path / f"m{suffix}"), act="tanh")
    assert repr(net) == "Network(Dense(3, 5), Dense(5, 5), Dense(5, 2))"
    assert_close(net.value(X), values(mlp(), X), 1e-14)
    assert_close(net.hessian(X), ha.from_torch(mlp()).hessian(X), 1e-14)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_an_architecture_is_filled(suffix: str, tmp_path: Path) -> None:
    class Skips(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)])

        def forward(self, x: Any) -> Any:
            u = torch.tanh(self.layers[0](x))
            return self.layers[2](u + 0.3 * torch.nn.functional.silu(self.layers[1](u)))

    module = Skips().double()
    template = ha.Network(
        ha.Dense(3, 5, "tanh"), ha.Network(ha.Residual(5, 0.3, "silu")), ha.Dense(5, 2), seed=0
    )
    before = template.parameter_vector()
    net = ha.load(written(module, tmp_path / f"m{suffix}"), architecture=template)
    assert_close(net.value(X), values(module, X), 1e-14)
    assert np.array_equal(template.parameter_vector(), before)
    net.save(tmp_path / "net.safetensors")
    again = ha.load(tmp_path / "net.safetensors")
    assert again.hessian(X).tobytes() == net.hessian(X).tobytes()


def test_more_than_ten_layers_are_in_order(tmp_path: Path) -> None:
    parts = [p for i in range(12) for p in (nn.Linear(3, 3), nn.Tanh())]
    module = nn.Sequential(*parts, nn.Linear(3, 1)).double()
    path = written(module, tmp_path / "m.safetensors")  # where 10 comes before 2
    template = ha.Network(*(ha.Dense(3, 3, "tanh") for _ in range(12)), ha.Dense(3, 1))
    for net in (ha.load(path, act="tanh"), ha.load(path, architecture=template)):
        assert_close(net.value(X), values(module, X), 1e-14)


def test_hessquik_state_dicts(tmp_path: Path) -> None:
    """With hessQuik's own names; the residual layer has its weights one level deeper."""
    pytest.importorskip("hessQuik")
    import hessQuik.activations as act
    import hessQuik.layers as lay
    import hessQuik.networks as networks

    module = networks.NN(
        lay.singleLayer(3, 4, act=act.tanhActivation()),
        lay.resnetLayer(4, h=0.5, act=act.softplusActivation()),
        lay.ICNNLayer(4, None, 2, act=act.softplusActivation()),
        lay.quadraticICNNLayer(4, 2, 3),
    ).double()
    template = ha.Network(
        ha.Dense(3, 4, "tanh"),
        ha.Residual(4, 0.5, "softplus"),
        ha.InputConvex(4, None, 2),
        ha.InputConvexQuadratic(4, 2, 3),
    )
    net = ha.load(written(module, tmp_path / "m.pt"), architecture=template)
    assert_close(net.value(X), module(torch.asarray(X))[0].detach().numpy(), 1e-9)


def test_names_of_hessarray(tmp_path: Path) -> None:
    net = ha.Network(ha.Dense(3, 4, "tanh"), ha.Quadratic(4, 2), seed=0)
    arrays = {k: np.array(v) for k, v in net.parameters().items()}
    np.savez(tmp_path / "m.npz", **arrays)  # type: ignore[arg-type]
    template = ha.Network(ha.Dense(3, 4, "tanh"), ha.Quadratic(4, 2), seed=1)
    got = ha.load(tmp_path / "m.npz", architecture=template)
    assert got.value(X).tobytes() == net.value(X).tobytes()


def test_shared_and_sliced_tensors(tmp_path: Path) -> None:
    """Tensors that are views of one storage, as tied weights are."""
    big = torch.asarray(normal(1, 10, 5))
    tensors = {"0.weight": big[:, :3], "0.bias": big[0].repeat(2)}
    torch.save(tensors | {"1.weight": big}, tmp_path / "m.pt")
    with pytest.raises(LoadError, match="takes 5 features, the layer before gives 10"):
        ha.load(tmp_path / "m.pt", act="tanh")
    torch.save(tensors | {"1.weight": big.T[:2]}, tmp_path / "m.pt")
    net = ha.load(tmp_path / "m.pt", act="tanh")
    assert np.array_equal(net[1].K, big[:, :2].numpy())
    assert np.array_equal(net[0].K, big[:, :3].numpy().T)


def test_float32_stays_float32_and_nan_is_a_number(tmp_path: Path) -> None:
    module = mlp().float()
    with torch.no_grad():
        module[0].weight[0, 0] = np.nan
    with pytest.warns(UserWarning, match=r"tensor '0\.weight' holds NaN or infinity"):
        net = ha.load(written(module, tmp_path / "m.pt"), act="tanh")
    assert {a.dtype.name for a in net.parameters().values()} == {"float32"}


def test_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(mlp(), tmp_path / "m.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(LoadError, match=r"^\.pt files need the extra: pip install 'hessarray\[tor"):
        ha.load(path, act="tanh")


# ---- what does not fit ---------------------------------------------------------------------------

DENSE = ha.Network(ha.Dense(3, 5, "tanh"), ha.Dense(5, 5, "tanh"), ha.Dense(5, 2))
MISFITS: dict[str, tuple[Any, dict[str, tuple[int, ...]], str]] = {
    "no network": ([1], {"0.weight": (5, 3)}, "architecture is a list, a Network is expected"),
    "fewer layers": (DENSE, {"0.weight": (5, 3)}, r"those of 1 layers \('0'\), the architecture "),
    "shapes": (
        ha.Network(ha.Dense(3, 5, bias=False)),
        {"0.weight": (3, 5)},
        r"tensor '0\.weight' has shape \(3, 5\), \(5, 3\) is expected for parameter '0\.K'",
    ),
    "no bias": (ha.Network(ha.Dense(3, 5)), {"0.weight": (5, 3)}, r"is the parameter '0\.b'"),
    "unknown tensor": (
        ha.Network(ha.Dense(3, 5)),
        {"0.weight": (5, 3), "0.bias": (5,), "0.running_mean": (5,)},
        r"tensor '0\.running_mean' is no parameter of layer '0', which has K, b",
    ),
    "no order": (
        ha.Network(ha.Dense(3, 5, bias=False), ha.Dense(5, 2, bias=False)),
        {"head.weight": (2, 5), "body.weight": (5, 3)},
        "the names 'head' and 'body' tell no order",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_misfits(name: str, tmp_path: Path) -> None:
    architecture, shapes, message = MISFITS[name]
    path = tmp_path / "m.pt"
    torch.save({k: torch.ones(s) for k, s in shapes.items()}, path)
    with pytest.raises(LoadError, match=message) as caught:
        ha.load(path, architecture=architecture)
    assert len(str(caught.value).splitlines()) == 1


# ---- hostile files -------------------------------------------------------------------------------


class Evil:
    """Runs a command where a pickle is read carelessly."""

    def __init__(self, call: Any, *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> Any:
        return self.call, self.args


def saved(value: Any) -> Callable[[Path], Any]:
    return lambda path: torch.save(value, path)


def changed(change: Callable[[dict[str, bytes]], Any], **options: Any) -> Callable[[Path], None]:
    """A good file whose members are changed."""

    def make(path: Path) -> None:
        buffer = io.BytesIO()
        torch.save(mlp().state_dict(), buffer)
        with zipfile.ZipFile(buffer) as archive:
            members = {k: archive.read(k) for k in archive.namelist()}
        change(members)
        with zipfile.ZipFile(path, "w", **options) as archive:
            for name, data in members.items():
                archive.writestr(name, data)

    return make


def root(members: dict[str, bytes]) -> str:
    return next(iter(members)).split("/")[0]


def pickled(edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def change(members: dict[str, bytes]) -> None:
        key = f"{root(members)}/data.pkl"
        members[key] = edit(members[key])

    return changed(change)


def script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


OWN = r"torch\.save\(module\.state_dict\(\), path\)$"
HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a system call": (
        saved({"0.weight": Evil(os.system, "touch pwned")}),
        f"the pickle asks for 'posix system', a state dict does not: .*{OWN}",
    ),
    "builtins": (saved({"x": Evil(eval, "1")}), "asks for '__?builtins?__ eval'|asks for"),
    "a module": (lambda path: torch.save(nn.Linear(2, 2), path), f"asks for 'torch.nn.*{OWN}"),
    "what torch would allow": (saved({"x": Evil(bytearray, 10**12)}), "asks for '.* bytearray'"),
    "a huge tensor by call": (
        saved({"x": Evil(torch.FloatTensor, 10**12)}),
        "asks for 'torch FloatTensor'",
    ),
    "a sparse tensor": (
        saved({"0.weight": torch.ones(3, 3).to_sparse()}),
        "asks for 'torch._utils _rebuild_sparse_tensor'",
    ),
    "a NumPy array": (saved({"x": np.ones(3)}), r"asks for 'numpy.*"),
    "stretched": (
        saved({"0.weight": torch.ones(1, 1).expand(1000, 1000)}),
        r"tensor '0\.weight' has fewer numbers than its shape promises",
    ),
    "a checkpoint": (
        saved({"model": mlp().state_dict(), "epoch": 3}),
        f"entry 'model' is a OrderedDict, a state dict holds tensors only: .*{OWN}",
    ),
    "a list": (saved([torch.ones(2)]), "holds a list, not a state dict"),
    "a tensor": (saved(torch.ones(2)), "holds a Tensor, not a state dict"),
    "numbered": (saved({1: torch.ones(2)}), "entry 1 is a Tensor, a state dict holds"),
    "half": (saved(mlp().half().state_dict()), r"tensor '0\.weight' has dtype float16, float32 or"),
    "integers": (saved({"0.weight": torch.ones(2, 2).long()}), "has dtype int64, float32 or flo"),
    "old format": (
        lambda path: torch.save(mlp().state_dict(), path, _use_new_zipfile_serialization=False),
        r"not a readable state dict \(File is not a zip file\)",
    ),
    "a plain pickle": (
        lambda path: path.write_bytes(pickle.dumps(Evil(os.system, "touch pwned"))),
        "not a readable state dict",
    ),
    "TorchScript": (script, "the members are compressed"),
    "empty": (lambda path: path.write_bytes(b""), "not a readable state dict"),
    "an empty archive": (changed(dict.clear), "not a state dict, but 0 pickles"),
    "compressed": (
        changed(lambda m: None, compression=zipfile.ZIP_DEFLATED),
        "the members are compressed, which torch.save does not do",
    ),
    "a path outside": (changed(lambda m: m.update({"../x": b""})), "'../x' points outside"),
    "a storage that is too short": (
        changed(lambda m: m.update({f"{root(m)}/data/0": b"12345678"})),
        "not a readable state dict|has fewer numbers",
    ),
    "no storage": (
        changed(lambda m: m.pop(f"{root(m)}/data/0")),
        "not a readable state dict",
    ),
    "half a pickle": (pickled(lambda data: data[:100]), "not a readable state dict"),
    "a newer opcode": (
        pickled(lambda data: data[:2] + b"\x8c\x05posix\x8c\x06system\x93" + data[2:]),
        "the pickle asks for 'STACK_GLOBAL'",
    ),
    "another pickle": (
        changed(lambda m: m.update({f"{root(m)}/x/data.pkl": b"."})),
        "not a state dict, but 2 pickles",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, message = HOSTILE[name]
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "m.pt")
    with pytest.raises(LoadError, match=f"^{tmp_path}/m.pt: .*({message})") as caught:
        ha.load(tmp_path / "m.pt", act="tanh")
    assert str(caught.value).isprintable()
    assert caught.value.__cause__ is None
    assert not (tmp_path / "pwned").exists()


def test_limits(tmp_path: Path) -> None:
    path = written(mlp(), tmp_path / "m.pt")
    with pytest.raises(LoadError, match="the tensors take 496 bytes, max_bytes is 495"):
        ha.load(path, act="tanh", max_bytes=495)
    assert ha.load(path, act="tanh", max_bytes=496).out_features == 2


def test_random_damage(tmp_path: Path) -> None:
    path = written(mlp(), tmp_path / "m.pt")
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    failed = 0
    for _ in range(200):
        out = bytearray(data)
        for i in rng.integers(len(out), size=rng.integers(1, 9)):
            out[i] = int(rng.integers(256))
        path.write_bytes(bytes(out[: len(out) - int(rng.integers(0, 2)) * int(rng.integers(3000))]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                ha.load(path, act="tanh", max_bytes=10**6)
            except LoadError as caught:
                text = str(caught)
                assert text.isprintable()
                failed += 1
    assert failed > 50
