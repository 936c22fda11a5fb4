"""ONNX files from strangers: one clear LoadError, no foreign file read, no memory taken."""

from __future__ import annotations

import os
import pickle
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import model, node

import hessarray as ha
from hessarray.errors import LoadError

F32 = np.float32
MB = 1 << 20


@contextmanager
def one_sentence(path: Path, message: str) -> Iterator[None]:
    """LoadError in one short line that begins with the file; quick, and without much memory."""
    start = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(LoadError) as caught:
            yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = str(caught.value)
    assert text.startswith(str(path))
    assert len(text.splitlines()) == 1
    assert len(text) < len(str(path)) + 400
    assert text.isprintable()
    caught.match(message)
    assert caught.value.__cause__ is None
    assert peak < 32 * MB + 4 * path.stat().st_size
    assert time.perf_counter() - start < 10.0


def good() -> Any:
    weights = {"K": np.ones((3, 4), F32), "b": np.ones(4, F32)}
    return model([node("Gemm", "x K b", "z"), node("Tanh", "z")], {"x": ("n", 3)}, weights=weights)


def written(tmp_path: Path, proto: Any) -> Path:
    path = tmp_path / "bad.onnx"
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return path


def changed(change: Callable[[Any], Any], proto: Any = None) -> Any:
    proto = good() if proto is None else proto
    change(proto)
    return proto


def one(kind: str, inputs: str = "x", *, outputs: str = "y", opset: int = 21, **given: Any) -> Any:
    """A model of one node over x (n, 3); tensors among the keywords, by the names it reads."""
    tensors = {k: given.pop(k) for k in list(given) if isinstance(given[k], np.ndarray)}
    nodes = [node(kind, inputs, outputs, **given)]
    return model(nodes, {"x": ("n", 3)}, weights=tensors, opset=opset)


def ints(*values: int) -> Any:
    return np.asarray(values, dtype=np.int64)


# ---- bytes ---------------------------------------------------------------------------------------


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    path = written(tmp_path, pickle.dumps(Bomb(tmp_path / "executed")))
    with one_sentence(path, "not a readable ONNX file|not an ONNX model"):
        ha.load(path)
    assert not (tmp_path / "executed").exists()


BYTES = {
    "nothing": b"",
    "text": b"this is no model\n" * 40,
    "zip": b"PK\x03\x04" + b"\0" * 100,
    "zeros": b"\0" * 100,
    "npz in disguise": b"\x93NUMPY\x01\x00" + b"\0" * 64,
}


@pytest.mark.parametrize("name", BYTES)
def test_wrong_bytes(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, BYTES[name])
    with one_sentence(path, "not a readable ONNX file|not an ONNX model, or not all of it"):
        ha.load(path)


def test_every_truncation(tmp_path: Path) -> None:
    data = good().SerializeToString()
    for length in range(0, len(data) - 1, 3):
        path = written(tmp_path, data[:length])
        with one_sentence(path, ""):
            ha.load(path)


def test_flipped_bytes_do_no_harm(tmp_path: Path) -> None:
    data = good().SerializeToString()
    rng = np.random.default_rng(0)
    for _ in range(300):
        bad = bytearray(data)
        for at in rng.integers(0, len(data), 2):
            bad[at] = rng.integers(0, 256)
        path = written(tmp_path, bytes(bad))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "[^ ]*: tensor .* holds NaN or infinity")
            outcome = attempt(path)
        assert outcome.startswith((str(path), "OnnxFunction"))
        assert len(outcome.splitlines()) == 1


def attempt(path: Path) -> str:
    try:
        return repr(ha.load(path))
    except LoadError as error:
        return str(error)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"no\.onnx: no such file"):
        ha.load(tmp_path / "no.onnx")


# ---- the graph -----------------------------------------------------------------------------------


def cyclic(proto: Any) -> None:
    proto.graph.node[0].input[0] = "y"


