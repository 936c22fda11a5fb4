"""ONNX models: values against onnxruntime, derivatives against torch, and the batch axis."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from compare import assert_close, errors, normal, torch_truth
from onnx import TensorProto, helper
from onnx_models import exported, joined, model, node, runtime

import hessarray as ha
from hessarray.errors import LoadError

torch = pytest.importorskip("torch")
nn = torch.nn
F32 = np.float32


class Residual(nn.Module):  # type: ignore[name-defined,misc]
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 6)
        self.norm, self.last = nn.LayerNorm(6), nn.Linear(10, 2)

    def forward(self, x: Any) -> Any:
        u = torch.nn.functional.silu(self.first(x))
        u = self.norm(u + torch.tanh(self.second(u)))
        return self.last(torch.cat([u, x], dim=-1)) ** 2


class Attention(nn.Module):  # type: ignore[name-defined,misc]
    """Two heads over five tokens, as torch's own block computes them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv = nn.Linear(3, 8), nn.Linear(8, 24)
        self.out, self.norm, self.last = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        u = self.embed(x)
        n, tokens, width = u.shape
        q, k, v = self.qkv(u).reshape(n, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / 2.0, dim=-1)
        heads = (weights @ v).transpose(1, 2).reshape(n, tokens, width)
        return self.last(self.norm(u + self.out(heads))).mean(dim=1)


def convolutional() -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 6, 2, stride=2, groups=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(6, 2),
    )


MODULES: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "mlp": (
        lambda: nn.Sequential(
            nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3), nn.Softplus()
        ),
        (5,),
    ),
    "residual": (Residual, (4,)),
    "convolutions": (convolutional, (1, 4, 4)),
    "convolutions of one axis": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 3, 3, padding=2, dilation=2),
            nn.ELU(),
            nn.ConvTranspose1d(3, 2, 3, stride=2),
            nn.Mish(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
        ),
        (2, 4),
    ),
    "attention": (Attention, (5, 3)),
}


def made(name: str) -> tuple[Any, tuple[int, ...]]:
    torch.manual_seed(7)
    make, shape = MODULES[name]
    module = make().eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
    return module, shape


@pytest.mark.parametrize("batch", [True, False], ids=["open batch", "batch of one"])
@pytest.mark.parametrize("name", MODULES)
def test_modules_exported_from_torch(name: str, batch: bool) -> None:
    module, shape = made(name)
    x = normal(1, 3 if batch else 1, *shape)
    proto = exported(module, x.astype(F32), batch=batch)
    net = ha.from_onnx(proto)
    assert net.in_shapes == (shape,)
    assert (net.input_names, net.output_names) == (("x",), ("y",))
    assert_close(net.value(x.astype(F32)), runtime(proto, x=x.astype(F32))[0], 1e-5)
    module = module.double()
    truth = torch_truth(lambda u: module(u.reshape(1, *shape))[0], x.reshape(len(x), -1))
    got = net.value_gradient_hessian(x)
    n, d = len(x), int(np.prod(shape))
    assert_close(got.f, truth.f, 1e-6)  # torch folds a normalisation into the weights in float32
    assert_close(got.df.reshape(n, d, -1), truth.df, 1e-5)
    assert_close(got.d2f.reshape(n, d, d, -1), truth.d2f, 1e-5)


def test_the_exporter_of_torch_export(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    module, shape = made("residual")
    path, x = tmp_path / "model.onnx", normal(2, 4, *shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.as_tensor(x.astype(F32)),),
            path,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("n")},),
            verbose=False,
        )
    assert (tmp_path / "model.onnx.data").is_file()  # its weights lie beside the graph
    net = ha.load(path)
    (name,) = net.input_names
    assert_close(net.value(x.astype(F32)), runtime(str(path), **{name: x.astype(F32)})[0], 1e-5)
    assert bool(ha.check_derivatives(net, x))


@pytest.mark.backends("numpy", "torch", "jax", "strict")
def test_on_every_library(backend: Any) -> None:
    module, shape = made("convolutions of one axis")
    net = ha.from_onnx(exported(module, np.zeros((1, *shape), F32)))
    x = normal(3, 4, *shape)
    want = net.value_gradient_hessian(x)
    got = net.value_gradient_hessian(backend.asarray(x))
    for a, b in zip(got, want, strict=True):
        assert_close(backend.to_numpy(a), b, 1e-12)


