"""Makes nodes: checks shapes, simplifies what costs nothing to simplify, shares equal nodes."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from hessarray.errors import ShapeError
from hessarray.graph.elementary import Elementary
from hessarray.graph.node import (
    Add,
    Broadcast,
    Concat,
    Constant,
    Einsum,
    Elementwise,
    Eye,
    Flip,
    Frozen,
    Input,
    Node,
    Op,
    Pad,
    Parameter,
    Reshape,
    Seed,
    Select,
    Shape,
    Slice,
    Take,
    Test,
)

__all__ = ["Builder", "LETTERS", "ordinary"]

LETTERS = string.ascii_lowercase + string.ascii_uppercase


def ordinary(*factors: float) -> bool:
    """Whether a product can be multiplied with these at any operand, in one or one by one.

    Others stay where the code has them: 1e-30 x and a matrix of 1e-20 have a product in float32
    where x is large, the matrix of 1e-50 that would be bound has none.
    """
    return all(2.0**-20 <= abs(c) <= 2.0**20 for c in factors)


def _one_factor(a: float, b: float) -> bool:
    """Whether a (b x) may be computed as (a b) x."""
    return 1.0 in (abs(a), abs(b)) or ordinary(a, b, a * b)


def _same_number(a: Node, b: Node) -> bool:
    """Whether two nodes with one entry each are the same, apart from axes of length one."""
    a, b = (n.args[0] if isinstance(n.op, Reshape) else n for n in (a, b))
    return a is b


@lru_cache(maxsize=4096)
def _canonical(terms: tuple[str, ...], output: str) -> tuple[tuple[str, ...], str]:
    """The same subscripts in letters by first appearance."""
    names: dict[str, str] = {}
    for letter in "".join(terms) + output:
        names.setdefault(letter, LETTERS[len(names)])
    canonical = tuple("".join(names[c] for c in t) for t in terms)
    return canonical, "".join(names[c] for c in output)


class Builder:
    """A table of nodes in which equal operations on equal arguments are one node."""

    def __init__(self, base: Builder | None = None) -> None:
        self._table: dict[Any, Node] = dict(base._table) if base is not None else {}
        # What a node is in the mathematics ("J", "G"), for the names in the printed program.
        self.hints: dict[int, str] = dict(base.hints) if base is not None else {}
        # Code of elementary functions, as nodes behind an input that stands for any of the shape.
        self.codes: dict[Any, tuple[Node, Node]] = dict(base.codes) if base is not None else {}

    def make(self, op: Op, args: tuple[Node, ...], shape: Shape, truth: bool = False) -> Node:
        key = (op, tuple(id(a) for a in args), shape)
        node = self._table.get(key)
        if node is None:
            node = self._table[key] = Node(op, args, shape, truth)
        return node

    def carry_hint(self, old: Node, new: Node) -> None:
        """What stands for a node is called like it."""
        if id(old) in self.hints:
            self.hints.setdefault(id(new), self.hints[id(old)])

    def again(self, node: Node, args: tuple[Node, ...]) -> Node:
        """The node's operation on other arguments of the same shapes, simplified anew."""
        op = node.op
        # What has no arguments may come from another builder, and must enter this one's table.
        if args and all(a is b for a, b in zip(args, node.args, strict=True)):
            return node
        if isinstance(op, Einsum):
            return self.einsum(op.inputs, op.output, args, op.scale)
        if isinstance(op, Reshape):
            return self.reshape(args[0], op.shape)
        if isinstance(op, Concat):
            return self.concat(args, op.axis)
        if isinstance(op, Slice):
            return self.slice(args[0], op.axis, op.start, op.stop)
        return self.make(op, args, node.shape, node.truth)

    # ---- leaves ------------------------------------------------------------------------------

    def input(self, index: int, shape: Shape) -> Node:
        return self.make(Input(index), (), shape)

    def parameter(self, name: str, shape: Shape) -> Node:
        return self.make(Parameter(name), (), shape)

    def seed(self, name: str, shape: Shape, batched: bool = False) -> Node:
        return self.make(Seed(name, batched), (), shape)

    def constant(self, value: Any) -> Node:
        array = np.asarray(value)
        if array.dtype.kind not in "fb":
            array = array.astype(np.float64)
        return self.make(Constant(array), (), array.shape, array.dtype.kind == "b")

    def eye(self, size: int) -> Node:
        return self.make(Eye(size), (), (size, size))

    # ---- linear ------------------------------------------------------------------------------

    def einsum(
        self, inputs: Sequence[str], output: str, args: Sequence[Node], scale: float = 1.0
    ) -> Node:
        """``scale * einsum(inputs -> output)``; identities drop out, letters become canonical."""
        terms = list(inputs)
        nodes = list(args)
        sizes: dict[str, int] = {}
        for term, node in zip(terms, nodes, strict=True):
            for letter, size in zip(term, node.shape, strict=True):
                if sizes.setdefault(letter, size) != size:
                    raise ShapeError(
                        f"axis '{letter}' has length {sizes[letter]} and {size} in "
                        f"{','.join(inputs)}->{output}"
                    )
        # Scaled or permuted arguments fold into this contraction.
        for i, node in enumerate(nodes):
            if (
                isinstance(node.op, Einsum)
                and len(node.args) == 1
                and len(node.op.inputs[0]) == len(node.op.output)
                and _one_factor(scale, node.op.scale)
                and (len(nodes) == 1 or ordinary(node.op.scale))
            ):
                letters = dict(zip(node.op.output, terms[i], strict=True))
                terms[i] = "".join(letters[c] for c in node.op.inputs[0])
                nodes[i] = node.args[0]
                scale *= node.op.scale
        changed = True
        while changed and len(nodes) > 1:
            changed = False
            for i, node in enumerate(nodes):
                if not isinstance(node.op, Eye):
                    continue
                keep, drop = terms[i][0], terms[i][1]
                if drop in output:
                    keep, drop = drop, keep
                others = terms[:i] + terms[i + 1 :]
                # The rename must not make a diagonal of another operand nor lose an output axis.
                if drop in output or any(keep in t and drop in t for t in others):
                    continue
                if not any(drop in t for t in others):
                    continue
                terms = [t.replace(drop, keep) for t in others]
                del nodes[i]
                changed = True
                break
        if scale == 0.0:  # as an operand: 0.0 and -0.0 are equal, but not the same
            terms, nodes, scale = [*terms, ""], [*nodes, self.constant(scale)], 1.0
        shape = tuple(sizes[c] for c in output)
        canonical, output = _canonical(tuple(terms), output)
        if len(nodes) == 1 and canonical[0] == output and scale == 1.0:
            return nodes[0]
        return self.make(Einsum(canonical, output, float(scale)), tuple(nodes), shape)

    def scale(self, node: Node, factor: float) -> Node:
        letters = LETTERS[: len(node.shape)]
        return self.einsum([letters], letters, [node], factor)

    def permute(self, node: Node, axes: Sequence[int]) -> Node:
        letters = LETTERS[: len(node.shape)]
        return self.einsum([letters], "".join(letters[a] for a in axes), [node])

    def sum(self, node: Node, axes: Iterable[int]) -> Node:
        gone = set(axes)
        letters = LETTERS[: len(node.shape)]
        return self.einsum(
            [letters], "".join(c for i, c in enumerate(letters) if i not in gone), [node]
        )

    def add(self, terms: Sequence[tuple[float, Node]]) -> Node:
        """Sum of coefficient times node, all of one shape."""
        if len(terms) == 1:
            return self.scale(terms[0][1], terms[0][0])
        coefficients, nodes = zip(*terms, strict=True)
        return self.make(Add(tuple(float(c) for c in coefficients)), nodes, nodes[0].shape)

    def reshape(self, node: Node, shape: Shape) -> Node:
        if node.shape == shape:
            return node
        if isinstance(node.op, Reshape):
            return self.reshape(node.args[0], shape)
        return self.make(Reshape(shape), (node,), shape, node.truth)

    def broadcast(self, node: Node, shape: Shape) -> Node:
        """Broadcast to ``shape`` by the standard's rules."""
        if node.shape == shape:
            return node
        full = (1,) * (len(shape) - len(node.shape)) + node.shape
        node = self.reshape(node, full)
        return self.make(Broadcast(shape), (node,), shape, node.truth)

    def slice(self, node: Node, axis: int, start: int, stop: int) -> Node:
        if start == 0 and stop == node.shape[axis]:
            return node
        if isinstance(node.op, Slice) and node.op.axis == axis:
            start, stop = node.op.start + start, node.op.start + stop
            return self.slice(node.args[0], axis, start, stop)
        shape = (*node.shape[:axis], stop - start, *node.shape[axis + 1 :])
        return self.make(Slice(axis, start, stop), (node,), shape, node.truth)

    def pad(self, node: Node, axis: int, before: int, after: int) -> Node:
        if before == after == 0:
            return node
        shape = (*node.shape[:axis], before + node.shape[axis] + after, *node.shape[axis + 1 :])
        return self.make(Pad(axis, before, after), (node,), shape)

    def flip(self, node: Node, axis: int) -> Node:
        return (
            node
            if node.shape[axis] == 1
            else self.make(Flip(axis), (node,), node.shape, node.truth)
        )

    def take(self, node: Node, axis: int, indices: Sequence[int]) -> Node:
        shape = (*node.shape[:axis], len(indices), *node.shape[axis + 1 :])
        return self.make(Take(axis, tuple(int(i) for i in indices)), (node,), shape, node.truth)

    def concat(self, nodes: Sequence[Node], axis: int) -> Node:
        """Side by side; neighbouring slices of one array are one slice again."""
        parts: list[Node] = []
        for node in nodes:
            joined = self._neighbours(parts[-1], node, axis) if parts else None
            parts[-1:] = [joined] if joined is not None else [*parts[-1:], node]
        nodes = parts
        if len(nodes) == 1:
            return nodes[0]
        first = nodes[0].shape
        shape = (*first[:axis], sum(n.shape[axis] for n in nodes), *first[axis + 1 :])
        return self.make(Concat(axis), tuple(nodes), shape, nodes[0].truth)

    def _neighbours(self, a: Node, b: Node, axis: int) -> Node | None:
        """a and b as one node, where they are next to each other in the same one."""
        x, y = a.op, b.op
        if (
            isinstance(x, Slice)
            and isinstance(y, Slice)
            and x.axis == y.axis == axis
            and x.stop == y.start
            and a.args[0] is b.args[0]
        ):
            return self.slice(a.args[0], axis, x.start, y.stop)
        if (
            isinstance(x, Broadcast)
            and isinstance(y, Broadcast)
            and a.args[0].size == b.args[0].size == 1
            and _same_number(a.args[0], b.args[0])
        ):
            length = a.shape[axis] + b.shape[axis]
            return self.broadcast(a.args[0], (*a.shape[:axis], length, *a.shape[axis + 1 :]))
        return None

    # ---- elementwise and selection -----------------------------------------------------------

    def elementwise(self, function: Elementary, node: Node) -> Node:
        if function.name == "identity" and not function.order:
            return node
        return self.make(Elementwise(function), (node,), node.shape)

    def select(self, mask: Node, a: Node, b: Node) -> Node:
        return a if a is b else self.make(Select(), (mask, a, b), a.shape)

    def test(self, name: str, *args: Node) -> Node:
        return self.make(Test(name), args, args[0].shape, truth=True)

    def freeze(self, node: Node) -> Node:
        return self.make(Frozen(), (node,), node.shape) if node.active else node
