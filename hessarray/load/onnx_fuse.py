"""Activations that exporters write as several nodes become one again: silu, mish and gelu.

As a product of two nodes each would be two sites of curvature, and lose accuracy in the tails:
1 + erf(z) keeps no digit of a z below -6, where it is erfc(-z).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hessarray.activations import activation
from hessarray.load.onnx_node import Node, is_constant, namespace_of
from hessarray.load.onnx_samples import Samples

__all__ = ["FUSED", "fused"]

# Mul(x, gate) by the operators from the gate back to x.
_GATES = {("Sigmoid",): "Swish", ("Tanh", "Softplus"): "Mish"}
_CLOSE = 1e-6  # constants are often float32, whatever the weights are
_MOST_FACTORS = 16  # values that are looked at: a product may be as long as its file


def _one_and(sign: float, name: str) -> Callable[[Node, Any], Any]:
    """1 + erf(sign z) or 1 + tanh(sign z)."""

    def operator(node: Node, z: Any) -> Any:
        if isinstance(z, Samples):
            return z
        if is_constant(z):  # there is nothing to differentiate: as the file has it
            return 1.0 + sign * activation(name)(z)
        if name == "erf":
            return namespace_of(z).erfc(z * -sign)
        return activation("sigmoid")(z * (2.0 * sign)) * 2.0

    return operator


#: What sums become, as rows of the operators' table; no file can name them.
FUSED: dict[str, Callable[[Node, Any], Any]] = {
    "1 + Erf": _one_and(1.0, "erf"),
    "1 - Erf": _one_and(-1.0, "erf"),
    "1 + Tanh": _one_and(1.0, "tanh"),
    "1 - Tanh": _one_and(-1.0, "tanh"),
}


def fused(
    nodes: Sequence[Node], outputs: Sequence[str], weights: Mapping[str, Any]
) -> tuple[Node, ...]:
    """The nodes with x Sigmoid(x) as Swish, x Tanh(Softplus(x)) as Mish, x (1 + Erf(..)) as Gelu.

    ``weights`` are looked at for single numbers.
    """
    made = _Made(weights)
    found = []
    for node in nodes:
        kept = node
        if node.kind in ("Mul", "Div"):
            kept = _gated(node, made) or _gelu(node, made) or node
        elif node.kind in ("Add", "Sub"):
            kept = _complement(node, made) or node
        made.add(kept)
        found.append(kept)
    return _read(found, outputs)


class _Made:
    """Nodes by what they give, and single numbers by name."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        self.nodes: dict[str, Node] = {}
        self.numbers = {k: float(a) for k, a in weights.items() if _is_number(a)}

    def add(self, node: Node) -> None:
        self.nodes.update(dict.fromkeys(node.outputs, node))
        if node.kind == "Constant":
            for value in node.attributes.values():
                if isinstance(value, float) or _is_number(value):
                    self.numbers[node.outputs[0]] = float(value)

    def kind(self, name: str) -> str:
        node = self.nodes.get(name)
        return "" if node is None else node.kind

    def factors(self, name: str) -> tuple[float, list[str]]:
        """The value as a number times other values."""
        number, others, waiting = 1.0, [], [name]
        for _ in range(_MOST_FACTORS):
            if not waiting:
                break
            at = waiting.pop()
            node, kind = self.nodes.get(at), self.kind(at)
            if at in self.numbers:
                number *= self.numbers[at]
            elif node and kind == "Mul":
                waiting += node.inputs
            elif node and kind == "Div" and self.numbers.get(node.inputs[1]):
                number /= self.numbers[node.inputs[1]]
                waiting.append(node.inputs[0])
            else:
                others.append(at)
        return number, others + waiting


def _is_number(value: Any) -> bool:
    # With an axis of length one it would be a parameter.
    return is_constant(value) and value.dtype.kind == "f" and value.ndim == 0


def _gated(node: Node, made: _Made) -> Node | None:
    if node.kind != "Mul":
        return None
    for x, gate in (node.inputs, node.inputs[::-1]):
        for kinds, name in _GATES.items():
            at = gate
            for kind in kinds:
                if made.kind(at) != kind:
                    break
                (at,) = made.nodes[at].inputs
            else:
                if at == x:
                    return replace(node, kind=name, inputs=(x,))
    return None


def _complement(node: Node, made: _Made) -> Node | None:
    """1 + erf(z) and the like; what is added must be 1 itself."""
    pairs = [node.inputs] if node.kind == "Sub" else [node.inputs, node.inputs[::-1]]
    sign = "-" if node.kind == "Sub" else "+"
    for one, other in pairs:
        if made.numbers.get(one) == 1.0 and made.kind(other) in ("Erf", "Tanh"):
            inner = made.nodes[other]
            return replace(node, kind=f"1 {sign} {inner.kind}", inputs=inner.inputs)
    return None


def _gelu(node: Node, made: _Made) -> Node | None:
    """x/2 (1 + erf(x / sqrt 2)), in whatever order it is multiplied."""
    made.add(node)
    number, others = made.factors(node.outputs[0])
    gates = [k for k in others if made.kind(k) == "1 + Erf"]
    if len(gates) != 1 or len(others) != 2 or abs(2.0 * number - 1.0) > _CLOSE:
        return None
    others.remove(gates[0])
    scale, inside = made.factors(made.nodes[gates[0]].inputs[0])
    if inside != others or abs(scale * math.sqrt(2.0) - 1.0) > _CLOSE:
        return None
    return replace(node, kind="Gelu", inputs=tuple(others))


def _read(nodes: Sequence[Node], outputs: Sequence[str]) -> tuple[Node, ...]:
    """Those nodes that are still read."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))