# ---- parameters ----------------------------------------------------------------------------------


def mlp(batch: Any = "n", d: int = 3, dtype: Any = F32) -> Any:
    weights = {"K": normal(4, d, 4).astype(dtype), "b": normal(5, 4).astype(dtype)}
    nodes = [node("Gemm", "x K b", "z"), node("Tanh", "z", "y")]
    kind = TensorProto.DOUBLE if dtype is np.float64 else TensorProto.FLOAT
    return model(nodes, {"x": (batch, d)}, weights=weights, dtype=kind)


def test_weights_are_parameters() -> None:
    net = ha.from_onnx(mlp())
    assert {k: a.dtype.name for k, a in net.parameters().items()} == {
        "K": "float32",
        "b": "float32",
    }
    x = normal(6, 5, 3)
    old = net.value(x)
    net.load_parameters({k: 2.0 * a for k, a in net.parameters().items()})
    assert_close(net.value(x), np.tanh(2.0 * np.arctanh(old)), 1e-12)
    assert bool(ha.check_parameters(net, torch.as_tensor(x)))
    theirs = {k: torch.tensor(np.array(a), requires_grad=True) for k, a in net.parameters().items()}
    net.laplacian(torch.as_tensor(x), parameters=theirs).sum().backward()
    assert all(torch.isfinite(a.grad).all() and a.grad.abs().max() > 0 for a in theirs.values())


def test_numbers_that_say_how_to_compute_are_none() -> None:
    nodes = [
        node("Mul", "x K", "u"),
        node("Pow", "u two", "v"),
        node("Clip", "v low high", "w"),
        node("Div", "w half", "y"),
    ]
    weights = {
        "K": np.ones(3, F32) * 2,
        "two": np.full(1, 2, F32),
        "low": np.asarray(0.25, F32),
        "high": np.full((), 9, F32),
        "half": np.asarray(0.5, F32),
    }
    net = ha.from_onnx(model(nodes, {"x": ("n", 3)}, weights=weights))
    assert list(net.parameters()) == ["K"]
    x = np.asarray([[-1.0, 0.1, 0.5]])
    assert_close(net.value(x), np.clip(4 * x**2, 0.25, 9) * 2, 1e-14)
    assert_close(net.hessian_diagonal(x)[0].diagonal(), [16.0, 0.0, 16.0], 1e-14)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions(dtype: str) -> None:
    proto = mlp(dtype=np.float64 if dtype == "float64" else F32)
    if dtype != "float64":
        kind = getattr(TensorProto, dtype.upper())
        for tensor in proto.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            half = array.astype(helper.tensor_dtype_to_np_dtype(kind))
            tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.elem_type = kind
    net = ha.from_onnx(proto)
    K, b = net.parameters().values()
    assert K.dtype == np.dtype("float64" if dtype == "float64" else "float32")
    x = normal(7, 2, 3)
    assert_close(net.value(x), np.tanh(x @ K + b), 1e-14)
    assert_close(K, normal(4, 3, 4), {"float64": 1e-15, "float16": 1e-3, "bfloat16": 1e-2}[dtype])


# Ways to write x/2 (1 + erf(x / sqrt 2)): of torch's two exporters, and others.
GELUS = {
    "half first": [("Mul", "z half", "a"), ("Div", "z root", "b"), "erf", ("Mul", "a g")],
    "half last": [("Div", "z root", "b"), "erf", ("Mul", "z g", "a"), ("Mul", "a half")],
    "a factor": [("Mul", "sine z", "b"), "erf", ("Mul", "g half", "a"), ("Mul", "a z")],
    "divided by two": [("Div", "z root", "b"), "erf", ("Mul", "g z", "a"), ("Div", "a two")],
}


