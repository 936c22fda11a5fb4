"""Finds equal operations that do not wait for one another, and makes one of each set of them.

Products with the same matrix become one with all their rows: the matrix is read once. Elementwise
operations become one over their arguments side by side; whoever needs one of the results takes its
slice.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence

from hessarray.backends.protocol import Costs
from hessarray.graph.builder import Builder
from hessarray.graph.node import (
    SAMPLE,
    Add,
    Einsum,
    Elementwise,
    Node,
    Op,
    Select,
    Slice,
    Test,
    topological,
)
from hessarray.plan.fuse import is_whole

__all__ = ["grouped", "row_times_matrix"]

_CACHED = 1 << 16  # entries of a matrix that stays near a core between two products


def grouped(builder: Builder, outputs: list[Node], n: int, costs: Costs) -> list[Node]:
    """Equal operations that do not wait for one another become one."""
    order = topological(outputs)
    groups = _Groups(order, n, costs).found()
    if not groups:
        return outputs
    member = {id(node): group for group in groups for node in group}
    new: dict[int, Node] = {}
    for node in _ordered(outputs, member):
        group = member.get(id(node))
        if group is None:
            new[id(node)] = builder.again(node, tuple(new[id(a)] for a in node.args))
        else:
            _stacked(builder, group, new)
    return [new[id(o)] for o in outputs]


def _key(node: Node) -> Hashable | None:
    """Equal for operations that can run side by side along their last axis."""
    op = node.op
    if node.level != SAMPLE or not node.shape or not node.args:
        return None
    product = _matrix_product(node)
    if product is not None:
        return "rows", id(node.args[1 - product[0]]), product
    if isinstance(op, (Elementwise, Add, Select, Test)):
        return op, node.truth, node.shape[:-1]
    if isinstance(op, Einsum) and op.output:
        c, axes = op.output[-1], set(op.output)
        if all(t[-1:] == c and len(set(t)) == len(t) and set(t) <= axes for t in op.inputs):
            return op, tuple(a.shape[:-1] for a in node.args)
    return None


class _Groups:
    """Chooses the sets of operations that become one."""

    def __init__(self, order: list[Node], n: int, costs: Costs) -> None:
        self.order, self.n, self.costs = order, n, costs
        place = {id(node): i for i, node in enumerate(order)}
        # The graph with the groups found so far merged: a node's group, a group's parents.
        self.owner = list(range(len(order)))
        self.parents = [[place[id(a)] for a in node.args] for node in order]
        self.grouped: set[int] = set()
        # An activation, or the first slope at an argument -> what comes with it in one operation.
        self.company: dict[int, dict[Op, int]] = {}

    def found(self) -> list[list[Node]]:
        led = self._led()
        kinds: dict[Hashable, list[int]] = defaultdict(list)
        for i, node in enumerate(self.order):
            key = _key(node) if i not in led else None
            if key is not None:
                kinds[key, frozenset(self.company.get(i, ()))].append(i)
        many = [k for k in kinds.values() if len(k) > 1]
        # What saves most first: products with large matrices; then functions, from which the
        # factors of other products come.
        many.sort(key=lambda k: (-self._read(self.order[k[0]]), not self._function(k[0])))
        groups = []
        for kind in many:
            if self._hopeless(kind):  # what waits for what takes a walk through the graph
                continue
            for group in self._independent(kind):
                if self._pays(group):
                    for alike in (group, *self._accompanied(group)):
                        self._merge(alike)
                        groups.append([self.order[i] for i in alike])
        return groups

    def _led(self) -> set[int]:
        """The slopes that come with another of their function and argument, of lower order."""
        together: dict[Hashable, list[tuple[int, int]]] = defaultdict(list)
        for i, node in enumerate(self.order):
            if is_whole(node, self.costs.whole):
                function = node.op.function  # type: ignore[attr-defined]
                together[function.name, id(node.args[0])].append((function.order, i))
        led: set[int] = set()
        for found in together.values():
            (_, leader), *others = sorted(found)
            self.company[leader] = {self.order[i].op: i for _, i in others}
            led.update(i for _, i in others)
        return led

    def _accompanied(self, group: list[int]) -> Iterator[list[int]]:
        """What follows its leaders into a group. It waits for no more than they do: for z."""
        for op in self.company.get(group[0], ()):
            others = [self.company[i][op] for i in group]
            if self._independent(others) == [others]:
                yield others

    def _independent(self, kind: list[int]) -> list[list[int]]:
        """The kind by how many of it a node waits for: those with equal numbers wait for none."""
        mine = set(kind)
        waits: dict[int, int] = {}
        todo = [(i, False) for i in reversed(kind)]
        while todo:
            i, ready = todo.pop()
            i = self.owner[i]
            if i in waits:
                continue
            if ready:
                waits[i] = max(
                    (waits[self.owner[p]] + (p in mine) for p in self.parents[i]), default=0
                )
            else:
                todo.append((i, True))
                todo += [(p, False) for p in self.parents[i] if self.owner[p] not in waits]
        classes: dict[int, list[int]] = defaultdict(list)
        for i in kind:
            classes[waits[i]].append(i)
        return [c for c in classes.values() if len(c) > 1]

    def _pays(self, group: list[int]) -> bool:
        nodes = [self.order[i] for i in group]
        product = _matrix_product(nodes[0])
        if product is not None:
            return self._rows_pay(nodes, product[0])
        seconds = self._apart(nodes)
        for column in zip(*(node.args for node in nodes), strict=True):
            if any(id(a) not in self.grouped for a in column):
                seconds += self._joint(column)
        return seconds < (len(nodes) - 1) * self.costs.call

    def _joint(self, parts: Sequence[Node]) -> float:
        """Seconds to bring parts side by side."""
        c = self.costs
        calls = c.call * sum(a.level != SAMPLE or isinstance(a.op, Slice) for a in parts)
        if c.placed:
            return calls
        keys = {_key(a) for a in parts}
        if len(keys) == 1 and None not in keys:  # they may become one themselves
            return calls
        return calls + self.n * sum(a.size for a in parts) * c.entry

    def _apart(self, nodes: list[Node]) -> float:
        """What rows that lie apart cost, in this operation and where its slices are used."""
        rows = self.n * sum(math.prod(node.shape[:-1]) for node in nodes)
        return 4 * rows * self.costs.row

    def _function(self, i: int) -> bool:
        return isinstance(self.order[i].op, (Elementwise, Test))

    def _read(self, node: Node) -> float:
        """Seconds to read the matrix of a product, where they are many calls' worth."""
        product = _matrix_product(node)
        if product is None:
            return 0.0
        matrix, c = node.args[1 - product[0]], self.costs
        seconds = matrix.size * (c.entry if matrix.size > _CACHED else c.entry / 4)
        return seconds if seconds > 2 * c.call else 0.0

    def _hopeless(self, kind: list[int]) -> bool:
        """Whether none of them would gain from being one, not even where nothing is copied.

        Of products those two gain most that have the fewest rows; of all else, all together.
        """
        nodes = [self.order[i] for i in kind]
        product = _matrix_product(nodes[0])
        if product is None:
            return self._apart(nodes) >= (len(nodes) - 1) * self.costs.call
        return not self._rows_pay(
            sorted(nodes, key=lambda v: v.args[product[0]].size)[:2], product[0]
        )

    def _rows_pay(self, nodes: list[Node], row: int) -> bool:
        """Reading the matrix once saves more than copying all rows but the most costs.

        The others wait for the longest, and what is kept meanwhile leaves the cache: with many
        samples that costs as much as copying it, where chunks are computed in place.
        """
        c = self.costs
        *rows, most = sorted(node.args[row].size for node in nodes)
        saved = len(rows) * (c.call + self._read(nodes[0]))
        entries = self.n * sum(rows) + ((self.n - 1) * most if c.placed else 0)
        return entries * c.entry + len(rows) * c.call < saved

    def _merge(self, group: list[int]) -> None:
        first = group[0]
        for i in group[1:]:
            self.owner[i] = first
            self.parents[first] = self.parents[first] + self.parents[i]
        self.grouped.update(id(self.order[i]) for i in group)


