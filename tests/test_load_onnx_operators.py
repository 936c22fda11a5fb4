"""Every ONNX operator: onnx's own backend tests, onnxruntime, and finite differences."""

from __future__ import annotations

import importlib
import pkgutil
import re
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from compare import assert_close, normal, positive
from onnx import numpy_helper, version_converter
from onnx_models import model, node, runtime

import hessarray as ha
from hessarray.errors import LoadError
from hessarray.load.onnx_operators import CONSTANT_INPUTS, OPERATORS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # reference implementations divide by zero on purpose
    import onnx.backend.test
    import onnx.backend.test.case.node as node_cases

F32 = np.float32
DATA = Path(onnx.backend.test.__file__).parent / "data"


# ---- the models of onnx's backend tests ----------------------------------------------------------
#
# Each is run as a function of one sample, the arrays as they are: inputs that are real numbers are
# the variables, all others tensors of the graph.

#: Cases that do not run, by words of their names, and why. Those whose inputs are all integers,
#: truth values or text have no variable, and are not counted; Cast alone is left out for that.
SKIPPED = {
    "_empty_set": "the input has no entries, a variable must have some",
    "_zero_size": "the input has no entries, a variable must have some",
    "allowzero": "the input has no entries, a variable must have some",
    "_training_mode": "a batch normalisation that is being trained mixes samples: refused",
    "_with_argmax": "indices have no derivative: refused",
    "test_mod_": "Mod is for constants of the graph only: it has jumps",
    "test_PReLU_1d_multiparam": "opset 6 had a slope for each channel, later ones broadcast it",
    "test_PReLU_2d_multiparam": "as for one axis",
    "test_PReLU_3d_multiparam": "as for one axis",
}


@cache
def cases() -> list[Any]:
    """The test cases of the supported operators, among them those written out as functions."""
    names = {kind.rsplit(".")[-1].lower() for kind in OPERATORS} - {"cast", "castlike"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(node_cases.__path__):
            if module.name.replace("_", "") in names:
                importlib.import_module(f"{node_cases.__name__}.{module.name}")
    return [case for case in node_cases._NodeTestCases if kinds(case.model) <= set(OPERATORS)]


def kinds(proto: Any) -> set[str]:
    own = ("", "ai.onnx")
    return {n.op_type if n.domain in own else f"{n.domain}.{n.op_type}" for n in proto.graph.node}


def is_real(array: Any) -> bool:
    return isinstance(array, np.ndarray) and (
        array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    )


def prepared(proto: Any, arrays: list[Any]) -> tuple[Any, dict[str, Any]]:
    """The model with all but its variables as tensors, and the variables."""
    settings = {
        name
        for n in proto.graph.node
        for i, name in enumerate(n.input)
        if i in CONSTANT_INPUTS.get(n.op_type, ())
    }
    twin, variables = onnx.ModelProto(), {}
    twin.CopyFrom(proto)
    for value, array in zip(proto.graph.input, arrays, strict=False):
        if is_real(array) and value.name not in settings:
            variables[value.name] = array
        else:
            twin.graph.initializer.append(numpy_helper.from_array(array, value.name))
    return twin, variables


def check(name: str, proto: Any, arrays: list[Any], expected: list[Any]) -> bool:
    """Compare with the expected outputs and with onnxruntime; False where nothing is variable."""
    if any(not isinstance(a, np.ndarray) for a in (*arrays, *expected)):
        return False
    twin, variables = prepared(proto, arrays)
    if not variables:
        return False
    net = ha.from_onnx(twin, inputs={k: a.shape for k, a in variables.items()})
    half = any(a.dtype.itemsize == 2 for a in (*variables.values(), *expected))
    rtol = 2e-2 if half else 2e-4 if "precomputed" in name or "starts_on_pad" in name else 1e-5
    x = [
        np.reshape(a, a.shape or (1,)).astype(a.dtype if a.dtype == np.float64 else F32)
        for a in variables.values()
    ]
    got = net.value(*x)
    for theirs in (expected, reference(proto, arrays)):
        if theirs is not None:
            want = np.concatenate([np.asarray(a, dtype=float).reshape(-1) for a in theirs])
            np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol / 5, err_msg=name)
    return True