@pytest.mark.parametrize("constants", ["tensors", "nodes"])
@pytest.mark.parametrize("way", GELUS)
def test_a_gelu_of_several_nodes_is_one(way: str, constants: str) -> None:
    """1 + erf has no digit left below -6; one site of curvature instead of three."""
    numbers = {"half": 0.5, "two": 2.0, "one": 1.0, "root": math.sqrt(2.0), "sine": 0.5**0.5}
    tensors = {k: np.asarray(v, F32) for k, v in numbers.items()}
    nodes = [node("MatMul", "x K", "z")]
    if constants == "nodes":
        nodes += [
            node("Constant", "", k, value=onnx.numpy_helper.from_array(v))
            for k, v in tensors.items()
        ]
        tensors = {}
    for step in GELUS[way]:
        erf = [node("Erf", "b", "e"), node("Add", "one e" if way == "a factor" else "e one", "g")]
        nodes += erf if step == "erf" else [node(*step)]
    long = ha.from_onnx(model(nodes, {"x": ("n", 3)}, weights={"K": W, **tensors}))
    short = model([nodes[0], node("Gelu", "z")], {"x": ("n", 3)}, weights={"K": W})
    x = 10.0 * normal(25, 4, 3)
    assert np.array_equal(long.hessian(x), ha.from_onnx(short).hessian(x))
    assert [n.kind for n in long._fn.steps.nodes] == ["MatMul", "Gelu"]


@pytest.mark.parametrize("change", ["another factor", "another input", "another root", "not one"])
def test_what_is_nearly_a_gelu_is_none(change: str) -> None:
    numbers = {"half": 0.5, "one": 1.0, "root": math.sqrt(2.0)}
    numbers |= {"another factor": {"half": 0.6}, "another root": {"root": 1.4}}.get(change, {})
    numbers |= {"one": 1.1} if change == "not one" else {}
    u = "w" if change == "another input" else "z"
    nodes = [node("MatMul", "x K", "z"), node("Sin", "z", "w"), node("Div", f"{u} root", "b")]
    nodes += [node("Erf", "b", "e"), node("Add", "e one", "g")]
    nodes += [node("Mul", "z g", "a"), node("Mul", "a half")]
    weights = {k: np.asarray(v, F32) for k, v in numbers.items()}
    proto = model(nodes, {"x": ("n", 3)}, weights={"K": W, **weights})
    net, x = ha.from_onnx(proto), normal(26, 4, 3).astype(F32)
    assert "Gelu" not in [n.kind for n in net._fn.steps.nodes]
    assert_close(net.value(x), runtime(proto, x=x)[0], 1e-5, oracle="onnxruntime")
    assert ha.check_derivatives(net, x.astype(float))


@pytest.mark.parametrize("sign", ["+", "-"])
@pytest.mark.parametrize("kind", ["Erf", "Tanh"])
def test_one_and_a_saturated_function_do_not_cancel(kind: str, sign: str) -> None:
    import mpmath

    nodes = [node(kind, "x", "e"), node("Add" if sign == "+" else "Sub", "one e")]
    net = ha.from_onnx(model(nodes, {"x": ("n", 1)}, weights={"one": np.asarray(1.0, F32)}))
    x = np.linspace(4.0, 20.0, 9)[:, None] * (-1.0 if sign == "+" else 1.0)
    with mpmath.workdps(400):
        exact = mpmath.erf if kind == "Erf" else mpmath.tanh
        want = [float(1 + exact(mpmath.mpf(float(-abs(v))))) for v in x[:, 0]]
    assert_close(net.value(x)[:, 0] / np.asarray(want), np.ones(9), 1e-13, oracle="mpmath")


@pytest.mark.parametrize("sign", ["+", "-"])
@pytest.mark.parametrize("kind", ["Erf", "Tanh"])
def test_one_and_a_function_of_a_constant(kind: str, sign: str) -> None:
    """Such constants were computed number by number: large ones took half a minute."""
    size = np.asarray([1 << 23], np.int64)
    third = onnx.numpy_helper.from_array(np.asarray([0.3], F32))
    nodes = [node("ConstantOfShape", "size", "c", value=third), node(kind, "c", "e")]
    nodes += [node("Add" if sign == "+" else "Sub", "one e", "g")]
    nodes += [node("ReduceMean", "g", "m", keepdims=0), node("Add", "x m")]
    weights = {"size": size, "one": np.asarray(1.0, F32)}
    start = time.perf_counter()
    net = ha.from_onnx(model(nodes, {"x": ("n", 1)}, weights=weights))
    assert time.perf_counter() - start < 2.0
    function = math.erf if kind == "Erf" else math.tanh
    want = 1.0 + function(0.3) * (1.0 if sign == "+" else -1.0)
    assert net.value(np.zeros(1))[0] == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("kind", ["Swish", "Mish"])
