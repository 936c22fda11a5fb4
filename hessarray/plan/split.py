"""Divides a program into what can be kept from call to call and what changes with every call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from hessarray.graph.builder import Builder
from hessarray.graph.node import (
    SAMPLE,
    Broadcast,
    Einsum,
    Injection,
    Node,
    Reshape,
    Seed,
    topological,
)

__all__ = ["Split", "split"]

_VIEWS = (Broadcast, Injection, Reshape, Seed)


@dataclass(frozen=True, eq=False)
class Split:
    """``kept`` nodes of the first graph are seeds of the second, by their names."""

    kept: dict[str, Node]
    builder: Builder
    nodes: dict[str, Node]

    @property
    def entries(self) -> int:
        """Numbers kept for each sample."""
        return sum(node.size for node in self.kept.values())


def split(
    nodes: Mapping[str, Node], changing: Collection[str], name: Callable[[int], str]
) -> Split:
    """What is known without the seeds named in ``changing`` is kept.

    Kept node i becomes the batched seed ``name(i)``, flat. Another shape or order of the same
    numbers is not kept besides.
    """
    order = topological(list(nodes.values()))
    moves: set[int] = set()
    for node in order:
        own = isinstance(node.op, Seed) and node.op.name in changing
        if own or any(id(a) in moves for a in node.args):
            moves.add(id(node))
    needed: dict[int, bool] = {}  # whether to keep it
    todo = list(nodes.values())
    while todo:
        node = todo.pop()
        if id(node) not in needed:
            needed[id(node)] = keep = id(node) not in moves and _worth_keeping(node)
            todo += () if keep else node.args
    builder = Builder()
    kept: dict[str, Node] = {}
    new: dict[int, Node] = {}
    for node in order:
        if needed.get(id(node)):
            key = name(len(kept))
            kept[key] = node
            seed = builder.seed(key, (node.size,), batched=True)
            new[id(node)] = builder.reshape(seed, node.shape)
        elif id(node) in needed:
            args = tuple(new[id(a)] for a in node.args)
            new[id(node)] = builder.make(node.op, args, node.shape, node.truth)
    return Split(kept, builder, {k: new[id(node)] for k, node in nodes.items()})


def _worth_keeping(node: Node) -> bool:
    if node.level != SAMPLE or node.truth or isinstance(node.op, _VIEWS):
        return False
    op = node.op
    if isinstance(op, Einsum) and len(op.inputs) == 1 and op.scale == 1.0:
        return set(op.inputs[0]) != set(op.output)
    return True
