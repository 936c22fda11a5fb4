"""Traces array API code into a graph of one sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hessarray.errors import ShapeError
from hessarray.graph import namespace
from hessarray.graph.array import TracedArray
from hessarray.graph.builder import Builder
from hessarray.graph.elementary import Elementary
from hessarray.graph.node import Elementwise, Input, Node, Parameter, Shape, remade, topological
from hessarray.graph.operands import node_of, real
from hessarray.graph.where import naming_the_line

__all__ = ["Graph", "code_node", "inline", "trace"]


@dataclass(frozen=True, eq=False)
class Graph:
    """A traced function: flat inputs, one flat output, and the table that made its nodes."""

    inputs: tuple[Node, ...]
    output: Node  # flat, (m,)
    in_shapes: tuple[Shape, ...]
    out_shape: Shape
    builder: Builder


def trace(
    fn: Callable[..., Any], in_shapes: Sequence[Shape], parameters: Mapping[str, Shape] | None
) -> Graph:
    """The graph of ``fn(*inputs)``, or of ``fn(*inputs, params)`` where there are parameters.

    Raises TraceError where fn does what has no derivative, ShapeError where shapes do not fit.
    """
    builder = Builder()
    inputs, arrays = [], []
    for i, shape in enumerate(in_shapes):
        node = builder.input(i, (math.prod(shape),))
        inputs.append(node)
        arrays.append(TracedArray(builder.reshape(node, shape), builder))
    extra = []
    if parameters is not None:
        extra.append(
            {k: TracedArray(builder.parameter(k, s), builder) for k, s in parameters.items()}
        )
    with naming_the_line():
        result = fn(*arrays, *extra)
    if isinstance(result, (list, tuple)):
        raise ShapeError(
            f"the function returns {len(result)} arrays, one is expected: "
            "join them with xp.concat or xp.stack"
        )
    if not isinstance(result, TracedArray):
        result = TracedArray(node_of(result, builder), builder)
    output = real(result)
    return Graph(
        tuple(inputs),
        builder.reshape(output, (output.size,)),
        tuple(in_shapes),
        output.shape,
        builder,
    )


def inline(
    graph: Graph,
    node: Node,
    builder: Builder,
    inputs: Sequence[Any],
    parameters: Mapping[str, Any],
) -> TracedArray:
    """``node``, made from ``graph``'s inputs and parameters, on other inputs and parameters."""
    flat = [
        builder.reshape(node_of(x, builder), (math.prod(s),))
        for x, s in zip(inputs, graph.in_shapes, strict=True)
    ]

    def remake(old: Node, args: tuple[Node, ...]) -> Node:
        if isinstance(old.op, Input):
            return flat[old.op.index]
        if isinstance(old.op, Parameter):
            return node_of(parameters[old.op.name], builder)
        if isinstance(old.op, Elementwise) and old.op.function.order and not old.op.function.smooth:
            return code_node(builder, old.op.function, args[0])  # which says where it bends
        return builder.again(old, args)

    return TracedArray(remade(topological([node]), remake)[node], builder)


def code_node(builder: Builder, function: Elementary, z: Node) -> Node:
    """s at z as nodes of the function's own accurate code."""
    key = (function, z.shape)
    if key not in builder.codes:  # traced once: layers are alike
        stand_in = builder.input(-1, z.shape)
        builder.codes[key] = stand_in, _traced(builder, function.s, stand_in)
    stand_in, result = builder.codes[key]
    return remade(topological([result], [stand_in]), builder.again, {stand_in: z})[result]


def _traced(builder: Builder, code: Callable[[Any, Any], Any], z: Node) -> Node:
    result = code(namespace, TracedArray(z, builder))
    if not isinstance(result, TracedArray):
        result = TracedArray(node_of(result, builder), builder)
    if result.shape != z.shape:
        result = namespace.broadcast_to(result, z.shape)
    return real(result)