def test_activations_of_several_nodes_are_one(kind: str, swapped: bool) -> None:
    gate = {
        "Swish": [node("Sigmoid", "z", "g")],
        "Mish": [node("Softplus", "z", "s"), node("Tanh", "s", "g")],
    }
    first, last = node("MatMul", "x K", "z"), node("Mul", "g z" if swapped else "z g")
    long = model([first, *gate[kind], last], {"x": ("n", 3)}, weights={"K": W})
    short = model([first, node(kind, "z")], {"x": ("n", 3)}, weights={"K": W}, opset=24)
    x = 10.0 * normal(25, 4, 3)
    assert np.array_equal(ha.from_onnx(long).hessian(x), ha.from_onnx(short).hessian(x))
    both = ha.from_onnx(long, outputs=["y", "g"])  # where the gate is an output, it stays
    assert both.output_shapes == {"y": (2,), "g": (2,)}
    other = model([*gate[kind], node("Mul", "x g")], {"x": ("n", 3), "z": ("n", 3)})
    assert ha.from_onnx(other).input_names == ("x", "z")


def test_copies_pickles_and_files(tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "net.onnx")
    net = ha.load(tmp_path / "net.onnx")
    x = normal(8, 3)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert np.array_equal(twin.hessian(x), net.hessian(x))
        assert twin.output_names == ("y",)
    net.save(tmp_path / "net.npz")
    assert set(np.load(tmp_path / "net.npz")) == {"K", "b"}


# ---- the batch axis ------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", ["n", None, 1, 7], ids=["named", "open", "one", "seven"])
def test_the_first_axis_is_left_away(batch: Any) -> None:
    proto = mlp(batch)
    net = ha.from_onnx(proto)
    assert repr(net) == "OnnxFunction(x (3,) -> y (4,))"
    x = normal(9, 7, 3).astype(F32)
    want = np.concatenate([runtime(mlp(1), x=u[None])[0] for u in x])
    assert_close(net.value(x), want, 1e-6)
    assert net.hessian(x[0]).shape == (3, 3, 4)


def test_a_single_vector() -> None:
    proto = model([node("MatMul", "x K", "z"), node("Exp", "z")], {"x": (3,)}, weights={"K": W})
    net = ha.from_onnx(proto)
    x = normal(10, 3).astype(F32)
    assert net.in_shapes == ((3,),)
    assert_close(net.value(x), runtime(proto, x=x)[0], 1e-6)
    assert net.value(np.stack([x, x])).shape == (2, 2)


W = normal(11, 3, 2).astype(F32)


def test_a_batch_of_numbers() -> None:
    proto = model([node("Sin", "x")], {"x": ("n",)})
    x = normal(12, 4, 1)
    assert_close(ha.from_onnx(proto).value(x), np.sin(x), 1e-15)


def test_a_matrix_as_one_sample() -> None:
    proto = model([node("MatMul", "x K")], {"x": (4, 3)}, weights={"K": W})
    assert ha.from_onnx(proto).in_shapes == ((3,),)
    net = ha.from_onnx(proto, inputs={"x": (4, 3)})
    x = normal(13, 4, 3)
    assert net.output_shapes == {"y": (4, 2)}
    assert_close(net.value(x), (x @ W).reshape(-1), 1e-12)


def test_open_lengths() -> None:
    nodes = [node("ReduceMean", "x axes", "y", keepdims=0)]
    weights = {"axes": np.asarray([1])}
    proto = model(nodes, {"x": ("n", "tokens", 3)}, weights=weights)
    with pytest.raises(LoadError, match=r"'x' of shape \(\?, \?, 3\) has axes of open length: say"):
        ha.from_onnx(proto)
    net = ha.from_onnx(proto, inputs={"x": (5, 3)})
    x = normal(14, 2, 5, 3)
    assert_close(net.value(x), x.mean(axis=1), 1e-12)
    with pytest.raises(LoadError, match=r"does not take samples of shape \(5, 4\)"):
        ha.from_onnx(proto, inputs={"x": (5, 4)})