def reference(proto: Any, arrays: list[Any]) -> list[Any] | None:
    """What onnxruntime computes; None where it knows not this dtype or version."""
    names = [value.name for value in proto.graph.input]
    try:
        return runtime(proto, **dict(zip(names, arrays, strict=False)))
    except Exception:
        return None


def outcome(name: str, proto: Any, arrays: list[Any], expected: list[Any]) -> str:
    """'ran', 'no variable', 'skipped', or what went wrong."""
    skipped = any(words in name for words in SKIPPED)
    try:
        ran = check(name, proto, arrays, expected)
    except (LoadError, ha.ShapeError) as error:
        return "skipped" if skipped else f"{name}: {error}"
    return f"{name} runs, but is skipped" if ran and skipped else "ran" if ran else "no variable"


def test_the_backend_tests_of_onnx() -> None:
    found = [outcome(c.name, c.model, *data) for c in cases() for data in c.data_sets]
    wrong = [text for text in found if text not in ("ran", "no variable", "skipped")]
    assert not wrong, "\n".join(wrong)
    assert found.count("ran") > 500


def test_models_that_torch_exported() -> None:
    found = [outcome(*case) for case in exported()]
    wrong = [text for text in found if text not in ("ran", "no variable", "skipped")]
    assert not wrong, "\n".join(wrong)
    assert found.count("ran") > 100


def test_every_reason_to_skip_is_needed() -> None:
    names = [c.name for c in cases()] + [name for name, *_ in exported()]
    assert all(any(words in name for name in names) for words in SKIPPED)


@cache
def exported() -> list[tuple[str, Any, list[Any], list[Any]]]:
    """Models that torch exported long ago, with their weights, brought to opset 7."""
    found = []
    for folder in sorted([*DATA.glob("pytorch-*/*"), *DATA.glob("simple/*")]):
        path = folder / "model.onnx"
        proto = onnx.load(path)
        if not kinds(proto) <= set(OPERATORS):
            continue
        if proto.opset_import[0].version < 7:
            proto = version_converter.convert_version(proto, 7)
        tensors = [list(tensors_of(folder / "test_data_set_0", k)) for k in ("input", "output")]
        found.append((folder.name, proto, *tensors))
    return found


def tensors_of(folder: Path, kind: str) -> Iterator[Any]:
    for i in range(len(list(folder.glob(f"{kind}_*.pb")))):
        tensor = onnx.TensorProto()
        tensor.ParseFromString((folder / f"{kind}_{i}.pb").read_bytes())
        yield numpy_helper.to_array(tensor)


# ---- derivatives ---------------------------------------------------------------------------------

POSITIVE = "Acosh Div Log Pow Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceProd Sqrt".split()
INSIDE = "Acos Asin Atanh Tan".split()  # of (-1, 1)
IMAGE = (2, 4, 4)


def ints(*values: int) -> Any:
    return np.asarray(values, dtype=np.int64)


#: The tensors that the models below read, by name.
TENSORS: dict[str, Any] = {
    "K": normal(1, 4, 3).astype(F32),
    "v": positive(2, 4).astype(F32),
    "w": positive(3, 2).astype(F32),
    "kernel": normal(4, 2, 2, 3, 3).astype(F32),
    "zero": np.zeros((), F32),
    "low": np.asarray(-0.5, F32),
    "high": np.asarray(0.7, F32),
    "powers": np.asarray([2, 3, 0.5, -1], F32),
    "flat": ints(-1, 2, 2),
    "one": ints(1),
    "twice": ints(1, 2),
    "parts": ints(1, 3),
    "expanded": ints(1, 3, 4),
    "from": ints(-1),
    "to": ints(-9),
    "back": ints(-2),
    "picked": ints(3, 0, 0),
    "pads": ints(0, 1, 0, 2),
    "seven": ints(7),
    "four": ints(4),
}

