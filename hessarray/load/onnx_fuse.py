"""Activations that exporters write as several nodes become one again: silu and mish.

As a product of two nodes each would be two sites of curvature, and lose accuracy in the tails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hessarray.load.onnx_node import Node

__all__ = ["fused"]

# Mul(x, gate) by the operators from the gate back to x.
_GATES = {("Sigmoid",): "Swish", ("Tanh", "Softplus"): "Mish"}


def fused(nodes: Sequence[Node], outputs: Sequence[str]) -> tuple[Node, ...]:
    """The nodes with x Sigmoid(x) as Swish and x Tanh(Softplus(x)) as Mish."""
    made: dict[str, Node] = {}
    found = []
    for node in nodes:
        kept = _activation(node, made) if node.kind == "Mul" else node
        made.update(dict.fromkeys(kept.outputs, kept))
        found.append(kept)
    return _read(found, outputs)


def _activation(node: Node, made: Mapping[str, Node]) -> Node:
    for x, gate in (node.inputs, node.inputs[::-1]):
        for kinds, name in _GATES.items():
            at = gate
            for kind in kinds:
                inner = made.get(at)
                if inner is None or inner.kind != kind:
                    break
                (at,) = inner.inputs
            else:
                if at == x:
                    return replace(node, kind=name, inputs=(x,))
    return node


def _read(nodes: Sequence[Node], outputs: Sequence[str]) -> tuple[Node, ...]:
    """Those nodes that are still read."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))
