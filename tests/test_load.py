"""Files: what is saved comes back bit for bit; pairs of weights and biases make networks."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

import hessarray as ha
from hessarray import activations
from hessarray.activations import activation, register_activation
from hessarray.errors import LoadError, UnknownActivationError

FORMATS = (".npz", ".safetensors")
ARCHITECTURE = "hessarray.architecture"


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


NETWORKS: dict[str, Callable[[], ha.Network]] = {
    "dense": lambda: ha.Network(ha.Dense(3, 4, act="tanh"), ha.Dense(4, 2), seed=1),
    "residual": lambda: ha.Network(ha.Residual(3, h=0.1, act="antitanh"), seed=2),
    "convex": lambda: ha.icnn(3, [4, 5], seed=3),
    "quadratic": lambda: ha.Network(ha.Dense(3, 4, act="silu"), ha.Quadratic(4, 2), seed=4),
    "convex quadratic": lambda: ha.Network(
        ha.InputConvex(3, None, 4), ha.InputConvexQuadratic(3, 4, 2), seed=5
    ),
    "convex quadratic of x alone": lambda: ha.Network(ha.InputConvexQuadratic(3, None, 2), seed=6),
    "rank 0": lambda: ha.Network(ha.Quadratic(3, 0), seed=7),
    "NumPy's integers": lambda: ha.Network(
        ha.InputConvex(np.int64(3), None, np.int32(2)),  # type: ignore[arg-type]
        ha.InputConvexQuadratic(np.int64(3), np.int64(2), np.int64(2)),  # type: ignore[arg-type]
        seed=8,
    ),
    "no bias": lambda: ha.Network(
        ha.Dense(3, 4, "tanh", bias=False),
        ha.Residual(4, 0.5, "tanh", bias=False),
        ha.InputConvex(4, None, 2, bias=False),
        seed=9,
    ),
    "nested": lambda: ha.Network(
        ha.Network(ha.Dense(3, 4, act="tanh"), ha.Network(ha.Residual(4, act="gelu"))),
        ha.Dense(4, 2),
        ha.Network(ha.Quadratic(2, 1)),
        seed=10,
    ),
    "float32": lambda: ha.Network(
        ha.Dense(3, 4, act="tanh"), ha.Quadratic(4, 2), seed=11, dtype="float32"
    ),
}
ACTIVATIONS = {
    **{name: name for name in activations.ACTIVATIONS},
    "softplus(2, 15)": activation("softplus", beta=2.0, threshold=15.0),
    "softplus(0.1)": activation("softplus", beta=0.1),
    "leaky_relu(0.2)": activation("leaky_relu", negative_slope=0.2),
    "elu(1/3)": activation("elu", alpha=1 / 3),
    "celu(0.7)": activation("celu", alpha=0.7),
    "gelu(tanh)": activation("gelu", approximate="tanh"),
    "hardtanh(-0.1, inf)": activation("hardtanh", min_val=-0.1, max_val=np.inf),
}


def assert_same(got: Any, want: Any) -> None:
    """Names, bits and dtypes of the parameters, and bits of every result."""
    a, b = got.parameters(), want.parameters()
    assert list(a) == list(b)
    for k in b:
        assert (a[k].dtype, a[k].shape, a[k].tobytes()) == (b[k].dtype, b[k].shape, b[k].tobytes())
    x = normal(5, want.in_features)
    for u in (x, x.astype("float32")):
        f, g = (net(u, do_gradient=True, do_Hessian=True) for net in (got, want))
        for left, right in zip(f, g, strict=True):
            assert left.dtype == right.dtype
            assert left.tobytes() == right.tobytes()


@pytest.fixture
def registry() -> Iterator[None]:
    """Names that a test registers are forgotten after it."""
    tables = [getattr(activations, k) for k in ("ACTIVATIONS", "MAKERS", "_KEYS", "_generations")]
    before = [dict(table) for table in tables]
    yield
    for table, old in zip(tables, before, strict=True):
        table.clear()
        table.update(old)


# ---- there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", NETWORKS)
def test_round_trip_is_exact(name: str, suffix: str, tmp_path: Path) -> None:
    net = NETWORKS[name]()
    net.save(tmp_path / f"net{suffix}")
    got = ha.load(tmp_path / f"net{suffix}")
    assert repr(got) == repr(net)
    assert_same(got, net)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations_come_back(act: str, tmp_path: Path) -> None:
    net = ha.Network(ha.Dense(3, 4, act=ACTIVATIONS[act]), seed=1)
    net.save(tmp_path / "net.npz")
    got = ha.load(tmp_path / "net.npz")
    assert got[0].act == net[0].act
    assert_same(got, net)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("suffix", FORMATS)
def test_registered_activations_come_back(suffix: str, tmp_path: Path) -> None:
    register_activation("cube", lambda x: x * x * x)
    register_activation("half square", lambda x: 0.5 * x * x, lambda x: x, 1.0)
    net = ha.Network(ha.Dense(3, 4, act="cube"), ha.Dense(4, 2, act="half square"), seed=1)
    path = tmp_path / f"net{suffix}"
    net.save(path)
    assert_same(ha.load(path), net)
    register_activation("half square", lambda x: x, 1.0, 0.0)
    with pytest.raises(LoadError, match="layer 1 has an activation that is a plain function"):
        net.save(path)  # what it had is no longer what the name says


@pytest.mark.usefixtures("registry")
def test_registered_activation_unknown_to_the_reader(tmp_path: Path) -> None:
    register_activation("cube", lambda x: x * x * x)
    ha.Network(ha.Dense(3, 4, act="cube"), seed=1).save(tmp_path / "net.npz")
    del activations.ACTIVATIONS["cube"], activations._KEYS["cube"]
    with pytest.raises(LoadError, match=r"net\.npz: layer 0 \(Dense\): no activation .*'cube'"):
        ha.load(tmp_path / "net.npz")


@pytest.mark.backends("torch", "jax", "strict", "strict-device2", "cupy", "torch-cuda", "jax-cuda")
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pinned_networks(backend: Any, suffix: str, dtype: str, tmp_path: Path) -> None:
    net = NETWORKS["nested"]()
    net.to("numpy", dtype=dtype)
    want = {k: np.array(v) for k, v in net.parameters().items()}
    library = backend.name.split("-")[0].replace("strict", "array_api_strict")
    net.to(library, device=backend.device)
    if library == "torch":
        assert all(a.requires_grad for a in net.parameters().values())
    net.save(tmp_path / f"net{suffix}")
    got = ha.load(tmp_path / f"net{suffix}").parameters()
    assert list(got) == list(want)
    for k in want:
        assert got[k].dtype == want[k].dtype == np.dtype(dtype)
        assert got[k].tobytes() == want[k].tobytes()


@pytest.mark.parametrize("suffix", FORMATS)
def test_parameters_of_a_function(suffix: str, tmp_path: Path) -> None:
    # Some names that numpy.savez would take for its own arguments, and a scalar.
    params = {
        **{k: normal(3, seed=i) for i, k in enumerate(("file", "allow_pickle", "a/b", "arr_0"))},
        "scale": np.asarray(2.0),
        "single": normal(2, 2).astype("float32"),
    }
    f = ha.Function(lambda x, p: p["scale"] * (x @ p["file"]) * (p["single"] @ x[:2]), (3,), params)
    path = tmp_path / f"f{suffix}"
    f.save(path)
    saved = dict(np.load(path)) if suffix == ".npz" else safetensors.numpy.load_file(path)
    assert set(saved) == set(params)
    x = normal(4, 3)
    want = f.hessian(x)
    f.load_parameters({k: np.zeros_like(v) for k, v in params.items()})
    assert not f.hessian(x).any()
    f.load_parameters(saved)
    assert f.hessian(x).tobytes() == want.tobytes()
    for k, v in params.items():
        assert (saved[k].shape, saved[k].dtype) == (v.shape, v.dtype)


def test_parameters_of_a_network_can_be_read_without_hessarray(tmp_path: Path) -> None:
    net = NETWORKS["dense"]()
    net.save(tmp_path / "net.npz")
    with np.load(tmp_path / "net.npz", allow_pickle=False) as file:
        first = {"layer": "Dense", "in_features": 3, "out_features": 4}
        second = {"layer": "Dense", "in_features": 4, "out_features": 2}
        assert json.loads(str(file[ARCHITECTURE])) == [
            {**first, "act": ["tanh", []], "bias": True},
            {**second, "act": ["identity", []], "bias": True},
        ]
        assert np.array_equal(file["0.K"], net.parameters()["0.K"])


@pytest.mark.parametrize("suffix", FORMATS)
def test_equal_networks_make_equal_files(suffix: str, tmp_path: Path) -> None:
    for name in "ab":
        NETWORKS["nested"]().save(tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


# ---- what cannot be saved ------------------------------------------------------------------------


class Scale(ha.Layer):
    def __init__(self) -> None:
        super().__init__(3, 3)
        self.factor = np.ones(3)

    def __call__(self, u: Any) -> Any:
        return u * self.factor


class Dense(ha.Dense):
    """A class of the user's with the name of one of ours."""


