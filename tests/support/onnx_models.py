"""Small ONNX models, and what onnxruntime says about them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

onnxruntime.set_default_logger_severity(4)

Shape = Sequence[int | str | None]
OPSET = 21


def model(
    nodes: Sequence[Any],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str] = ("y",),
    weights: Mapping[str, Any] | None = None,
    *,
    opset: int = OPSET,
    ml: int | None = None,
    dtype: int = TensorProto.FLOAT,
) -> Any:
    """A ModelProto; inputs by name and shape, weights by name and value."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(k, dtype, list(s)) for k, s in inputs.items()],
        [helper.make_tensor_value_info(k, dtype, None) for k in outputs],
        [numpy_helper.from_array(np.asarray(a), k) for k, a in (weights or {}).items()],
    )
    versions = [helper.make_opsetid("", opset)]
    versions += [helper.make_opsetid("ai.onnx.ml", ml)] if ml else []
    return helper.make_model(graph, opset_imports=versions, ir_version=8)


def node(kind: str, inputs: str, outputs: str = "y", **attributes: Any) -> Any:
    """``node("Add", "a b")``: names by spaces, '-' for one that is left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    given = outputs.split()
    return helper.make_node(kind, names, given, name=f"{kind}:{given[0]}", **attributes)


def runtime(proto: Any, **inputs: Any) -> list[Any]:
    """What onnxruntime computes, in the order of the outputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    data = proto if isinstance(proto, str) else proto.SerializeToString()
    return list(onnxruntime.InferenceSession(data, options).run(None, inputs))


def joined(outputs: Sequence[Any], samples: int) -> Any:
    """Outputs of a batch, flattened and joined along the features."""
    return np.concatenate([np.asarray(a, float).reshape(samples, -1) for a in outputs], axis=1)


def exported(module: Any, x: Any, *, batch: bool = True, **options: Any) -> Any:
    """The ModelProto that torch.onnx.export makes of a module, by tracing."""
    import torch

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch recommends its other exporter
        torch.onnx.export(
            module.eval(),
            (torch.as_tensor(x),),
            file,
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "n"}} if batch else None,
            **options,
        )
    return onnx.load_from_string(file.getvalue())