def _ordered(outputs: list[Node], member: dict[int, list[Node]]) -> list[Node]:
    """Arguments first, where a group needs the arguments of all its members."""
    order: list[Node] = []
    done: set[int] = set()
    todo: list[tuple[Node, bool]] = [(o, False) for o in reversed(outputs)]
    while todo:
        node, ready = todo.pop()
        group = member.get(id(node), [node])
        if id(group[0]) in done:
            continue
        if ready:
            done.add(id(group[0]))
            order.append(node)
        else:
            todo.append((node, True))
            for other in reversed(group):
                todo.extend((a, False) for a in reversed(other.args))
    return order


def _stacked(builder: Builder, group: list[Node], new: dict[int, Node]) -> None:
    first, axis = group[0], len(group[0].shape) - 1
    product = _matrix_product(first)
    if product is not None:
        _rows_together(builder, group, product, new)
        return
    columns = [
        [new[id(a)] for a in column] for column in zip(*(m.args for m in group), strict=True)
    ]
    # In the order in which their arguments already lie, where they do.
    order = sorted(range(len(group)), key=_offset(columns))
    args = [builder.concat([c[k] for k in order], len(c[0].shape) - 1) for c in columns]
    length = sum(node.shape[-1] for node in group)
    whole = builder.make(first.op, tuple(args), (*first.shape[:-1], length), first.truth)
    start = 0
    for k in order:
        stop = start + group[k].shape[-1]
        new[id(group[k])] = builder.slice(whole, axis, start, stop)
        start = stop