def shape_chain() -> list[Any]:
    """x (n, 2, 3) to (n, 6), the n read from the shape, as exporters write it."""
    return [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Unsqueeze", "n zeros", "n1"),
        node("Concat", "n1 minus", "target", axis=0),
        node("Reshape", "x target", "y"),
    ]


SHAPES = {"zero": np.asarray(0), "zeros": np.asarray([0]), "minus": np.asarray([-1])}


def test_shapes_are_folded() -> None:
    net = ha.from_onnx(model(shape_chain(), {"x": ("n", 2, 3)}, weights=SHAPES))
    x = normal(15, 4, 2, 3)
    assert np.array_equal(net.value(x), x.reshape(4, 6))


def test_samples_may_move_to_another_axis_and_back() -> None:
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node("Reshape", "t flat", "f"),
        node("MatMul", "f K", "g"),
        node("Reshape", "g apart", "h"),
        node("Softmax", "h", "p", axis=0),
        node("Transpose", "p", "y", perm=[1, 0, 2]),
    ]
    weights = {"flat": np.asarray([-1, 3]), "K": W, "apart": np.asarray([4, -1, 2])}
    proto = model(nodes, {"x": ("n", 4, 3)}, weights=weights)
    x = normal(16, 5, 4, 3).astype(F32)
    net = ha.from_onnx(proto)
    assert_close(net.value(x), runtime(proto, x=x)[0].reshape(5, -1), 1e-6)
    assert bool(ha.check_derivatives(net, x.astype(float)))


MIXING: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "a sum over samples": (
        [node("ReduceSum", "x axes")],
        {"axes": np.asarray([0])},
        r"ReduceSum:\w+' \(ReduceSum\) mixes the samples of a batch",
    ),
    "a mean over everything": ([node("ReduceMean", "x")], {}, "mixes the samples"),
    "softmax over samples": ([node("Softmax", "x", axis=0)], {}, "mixes the samples"),
    "a reshape that swallows the batch": (
        [node("Reshape", "x all", "u"), node("Softmax", "u")],
        {"all": np.asarray([1, -1])},
        r"Softmax:\w+' \(Softmax\) mixes the samples",
    ),
    "a transpose": (
        [node("Transpose", "x", perm=[1, 0])],
        {},
        "the first axis of output 'y', of shape .* does not count the samples",
    ),
    "samples back to front": (
        [node("Slice", "x start end axis step")],
        {
            "start": np.asarray([-1]),
            "end": np.asarray([-100]),
            "axis": np.asarray([0]),
            "step": np.asarray([-1]),
        },
        "does not count the samples",
    ),
    "the difference of neighbours": (
        [node("Gather", "x first", "u", axis=0), node("Sub", "x u")],
        {"first": np.asarray(0)},
        r"Sub:\w+' \(Sub\) mixes the samples",
    ),
    "a division by their number": (
        [
            node("Shape", "x", "s", end=1),
            node("Cast", "s", "n", to=TensorProto.FLOAT),
            node("Div", "x n"),
        ],
        {},
        r"Cast:\w+' \(Cast\) gives \[1.0\] for one sample and \[2.0\] for two",
    ),
    "axes that one sample alone loses": (
        [node("Squeeze", "x", "u"), node("Softmax", "u", axis=0)],
        {},
        r"Squeeze:\w+' \(Squeeze\) gives shape \(3,\) for one sample and shape \(2, 3\) for two",
    ),
    "training": (
        [node("BatchNormalization", "x s s s s", "y mean var", training_mode=1)],
        {"s": np.ones(3, F32)},
        r"\(BatchNormalization\) .* training mode, which mixes samples",
    ),
}


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_samples_is_refused(name: str) -> None:
    nodes, weights, message = MIXING[name]
    with pytest.raises(LoadError, match=message):
        ha.from_onnx(model(nodes, {"x": ("n", 3)}, weights=weights))


