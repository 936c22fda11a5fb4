"""Prepares a graph for lowering: activations become code, products become one contraction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from hessarray.graph.builder import Builder, ordinary
from hessarray.graph.elementary import Elementary
from hessarray.graph.node import (
    Einsum,
    Elementwise,
    Frozen,
    Injection,
    Node,
    remade,
    topological,
)
from hessarray.graph.trace import code_node

__all__ = ["expand", "fuse", "is_whole"]

_MOST_OPERANDS = 8  # of one contraction: the path search is exponential in them


def expand(
    builder: Builder,
    outputs: list[Node],
    whole: Collection[str] = (),
    done: Sequence[Node] = (),
) -> list[Node]:
    """Replace activations and their slopes by their code, behind those that are ``done``.

    What s, s', s'' share becomes one node. The functions named in ``whole`` stay as they are.
    """
    plain: set[Elementary] = set()  # whose code has no further activations in it

    def remake(node: Node, args: tuple[Node, ...]) -> Node:
        new = expanded(node, args)
        builder.carry_hint(node, new)
        return new

    def expanded(node: Node, args: tuple[Node, ...]) -> Node:
        if isinstance(node.op, (Frozen, Injection)):
            return args[0]
        if not isinstance(node.op, Elementwise) or not _has_code(node) or is_whole(node, whole):
            return builder.again(node, args)
        function = node.op.function
        code = code_node(builder, function, args[0])
        if function not in plain:
            if any(_has_code(inner) for inner in topological([code], args)):
                return expand(builder, [code], whole, args)[0]
            plain.add(function)
        return code

    new = remade(topological(outputs, done), remake, {node: node for node in done})
    return [new[o] for o in outputs]


def _has_code(node: Node) -> bool:
    """Whether a node stands for code of its own, not for a call."""
    return isinstance(node.op, Elementwise) and not node.op.function.primitive


def is_whole(node: Node, whole: Collection[str]) -> bool:
    """Whether a node is one of these functions, or a derivative of one."""
    op = node.op
    return isinstance(op, Elementwise) and op.function.smooth and op.function.name in whole


def fuse(builder: Builder, outputs: list[Node]) -> list[Node]:
    """Merge an einsum into its one consumer, so that opt_einsum orders the whole product."""
    order = topological(outputs)
    uses = Counter(id(a) for node in order for a in node.args)
    uses.update(id(o) for o in outputs)

    def remake(node: Node, args: tuple[Node, ...]) -> Node:
        einsum = isinstance(node.op, Einsum)
        new = _merged(builder, node, args, uses) if einsum else builder.again(node, args)
        builder.carry_hint(node, new)
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