class Doubled(ha.Network):
    def __call__(self, x: Any, **options: Any) -> Any:
        return super().__call__(2.0 * x, **options)


def with_extra_parameter() -> ha.Network:
    layer = ha.Dense(3, 3)
    layer.extra = np.ones(3)
    return ha.Network(layer)


def nested(depth: int) -> ha.Network:
    net = ha.Network(ha.Dense(2, 2))
    for _ in range(depth):
        net = ha.Network(net)
    return net


UNSAVABLE: dict[str, tuple[Callable[[], ha.Network], str]] = {
    "lambda": (
        lambda: ha.Network(ha.Dense(3, 3, act=lambda x: x * x)),
        r"layer 0 has an activation that is a plain function, .* register_activation",
    ),
    "lambda within": (
        lambda: ha.Network(ha.Dense(3, 3), ha.Network(ha.Residual(3, act=lambda x: x * x))),
        r"layer 1\.0 has an activation that is a plain function",
    ),
    "layer of the user's": (
        lambda: ha.Network(ha.Dense(2, 3), Scale()),
        r"layer 1 \(Scale\) is no layer of hessarray .* save net\.parameters\(\) with numpy",
    ),
    "same name": (lambda: ha.Network(Dense(3, 3)), r"layer 0 \(Dense\) is no layer of hessarray"),
    "network of the user's": (lambda: Doubled(ha.Dense(3, 3)), "Doubled computes by code of its"),
    "parameter of the user's": (with_extra_parameter, r"tensor '0\.extra' belongs to no layer"),
    "too deep": (lambda: nested(21), "nested more than 20 deep"),
    "step size": (lambda: ha.Network(ha.Residual(3, h=np.nan)), r"layer 0 \(Residual\) has h=nan"),
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", UNSAVABLE)
def test_what_cannot_be_saved(name: str, suffix: str, tmp_path: Path) -> None:
    make, message = UNSAVABLE[name]
    with pytest.raises(LoadError, match=message):
        make().save(tmp_path / f"net{suffix}")
    assert not list(tmp_path.iterdir())


def test_depth_that_can_be_saved(tmp_path: Path) -> None:
    net = nested(20)
    net.save(tmp_path / "net.npz")
    assert_same(ha.load(tmp_path / "net.npz"), net)


@pytest.mark.parametrize("name", ["net", "net.pickle", "net.h5", "net.npz.txt"])
def test_unknown_file_types(name: str, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"unknown file type '.*', supported are \.npz, \.safet"):
        NETWORKS["dense"]().save(tmp_path / name)
    with pytest.raises(LoadError, match=r"unknown file type '.*', supported are \.npz, \.safet"):
        ha.load(tmp_path / name)


@pytest.mark.parametrize("suffix", FORMATS)
def test_no_such_file(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="no such file"):
        ha.load(tmp_path / f"net{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(LoadError, match="no such file"):
        ha.load(tmp_path / f"folder{suffix}")


# ---- an interrupted write ------------------------------------------------------------------------


def _failing(*args: Any, **kwargs: Any) -> Any:
    raise OSError(28, "No space left on device")


def _interrupted(*args: Any, **kwargs: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("end", [_failing, _interrupted])
@pytest.mark.parametrize(
    ("suffix", "module", "function"),
    [
        (".npz", np.lib.format, "write_array"),
        (".npz", os, "fsync"),
        (".npz", os, "replace"),
        (".safetensors", safetensors.numpy, "save"),
        (".safetensors", os, "replace"),
    ],
)
def test_interrupted_write(
    suffix: str,
    module: Any,
    function: str,
    end: Any,
    existing: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / f"net{suffix}"
    if existing:
        NETWORKS["dense"]().save(path)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(module, function, end)
        with pytest.raises((OSError, KeyboardInterrupt)):
            NETWORKS["quadratic"]().save(path)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    NETWORKS["quadratic"]().save(path)
    assert_same(ha.load(path), NETWORKS["quadratic"]())


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
@pytest.mark.parametrize("suffix", FORMATS)
def test_file_mode_follows_the_umask(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    NETWORKS["dense"]().save(tmp_path / f"net{suffix}")
    modes = {p.stat().st_mode for p in tmp_path.iterdir()}
    assert len(modes) == 1


# ---- pairs ---------------------------------------------------------------------------------------


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    arrays = {k: np.asarray(a, order="C") for k, a in arrays.items()}
    if path.suffix == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
    else:
        safetensors.numpy.save_file(arrays, path)
    return path


def forward(x: np.ndarray, layers: list[tuple[np.ndarray, Any]]) -> np.ndarray:
    for i, (K, b) in enumerate(layers):
        x = x @ K if b is None else x @ K + b
        x = np.tanh(x) if i < len(layers) - 1 else x
    return x


WIDTHS = (3, 5, 4, 2)
CHAIN = [(normal(a, b, seed=a), normal(b, seed=b)) for a, b in itertools.pairwise(WIDTHS)]


def named(kernel: str, bias: str | None, numbers: tuple[Any, ...], turn: bool) -> dict[str, Any]:
    found = {}
    for (K, b), i in zip(CHAIN, numbers, strict=True):
        found[kernel.format(i)] = K.T if turn else K
        if bias is not None:
            found[bias.format(i)] = b
    return found


PAIRS = {
    "torch": named("net.{}.weight", "net.{}.bias", (0, 2, 4), True),
    "torch, ten layers later": named("net.{}.weight", "net.{}.bias", (2, 10, 12), True),
    "fc": named("fc{}.Weight", "fc{}.Bias", (1, 2, 3), True),
    "W0": named("W{}", "b{}", (0, 1, 2), False),
    "W9": named("W{}", "b{}", (9, 10, 11), False),
    "scikit-learn": named("coefs_{}", "intercepts_{}", (0, 1, 2), False),
    "Keras": named("dense{}/kernel", "dense{}/bias", ("", "_1", "_2"), False),
    "two numbers": named("block{}.W", "block{}.b", ("0.1", "0.2", "1.0"), False),
    "positional": named("arr_{}", None, (0, 1, 2), False),
    "torch without biases": named("{}.weight", None, (0, 2, 4), True),
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name: str, backwards: bool, suffix: str, tmp_path: Path) -> None:
    arrays = PAIRS[name]
    if backwards:
        arrays = dict(reversed(arrays.items()))
    net = ha.load(write(tmp_path / f"pairs{suffix}", arrays), act="tanh")
    biased = len(arrays) > 3
    layers = [(K, b if biased else None) for K, b in CHAIN]
    x = normal(6, 3, seed=7)
    np.testing.assert_allclose(net.value(x), forward(x, layers), rtol=1e-13, atol=1e-14)
    assert [layer.bias for layer in net] == [biased] * 3


def test_pairs_of_which_some_have_a_bias(tmp_path: Path) -> None:
    arrays = dict(PAIRS["torch"])
    del arrays["net.2.bias"]
    net = ha.load(write(tmp_path / "pairs.npz", arrays), act="tanh")
    x = normal(6, 3, seed=7)
    layers: list[Any] = [CHAIN[0], (CHAIN[1][0], None), CHAIN[2]]
    np.testing.assert_allclose(net.value(x), forward(x, layers), rtol=1e-13, atol=1e-14)


def test_pairs_final_activation_and_dtype(tmp_path: Path) -> None:
    arrays = {k: v.astype("float32") for k, v in PAIRS["W0"].items()}
    path = write(tmp_path / "pairs.npz", arrays)
    net = ha.load(path, act="silu", final_act=activation("softplus", beta=2.0))
    assert [layer.act for layer in net] == [
        activation("silu"),
        activation("silu"),
        activation("softplus", beta=2.0),
    ]
    assert {a.dtype.name for a in net.parameters().values()} == {"float32"}


def test_pairs_can_be_saved_with_their_architecture(tmp_path: Path) -> None:
    net = ha.load(write(tmp_path / "pairs.npz", PAIRS["torch"]), act="tanh")
    net.save(tmp_path / "net.safetensors")
    assert_same(ha.load(tmp_path / "net.safetensors"), net)


def changed(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    arrays = {**PAIRS["W0"], **changes}
    return {k: v for k, v in arrays.items() if v is not None}


NO_PAIRS: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "nothing": ({}, "there is no weight matrix"),
    "no matrix": ({"b0": normal(3)}, "there is no weight matrix"),
    "rank 3": (changed(W1=normal(2, 2, 2)), r"tensor 'W1' of shape \(2, 2, 2\) is no matrix"),
    "scalar": (changed(b1=np.asarray(1.0)), r"tensor 'b1' of shape \(\) is no matrix"),
    "empty matrix": (changed(W1=np.zeros((5, 0))), r"tensor 'W1' of shape \(5, 0\) is no matrix"),
    "widths": (changed(W1=normal(6, 4)), r"tensor 'W1' takes 6 features, the layer before gives 5"),
    "width of a bias": (changed(b1=normal(3)), r"tensor 'b1' has shape \(3,\), \(4,\) is expected"),
    "bias of nothing": (changed(b3=normal(3)), r"vector 'b3' is the bias of no weight matrix"),
    "no order": (
        {"hidden.weight": normal(3, 3), "input.weight": normal(3, 3)},
        r"names 'hidden.weight' and 'input.weight' tell no order",
    ),
    "one number twice": (
        {"a_1.b.weight": normal(3, 3), "a.1.b.weight": normal(3, 3)},
        r"names 'a.1.b.weight' and 'a.1.b.weight' tell no order",
    ),
    "two networks": (
        {"actor.0.weight": normal(3, 3), "critic.1.weight": normal(3, 3)},
        r"names 'actor.0.weight' and 'critic.1.weight' tell no order",
    ),
    "normalisation": (
        {**named("{}.weight", None, (0, 2, 4), True), "1.weight": np.ones(5)},
        r"vector '1.weight' is the bias of no weight matrix",
    ),
    "scale beside a matrix": (
        {"fc0.weight": normal(3, 3), "ln0.weight": np.ones(3)},
        r"vector 'ln0.weight' is the bias of no weight matrix",
    ),
    "normalisation with a bias": (
        {**named("{}.weight", "{}.bias", (0, 2, 4), True), "1.running_mean": np.ones(5)},
        r"names '0.bias' and '1.running_mean' tell no order",
    ),
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("name", NO_PAIRS)
def test_what_makes_no_pairs(name: str, suffix: str, tmp_path: Path) -> None:
    arrays, message = NO_PAIRS[name]
    path = write(tmp_path / f"pairs{suffix}", arrays)
    with pytest.raises(LoadError) as caught:
        ha.load(path, act="tanh")
    caught.match(message)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("suffix", FORMATS)
def test_pairs_need_an_activation(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"pairs{suffix}", PAIRS["W0"])
    with pytest.raises(LoadError, match=r"holds no architecture: say which activation .* act="):
        ha.load(path)
    with pytest.raises(UnknownActivationError, match="did you mean 'tanh'"):
        ha.load(path, act="tanhh")  # the caller's mistake, not the file's


def test_neuralfoil(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("neuralfoil")  # looked up, not imported: it wants AeroSandbox
    if spec is None or spec.origin is None:
        pytest.skip("the published weights are missing: pip install --no-deps neuralfoil")
    path = Path(spec.origin).parent / "nn_weights_and_biases" / "nn-large.npz"
    net = ha.load(path, act="silu")
    weights = np.load(path)
    x = normal(7, 25)
    u = x
    numbers = sorted({int(k.split(".")[1]) for k in weights.files})
    for i in numbers:
        W, b = (weights[f"net.{i}.{k}"].astype(np.float64) for k in ("weight", "bias"))
        u = u @ W.T + b
        u = u / (1.0 + np.exp(-u)) if i != numbers[-1] else u
    np.testing.assert_allclose(net.value(x), u, rtol=1e-12, atol=1e-12)
    assert net.out_features == 198
    net.save(tmp_path / "net.npz")
    assert_same(ha.load(tmp_path / "net.npz"), net)


# ---- foreign but honest --------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("descr", ["<f8", ">f8", "<f4", ">f4"])
def test_byte_order_and_layout(descr: str, order: Any, tmp_path: Path) -> None:
    arrays = {k: np.asarray(v, dtype=descr, order=order) for k, v in PAIRS["W0"].items()}
    np.savez_compressed(tmp_path / "pairs.npz", **arrays)  # type: ignore[arg-type]
    net = ha.load(tmp_path / "pairs.npz", act="tanh")
    for (K, b), layer in zip(CHAIN, net, strict=True):
        for got, want in ((layer.K, K), (layer.b, b)):
            assert got.dtype.isnative
            assert got.flags.c_contiguous
            assert got.tobytes() == want.astype(descr[1:]).tobytes()


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_named(bad: float, suffix: str, tmp_path: Path) -> None:
    net = NETWORKS["dense"]()
    arrays = {k: np.array(v) for k, v in net.parameters().items()}
    arrays["1.b"][0] = bad
    net.load_parameters(arrays)
    path = tmp_path / f"net{suffix}"
    net.save(path)
    with pytest.warns(UserWarning, match=rf"net{suffix}: tensor '1\.b' holds NaN or inf") as caught:
        got = ha.load(path)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert np.array_equal(got[1].b, arrays["1.b"], equal_nan=True)
    arrays["0.K"][0, 0] = bad
    write(path, {f"W{k[0]}" if k[2] == "K" else f"b{k[0]}": v for k, v in arrays.items()})
    with pytest.warns(UserWarning, match=r"tensor '\w0' \(and 1 more\) holds NaN or infinity"):
        ha.load(path, act="tanh")


def test_safetensors_holds_the_architecture_as_metadata(tmp_path: Path) -> None:
    NETWORKS["dense"]().save(tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", framework="np") as file:
        assert [e["layer"] for e in json.loads(file.metadata()[ARCHITECTURE])] == ["Dense"] * 2
        assert sorted(file.keys()) == ["0.K", "0.b", "1.K", "1.b"]


def test_npz_members_are_stored_and_plain(tmp_path: Path) -> None:
    NETWORKS["dense"]().save(tmp_path / "net.npz")
    with zipfile.ZipFile(tmp_path / "net.npz") as archive:
        names = [f"{k}.npy" for k in ("0.K", "0.b", "1.K", "1.b", ARCHITECTURE)]
        assert archive.namelist() == names
        assert archive.testzip() is None


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_parameters_of_a_function_come_back_into_it(tmp_path: Path, suffix: str) -> None:
    def make(a: float) -> ha.Function:
        params = {"a": np.array(a), "K": np.full((2, 2), a)}
        return ha.Function(lambda x, p: p["a"] * x[0] ** 2 + p["K"] @ x, (2,), params=params)

    trained, path, x = make(3.0), tmp_path / f"f.{suffix}", np.array([0.5, 2.0])
    trained.save(path)
    with pytest.raises(LoadError, match="which network or function its tensors fill, architecture"):
        ha.load(path)
    fresh = make(0.0)
    found = ha.load(path, architecture=fresh)
    np.testing.assert_array_equal(found.hessian(x), trained.hessian(x))
    np.testing.assert_array_equal(fresh.value(x), 0.0)