def nested(depth: int) -> Any:
    """Functions that each call the one below twice: 2^depth nodes."""
    proto = good()
    versions = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    for i in range(depth):
        kind, domain = ("Exp", "") if i == 0 else (f"f{i - 1}", "own")
        body = [
            helper.make_node(kind, ["a"], ["b"], domain=domain),
            helper.make_node(kind, ["b"], ["c"], domain=domain),
        ]
        proto.functions.append(helper.make_function("own", f"f{i}", ["a"], ["c"], body, versions))
    proto.graph.node[1].op_type, proto.graph.node[1].domain = f"f{depth - 1}", "own"
    proto.opset_import.append(helper.make_opsetid("own", 1))
    return proto


def recursive(proto: Any) -> None:
    body = [helper.make_node("f", ["a"], ["c"], domain="own")]
    versions = [helper.make_opsetid("own", 1)]
    proto.functions.append(helper.make_function("own", "f", ["a"], ["c"], body, versions))
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "f", "own"
    proto.opset_import.append(versions[0])


def set_opset(version: int) -> Callable[[Any], None]:
    def change(proto: Any) -> None:
        proto.opset_import[0].version = version

    return change


def swap_output(proto: Any) -> None:
    proto.graph.output[0].name = "nowhere"


def twice(proto: Any) -> None:
    proto.graph.node[1].output[0] = "z"


def integer_input(proto: Any) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def negative_length(proto: Any) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -3


def huge_length(proto: Any) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1 << 60


def no_output(proto: Any) -> None:
    del proto.graph.output[:]


def two_versions(proto: Any) -> None:
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 9))


def nul_in_a_name(proto: Any) -> None:
    proto.graph.node[1].name = "a\nb\x1b[31m" + "c" * 5000
    proto.graph.node[1].op_type = "No\nsuch"