def _rows_together(
    builder: Builder, group: list[Node], product: tuple[int, int], new: dict[int, Node]
) -> None:
    """One product of all rows with their matrix; each result is a slice of it."""
    row, axis = product
    matrix = new[id(group[0].args[1 - row])]
    parts = [new[id(node.args[row])] for node in group]
    flat = [builder.reshape(p, (-(-p.size // p.shape[-1]), p.shape[-1])) for p in parts]
    rows = builder.concat(flat, 0)
    width = matrix.shape[1 - axis]
    op = Einsum(("ab", "bc" if axis == 0 else "cb"), "ac")
    whole = builder.make(op, (rows, matrix), (rows.shape[0], width))
    start = 0
    for node, part in zip(group, flat, strict=True):
        stop = start + part.shape[0]
        new[id(node)] = builder.reshape(builder.slice(whole, 0, start, stop), node.shape)
        start = stop


def _matrix_product(node: Node) -> tuple[int, int] | None:
    """(row, axis) of rows times a matrix whose ``axis`` is summed, unscaled and in that order."""
    op = node.op
    if not isinstance(op, Einsum) or op.scale != 1.0:
        return None
    split = row_times_matrix(op, node.args)
    if split is None:
        return None
    row, matrix, axis = split
    term, other = op.inputs[row], op.inputs[matrix]
    if len(other) != 2 or 0 in (*node.shape, *node.args[row].shape):
        return None
    return (row, axis) if op.output == term[:-1] + other[1 - axis] else None


def _offset(columns: list[list[Node]]) -> Callable[[int], int]:
    def offset(k: int) -> int:
        return next((c[k].op.start for c in columns if isinstance(c[k].op, Slice)), 0)  # type: ignore[attr-defined]

    return offset


def row_times_matrix(op: Einsum, args: Sequence[Node]) -> tuple[int, int, int] | None:
    """(row, matrix, axis): args[row] @ args[matrix], whose ``axis`` is summed; None for others.

    The row comes from a sample and is summed over its last axis, the matrix has no batch axis.
    """
    if len(args) != 2 or {a.level == SAMPLE for a in args} != {True, False}:
        return None
    row = 0 if args[0].level == SAMPLE else 1
    term, other = op.inputs[row], op.inputs[1 - row]
    c = term[-1:]
    if not c or c in op.output or term.count(c) != 1 or other.count(c) != 1:
        return None
    return row, 1 - row, other.index(c)
