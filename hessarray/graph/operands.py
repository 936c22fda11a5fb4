"""How the arguments of a function become nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hessarray._arguments import is_masked
from hessarray.errors import ShapeError
from hessarray.graph.array import TracedArray
from hessarray.graph.builder import Builder
from hessarray.graph.node import Node
from hessarray.graph.where import trace_error

__all__ = [
    "Axis",
    "broadcast_shapes",
    "builder_of",
    "node_of",
    "operands",
    "real",
    "scalar",
    "traced",
    "wrap",
]

Axis = int | Sequence[int] | None


def builder_of(*args: Any) -> Builder:
    for a in args:
        if isinstance(a, TracedArray):
            return a.builder
    raise trace_error(
        "a function of constants only",
        "none of its arguments depends on x or on parameters",
        "compute constants with the functions of NumPy",
    )


def node_of(x: Any, builder: Builder) -> Node:
    if isinstance(x, TracedArray):
        return x.node
    if is_masked(x):
        raise trace_error(
            "a masked array", "its mask would be ignored", "pass its .filled(0.0) instead"
        )
    try:
        array = np.asarray(x)
    except Exception as error:
        raise trace_error(
            f"a constant of type {type(x).__name__}",
            f"it is no array ({error})",
            "pass a NumPy array, or name it in params={...}",
        ) from error
    if array.dtype.kind not in "fbiu":
        raise trace_error(
            f"a constant of dtype {array.dtype}", "it is not real", "use real floating numbers"
        )
    return builder.constant(array)


def real(x: TracedArray) -> Node:
    if not x.node.truth:
        return x.node
    b = x.builder
    one, zero = b.broadcast(b.constant(1.0), x.shape), b.broadcast(b.constant(0.0), x.shape)
    return b.select(x.node, one, zero)


def operands(*args: Any) -> tuple[Builder, list[Node], tuple[int, ...]]:
    """Real nodes of the arguments and their broadcast shape."""
    builder = builder_of(*args)
    nodes = [real(wrap(node_of(a, builder), builder)) for a in args]
    return builder, nodes, broadcast_shapes(*(n.shape for n in nodes))


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return tuple(int(s) for s in np.broadcast_shapes(*shapes))
    except ValueError:
        shown = " and ".join(str(s) for s in shapes)
        raise ShapeError(
            f"shapes {shown} of one sample do not broadcast: a traced function sees one sample, "
            "without the batch axis"
        ) from None


def wrap(node: Node, builder: Builder) -> TracedArray:
    return TracedArray(node, builder)


def scalar(x: Any) -> float | None:
    """The value of a plain number or 0-d constant, else None."""
    if isinstance(x, TracedArray):
        return None
    if isinstance(x, (int, float)) or (np.ndim(x) == 0 and np.asarray(x).dtype.kind in "fiub"):
        return float(x)
    return None


def traced(a: Any, like: TracedArray) -> TracedArray:
    return a if isinstance(a, TracedArray) else wrap(node_of(a, like.builder), like.builder)