GRAPHS: dict[str, tuple[Callable[[], Any], str]] = {
    "a cycle": (
        lambda: changed(cyclic),
        r"node 'Gemm:z' \(Gemm\) reads 'y', which no earlier node, input or tensor gives",
    ),
    "an old opset": (lambda: changed(set_opset(6)), "opset 6 is not supported, supported are 7 to"),
    "a future opset": (lambda: changed(set_opset(999)), r"opset 999 is not supported"),
    "a negative opset": (lambda: changed(set_opset(-1)), r"opset -1 is not supported"),
    "two versions": (lambda: changed(two_versions), "imports two versions of the operators ''"),
    "an unknown operator": (
        lambda: one("Tanhh"),
        r"node 'Tanhh:y': operator 'Tanhh' of opset 21 is not supported \(did you mean Tanh",
    ),
    "another domain": (
        lambda: one("FusedGemm", domain="com.microsoft"),
        r"operator 'com.microsoft.FusedGemm' of opset none is not supported",
    ),
    "control flow": (
        lambda: one(
            "If", "c", c=np.asarray(True), then_branch=good().graph, else_branch=good().graph
        ),
        "operator 'If' of opset 21 is not supported",
    ),
    "no such output": (lambda: changed(swap_output), "nothing gives the output 'nowhere'"),
    "no output": (lambda: changed(no_output), "the graph has no output"),
    "a name twice": (lambda: changed(twice), r"node 'Tanh:y' \(Tanh\) gives 'z', which is there"),
    "integers go in": (lambda: changed(integer_input), "input 'x' holds int64, real numbers are"),
    "a negative length": (lambda: changed(negative_length), "input 'x' has the empty sample shape"),
    "a huge length": (lambda: changed(huge_length), "input 'x': .* has more than 67,108,864 entr"),
    "functions that multiply": (lambda: nested(40), "nodes are more than 100000"),
    "functions in functions": (lambda: nested(3000), "nested too deeply|more than 100000|expanded"),
    "a function of itself": (lambda: changed(recursive), "function 'f' calls itself"),
    "names that are none": (lambda: changed(nul_in_a_name), r"operator 'No\\nsuch'"),
    "an unknown attribute": (lambda: one("Tanh", alpha=1.0), "not a valid ONNX model"),
    "an attribute of another type": (lambda: one("Softmax", axis=1.5), "not a valid ONNX model"),
    "too few inputs": (lambda: one("MatMul", "x"), "not a valid ONNX model"),
    "constants alone": (
        lambda: one("Tanh", "k", k=np.ones(3, F32)),
        "outputs 'y' depend on no input",
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_bad_graphs(name: str, tmp_path: Path) -> None:
    make, message = GRAPHS[name]
    path = written(tmp_path, make())
    with one_sentence(path, message):
        ha.load(path)


# ---- nodes ---------------------------------------------------------------------------------------

LARGE = 1 << 40
NODES: dict[str, tuple[Callable[[], Any], str]] = {
    "shapes do not fit": (
        lambda: one("MatMul", "x K", K=np.ones((5, 2), F32)),
        r"node 'MatMul:y' \(MatMul\) with inputs of shape \(1, 3\), \(5, 2\): matmul of shapes",
    ),
    "an expansion": (
        lambda: one("Expand", "x s", s=ints(LARGE, LARGE, 1, 3)),
        "has more than 67,108,864 entries|Expand",
    ),
    "a tiling": (lambda: one("Tile", "x s", s=ints(1, LARGE)), "more than 67,108,864 entries"),
    "a negative tiling": (lambda: one("Tile", "x s", s=ints(1, -1)), "its repeats .* do not fit"),
    "a padding": (lambda: one("Pad", "x s", s=ints(0, LARGE, 0, 0)), "more than 67,108,864"),
    "a mirrored padding": (
        lambda: one("Pad", "x s", s=ints(0, LARGE, 0, 0), mode="reflect"),
        "more than 67,108,864",
    ),
    "a fill": (
        lambda: model(
            [node("ConstantOfShape", "s", "c"), node("Mul", "x c")],
            {"x": ("n", 3)},
            weights={"s": ints(1 << 20, 1 << 20)},
        ),
        "more than 67,108,864 entries",
    ),
    "a product of constants": (
        lambda: model(
            [
                node("ConstantOfShape", "s", "c"),
                node("MatMul", "c c", "d"),
                node("ReduceMax", "d", "e", keepdims=0),
                node("Mul", "x e"),
            ],
            {"x": ("n", 3)},
            weights={"s": ints(1500, 1500)},
        ),
        r"\(MatMul\) .*: a product of constants has more than 1,073,741,824 terms",
    ),
    "a sum over constants that takes for ever": (
        lambda: model(
            [
                node("ConstantOfShape", "s", "c"),
                node("Einsum", "c c c c", "d", equation="ij,kl,mn,op->"),
                node("Mul", "x d"),
            ],
            {"x": ("n", 3)},
            weights={"s": ints(200, 200)},
        ),
        r"\(Einsum\) .*: a product of constants has more than 1,073,741,824 terms",
    ),
    "windows over all pairs": (
        lambda: model(
            [node("Expand", "x s", "u"), node("MaxPool", "u", kernel_shape=[1 << 12])],
            {"x": ("n", 1, 1)},
            weights={"s": ints(1, 1, 1 << 14)},
        ),
        r"\(MaxPool\) .*: windows of \[4096\] read 50,335,744 entries, at most 16,777,216",
    ),
    "a negative fill": (
        lambda: model(
            [node("ConstantOfShape", "s", "c"), node("Mul", "x c")],
            {"x": ("n", 3)},
            weights={"s": ints(-4)},
        ),
        r"the shape \(-4,\) has a negative length",
    ),
    "a range": (
        lambda: model(
            [node("Range", "a b c", "r"), node("Mul", "x r")],
            {"x": ("n", 3)},
            weights={"a": np.asarray(0.0, F32), "b": np.asarray(1.0), "c": np.asarray(1e-20)},
        ),
        "more than 67,108,864 entries",
    ),
    "a range that stands still": (
        lambda: model(
            [node("Range", "a a a", "r"), node("Mul", "x r")],
            {"x": ("n", 3)},
            weights={"a": np.asarray(0.0, F32)},
        ),
        r"\(Range\) .*division by zero",
    ),
    "an outer product": (
        lambda: model(
            [node("Tile", "x t", "u"), node("Unsqueeze", "u a", "v"), node("Add", "u v")],
            {"x": (3,)},
            weights={"t": ints(1 << 20), "a": ints(1)},
        ),
        "more than 67,108,864 entries",
    ),
    "a division by zero": (
        lambda: model(
            [node("Div", "s z", "k"), node("Gather", "x k", axis=1)],
            {"x": ("n", 3)},
            weights={"s": ints(1), "z": ints(0)},
        ),
        "an integer is divided by 0",
    ),
    "an index": (
        lambda: one("Gather", "x i", i=ints(3), axis=1),
        "an index is out of range for an axis of length 3",
    ),
    "an index that depends on x": (
        lambda: model(
            [node("Cast", "x", "i", to=TensorProto.INT64), node("Gather", "x i")], {"x": (3,)}
        ),
        "values that depend on x are cast to int64, which has no derivative",
    ),
    "an axis": (lambda: one("Softmax", axis=7), r"axes \[7\] of an array with 2 axes"),
    "a permutation": (lambda: one("Transpose", perm=[0, 0]), r"name one axis twice"),
    "half a permutation": (lambda: one("Transpose", perm=[0]), "does not name the 2 axes"),
    "a split": (
        lambda: one("Split", "x s", outputs="y z", s=ints(1, 1), axis=1),
        r"parts of lengths \[1, 1\] do not make an axis of length 3",
    ),
    "a reshape": (lambda: one("Reshape", "x s", s=ints(0, 5)), "cannot be reshaped to"),
    "a reshape to less than nothing": (
        lambda: one("Reshape", "x s", s=ints(-1, -3)),
        "cannot be reshaped to",
    ),
    "a step of zero": (
        lambda: one("Slice", "x a b c d", a=ints(0), b=ints(3), c=ints(1), d=ints(0)),
        "starts .* do not fit",
    ),
    "an equation": (lambda: one("Einsum", equation="ij,jk->ik"), "has 2 terms for 1 inputs"),
    "an equation of nothing": (lambda: one("Einsum", equation="ij->iz"), "does not follow from"),
    "text in a constant": (
        lambda: model(
            [node("Constant", "", "c", value_string="a"), node("Mul", "x c")], {"x": (3,)}
        ),
        "it holds no numbers",
    ),
    "training": (
        lambda: one("Dropout", "x r t", r=np.asarray(0.5, F32), t=np.asarray(True)),
        "it is in training mode: export the model for inference",
    ),
}
IMAGE = {"x": ("n", 2, 8, 8)}
WINDOWS: dict[str, tuple[dict[str, Any], str]] = {
    "no stride": ({"kernel_shape": [2, 2], "strides": [0, 0]}, "must be positive"),
    "negative padding": ({"kernel_shape": [2, 2], "pads": [-1, 0, 0, 0]}, "pads not negative"),
    "a huge kernel": ({"kernel_shape": [LARGE, LARGE]}, "more than 67,108,864 entries"),
    "a kernel that is too large": ({"kernel_shape": [9, 9]}, "windows of 9 entries do not fit"),
    "huge padding": (
        {"kernel_shape": [2, 2], "pads": [0, LARGE, LARGE, 0]},
        "more than 67,108,864 entries",
    ),
    "one axis": ({"kernel_shape": [2]}, "do not all fit 2 axes"),
}


@pytest.mark.parametrize("name", NODES)
def test_bad_nodes(name: str, tmp_path: Path) -> None:
    make, message = NODES[name]
    path = written(tmp_path, make())
    with one_sentence(path, message):
        ha.load(path)


def test_many_arrays_that_are_small_enough_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hessarray.load import onnx_graph

    monkeypatch.setattr(onnx_graph, "_MAX_BYTES", 10 * MB)
    nodes = [node("ConstantOfShape", "s", f"c{i}") for i in range(40)]
    nodes += [node("ReduceMax", f"c{i}", f"m{i}", keepdims=0) for i in range(40)]
    nodes.append(node("Sum", "x " + " ".join(f"m{i}" for i in range(40))))
    path = written(tmp_path, model(nodes, {"x": ("n", 3)}, weights={"s": ints(1 << 18)}))
    with one_sentence(path, r"up to node 'ConstantOfShape:c10' .* take 11,534,336 bytes, at most"):
        ha.load(path)


def test_functions_that_multiply_inside_branches(tmp_path: Path) -> None:
    """Each of 40 functions calls the next one four times, in the branches of an If."""

    def branch(inner: str, name: str) -> Any:
        calls = [
            helper.make_node(inner, ["a"], [f"{name}1"], domain="f"),
            helper.make_node(inner, [f"{name}1"], [name], domain="f"),
        ]
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph(calls, name, [], [value])

    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    proto = one("Identity")
    proto.graph.node[0].op_type, proto.graph.node[0].domain = "f0", "f"
    proto.opset_import.append(opsets[1])
    for i in range(40):
        branches = {k: branch(f"f{i + 1}", k[0]) for k in ("then_branch", "else_branch")}
        truth = helper.make_node(
            "Constant", [], ["c"], value=onnx.numpy_helper.from_array(np.array(True))
        )
        body = [truth, helper.make_node("If", ["c"], ["b"], **branches)]
        proto.functions.append(helper.make_function("f", f"f{i}", ["a"], ["b"], body, opsets))
    with one_sentence(written(tmp_path, proto), "[0-9]+ nodes are more than 100000"):
        ha.load(tmp_path / "bad.onnx")


def test_functions_that_multiply_their_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of two megabytes, whose function is called 1,000 times, took ten gigabytes."""
    from hessarray.load import onnx_file

    monkeypatch.setattr(onnx_file, "_MAX_CALLED", 10 * MB)
    tensor = onnx.numpy_helper.from_array(np.ones(MB // 4, F32))
    body = [
        helper.make_node("Constant", [], ["c"], value=tensor),
        helper.make_node("ReduceSum", ["c"], ["s"]),
        helper.make_node("Add", ["a", "s"], ["b"]),
    ]
    opsets = [helper.make_opsetid("", 21)]
    nodes = [
        helper.make_node("add", [f"u{i}" if i else "x"], [f"u{i + 1}"], domain="f")
        for i in range(11)
    ]
    proto = model([*nodes, node("Identity", "u11")], {"x": ("n", 3)})
    proto.opset_import.append(helper.make_opsetid("f", 1))
    proto.functions.append(helper.make_function("f", "add", ["a"], ["b"], body, opsets))
    with one_sentence(written(tmp_path, proto), "its functions make nodes of 11,[0-9,]+ bytes"):
        ha.load(tmp_path / "bad.onnx")


def squares(dtype: Any, size: int, count: int) -> Any:
    """So many squares of one constant matrix."""
    unit = onnx.numpy_helper.from_array(np.ones(1, dtype))
    nodes = [node("ConstantOfShape", "s", "c", value=unit)]
    for i in range(count):
        nodes += [node("MatMul", "c c", f"m{i}"), node("ReduceMax", f"m{i}", f"r{i}", keepdims=0)]
        nodes.append(node("Cast", f"r{i}", f"f{i}", to=TensorProto.FLOAT))
    nodes.append(node("Sum", "x " + " ".join(f"f{i}" for i in range(count))))
    return model(nodes, {"x": ("n", 3)}, weights={"s": ints(size, size)})


def test_a_product_of_whole_numbers(tmp_path: Path) -> None:
    """It has no BLAS: a thousand million terms took ten seconds."""
    with one_sentence(written(tmp_path, squares(np.int64, 500, 1)), "more than 67,108,864 terms"):
        ha.load(tmp_path / "bad.onnx")
    assert ha.from_onnx(squares(F32, 500, 1)).in_shapes == ((3,),)


def test_many_products_of_constants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hessarray.load import onnx_graph

    monkeypatch.setattr(onnx_graph, "_MAX_SECONDS", 0.001)
    path = written(tmp_path, squares(F32, 300, 20))
    with one_sentence(path, "constants took 0 seconds, at most 0.001 are expected"):
        ha.load(path)


def test_many_nodes_that_read_one_large_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes little time, and all of them hours."""
    from hessarray.load import onnx_graph

    monkeypatch.setattr(onnx_graph, "_MAX_READ", 10 * MB)
    nodes = [node("ConstantOfShape", "s", "c")]
    nodes += [node("ReduceMax", "c", f"m{i}", keepdims=0) for i in range(40)]
    nodes.append(node("Sum", "x " + " ".join(f"m{i}" for i in range(40))))
    path = written(tmp_path, model(nodes, {"x": ("n", 3)}, weights={"s": ints(1 << 18)}))
    with one_sentence(path, r"up to node 'ReduceMax:m9' .* nodes read 10,485,768 bytes, at most"):
        ha.load(path)


def test_a_hint_among_many_outputs_takes_no_time(tmp_path: Path) -> None:
    names = [f"y{i}" for i in range(10_000)]
    nodes = [node("NonZero", "x", "z"), *(node("Identity", "x", name) for name in names)]
    path = written(tmp_path, model(nodes, {"x": ("n", 3)}, ["z", *names]))
    with one_sentence(path, r"'NonZero' .*; outputs=\['y0'\] does without it"):
        ha.load(path)


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("name", WINDOWS)
def test_bad_windows(name: str, kind: str, tmp_path: Path) -> None:
    attributes, message = WINDOWS[name]
    path = written(tmp_path, model([node(kind, "x", **attributes)], IMAGE))
    with one_sentence(path, rf"\({kind}\) with inputs of shape \(1, 2, 8, 8\): .*{message}"):
        ha.load(path)


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_bad_convolutions(kind: str, tmp_path: Path) -> None:
    kernel = {"k": np.ones((2, 2, 3, 3), F32)}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"group": 0}, "channels in 0 groups meet weights"),
        ({"group": 7}, "channels in 7 groups meet weights"),
        ({"kernel_shape": [2, 2]}, "kernel_shape .* of weights"),
        ({"dilations": [LARGE, 1]}, "67,108,864 entries"),
        ({"strides": [-1, 1]}, "must be positive"),
    ]
    for attributes, message in cases:
        path = written(tmp_path, model([node(kind, "x k", **attributes)], IMAGE, weights=kernel))
        with one_sentence(path, message):
            ha.load(path)


