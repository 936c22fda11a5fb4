"""Runs the nodes of an ONNX graph: over traced arrays, constants, or arrays of samples."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hessarray.errors import LoadError, near_names
from hessarray.load.limits import shown
from hessarray.load.onnx_file import Model
from hessarray.load.onnx_fuse import FUSED, fused
from hessarray.load.onnx_node import Node, is_constant
from hessarray.load.onnx_operators import CONSTANT_INPUTS, OPERATORS
from hessarray.load.onnx_samples import Samples
from hessarray.load.onnx_tensors import read_tensor, tensor_bytes

__all__ = ["Steps", "check_samples_apart", "steps_to"]

_ML = "ai.onnx.ml"
# Bytes that all values of a graph may take together: a file of a few hundred bytes asks for any.
_MAX_BYTES = 1 << 30
# Bytes that all nodes may read together: each of them may read a large array in a second.
_MAX_READ = 8 << 30
# Seconds that all constants of a graph may take: what a node computes is bounded, not how many do.
_MAX_SECONDS = 20.0
_ALL = OPERATORS | FUSED
_MOST_HINTS = 8  # outputs that are looked at for one that can be computed
# What the operators here were written against; one that changed later is refused.
_NEWEST = {"": 28, _ML: 5}


@dataclass(frozen=True)
class Steps:
    """The nodes that some outputs need, in order."""

    place: str
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    def run(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """All values by name, from those of inputs and tensors.

        Raises
        ------
        LoadError
            A node cannot be computed; names it, its operator and the shapes that it meets.
        """
        known, spent = dict(values), _Spent(self.place)
        for node in self.nodes:
            args = [known[name] if name else None for name in node.inputs]
            spent.add(node, read=_bytes(args))
            start = time.perf_counter()
            try:
                with np.errstate(all="ignore"):
                    found = _ALL[node.kind](node, *args)
            except Exception as error:
                shapes = ", ".join("none" if a is None else str(tuple(a.shape)) for a in args)
                raise LoadError(
                    f"{self.place}: node {shown(node.name)} ({node.kind}) with inputs of shape "
                    f"{shapes or 'none'}: {shown(error)}"
                ) from None
            several = found if isinstance(found, tuple) else (found,)
            seconds = time.perf_counter() - start if is_constant(several[0]) else 0.0
            spent.add(node, made=_bytes(several), seconds=seconds)
            for name, value in zip(node.outputs, several, strict=False):
                known[name] = np.asarray(value) if isinstance(value, np.generic) else value
        return known

    def fused(self, weights: Mapping[str, Any]) -> Steps:
        """The same with activations of several nodes as one; the nodes must have been checked."""
        return replace(self, nodes=fused(self.nodes, self.outputs, weights))

    def settings(self) -> set[str]:
        """Names whose values say how to compute: no parameters, nor what they are made from."""
        found: set[str] = set()
        for node in reversed(self.nodes):
            spots = CONSTANT_INPUTS.get(node.kind, ())
            found.update(name for i, name in enumerate(node.inputs) if i in spots)
            if found.intersection(node.outputs):
                found.update(node.inputs)
        return found


def _bytes(arrays: Iterable[Any]) -> int:
    return sum(getattr(a, "nbytes", 0) for a in arrays)


@dataclass
class _Spent:
    """What a run of a graph has taken so far."""

    place: str
    made: int = 0
    read: int = 0
    seconds: float = 0.0

    def add(self, node: Node, made: int = 0, read: int = 0, seconds: float = 0.0) -> None:
        self.made += made
        self.read += read
        self.seconds += seconds
        if self.made > _MAX_BYTES:
            what = f"the arrays inside the graph take {self.made:,} bytes, at most {_MAX_BYTES:,}"
        elif self.read > _MAX_READ:
            what = f"the nodes read {self.read:,} bytes, at most {_MAX_READ:,}"
        elif self.seconds > _MAX_SECONDS:
            what = f"constants took {self.seconds:.0f} seconds, at most {_MAX_SECONDS:g}"
        else:
            return
        raise LoadError(
            f"{self.place}: up to node {shown(node.name)} ({node.kind}) {what} are expected"
        )


# ---- which nodes -----------------------------------------------------------------------------


def steps_to(model: Model, outputs: Sequence[str]) -> Steps:
    """The nodes that these outputs need; others may be of any kind.

    Raises
    ------
    LoadError
        An operator is not supported; names its node, and outputs that do without it.
    """
    nodes = _needed(model.graph.node, outputs)
    for i, node in nodes:
        if not _supported(model, node):
            raise LoadError(_unsupported(model, i, node, outputs))
    return Steps(
        model.place,
        tuple(_step(model, i, node) for i, node in nodes),
        tuple(outputs),
    )


def _needed(nodes: Iterable[Any], outputs: Sequence[str]) -> list[tuple[int, Any]]:
    wanted, kept = set(outputs), []
    for i, node in reversed(list(enumerate(nodes))):
        if wanted.intersection(filter(None, node.output)):
            wanted.update(node.input)
            kept.append((i, node))
    return kept[::-1]


def _domain(node: Any) -> str:
    return "" if node.domain == "ai.onnx" else str(node.domain)


def _kind(node: Any) -> str:
    domain = _domain(node)
    return f"{domain}.{node.op_type}" if domain else str(node.op_type)


def _supported(model: Model, node: Any) -> bool:
    import onnx

    domain = _domain(node)
    if _kind(node) not in OPERATORS or domain not in model.opsets:
        return False
    try:
        schema = onnx.defs.get_schema(node.op_type, model.opsets[domain], domain)
    except onnx.defs.SchemaError:  # it came with a later opset
        return False
    return bool(schema.since_version <= _NEWEST[domain])


def _unsupported(model: Model, i: int, node: Any, outputs: Sequence[str]) -> str:
    kind = _kind(node)
    without = [
        value.name
        for value in model.graph.output[:_MOST_HINTS]
        if all(_supported(model, n) for _, n in _needed(model.graph.node, [value.name]))
    ]
    others = f"; outputs=[{shown(without[0])}] does without it" if without else ""
    near = near_names(kind, OPERATORS)
    hint = f" ({near})" if near and kind not in OPERATORS else ""
    version = model.opsets.get(_domain(node), "none")
    return (
        f"{model.place}: node {shown(node.name or i)}: operator {shown(kind)} of opset {version} "
        f"is not supported{hint}, hessarray.load.onnx_operators.OPERATORS names the "
        f"{len(OPERATORS)} that are{others}"
    )


def _step(model: Model, i: int, node: Any) -> Node:
    return Node(
        _kind(node),
        node.name or f"number {i}",
        model.opsets[_domain(node)],
        tuple(node.input),
        tuple(node.output),
        {a.name: _attribute(model, node, a) for a in node.attribute},
    )


def _attribute(model: Model, node: Any, attribute: Any) -> Any:
    import onnx

    if attribute.type == onnx.AttributeProto.TENSOR:
        tensor_bytes(attribute.t, model.place)
        return read_tensor(attribute.t, model.place, None)
    if attribute.type == onnx.AttributeProto.STRING:
        return attribute.s.decode("utf-8", "replace")
    kinds = onnx.AttributeProto
    if attribute.type in (kinds.FLOAT, kinds.FLOATS, kinds.INT, kinds.INTS):
        value = onnx.helper.get_attribute_value(attribute)
        return list(value) if attribute.type in (kinds.FLOATS, kinds.INTS) else value
    raise LoadError(
        f"{model.place}: attribute {shown(attribute.name)} of node {shown(node.name)} "
        f"({shown(node.op_type)[1:-1]}) holds no numbers or text"
    )


# ---- does the graph keep samples apart? ------------------------------------------------------


def check_samples_apart(steps: Steps, one: Mapping[str, Any], two: Mapping[str, Any]) -> None:
    """The graph does for each of two samples what it does for one alone.

    ``one`` and ``two`` are the values of runs with a batch of one and of two. No entry depends on
    both samples; no shape or constant differs but by being there twice; outputs have the samples in
    front. So the graph of a batch of one is the function of one sample.

    Raises
    ------
    LoadError
        It does not; names the node.
    """
    for node in steps.nodes:
        what = f"{steps.place}: node {shown(node.name)} ({node.kind})"
        for name in filter(None, node.outputs):
            a, b = one.get(name), two.get(name)
            if isinstance(b, Samples) and np.any(b.bits == 3):
                raise LoadError(f"{what} mixes the samples of a batch, so that none has its own")
            if a is not None and not _alike(a, b):
                raise LoadError(
                    f"{what} gives {_described(a)} for one sample and {_described(b)} for two: "
                    "what it computes depends on the number of samples"
                )
    for name in steps.outputs:
        a, b = one[name], two[name]
        if not isinstance(b, Samples) or not np.any(b.bits):
            continue
        if b.shape != (2 * a.shape[0], *a.shape[1:]) or not _in_order(b.bits):
            raise LoadError(
                f"{steps.place}: the first axis of output {shown(name)}, of shape {b.shape} for "
                "two samples, does not count the samples"
            )


def _in_order(bits: Any) -> bool:
    half = len(bits) // 2
    return not np.any(bits[:half] & 2) and not np.any(bits[half:] & 1)


def _described(x: Any) -> str:
    return f"shape {tuple(x.shape)}" if x.size > 4 or isinstance(x, Samples) else shown(x.tolist())


def _alike(a: Any, b: Any) -> bool:
    """The same, or the same twice along one axis."""
    if is_constant(a) != is_constant(b) or a.ndim != b.ndim:
        return False
    longer = [i for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n]
    if is_constant(a) and a.dtype.kind != "f":
        return True  # shapes and indices: what is made with them is looked at
    if not longer:
        return not is_constant(a) or np.array_equal(a, b, equal_nan=True)
    if len(longer) > 1 or b.shape[longer[0]] != 2 * a.shape[longer[0]]:
        return False
    if not is_constant(a):
        return True
    twice = (np.concatenate([a, a], longer[0]), np.repeat(a, 2, longer[0]))
    return any(np.array_equal(b, t, equal_nan=True) for t in twice)
