"""Keras models, in memory and in files: values and derivatives to Keras on JAX; or refused."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

os.environ["KERAS_BACKEND"] = "jax"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras
    from keras import layers as L
    from keras.src.backend.common import dtypes

# Keras computes much of a float64 model in float32, unless it runs on TensorFlow.
dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"

from compare import assert_close, jax_truth, normal  # noqa: E402, I001

import hessarray as ha  # noqa: E402
from hessarray.errors import LoadError  # noqa: E402
from hessarray.load.keras_activations import _NAMED, _OTHER  # noqa: E402
from hessarray.load.keras_layers import LAYERS, OPERATIONS  # noqa: E402


# Of Keras 3.15's own under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def precision(name: str) -> None:
    keras.config.set_floatx(name)
    keras.config.set_dtype_policy(name)


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    precision("float64")
    yield
    precision("float32")


# ---- models --------------------------------------------------------------------------------------


def chain(*layers: Any, shape: tuple[int, ...] = (4,)) -> Any:
    return keras.Sequential([keras.Input(shape), *layers])


def functional(build: Callable[[Any], Any], shape: tuple[int, ...] = (4,)) -> Any:
    x = keras.Input(shape)
    return keras.Model(x, build(x))


def branches(x: Any) -> Any:
    u = L.Dense(4, activation="gelu")(x)
    v = L.Dense(4, activation="tanh", name="own_name")(u)
    w = L.Dropout(0.3)(L.Add()([u, v]))
    return L.Dense(2)(L.Concatenate()([w, L.Subtract()([u, x]), L.Average()([u, v, x])]))


def shared(x: Any) -> Any:
    layer, model = L.Dense(4, activation="softplus"), chain(L.Dense(4), L.LeakyReLU(0.3))
    return L.Multiply()([model(layer(model(x))), layer(x)])


def arithmetic(x: Any) -> Any:
    ops = keras.ops
    y = ops.sin(x * 2.0 + 1.0) / (ops.square(x) + 2.0) - (3.0 - x) ** 2
    return ops.exp(-ops.abs(y)) + ops.sigmoid(y) * ops.log1p(ops.exp(x)) - ops.tanh(y)


def adapted() -> Any:
    layer = L.Normalization()
    layer.adapt(normal(7, 50, 4) * [1.0, 2.0, 3.0, 0.1] + 0.5)
    return chain(layer, L.Dense(3, activation="tanh"))


def every_operation(x: Any) -> Any:
    ops, p = keras.ops, keras.ops.square(x) + 0.5
    one = (
        ops.negative, ops.exp, ops.expm1, ops.square, ops.abs, ops.absolute, ops.sin, ops.cos,
        ops.tan, ops.tanh, ops.sinh, ops.cosh, ops.arctan, ops.erf, ops.relu, ops.sigmoid,
        ops.softplus, ops.silu,
    )  # fmt: skip
    two = (
        ops.add, ops.subtract, ops.multiply, ops.divide, ops.true_divide, ops.power, ops.maximum,
        ops.minimum, ops.arctan2,
    )  # fmt: skip
    parts = [f(x) for f in one] + [f(p, x) for f in two]
    parts += [f(p) for f in (ops.log, ops.log1p, ops.log10, ops.sqrt, ops.reciprocal)]
    square = ops.matmul(L.Reshape((2, 2))(x), L.Reshape((2, 2))(p))
    return L.Concatenate()([*parts, L.Flatten()(square)])


ACTIVATIONS = [*_NAMED, *_OTHER]
MODELS: dict[str, Callable[[], Any]] = {
    "branches": lambda: functional(branches),
    "shared": lambda: functional(shared),
    "arithmetic": lambda: functional(arithmetic),
    "every operation": lambda: functional(every_operation),
    "nested": lambda: chain(
        chain(L.Dense(3, "tanh"), chain(L.Dense(4, "silu"), shape=(3,))),
        functional(lambda x: L.Add()([x, L.Dense(4, "sigmoid")(x)])),
    ),
    "activations": lambda: functional(
        lambda x: L.Concatenate()([L.Dense(3, activation=a)(x) for a in ACTIVATIONS])
    ),
    "activation layers": lambda: chain(
        L.Activation("mish"), L.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.2),
        L.Dense(4, activation=L.LeakyReLU(0.3)), L.ELU(0.7), L.PReLU(alpha_initializer="normal"),
        L.LeakyReLU(0.2), L.Softmax(),
    ),
    "normalised": lambda: chain(
        L.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[1.0, 4.0, 9.0, 16.0]),
        L.BatchNormalization(), L.LayerNormalization(), L.RMSNormalization(), L.UnitNormalization(),
        L.Normalization(mean=0.3, variance=2.0, invert=True, axis=None),
        L.Rescaling(2.0, offset=[1.0, 2.0, 3.0, 4.0]),
    ),
    "adapted": adapted,
    "groups": lambda: chain(L.GroupNormalization(2), L.Activation("tanh"), shape=(3, 4)),
    "instances": lambda: chain(L.GroupNormalization(-1), L.Activation("tanh"), shape=(3, 2)),
    "several axes": lambda: chain(
        L.Dense(3, "tanh"), L.LayerNormalization(axis=[1, 2]), L.BatchNormalization(axis=1),
        shape=(2, 3),
    ),
    "shapes": lambda: chain(
        L.Reshape((2, -1)), L.Permute((2, 1)), L.Activation("tanh"), L.Flatten(), L.RepeatVector(2),
        L.Softmax(axis=1),
    ),
    "conv 1d": lambda: chain(
        L.Conv1D(4, 3, padding="same", strides=2, activation="tanh"),
        L.Conv1D(2, 2, padding="causal", dilation_rate=2, groups=2, use_bias=False),
        L.DepthwiseConv1D(2, depth_multiplier=2, activation="softplus"),
        L.GlobalAveragePooling1D(), shape=(9, 2),
    ),
    "conv 2d": lambda: chain(
        L.ZeroPadding2D(((1, 0), (0, 2))), L.Conv2D(3, (2, 3), activation="tanh"),
        L.DepthwiseConv2D(2, padding="same"), L.Cropping2D(((0, 1), (1, 0))),
        L.MaxPooling2D(2, padding="same"), L.UpSampling2D((1, 2)), L.Activation("tanh"),
        L.Flatten(),
        shape=(4, 4, 1),
    ),
    "conv 3d": lambda: chain(L.Conv3D(2, 2, activation="tanh"), L.Flatten(), shape=(2, 3, 2, 1)),
    "conv 1d transposed": lambda: functional(
        lambda x: L.Concatenate(axis=1)(
            [
                L.Conv1DTranspose(2, k, s, padding=p, dilation_rate=d, activation="tanh")(x)
                for k, s, p, d in [
                    (3, 1, "valid", 1), (3, 2, "valid", 1), (2, 3, "valid", 1), (4, 2, "same", 1),
                    (3, 2, "same", 1), (2, 3, "same", 1), (3, 1, "same", 2), (1, 2, "same", 1),
                ]
            ]
            + [
                L.Conv1DTranspose(2, 4, 2, padding=p, output_padding=o, use_bias=False)(x)
                for p, o in [("valid", 0), ("valid", 1), ("same", 0), ("same", 1)]
            ]
        ),
        (3, 2),
    ),
    "conv 2d transposed": lambda: chain(
        L.Activation("tanh"), L.Conv2DTranspose(2, (2, 3), (2, 1), activation="softplus"),
        L.Flatten(), L.Dense(3), shape=(2, 2, 2),
    ),
    "conv 3d transposed": lambda: chain(
        L.Conv3DTranspose(1, 2, activation="tanh"), L.Flatten(), L.Dense(2), shape=(1, 2, 1, 2),
    ),
    # With dropout=0 Keras takes JAX's attention, which computes in float32.
    "multi-head attention": lambda: functional(
        lambda x: L.Add()(
            [
                L.MultiHeadAttention(2, 3, value_dim=4, dropout=0.1)(x, x),
                L.MultiHeadAttention(1, 2, use_bias=False, dropout=0.1)(
                    x, L.Dense(3)(x), key=L.Dense(2)(x), use_causal_mask=True
                ),
                L.Dense(2)(L.MultiHeadAttention(2, 2, output_shape=5, dropout=0.1)(x, value=x**2)),
            ]
        ),
        (3, 2),
    ),
    "attention": lambda: functional(
        lambda x: L.Concatenate()(
            [
                L.Attention(use_scale=scale, score_mode=mode)(
                    [L.Dense(2)(x), L.Dense(3)(x), L.Dense(2)(x)] if scale else [L.Dense(2)(x), x],
                    use_causal_mask=scale,
                )
                for scale in (True, False)
                for mode in ("dot", "concat")
            ]
        ),
        (3, 2),
    ),
    "pools": lambda: chain(
        L.Activation("tanh"), L.AveragePooling1D(3, 2, padding="same"), L.UpSampling1D(2),
        L.ZeroPadding1D(1), L.Cropping1D((0, 1)), L.MaxPooling1D(2, 1), shape=(6, 2),
    ),
    "pools of two axes": lambda: functional(
        lambda x: L.Concatenate()(
            [L.GlobalMaxPooling2D()(x), L.GlobalAveragePooling2D()(L.AveragePooling2D(2)(x**2))]
        ),
        (3, 4, 2),
    ),
    "pools of three axes": lambda: functional(
        lambda x: L.Concatenate()(
            [
                L.GlobalMaxPooling3D()(L.AveragePooling3D((2, 1, 1))(x)),
                L.GlobalAveragePooling3D()(L.MaxPooling3D((1, 2, 1))(x)),
            ]
        ),
        (2, 2, 2, 1),
    ),
    "global pools of one axis": lambda: functional(
        lambda x: L.Maximum()([L.GlobalMaxPooling1D()(x), L.GlobalAveragePooling1D()(x**2)]), (3, 2)
    ),
    "extremes": lambda: functional(
        lambda x: L.Minimum()([L.Dense(3)(x), L.Maximum()([L.Dense(3)(x), L.Dense(3)(x)])])
    ),
    "idle": lambda: chain(
        L.Dropout(0.5), L.GaussianNoise(0.1), L.GaussianDropout(0.1), L.ActivityRegularization(0.1),
        L.AlphaDropout(0.1), L.Identity(), L.LayerNormalization(center=False, scale=False),
    ),
    "idle in space": lambda: chain(
        L.SpatialDropout1D(0.2), L.Activation("tanh"), L.Reshape((2, 2, 1)),
        L.SpatialDropout2D(0.2), shape=(2, 2),
    ),
}  # fmt: skip


@cache
def model_of(name: str) -> Any:
    """With weights that are all different, moving averages among them."""
    precision("float64")
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    rng = np.random.default_rng(1)
    for layer in model._flatten_layers():
        if not isinstance(layer, (L.Normalization, keras.Model)):
            layer.set_weights([rng.uniform(0.3, 1.1, w.shape) for w in layer.get_weights()])
    return model


def sample(model: Any, n: int = 3) -> Any:
    return normal(3, n, *model.input_shape[1:])


@pytest.mark.parametrize("name", MODELS)
def test_models_in_memory_and_in_files(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    x = sample(model)
    truth = jax_truth(lambda u: model(u[None])[0], x)
    model.save(tmp_path / "model.keras")
    for function in (ha.from_keras(model), ha.load(tmp_path / "model.keras")):
        found = function.value_gradient_hessian(x)
        assert_close(found.f, truth.f, 1e-12, "value", "Keras")
        assert_close(found.df, truth.df, 1e-11, "gradient", "JAX")
        assert_close(found.d2f, truth.d2f, 1e-10, "Hessian", "JAX")


def test_every_layer_and_operation_of_the_tables_is_tested() -> None:
    seen: set[str] = set()
    for name in MODELS:
        graph = getattr(ha.from_keras(model_of(name)), "_fn", None)
        seen |= {step.kind for step in graph.steps} if graph else set()
    assert set(LAYERS) - seen == set()
    assert set(OPERATIONS) - seen == set()


def test_chains_of_dense_layers_become_networks(tmp_path: Path) -> None:
    model = chain(
        L.Dense(5, "tanh"), L.Dropout(0.2), L.Dense(3), L.LeakyReLU(0.1), L.Dense(2, use_bias=False)
    )
    net = ha.from_keras(model)
    assert repr(net) == "Network(Dense(4, 5), Dense(5, 3), Dense(3, 2))"
    net.save(tmp_path / "net.npz")
    x = sample(model)
    assert_close(ha.load(tmp_path / "net.npz").value(x), np.asarray(model(x)), 1e-14)


def test_several_outputs(tmp_path: Path) -> None:
    x = keras.Input((3,))
    u = L.Dense(4, "tanh", name="hidden")(x)
    pair = [L.Dense(2, name="lift")(u), L.Reshape((2, 2), name="loads")(u)]
    for outputs, names in (
        (pair, ("lift", "loads")),
        ({"b": pair[0], "a": pair[1]}, None),
    ):
        model = keras.Model(x, outputs)
        model.save(tmp_path / "m.keras")
        points = normal(4, 5, 3)
        value = model(points)
        values = list(value.values()) if isinstance(value, dict) else value
        for f in (ha.from_keras(model), ha.load(tmp_path / "m.keras")):
            wanted = dict(zip(names or value, values, strict=True))
            assert set(f.output_names) == set(wanted)
            parts = [np.reshape(wanted[k], (5, -1)) for k in f.output_names]
            assert_close(f.value(points), np.concatenate(parts, axis=1), 1e-12, "value", "Keras")
            assert ha.check_derivatives(f, points)


def test_several_inputs(tmp_path: Path) -> None:
    x, y = keras.Input((2,)), keras.Input((3,))
    model = keras.Model([x, y], L.Concatenate()([L.Dense(3, "tanh")(x) * y, y]))
    model.save(tmp_path / "m.keras")
    f = ha.load(tmp_path / "m.keras")
    u, v = normal(1, 4, 2), normal(2, 4, 3)
    assert f.in_shapes == ((2,), (3,))
    assert_close(f.value(u, v), np.asarray(model([u, v])), 1e-14)


def test_float32_weights_stay_float32(tmp_path: Path) -> None:
    precision("float32")
    model = functional(branches)
    model.save(tmp_path / "m.keras")
    f = ha.load(tmp_path / "m.keras")
    assert {a.dtype.name for a in f.parameters().values()} == {"float32"}
    x = sample(model).astype("float32")
    assert_close(f.value(x), np.asarray(model(x)), 1e-5)


def test_parameters_are_named_by_layer_and_weight() -> None:
    f = ha.from_keras(model_of("shared"))
    names = list(f.parameters())
    assert all(k.rsplit("/", 1)[1] in ("kernel", "bias") for k in names)
    assert len(names) == 4  # each shared layer once
    assert "batch_normalization" not in "".join(ha.from_keras(model_of("idle")).parameters())
    trained = ha.from_keras(model_of("several axes")).parameters()
    assert not any("moving" in k for k in trained)


def test_files_without_names_of_layers(tmp_path: Path) -> None:
    """Keras 3 before 3.4 wrote no names: layers are counted by class."""
    model = model_of("branches")
    model.save(tmp_path / "m.keras")
    members = contents(tmp_path / "m.keras")
    with h5(members) as file:
        file.visititems(lambda name, node: node.attrs.pop("name", None) and None)
    write(tmp_path / "m.keras", members)
    x = sample(model)
    assert_close(ha.load(tmp_path / "m.keras").value(x), np.asarray(model(x)), 1e-14)


def test_reading_needs_no_keras(tmp_path: Path) -> None:
    model = model_of("conv 2d")
    model.save(tmp_path / "m.keras")
    x = sample(model)
    (tmp_path / "x.pickle").write_bytes(pickle.dumps((x, np.asarray(model(x)))))
    code = (
        "import pickle, sys, numpy as np, hessarray as ha; f = ha.load(sys.argv[1]); "
        "x, y = pickle.load(open(sys.argv[2], 'rb')); assert np.allclose(f.value(x), y); "
        "pickle.loads(pickle.dumps(f)); assert not {'keras', 'jax', 'torch'} & set(sys.modules)"
    )
    args = [sys.executable, "-c", code, str(tmp_path / "m.keras"), str(tmp_path / "x.pickle")]
    subprocess.run(args, check=True)


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_of("branches").save(tmp_path / "m.keras")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        LoadError, match=r"^\.keras files need the extra: pip install 'hessarray\[k"
    ):
        ha.load(tmp_path / "m.keras")


# ---- what is refused -----------------------------------------------------------------------------


class Own(L.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x * 2.0


@keras.saving.register_keras_serializable(package="mine")
class Dense(L.Dense):  # type: ignore[misc]
    """A class of the user's that has the name of one of Keras's."""

    def call(self, x: Any) -> Any:
        return 2.0 * super().call(x)


class Subclassed(keras.Model):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x


def doubled(x: Any) -> Any:
    return 2.0 * x


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "Lambda": (lambda: chain(L.Lambda(doubled)), r"layer 'lambda.*\(Lambda\) holds Python code"),
    "own class": (lambda: chain(Own()), r"layer 'own.*\(Own\) is no layer of Keras's own"),
    "own class of a known name": (lambda: chain(Dense(3)), "is no layer of Keras's own"),
    "own activation": (lambda: chain(L.Dense(3, doubled)), "activation 'doubled' is not supported"),
    "LSTM": (
        lambda: chain(L.LSTM(3), shape=(2, 4)),
        r"\(LSTM\) is not supported, supported are Ac",
    ),
    "activation": (lambda: chain(L.Dense(3, "sparsemax")), "activation 'sparsemax' is not suppor"),
    "two outputs inside": (
        lambda: functional(
            lambda x: L.Add()(
                (lambda u: keras.Model(u, [L.Dense(1)(u), L.Dense(1)(u)]))(keras.Input((2,)))(x)
            ),
            (2,),
        ),
        "the model 'functional.*' inside has 2 outputs, one is expected|not the first result",
    ),
    "a mask": (
        lambda: functional(
            lambda x: L.Attention()([x, x], mask=[L.Reshape((3,))(x), None]), (3, 1)
        ),
        "layer 'attention.*' is called with 'mask'=.* which is not supported",
    ),
    "an index": (
        lambda: functional(lambda x: x[:, 1:]),
        r"layer 'get_item.*' \(GetItem\) takes .* which is no tensor or number",
    ),
    "a sliding window": (
        lambda: functional(lambda x: L.MultiHeadAttention(1, 2, sliding_window=1)(x, x), (3, 2)),
        "use_gate and sliding_window are not supported",
    ),
    "attention over images": (
        lambda: functional(lambda x: L.MultiHeadAttention(1, 2)(x, x), (2, 2, 2)),
        "attention_axes|length, features",
    ),
    "unknown length": (lambda: chain(L.Dense(2), shape=(None, 3)), "lengths of all axes but the"),
    "over the batch": (
        lambda: chain(L.Softmax(axis=0), shape=(3,)),
        r"axis=0 is that of the batch, which would mix samples",
    ),
    "active dropout": (
        lambda: functional(lambda x: L.Dropout(0.5)(x, training=True)),
        "is called with 'training'=True, which is not supported",
    ),
    "half": (lambda: chain(L.Dense(2, dtype="float16")), "has dtype '?float16'?, float32 or f"),
    "bilinear": (
        lambda: chain(L.UpSampling2D(interpolation="bilinear"), shape=(2, 2, 1)),
        "only interpolation='nearest' is supported",
    ),
    "embedding": (lambda: chain(L.Embedding(3, 2)), r"\(Embedding\) is not supported"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    make, message = REFUSED[name]
    model = make()
    model.save(tmp_path / "m.keras")
    for read in (lambda: ha.from_keras(model), lambda: ha.load(tmp_path / "m.keras")):
        with one_sentence(message):
            read()


def test_refused_objects() -> None:
    with one_sentence("^NoneType is no Keras model"):
        ha.from_keras(None)
    with one_sentence("^Subclassed .* is no Sequential and no Functional|has no description"):
        ha.from_keras(Subclassed())


# ---- hostile files -------------------------------------------------------------------------------


class one_sentence:
    """A LoadError of one printable line, raised on purpose."""

    def __init__(self, match: str) -> None:
        self.raises = pytest.raises(LoadError, match=match)

    def __enter__(self) -> None:
        self.caught = self.raises.__enter__()

    def __exit__(self, *args: object) -> Any:
        done = self.raises.__exit__(*args)
        assert str(self.caught.value).isprintable()
        assert self.caught.value.__cause__ is None
        return done


CONFIG, WEIGHTS = "config.json", "model.weights.h5"


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {k: archive.read(k) for k in archive.namelist()}


def write(path: Path, members: dict[str, Any], **options: Any) -> None:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data if isinstance(data, bytes) else json.dumps(data))


class h5:
    """The weights as an open HDF5 file, put back when the block ends."""

    def __init__(self, members: dict[str, Any]) -> None:
        self.members, self.bytes = members, io.BytesIO(members[WEIGHTS])

    def __enter__(self) -> Any:
        self.file = h5py.File(self.bytes, "r+")
        return self.file

    def __exit__(self, *args: object) -> None:
        self.file.close()
        self.members[WEIGHTS] = self.bytes.getvalue()


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    path = tmp_path / "m.keras"
    model_of("branches").save(path)
    members: dict[str, Any] = contents(path)
    members[CONFIG] = json.loads(members[CONFIG])
    return path, members


KERNEL = "layers/dense/vars/0"


def first_layer(members: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = members[CONFIG]["config"]["layers"][1]["config"]
    return config


def replaced(
    make: Callable[[Any, Any], Any], number: str = "0"
) -> Callable[[dict[str, Any]], None]:
    def change(members: dict[str, Any]) -> None:
        with h5(members) as file:
            group = file["layers/dense/vars"]
            del group[number]
            made = make(file, group)
            if made is not None:
                group[number] = made

    return change


def virtual(file: Any, group: Any) -> None:
    layout = h5py.VirtualLayout((4, 4), "f8")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4, 4))
    group.create_virtual_dataset("0", layout)


def unallocated(file: Any, group: Any) -> None:
    group.create_dataset("0", shape=(4, 4), dtype="f8", chunks=(4, 4))


def compressed(file: Any, group: Any) -> None:
    group.create_dataset("0", data=np.zeros((4, 4)), compression="gzip")


def huge(file: Any, group: Any) -> None:
    group.create_dataset("0", shape=(2**20, 2**20), dtype="f8", chunks=(1, 1024))


def typed(dtype: Any) -> Callable[[dict[str, Any]], None]:
    return replaced(
        lambda file, group: group.create_dataset("0", shape=(4, 4), dtype=dtype) and None
    )


def outside(file: Any, group: Any) -> None:
    group.create_dataset("0", shape=(4, 4), dtype="f8", external=[("/etc/passwd", 0, 128)])


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no weights": (lambda m: m.pop(WEIGHTS), "there is no model.weights.h5"),
    "no description": (lambda m: m.pop(CONFIG), "there is no config.json"),
    "a pickle beside": (lambda m: m.update({"x.pkl": b"cos\n"}), "'x.pkl' is no part"),
    "a path outside": (lambda m: m.update({"../x": b""}), r"'\.\./x' points outside the file"),
    "an absolute path": (lambda m: m.update({"/x": b""}), "'/x' points outside the file"),
    "no JSON": (lambda m: m.update({CONFIG: b"{"}), r"not a readable \.keras file"),
    "deep JSON": (lambda m: m.update({CONFIG: b"[" * 10**6}), r"not a readable \.keras file"),
    "other JSON": (lambda m: m.update({CONFIG: [1]}), "None is no Sequential and no Functional"),
    "no HDF5": (lambda m: m.update({WEIGHTS: b"x" * 100}), r"not a readable \.keras file"),
    "half an HDF5": (
        lambda m: m.update({WEIGHTS: m[WEIGHTS][:3000]}),
        r"not a readable \.keras file",
    ),
    "external link": (
        replaced(lambda f, g: h5py.ExternalLink("/etc/passwd", "/x")),
        "'0' is a link, tensors inside the file are expected",
    ),
    "soft link": (replaced(lambda f, g: h5py.SoftLink("/layers")), "'0' is a link, tensors inside"),
    "virtual": (replaced(virtual), "lies in another file, tensors inside the file are expected"),
    "outside": (replaced(outside), "lies in another file, tensors inside the file are expected"),
    "missing": (replaced(lambda f, g: None), "tensor '/layers/dense/vars/0' is missing|weights, "),
    "a group": (replaced(lambda f, g: g.create_group("0") and None), "'.*' is missing"),
    "unallocated": (replaced(unallocated), "tensor 'dense.*/0' is compressed or incomplete"),
    "compressed": (replaced(compressed), "is compressed or incomplete"),
    "huge": (replaced(huge), "the tensors take 8,796,0.* bytes, max_bytes is"),
    "half precision": (typed("f2"), "has dtype float16, float32 or float64 is expected"),
    "objects": (typed(h5py.special_dtype(vlen=str)), "has dtype '.*', float32 or float64 is ex"),
    "references": (typed(h5py.ref_dtype), "has dtype '.*', float32 or float64 is expected"),
    "complex": (typed("c16"), "has dtype '.*', float32 or float64 is expected"),
    "integers": (typed("i8"), "has dtype '.*', float32 or float64 is expected"),
    "wrong shape": (
        replaced(lambda f, g: np.zeros((3, 4))),
        r"layer 'dense.*' \(Dense\): .*\(4,\) and \(3, 4\)",
    ),
    "fewer units than weights": (
        lambda m: first_layer(m).update({"units": 3}),
        r"layer 'dense.*' \(Dense\) has weights of shape \(4, 4\) and \(4,\) for 3 features",
    ),
    "a bias of one number": (
        replaced(lambda f, g: np.zeros(1), "1"),
        r"layer 'dense.*' \(Dense\) has weights of shape \(4, 4\) and \(1,\) for 4 features",
    ),
    "another layer": (
        lambda m: m[CONFIG]["config"]["layers"][1].update({"class_name": "__class__"}),
        r"\(__class__\) is no layer of Keras's own|is not supported",
    ),
    "an import": (
        lambda m: m[CONFIG]["config"]["layers"][1].update({"module": "os", "class_name": "system"}),
        r"\(system\) is no layer of Keras's own \('os'",
    ),
    "a cycle": (
        lambda m: m[CONFIG]["config"]["layers"][1]["inbound_nodes"][0]["args"][0]["config"].update(
            {"keras_history": ["own_name", 0, 0]}
        ),
        "waits for what nothing gives",
    ),
    "no output": (
        lambda m: m[CONFIG]["config"].update({"output_layers": ["nobody", 0, 0]}),
        "nothing gives the output",
    ),
    "a model in itself": (
        lambda m: m[CONFIG]["config"]["layers"].append({"class_name": "Sequential"}),
        "a layer has no name and no configuration",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str, saved: Any) -> None:
    path, members = saved
    change, message = HOSTILE[name]
    change(members)
    write(path, members)
    with one_sentence(f"^{path}: .*({message})"):
        ha.load(path)


def test_limits_on_sizes(saved: Any) -> None:
    path, members = saved
    with one_sentence(r"the tensors take [0-9,]+ bytes, max_bytes is 100$"):
        ha.load(path, max_bytes=100)
    write(path, members, compression=zipfile.ZIP_DEFLATED)
    assert ha.load(path).out_shape == (2,)
    members["metadata.json"] = members[CONFIG] = b" " * 10**8  # 100 kB of deflate
    write(path, members, compression=zipfile.ZIP_DEFLATED)
    with one_sentence("member 'config.json' takes 100,000,000 bytes, at most 10,000,000"):
        ha.load(path)


def test_sizes_that_are_lies(saved: Any) -> None:
    path, members = saved
    write(path, members)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")  # of the last member, in the directory
    data[at + 24 : at + 28] = (2**31).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    with one_sentence("promises 2,147,483,648 bytes, its .* cannot hold them"):
        ha.load(path)


def test_numbers_of_a_description_that_take_memory(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    for layer, key in (
        (L.RepeatVector(2), "n"),
        (L.ZeroPadding1D(1), "padding"),
        (L.UpSampling1D(2), "size"),
        (L.MaxPooling1D(1), "pool_size"),
    ):
        chain(layer, shape=(4,) if key == "n" else (4, 2)).save(path)
        members: dict[str, Any] = contents(path)
        members[CONFIG] = json.loads(members[CONFIG])
        for value in (10**8, 10**30, -1, 1.5, "x", None, [], math.inf):
            members[CONFIG]["config"]["layers"][1]["config"][key] = value
            write(path, members)
            with one_sentence(f"layer '.*' .*({key}=|too large|do not fit|no writable|cannot)"):
                ha.load(path)


def nested_calls(depth: int, calls: int) -> Any:
    """A model that calls a model that calls a model ..., each ``calls`` times."""
    call = {"class_name": "__keras_tensor__", "config": {"keras_history": ["i", 0, 0]}}
    entry = {"class_name": "InputLayer", "config": {"name": "i", "batch_shape": [None, 3]}}
    entry |= {"module": "keras.layers", "inbound_nodes": []}
    kind = {"module": "keras", "class_name": "Functional", "registered_name": "Functional"}
    config = {"layers": [entry], "input_layers": [["i", 0, 0]], "output_layers": [["i", 0, 0]]}
    model: Any = kind | {"config": config}
    for _ in range(depth):
        inner = kind | {"config": model["config"] | {"name": "m"}}
        inner["inbound_nodes"] = [{"args": [call], "kwargs": {}}] * calls
        model = kind | {"config": config | {"layers": [entry, inner]}}
        model["config"] = model["config"] | {"output_layers": [["m", 0, 0]]}
    return model


def test_models_inside_that_multiply(saved: Any) -> None:
    """4^15 calls of nothing would be a billion."""
    path, members = saved
    write(path, members | {CONFIG: nested_calls(15, 4)})
    with one_sentence("the model has more than 10000 layers"):
        ha.load(path)


def test_layers_in_the_wrong_order(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    model = functional(lambda x: L.Dense(2)(L.Activation("tanh")(L.Dense(2)(x))))
    model.save(path)
    want = ha.load(path).value(np.ones((1, 4)))
    members: dict[str, Any] = contents(path)
    config = json.loads(members[CONFIG])
    config["config"]["layers"].reverse()
    write(path, members | {CONFIG: config})
    assert np.array_equal(ha.load(path).value(np.ones((1, 4))), want)
    config["config"]["layers"][1]["config"]["name"] = config["config"]["layers"][0]["config"][
        "name"
    ]
    write(path, members | {CONFIG: config})
    with one_sentence("two layers are named 'dense"):
        ha.load(path)


def test_a_long_chain_backwards(tmp_path: Path) -> None:
    """One pass over the layers for each layer would take minutes."""
    path = tmp_path / "m.keras"
    functional(L.ReLU(name="r")).save(path)
    members: dict[str, Any] = contents(path)
    config = json.loads(members[CONFIG])
    layers = config["config"]["layers"]
    text = json.dumps(layers.pop())
    source = layers[0]["config"]["name"]
    for i in range(3000):
        before = source if i == 0 else f"r{i - 1}"
        entry = json.loads(text.replace('"r"', f'"r{i}"').replace(f'"{source}"', f'"{before}"'))
        layers.insert(0, entry)
    config["config"]["output_layers"] = [["r2999", 0, 0]]
    write(path, members | {CONFIG: config})
    start = time.perf_counter()
    assert ha.load(path).in_shapes == ((4,),)
    assert time.perf_counter() - start < 20.0


def test_weights_that_were_compressed_from_nothing(saved: Any) -> None:
    path, members = saved
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(CONFIG, json.dumps(members[CONFIG]))
        archive.writestr(WEIGHTS, b"\0" * 150_000_000)
    with one_sentence("'model.weights.h5' takes 150,000,000 bytes, at most 100,000,000"):
        ha.load(path)


def test_nan_is_a_number(saved: Any) -> None:
    path, members = saved
    with h5(members) as file:
        file[KERNEL][0, 0] = np.nan
    write(path, members)
    with pytest.warns(UserWarning, match=r"tensor 'dense.*/0' holds NaN or infinity"):
        ha.load(path)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(tree, (dict, list)):
        for k in tree if isinstance(tree, dict) else range(len(tree)):
            yield from places(tree[k], (*path, k))


def put(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = put(tree[path[0]], path[1:], value)
    return copy


ODD: list[Any] = [None, True, -1, 0, 3, 1e308, 10**400, "", "dense", [], {}, [[]], [1], ["a", 0, 0]]


@pytest.mark.parametrize("name", ["branches", "conv 1d", "normalised", "shapes"])
def test_odd_values_everywhere_in_a_description(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    model_of(name).save(path)
    members: dict[str, Any] = contents(path)
    config = json.loads(members[CONFIG])
    every = [(p, v) for p in places(config) for v in ODD]
    chosen = np.random.default_rng(0).choice(len(every), 250, replace=False)
    failed = 0
    for place, value in (every[i] for i in chosen):
        write(path, members | {CONFIG: put(config, place, value)})
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                f = ha.load(path)
                f.value(np.zeros((2, *f.in_shapes[0])))
            except LoadError as caught:
                text = str(caught)
                assert text.isprintable()
                failed += 1
    assert failed > 50


def test_random_damage(saved: Any) -> None:
    """A sentence or a model; a damaged HDF5 file may hold other numbers."""
    path, members = saved
    write(path, members)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    failed = 0
    for _ in range(150):
        out = bytearray(data)
        for i in rng.integers(len(out), size=rng.integers(1, 9)):
            out[i] = int(rng.integers(256))
        path.write_bytes(bytes(out[: len(out) - int(rng.integers(0, 2)) * int(rng.integers(9999))]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                ha.load(path, max_bytes=10**6)
            except LoadError as caught:
                text = str(caught)
                assert text.isprintable()
                failed += 1
    assert failed > 50