def test_one_sample_cannot_mix() -> None:
    nodes, weights, _ = MIXING["a mean over everything"]
    net = ha.from_onnx(model(nodes, {"x": (1, 3)}, weights=weights))
    assert_close(net.value(normal(17, 2, 3)), normal(17, 2, 3).mean(axis=1, keepdims=True), 1e-12)


def test_a_fixed_batch_in_the_graph() -> None:
    nodes = [node("Reshape", "x target")]
    proto = model(nodes, {"x": (8, 2, 3)}, weights={"target": np.asarray([8, 6])})
    with pytest.raises(LoadError, match="fixes a batch of 8: export it with a batch of one"):
        ha.from_onnx(proto)
    net = ha.from_onnx(proto, inputs={"x": (8, 2, 3)})
    x = normal(18, 8, 2, 3)
    assert np.array_equal(net.value(x), x.reshape(-1))


# ---- inputs and outputs --------------------------------------------------------------------------


def several() -> Any:
    nodes = [
        node("MatMul", "a K", "u"),
        node("Mul", "u b", "v"),
        node("Sin", "v", "s"),
        node("ReduceSum", "s last", "total", keepdims=0),
        node("ArgMax", "v", "label", axis=1),
    ]
    weights = {"K": W, "last": np.asarray([-1])}
    proto = model(nodes, {"a": ("n", 3), "b": ("n", 2)}, ("s", "total", "label"), weights)
    proto.graph.output[2].type.tensor_type.elem_type = TensorProto.INT64
    return proto


def test_outputs_are_joined_or_chosen() -> None:
    proto = several()
    a, b = normal(19, 4, 3).astype(F32), normal(20, 4, 2).astype(F32)
    s, total, _ = runtime(proto, a=a, b=b)
    net = ha.from_onnx(proto, outputs=["total", "s"])
    assert (net.input_names, net.output_names) == (("a", "b"), ("total", "s"))
    assert net.output_shapes == {"total": (), "s": (2,)}
    assert_close(net.value(a, b), joined([total, s], 4), 1e-6)
    swapped = ha.from_onnx(proto, outputs="s", inputs=["b", "a"])
    assert_close(swapped.value(b, a), s, 1e-6)
    (daa, dab), (dba, dbb) = net.hessian(a, b)
    assert [h.shape for h in (daa, dab, dba, dbb)] == [
        (4, 3, 3, 3),
        (4, 3, 2, 3),
        (4, 2, 3, 3),
        (4, 2, 2, 3),
    ]
    assert_close(dab, np.swapaxes(dba, 1, 2), 1e-6)
    assert bool(ha.check_derivatives(net, (a.astype(float), b.astype(float))))


def test_values_inside_the_graph_can_be_outputs() -> None:
    net = ha.from_onnx(several(), outputs="u")
    assert net.input_names == ("a",)
    x = normal(21, 2, 3)
    assert_close(net.value(x), x @ W, 1e-12)


SELECTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "an operator without derivative": (
        {},
        r"node 'ArgMax:label': operator 'ArgMax' of opset 21 is not supported.*"
        r"outputs=\['s'\] does without it",
    ),
    "no such output": ({"outputs": "tota"}, "no output 'tota', did you mean total"),
    "nothing like it": ({"outputs": "zzz"}, "no output 'zzz', its outputs are 's', 'total', 'lab"),
    "none": ({"outputs": []}, "there is no output None"),
    "twice": ({"outputs": ["s", "s"]}, "names one output twice"),
    "no such input": ({"outputs": "s", "inputs": "c"}, "read no input 'c', they read 'a', 'b'"),
    "an input is missing": ({"outputs": "s", "inputs": "a"}, "must name each input once: 'a', 'b'"),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_wrong_selections(name: str) -> None:
    options, message = SELECTIONS[name]
    with pytest.raises(LoadError, match=message):
        ha.from_onnx(several(), **options)


def test_an_input_with_a_value_is_a_parameter_until_it_is_named() -> None:
    proto = mlp()
    proto.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [4]))
    assert list(ha.from_onnx(proto).parameters()) == ["K", "b"]
    net = ha.from_onnx(proto, inputs=["x", "b"])
    assert (list(net.parameters()), net.in_shapes) == (["K"], ((3,), (4,)))