#: An operator of u by the inputs and attributes of its node, and one sample's shape if not (4,).
#: u is x for what curves by itself, and sin x for what is linear or has constant slopes.
CURVED: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    **{
        kind: ("u", {}, (4,))
        for kind in "Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh Elu Erf Exp Gelu HardSwish Log "
        "LogSoftmax Mish Reciprocal Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Swish Tan "
        "Tanh ai.onnx.ml.Normalizer".split()
    },
    **{
        kind: ("u one", {}, (3, 4))
        for kind in "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceProd "
        "ReduceSumSquare".split()
    },
    "Div": ("v u", {}, (4,)),
    "Einsum": ("u u K", {"equation": "na,na,ab->nb"}, (4,)),
    "InstanceNormalization": ("u w w", {}, IMAGE),
    "LayerNormalization": ("u v v", {}, (4,)),
    "Mul": ("u u", {}, (4,)),
    "Pow": ("u powers", {}, (4,)),
}
LINEAR: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    **{
        kind: ("u", {}, (4,))
        for kind in "Abs Ceil Dropout Flatten Floor HardSigmoid Identity LeakyRelu Neg Relu Round "
        "Sign ThresholdedRelu".split()
    },
    **{kind: ("u v", {}, (4,)) for kind in "Add Max Mean Min PRelu Sub Sum".split()},
    **{kind: ("u one", {}, (3, 4)) for kind in "ReduceMax ReduceMean ReduceMin ReduceSum".split()},
    **{kind: ("u", {}, IMAGE) for kind in ("GlobalAveragePool", "GlobalMaxPool")},
    "AveragePool": ("u", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 1]}, IMAGE),
    "BatchNormalization": ("u w w w w", {}, IMAGE),
    "Cast": ("u", {"to": onnx.TensorProto.FLOAT}, (4,)),
    "CastLike": ("u v", {}, (4,)),
    "Clip": ("u low high", {}, (4,)),
    "Concat": ("u u", {"axis": 1}, (4,)),
    "Conv": ("u kernel w", {"dilations": [1, 2], "pads": [1, 2, 1, 2]}, IMAGE),
    "ConvTranspose": ("u kernel w", {"strides": [2, 1], "output_padding": [1, 0]}, IMAGE),
    "Expand": ("u expanded", {}, (1, 4)),
    "Gather": ("u picked", {"axis": 1}, (4,)),
    "Gemm": ("u K", {"alpha": 0.5}, (4,)),
    "MatMul": ("u K", {}, (3, 4)),
    "MaxPool": ("u", {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}, IMAGE),
    "Pad": ("u pads", {"mode": "reflect"}, (4,)),
    "Reshape": ("u flat", {}, (4,)),
    "Slice": ("u from to one back", {}, (4,)),
    "Split": ("u parts", {"axis": 1}, (4,)),
    "Squeeze": ("u one", {}, (1, 4)),
    "Tile": ("u twice", {}, (4,)),
    "Transpose": ("u", {"perm": [0, 2, 1]}, (3, 4)),
    "Trilu": ("u", {}, (4, 4)),
    "Unsqueeze": ("u one", {}, (4,)),
    "ai.onnx.ml.Scaler": ("u", {"offset": [1.0, 2, 3, 4], "scale": [2.0, 1, 3, 0.5]}, (4,)),
}


def comparison(kind: str) -> list[Any]:
    return [node(kind, "x v", "c"), node("Exp", "x", "u"), node("Where", "c u x", "y")]


def logic(kind: str) -> list[Any]:
    tests = [node("Greater", "x zero", "a"), node("Less", "x v", "b")]
    return [*tests, node(kind, "a" if kind == "Not" else "a b", "c"), *comparison("Less")[1:]]


def folded(*nodes: Any) -> list[Any]:
    """Nodes that make 'k', a constant that x is multiplied by before it is squared."""
    return [*nodes, node("Mul", "x k", "u"), node("Mul", "u u")]