# ---- tensors -------------------------------------------------------------------------------------


def tensor(**fields: Any) -> Callable[[Any], None]:
    """Replace the weights K of a good model by a tensor with these fields."""

    def change(proto: Any) -> None:
        given = {"data_type": TensorProto.FLOAT, "dims": [3, 4], **fields}
        proto.graph.initializer[0].CopyFrom(TensorProto(name="K", **given))

    return change


def same_name(proto: Any) -> None:
    proto.graph.initializer[1].name = "K"


def sparse(proto: Any) -> None:
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    at = helper.make_tensor("i", TensorProto.INT64, [1], [2])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, at, [9]))


TENSORS: dict[str, tuple[Callable[[Any], None], str]] = {
    "huge, and nothing there": (
        tensor(dims=[1 << 40, 1 << 40], raw_data=b"\0" * 16),
        r"tensor 'K' of shape \(1099511627776, 1099511627776\) and dtype float32 holds 16 bytes",
    ),
    "too short": (tensor(raw_data=b"\0" * 44), r"tensor 'K' of shape \(3, 4\) .* holds 44 bytes"),
    "too long": (tensor(raw_data=b"\0" * 52), "tensor 'K' .* holds 52 bytes"),
    "too few numbers": (tensor(float_data=[1.0] * 11), "tensor 'K' .* holds 11 numbers"),
    "numbers of another dtype": (tensor(double_data=[1.0] * 12), "tensor 'K' .* holds 0 numbers"),
    "a negative length": (tensor(dims=[3, -4]), r"tensor 'K' has shape \(3, -4\), at most 8 axes"),
    "nine axes": (tensor(dims=[1] * 9), "tensor 'K' has shape .*, at most 8 axes"),
    "no dtype": (tensor(data_type=0), "tensor 'K' has dtype undefined, supported are float32"),
    "an unknown dtype": (tensor(data_type=77), "tensor 'K' has dtype 77, supported are float32"),
    "complex": (tensor(data_type=TensorProto.COMPLEX64), "tensor 'K' has dtype complex64"),
    "text": (tensor(data_type=TensorProto.STRING), "tensor 'K' has dtype string, supported"),
    "segments": (
        tensor(raw_data=b"\0" * 48, segment=TensorProto.Segment(begin=0, end=1)),
        "tensor 'K' is stored in segments",
    ),
    "one name twice": (same_name, "two tensors, or none, are named 'K'"),
    "sparse": (sparse, "tensor 's' is sparse"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_bad_tensors(name: str, tmp_path: Path) -> None:
    change, message = TENSORS[name]
    path = written(tmp_path, changed(change))
    with one_sentence(path, message):
        ha.load(path)


def test_limits(tmp_path: Path) -> None:
    path = written(tmp_path, good())
    with one_sentence(path, r"the tensors take 6\d bytes, max_bytes is 60|the file takes"):
        ha.load(path, max_bytes=60)
    with pytest.raises(LoadError, match="the tensors take 64 bytes, max_bytes is 60"):
        ha.from_onnx(good(), max_bytes=60)
    assert ha.from_onnx(good(), max_bytes=64).in_shapes == ((3,),)


# ---- external data -------------------------------------------------------------------------------


def external(location: str, offset: str = "0", length: str | None = "48") -> Callable[[Any], None]:
    entries = {"location": location, "offset": offset, "length": length}
    given = [
        onnx.StringStringEntryProto(key=k, value=v) for k, v in entries.items() if v is not None
    ]
    return tensor(data_location=TensorProto.EXTERNAL, external_data=given)


def beside(tmp_path: Path, size: int = 48) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(np.arange(size // 4, dtype=F32).tobytes())
    (tmp_path / "secret.bin").write_bytes(b"\0" * 48)
    return folder


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    folder = beside(tmp_path, 52)
    path = written(folder, changed(external("weights.bin", offset="4", length=None)))
    net = ha.load(path)
    assert np.array_equal(net.parameters()["K"].reshape(-1), np.arange(1, 13))


@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin",
        "../../etc/passwd",
        "/etc/passwd",
        "sub/../../secret.bin",
        "..\\secret.bin",
        "C:\\secret.bin",
        "\\\\host\\share\\secret.bin",
        "link.bin",
        "linked/secret.bin",
        "weights.bin\0.txt",
        "",
        ".",
        "./weights.bin/..",
    ],
)
def test_external_data_elsewhere(location: str, tmp_path: Path) -> None:
    folder = beside(tmp_path)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "linked").symlink_to(tmp_path)
    path = written(folder, changed(external(location)))
    with one_sentence(path, "tensor 'K' points to .* in the model's own folder|tensor 'K'"):
        ha.load(path)


def test_external_data_that_is_not_there(tmp_path: Path) -> None:
    folder = beside(tmp_path)
    os.link(tmp_path / "secret.bin", folder / "hard.bin")
    os.mkfifo(folder / "pipe.bin")
    cases = [
        (external("nothing.bin"), r"the file 'nothing.bin' of tensor 'K' cannot be read"),
        (external("hard.bin"), "the file 'hard.bin' of tensor 'K' is no plain file of its own"),
        (external("pipe.bin"), "the file 'pipe.bin' of tensor 'K' is no plain file of its own"),
        (external("weights.bin", offset="4"), "of tensor 'K' ends too early"),
        (external("weights.bin", offset="-4"), "tensor 'K' of 48 bytes names offset '-4'"),
        (external("weights.bin", offset="a"), "tensor 'K' of 48 bytes names offset 'a'"),
        (external("weights.bin", length="1000000000000"), "tensor 'K' of 48 bytes names offset"),
    ]
    for change, message in cases:
        path = written(folder, changed(change))
        with one_sentence(path, message):
            ha.load(path)


def test_external_data_larger_than_the_limit(tmp_path: Path) -> None:
    folder = beside(tmp_path)
    huge = changed(external("weights.bin", length=str(4 << 38)))
    huge.graph.initializer[0].dims[:] = [1 << 20, 1 << 18]
    with one_sentence(written(folder, huge), "the tensors take 1,099,511,6.* max_bytes is"):
        ha.load(folder / "bad.onnx")


def test_external_data_without_a_folder() -> None:
    with pytest.raises(LoadError, match="tensor 'K' lies in a file of its own: load the model by"):
        ha.from_onnx(changed(external("weights.bin")))


def test_external_data_of_an_attribute(tmp_path: Path) -> None:
    folder = beside(tmp_path)
    proto = changed(external("weights.bin"))
    constant = helper.make_node("Constant", [], ["c"], value=proto.graph.initializer[0])
    bad = model([constant, node("MatMul", "x c")], {"x": ("n", 3)})
    with one_sentence(written(folder, bad), "tensor 'K'|not a valid ONNX model"):
        ha.load(folder / "bad.onnx")