def test_sources() -> None:
    with pytest.raises(LoadError, match="int is no ONNX model: pass a path or a ModelProto"):
        ha.from_onnx(3)


def test_functions_of_a_model_are_expanded() -> None:
    proto = mlp()
    proto.graph.node[1].CopyFrom(helper.make_node("Twice", ["z"], ["y"], domain="own"))
    body = [helper.make_node("Add", ["a", "a"], ["c"])]
    versions = [helper.make_opsetid("", 21)]
    proto.functions.append(helper.make_function("own", "Twice", ["a"], ["c"], body, versions))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    x, net = normal(22, 2, 3), ha.from_onnx(proto)
    K, b = net.parameters().values()
    assert_close(net.value(x), 2 * (x @ K + b), 1e-12)


@pytest.mark.parametrize("load", ["load", "from_onnx"])
def test_nan_is_named(load: str, tmp_path: Path) -> None:
    proto = mlp()
    bad = onnx.numpy_helper.to_array(proto.graph.initializer[1]).copy()
    bad[0] = np.nan
    proto.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(bad, "b"))
    onnx.save(proto, tmp_path / "net.onnx")
    with pytest.warns(UserWarning, match=r"net.onnx: tensor 'b' holds NaN or infinity") as caught:
        getattr(ha, load)(tmp_path / "net.onnx")
    assert caught[0].filename == __file__


def test_without_the_library() -> None:
    code = (
        "import sys; sys.modules['onnx'] = None; import hessarray as ha\n"
        "try: ha.from_onnx('model.onnx')\n"
        "except ha.LoadError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "ONNX models need the extra: pip install 'hessarray[onnx]'"


# ---- opsets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 14, 17, 18, 20, 21])
def test_one_network_in_all_opsets(opset: int) -> None:
    """Operators whose attributes became inputs, or whose default axis moved, on the way."""
    weights = {"K": normal(23, 3, 6).astype(F32)}

    def axes(name: str, *values: int, since: int) -> tuple[str, dict[str, Any]]:
        """Axes as an input from an opset on, as an attribute before."""
        if opset < since:
            return "", {"axes" if name != "split" else "split": list(values)}
        weights[name] = np.asarray(values)
        return f" {name}", {}

    split, split_given = axes("split", 2, 4, since=13)
    total, total_given = axes("total", 1, since=13)
    mean, mean_given = axes("mean", 1, since=18)
    wide, wide_given = axes("wide", 2, since=13)
    if opset < 11:
        clip = node("Clip", "u", "v", min=-1.0, max=0.75)
    else:
        weights |= {"low": np.asarray(-1.0, F32), "high": np.asarray(0.75, F32)}
        clip = node("Clip", "u low high", "v")
    if opset < 10:
        cut = node("Slice", "v", "w", starts=[1], ends=[6], axes=[1])
    else:
        weights |= {"from": np.asarray([1]), "to": np.asarray([6]), "along": np.asarray([1])}
        cut = node("Slice", "v from to along", "w")
    if opset < 11:
        pad = node("Pad", "w", "p", pads=[0, 1, 0, 0])
    else:
        weights["pads"] = np.asarray([0, 1, 0, 0])
        pad = node("Pad", "w pads", "p")
    nodes = [
        node("MatMul", "x K", "u"),
        clip,
        cut,
        pad,
        node("Split", f"p{split}", "left right", axis=1, **split_given),
        node("ReduceSum", f"left{total}", "s", keepdims=1, **total_given),
        node("ReduceMean", f"right{mean}", "m", keepdims=1, **mean_given),
        node("Unsqueeze", f"right{wide}", "r", **wide_given),
        node("Softmax", "r", "q", axis=1),
        node("Squeeze", f"q{wide}", "t", **wide_given),
        node("Concat", "s m t", "y", axis=1),
    ]
    proto = model(nodes, {"x": ("n", 3)}, weights=weights, opset=opset)
    x = normal(24, 5, 3).astype(F32)
    net = ha.from_onnx(proto)
    assert net.opset == opset
    assert_close(net.value(x), runtime(proto, x=x)[0], 1e-6)
    assert errors(net.value(x.astype(float)), runtime(proto, x=x)[0])[0] < 1e-6
