"""Prepares a graph for lowering: activations become their code, products become one contraction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hessarray.graph.builder import Builder, ordinary
from hessarray.graph.node import Einsum, Elementwise, Frozen, Injection, Node, remade, topological
from hessarray.graph.trace import derivative_node

__all__ = ["expand", "fuse"]

_MOST_OPERANDS = 8  # of one contraction: the path search is exponential in them


def expand(builder: Builder, outputs: list[Node], done: Sequence[Node] = ()) -> list[Node]:
    """Replace activations by their code, behind those that are ``done``.

    What s, s', s'' share becomes one node.
    """

    def remake(node: Node, args: tuple[Node, ...]) -> Node:
        new = expanded(node, args)
        _carry_hint(builder, node, new)
        return new

    def expanded(node: Node, args: tuple[Node, ...]) -> Node:
        if isinstance(node.op, (Frozen, Injection)):
            return args[0]
        if isinstance(node.op, Elementwise) and not node.op.function.primitive:
            code = derivative_node(builder, node.op.function, 0, args[0])
            if isinstance(code, float):
                return builder.broadcast(builder.constant(code), node.shape)
            return expand(builder, [code], args)[0]
        return builder.again(node, args)

    new = remade(topological(outputs, done), remake, {node: node for node in done})
    return [new[o] for o in outputs]


def _carry_hint(builder: Builder, old: Node, new: Node) -> None:
    if id(old) in builder.hints:
        builder.hints.setdefault(id(new), builder.hints[id(old)])


def fuse(builder: Builder, outputs: list[Node]) -> list[Node]:
    """Merge an einsum into its one consumer, so that opt_einsum orders the whole product."""
    order = topological(outputs)
    uses = Counter(id(a) for node in order for a in node.args)
    uses.update(id(o) for o in outputs)

    def remake(node: Node, args: tuple[Node, ...]) -> Node:
        einsum = isinstance(node.op, Einsum)
        new = _merged(builder, node, args, uses) if einsum else builder.again(node, args)
        _carry_hint(builder, node, new)
        return new

    new = remade(order, remake)
    return [new[o] for o in outputs]


def _merged(builder: Builder, node: Node, args: tuple[Node, ...], uses: Counter[int]) -> Node:
    op = node.op
    assert isinstance(op, Einsum)
    terms: list[str] = []
    nodes: list[Node] = []
    scale = op.scale
    fresh = iter(c for c in map(chr, range(0x100, 0x400)) if c.isalpha())
    for term, old, arg in zip(op.inputs, node.args, args, strict=True):
        inner = arg.op
        single = uses[id(old)] == 1 and arg.level == node.level
        if (
            isinstance(inner, Einsum)
            and single
            and ordinary(scale, inner.scale, scale * inner.scale)
            # An elementwise product keeps the order in which an activation's code multiplies: it
            # may rest on it not to overflow.
            and any(t != inner.output for t in inner.inputs)
            and len(op.inputs) + len(inner.inputs) - 1 + len(terms) <= _MOST_OPERANDS
        ):
            names = dict(zip(inner.output, term, strict=True))
            for c in "".join(inner.inputs):
                if c not in names:
                    names[c] = next(fresh)
            terms += ["".join(names[c] for c in t) for t in inner.inputs]
            nodes += arg.args
            scale *= inner.scale
        else:
            terms.append(term)
            nodes.append(arg)
    if len(terms) == len(args) and all(a is b for a, b in zip(nodes, node.args, strict=True)):
        return node
    return builder.einsum(terms, op.output, nodes, scale)
