"""Reads ONNX models: the graph, checked, and its weights, with limits before memory is taken."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hessarray.errors import LoadError
from hessarray.load.limits import Arrays, check_count, shown
from hessarray.load.onnx_tensors import read_tensor, tensor_bytes

__all__ = ["Model", "check_valid", "library", "read_onnx"]

_OLDEST = 7
_MAX_NODES = 100_000
_MAX_CALLED = 1 << 28  # bytes of the nodes that calls of a model's functions become


@dataclass(frozen=True)
class Model:
    """A model as it was read: its proto without weights, and the weights by name."""

    place: str  # what messages begin with: the file's name
    proto: Any
    opsets: dict[str, int]
    weights: Arrays

    @property
    def graph(self) -> Any:
        """The GraphProto."""
        return self.proto.graph


def library() -> Any:
    """The onnx package.

    Raises
    ------
    LoadError
        It is not installed; names the extra.
    """
    try:
        import onnx
    except ImportError:
        raise LoadError("ONNX models need the extra: pip install 'hessarray[onnx]'") from None
    return onnx


def read_onnx(source: Any, limit: int) -> Model:
    """The model in a file, or in a ModelProto, whose weights take at most ``limit`` bytes.

    Raises
    ------
    LoadError
        The file is damaged, too large, of an unknown version, or no valid model.
    """
    onnx = library()
    if isinstance(source, onnx.ModelProto):
        place, folder, model = "the ONNX model", None, source
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        place, folder, model = str(path), path.resolve().parent, _parsed(onnx, path, limit)
    else:
        raise LoadError(f"{type(source).__name__} is no ONNX model: pass a path or a ModelProto")
    if not (model.ir_version and model.HasField("graph") and model.opset_import):
        raise LoadError(f"{place}: not an ONNX model, or not all of it")
    opsets = _opsets(onnx, model, place)
    if model.functions:
        model = _inlined(model, place)
    graph = model.graph
    if len(graph.node) > _MAX_NODES:
        raise LoadError(f"{place}: {len(graph.node)} nodes are more than {_MAX_NODES}")
    weights = _weights(graph, place, folder, limit)
    lean = _without_weights(onnx, model)
    _check_names(lean.graph, weights, place)
    return Model(place, lean, opsets, weights)


def _parsed(onnx: Any, path: Path, limit: int) -> Any:
    if not path.is_file():
        raise LoadError(f"{path}: no such file")
    size = path.stat().st_size
    if size > limit:
        raise LoadError(f"{path}: the file takes {size:,} bytes, max_bytes is {limit:,}")
    try:
        return onnx.ModelProto.FromString(path.read_bytes())
    except Exception as error:
        raise LoadError(f"{path}: not a readable ONNX file ({shown(error)})") from None


def _opsets(onnx: Any, model: Any, place: str) -> dict[str, int]:
    """Version by domain, '' for the operators of ONNX itself."""
    opsets: dict[str, int] = {}
    for entry in model.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if opsets.setdefault(domain, entry.version) != entry.version:
            raise LoadError(f"{place}: imports two versions of the operators {shown(domain)}")
    newest = onnx.defs.onnx_opset_version()
    if "" in opsets and not _OLDEST <= opsets[""] <= newest:
        raise LoadError(
            f"{place}: opset {opsets['']} is not supported, supported are {_OLDEST} to "
            f"{newest} (the newest that the installed onnx {onnx.__version__} knows)"
        )
    return opsets


# ---- functions that a model brings along -----------------------------------------------------


def _inlined(model: Any, place: str) -> Any:
    """The model with calls of its own functions replaced by their nodes."""
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], tuple[int, int]] = {}

    def size(nodes: Iterable[Any], open_calls: tuple[Any, ...]) -> tuple[int, int]:
        """Nodes, and bytes of those that stand in functions: they may hold tensors."""
        count, called = 0, 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in open_calls:
                raise LoadError(f"{place}: function {shown(node.op_type)} calls itself")
            if key in functions and key not in sizes:
                sizes[key] = size(functions[key].node, (*open_calls, key))
            inside = [sizes.get(key, (1, node.ByteSize() if open_calls else 0))]
            for attribute in node.attribute:  # the branches of If, which are expanded, too
                inside += [size(g.node, open_calls) for g in (*attribute.graphs, attribute.g)]
            count += sum(n for n, _ in inside)
            called += sum(b for _, b in inside)
        return count, called

    try:
        count, called = size(model.graph.node, ())
    except RecursionError:
        raise LoadError(f"{place}: functions are nested too deeply") from None
    if count > _MAX_NODES:  # counted before nested calls multiply
        raise LoadError(f"{place}: {count} nodes are more than {_MAX_NODES}")
    if called > _MAX_CALLED:
        raise LoadError(
            f"{place}: calls of its functions make nodes of {called:,} bytes, at most "
            f"{_MAX_CALLED:,} are expected"
        )
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:
        raise LoadError(f"{place}: its functions cannot be expanded ({shown(error)})") from None


# ---- weights ---------------------------------------------------------------------------------


def _weights(graph: Any, place: str, folder: Path | None, limit: int) -> Arrays:
    """All initializers; their sizes are added up before the first is read."""
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise LoadError(f"{place}: tensor {shown(name)} is sparse, dense tensors are expected")
    check_count(Path(place), len(graph.initializer))
    total = 0
    for tensor in graph.initializer:
        total += tensor_bytes(tensor, place)
        if total > limit:
            raise LoadError(f"{place}: the tensors take {total:,} bytes, max_bytes is {limit:,}")
    weights: Arrays = {}
    for tensor in graph.initializer:
        if not tensor.name or tensor.name in weights:
            raise LoadError(f"{place}: two tensors, or none, are named {shown(tensor.name)}")
        weights[tensor.name] = read_tensor(tensor, place, folder)
    return weights


def _without_weights(onnx: Any, model: Any) -> Any:
    """A copy in which weights are inputs: cheap to check, whatever their size."""
    graph = model.graph
    lean = onnx.GraphProto(name=graph.name or "graph")
    lean.node.extend(graph.node)
    lean.input.extend(graph.input)
    lean.output.extend(graph.output)
    declared = {value.name for value in graph.input}
    lean.input.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
        for t in graph.initializer
        if t.name not in declared
    )
    copy = onnx.ModelProto(ir_version=model.ir_version, graph=lean)
    copy.opset_import.extend(model.opset_import)
    return copy


def _check_names(graph: Any, weights: Arrays, place: str) -> None:
    """Every name is given once, and before it is read: so there is no cycle."""
    known = {value.name for value in graph.input} | set(weights)
    for i, node in enumerate(graph.node):
        what = f"node {shown(node.name or i)} ({shown(node.op_type)[1:-1]})"
        for name in node.input:
            if name and name not in known:
                raise LoadError(
                    f"{place}: {what} reads {shown(name)}, which no earlier node, input or tensor "
                    "gives"
                )
        for name in filter(None, node.output):
            if name in known:
                raise LoadError(f"{place}: {what} gives {shown(name)}, which is there already")
            known.add(name)
    if not graph.output:
        raise LoadError(f"{place}: the graph has no output")
    for value in graph.output:
        if value.name not in known:
            raise LoadError(f"{place}: nothing gives the output {shown(value.name)}")


def check_valid(model: Model) -> None:
    """What onnx itself finds wrong; shapes may be left out, which it would mind.

    Raises
    ------
    LoadError
        Nodes do not have the inputs and attributes that their operators take.
    """
    onnx = library()
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(proto)
    except Exception as error:
        raise LoadError(f"{model.place}: not a valid ONNX model ({shown(error)})") from None
