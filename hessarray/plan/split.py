"""Divides a program into what can be kept from call to call and what changes with every call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from hessarray.graph.builder import Builder
from hessarray.graph.node import (
    SAMPLE,
    Add,
    Broadcast,
    Concat,
    Einsum,
    Injection,
    Node,
    Reshape,
    Seed,
    topological,
)

__all__ = ["Split", "split"]

_CHEAP = (Add, Broadcast, Concat, Injection, Reshape, Seed)


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

    Kept node i becomes the batched seed ``name(i)``, flat. What is made of kept nodes in passing,
    such as another order, sums and products of entries, is not kept besides.
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
    """Whether reading it from memory takes less time than making it from what else is kept."""
    if node.level != SAMPLE or node.truth or isinstance(node.op, _CHEAP):
        return False
    # A product entry by entry, or another order of the axes, takes no more than a pass in cache.
    op = node.op
    return not (isinstance(op, Einsum) and all(set(t) <= set(op.output) for t in op.inputs))