#: What works on truth values and constants, inside a model.
COMPOSED: dict[str, list[Any]] = {
    **{kind: comparison(kind) for kind in "Equal Greater GreaterOrEqual Less LessOrEqual".split()},
    **{kind: logic(kind) for kind in "And Not Or Xor".split()},
    "Constant": folded(node("Constant", "", "k", value_floats=[1.0, 2.0, 3.0, 4.0])),
    "ConstantOfShape": folded(node("ConstantOfShape", "four", "k")),
    "Mod": folded(node("Mod", "seven four", "m"), node("Cast", "m", "k", to=1)),
    "Range": folded(
        node("Constant", "", "start", value_float=1.0),
        node("Constant", "", "limit", value_float=2.9),
        node("Constant", "", "delta", value_float=0.5),
        node("Range", "start limit delta", "k"),
    ),
    "Shape": folded(node("Shape", "x", "s", start=1), node("Cast", "s", "k", to=1)),
    "Size": folded(node("Size", "v", "s"), node("Cast", "s", "k", to=1)),
    "Where": comparison("Less"),
}


def composed(kind: str) -> tuple[Any, tuple[int, ...]]:
    """The model that tries an operator, and the shape of one sample."""
    if kind in COMPOSED:
        nodes, shape = COMPOSED[kind], (4,)
    else:
        inputs, attributes, shape = CURVED.get(kind) or LINEAR[kind]
        domain, _, name = kind.rpartition(".")
        outputs = "y rest" if kind == "Split" else "y"
        last = node(name, inputs, outputs, domain=domain, **attributes)
        nodes = [node("Identity" if kind in CURVED else "Sin", "x", "u"), last]
    read = {name for n in nodes for name in n.input}
    tensors = {k: a for k, a in TENSORS.items() if k in read}
    opset = 24 if kind == "Swish" else 22
    return model(nodes, {"x": ("n", *shape)}, weights=tensors, opset=opset, ml=3), shape


@pytest.mark.parametrize("kind", OPERATORS)
def test_value_gradient_and_hessian(kind: str) -> None:
    proto, shape = composed(kind)
    net = ha.from_onnx(proto)
    n, d = 4, int(np.prod(shape))
    x = normal(5, n, *shape)
    if kind in POSITIVE:
        x = positive(5, n, *shape) + (kind == "Acosh")
    elif kind in INSIDE:
        x = 0.9 * np.tanh(x)
    reals = x.astype(F32)
    theirs = runtime(proto, x=reals)[0].reshape(n, -1)
    np.testing.assert_allclose(net.value(reals), theirs, rtol=2e-5, atol=1e-5)
    h = 1e-5
    steps = h * np.eye(d).reshape(d, *shape)
    gradient = np.stack([(net.value(x + s) - net.value(x - s)) / (2 * h) for s in steps], axis=1)
    assert_close(net.gradient(x).reshape(n, d, -1), gradient, 1e-8)
    hessian = np.stack(
        [(net.gradient(x + s) - net.gradient(x - s)).reshape(n, d, -1) / (2 * h) for s in steps],
        axis=1,
    )
    assert_close(net.hessian(x).reshape(n, d, d, -1), hessian, 1e-7)


def test_each_operator_has_one_model() -> None:
    assert sorted([*CURVED, *LINEAR, *COMPOSED]) == sorted(OPERATORS)


@pytest.mark.parametrize("first", [-1, 2, 9, -9])
@pytest.mark.parametrize("last", [-9, -2, 0, 9])
@pytest.mark.parametrize("by", [-2, -1, 1, 2])
def test_slices_from_and_to_anywhere(first: int, last: int, by: int) -> None:
    weights = {"s": ints(first), "e": ints(last), "a": ints(1), "t": ints(by)}
    proto = model([node("Slice", "x s e a t")], {"x": ("n", 5)}, weights=weights)
    x = normal(6, 2, 5).astype(F32)
    (want,) = runtime(proto, x=x)
    if want.size:
        assert np.array_equal(ha.from_onnx(proto).value(x), want)


def test_the_guide_names_each_operator() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "loading-onnx.md").read_text()
    words = set(re.findall(r"\w+", guide))
    assert not [kind for kind in OPERATORS if kind.rpartition(".")[2] not in words]
