"""Does once what all layers do alike: the stacking of equal operations.

Four rewritings of a graph, each where calls cost more than arithmetic (few samples, narrow
layers); the backend's costs decide, one by one:

- A sum of contractions that differ in their operands only, the sum over curvature sites above all,
  becomes one contraction over operands that lie side by side.
- Sums and products with matrices merge: ``(a + h b) @ K`` is ``[a, b] @ [K; h K]``, and so is
  ``a @ K + b @ L``. The matrices are joined once, when the plan is bound.
- Products with the same matrix become one with all their rows: the matrix is read once.
- Equal elementwise operations that do not wait for one another become one over their arguments
  side by side; whoever needs one of the results takes its slice.

Where the memory planner lets the producers write next to each other, joining costs nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

from hessarray.backends.protocol import Costs
from hessarray.graph.builder import LETTERS, Builder
from hessarray.graph.node import (
    SAMPLE,
    Add,
    Concat,
    Einsum,
    Elementwise,
    Node,
    Select,
    Slice,
    Test,
    topological,
)
from hessarray.plan.symmetry import Weighed, gram_seconds, weighed

__all__ = ["stack"]

_CACHED = 1 << 16  # entries of a matrix that stays near a core between two products


def stack(builder: Builder, outputs: list[Node], n: int, costs: Costs) -> list[Node]:
    """The same outputs with fewer, longer operations, where that is cheaper for n samples."""
    joined = _Sums(builder, n, costs)
    return _grouped(builder, joined.all(outputs), n, costs)


# ---- sums and products with matrices -------------------------------------------------------------


class _Sums:
    """Rebuilds a graph from its leaves; what is summed is contracted in one."""

    def __init__(self, builder: Builder, n: int, costs: Costs) -> None:
        self.b, self.n, self.costs = builder, n, costs
        self.terms: dict[int, list[tuple[float, Node]]] = {}  # of a sum, without nesting

    def all(self, outputs: list[Node]) -> list[Node]:
        new: dict[int, Node] = {}
        for node in topological(outputs):
            new[id(node)] = self.again(node, [new[id(a)] for a in node.args])
        return [new[id(o)] for o in outputs]

    def again(self, node: Node, args: list[Node]) -> Node:
        op = node.op
        if node.level == SAMPLE:
            if isinstance(op, Add):
                return self.sum(op, args)
            if isinstance(op, Einsum) and len(args) > 1:
                return self.product(op, args)
        return _again(self.b, node, args)

    def sum(self, op: Add, args: list[Node]) -> Node:
        terms: list[tuple[float, Node]] = []
        for c, a in zip(op.coefficients, args, strict=True):
            terms += [(c * k, t) for k, t in self.terms.get(id(a), [(1.0, a)])]
        plain = [(c, a) for c, a in zip(op.coefficients, args, strict=True)]
        found = self._sites(self._matrices(terms, plain))
        out = self.b.add(found)
        self.terms[id(out)] = terms
        return out

    def product(self, op: Einsum, args: list[Node]) -> Node:
        """A product whose factor stands at its smallest argument, and over sums side by side."""
        split = _matrix(op, args)
        if split is not None:
            row, matrix, axis = split
            terms = self.terms.get(id(args[row]))
            if terms and all(t.level == SAMPLE for _, t in terms):
                extra = (len(terms) - 1) * math.prod(args[row].shape)
                saved = sum(1 + (c != 1.0) for c, _ in terms[1:])
                rows = len(terms) * math.prod(args[row].shape[:-1])
                if self._pays(extra * args[matrix].size // args[matrix].shape[axis], rows, saved):
                    return self._side_by_side(op, row, matrix, axis, terms, args[matrix])
        if op.scale != 1.0 and all(a.level == SAMPLE for a in args):
            i = min(range(len(args)), key=lambda k: args[k].size)
            letters = LETTERS[: len(args[i].shape)]
            scale = Einsum((letters,), letters, op.scale)
            args = [*args]
            args[i] = self.b.make(scale, (args[i],), args[i].shape)
            op = Einsum(op.inputs, op.output)
        return self.b.make(op, tuple(args), _shape(op, args))

    def _pays(self, extra: int, rows: int, saved: int) -> bool:
        """Whether more multiply-adds, and rows that lie apart, cost less than so many calls."""
        c = self.costs
        return self.n * (2 * extra * c.flop + 2 * rows * c.row) < saved * c.call

    def _side_by_side(
        self,
        op: Einsum,
        row: int,
        matrix: int,
        axis: int,
        terms: Sequence[tuple[float, Node]],
        k: Node,
    ) -> Node:
        args: list[Node] = [k, k]
        args[row] = _nested(self.b, [t for _, t in terms])
        args[matrix] = self.b.concat([self.b.scale(k, c) for c, _ in terms], axis)
        return self.b.make(op, tuple(args), _shape(op, args))

    def _matrices(
        self, terms: list[tuple[float, Node]], plain: list[tuple[float, Node]]
    ) -> list[tuple[float, Node]]:
        """Products with matrices among the terms of a sum become one product."""
        alike: dict[Hashable, list[tuple[float, Node]]] = defaultdict(list)
        for c, t in terms:
            alike[_matrix_key(t)].append((c, t))
        key, found = max(alike.items(), key=lambda item: len(item[1]) if item[0] is not None else 0)
        if key is None or len(found) < 2 or len(alike) > 2:
            return plain
        op = found[0][1].op
        assert isinstance(op, Einsum)
        split = _matrix(op, found[0][1].args)
        assert split is not None
        row, matrix, axis = split
        wide = [t.args[row] for _, t in found]
        extra = sum(math.prod(a.shape) for a in wide[:-1]) * (
            found[0][1].args[matrix].size // found[0][1].args[matrix].shape[axis]
        )
        # Without nesting, all but the last product would have to be made again.
        rows = sum(math.prod(a.shape[:-1]) for a in wide)
        if not self._pays(extra if len(plain) < len(terms) else 0, rows, len(plain) - 1):
            return plain
        args = [found[0][1]] * 2
        args[row] = _nested(self.b, wide)
        args[matrix] = self.b.concat(
            [self.b.scale(t.args[matrix], c * t.op.scale) for c, t in found],  # type: ignore[attr-defined]
            axis,
        )
        op = Einsum(op.inputs, op.output)
        one = self.b.make(op, tuple(args), found[0][1].shape)
        rest = [t for k, ts in alike.items() if k != key for t in ts]
        return [*rest, (1.0, one)]

    def _sites(self, terms: list[tuple[float, Node]]) -> list[tuple[float, Node]]:
        """Contractions over the samples' own values, side by side along an axis they sum over."""
        alike: dict[Hashable, list[tuple[float, Node, Weighed | None]]] = defaultdict(list)
        for c, node in terms:
            site = _site(node) if self.costs.gram else None
            key = _contraction_key(node, c) if site is None else node.shape
            alike[key].append((c, node, site))
        result: list[tuple[float, Node]] = []
        for found in alike.values():
            c, first, site = found[0]
            operands = [_operands(node, site) for _, node, site in found]
            # Operands that wait for one another leave the cache meanwhile; constants are copied.
            entries = sum(max((a.size for a in args), default=0) for args in operands)
            if site is not None:
                entries += sum(2 * args[0].size for args in operands if args[0].level != SAMPLE)
            rows = sum(math.prod(a.shape[:-1]) for args in operands for a in args)
            lost = self.n * (entries * self.costs.entry / 2 + rows * self.costs.row)
            saved = (len(found) - 1) * (4 * self.costs.call + self.n * self._overhead(first))
            distinct = len(found) > 1 and first is not found[1][1]
            if not distinct or lost >= saved:
                result += [(c, node) for c, node, _ in found]
            elif site is not None:
                result.append((1.0, self._one_site(found)))
            else:
                columns = zip(*operands, strict=True)
                joined = [self.b.concat(parts, len(parts[0].shape) - 1) for parts in columns]
                result.append((c, self.b.make(first.op, tuple(joined), first.shape)))
        return result

    def _one_site(self, found: Sequence[tuple[float, Node, Weighed | None]]) -> Node:
        """The sum of some J diag(w) J^T as one, of all the J and all the w side by side."""
        jacobians, weights = [], []
        for c, node, site in found:
            op = node.op
            assert isinstance(op, Einsum)
            assert site is not None
            j, *factors = _operands(node, site)
            terms, output = [op.inputs[k] for k in site.factors], op.output[2:] + site.axes
            jacobians.append(j)
            weights.append(self.b.einsum(terms, output, factors, c * op.scale))
        j = self.b.concat(jacobians, 1)
        w = self.b.concat(weights, len(weights[0].shape) - 1)
        outer = LETTERS[3 : 2 + len(w.shape)]
        return self.b.einsum(["ab", "cb", outer + "b"], "ac" + outer, [j, j, w])

    def _overhead(self, node: Node) -> float:
        """Seconds of a contraction and its place in a sum for one sample, but multiply-adds."""
        directions, add = node.shape[:2], node.size * self.costs.entry
        if not self.costs.gram or len(directions) < 2 or directions[0] != directions[1]:
            return self.costs.matrix + add
        m = math.prod(node.shape[2:])
        return gram_seconds(directions[0], m, 0, self.costs) + (add if m > 1 else 0.0)


def _nested(builder: Builder, parts: Sequence[Node]) -> Node:
    """Parts side by side, in ever longer joints: a sum that grew shares the shorter one."""
    whole = parts[0]
    for part in parts[1:]:
        whole = builder.concat([whole, part], len(part.shape) - 1)
    return whole


def _shape(op: Einsum, args: Sequence[Node]) -> tuple[int, ...]:
    sizes = op.sizes(args)
    return tuple(sizes[c] for c in op.output)


def _matrix(op: Einsum, args: Sequence[Node]) -> tuple[int, int, int] | None:
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


def _matrix_key(node: Node) -> Hashable:
    if not isinstance(node.op, Einsum):
        return None
    split = _matrix(node.op, node.args)
    if split is None:
        return None
    row, matrix, axis = split
    k = node.args[matrix].shape
    rest = (node.args[row].shape[:-1], k[:axis], k[axis + 1 :])
    return node.op.inputs, node.op.output, split, rest


def _contraction_key(node: Node, coefficient: float) -> Hashable:
    """Equal for contractions of samples' values that can run side by side."""
    op = node.op
    if not isinstance(op, Einsum) or len(node.args) < 2 or node.args[0].level != SAMPLE:
        return id(node)
    last = {t[-1:] for t in op.inputs}
    if len(last) != 1 or last == {""} or last <= set(op.output):
        return id(node)
    if any(t.count(t[-1]) > 1 for t in op.inputs):
        return id(node)
    return op, coefficient, tuple(a.shape[:-1] for a in node.args)


def _site(node: Node) -> Weighed | None:
    """The node as J diag(w) J^T with J (directions, width) and both directions in front, or None.

    A site that is constant stays apart: it is summed once.
    """
    op = node.op
    if not isinstance(op, Einsum) or node.level != SAMPLE:
        return None
    site = weighed(op.inputs, node.args, op.output)
    if site is None or len(site.axes) != 1 or {*op.output[:2]} != {*site.ends}:
        return None
    return site if op.inputs[site.j][-1] == site.axes else None


def _operands(node: Node, site: Weighed | None) -> Sequence[Node]:
    """What the node contracts, J once."""
    if site is None:
        return node.args
    return [node.args[k] for k in (site.j, *site.factors)]


# ---- equal elementwise operations ----------------------------------------------------------------


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


def _grouped(builder: Builder, outputs: list[Node], n: int, costs: Costs) -> list[Node]:
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
            new[id(node)] = _again(builder, node, [new[id(a)] for a in node.args])
        else:
            _stacked(builder, group, new)
    return [new[id(o)] for o in outputs]


class _Groups:
    """Chooses the sets of operations that become one."""

    def __init__(self, order: list[Node], n: int, costs: Costs) -> None:
        self.order, self.n, self.costs = order, n, costs
        place = {id(node): i for i, node in enumerate(order)}
        # The graph with the groups found so far merged: a node's group, a group's parents.
        self.owner = list(range(len(order)))
        self.parents = [[place[id(a)] for a in node.args] for node in order]
        self.grouped: set[int] = set()

    def found(self) -> list[list[Node]]:
        kinds: dict[Hashable, list[int]] = defaultdict(list)
        for i, node in enumerate(self.order):
            key = _key(node)
            if key is not None:
                kinds[key].append(i)
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
                    self._merge(group)
                    groups.append([self.order[i] for i in group])
        return groups

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
        copies = 0
        for column in zip(*(node.args for node in nodes), strict=True):
            if any(id(a) not in self.grouped for a in column):
                copies += sum(a.level != SAMPLE or isinstance(a.op, Slice) for a in column)
        return copies * self.costs.call + self._apart(nodes) < (len(nodes) - 1) * self.costs.call

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
        """Reading the matrix once saves more than copying all rows but the most costs."""
        c = self.costs
        rows = sorted(node.args[row].size for node in nodes)
        saved = (len(nodes) - 1) * (c.call + self._read(nodes[0]))
        return sum(self.n * r * c.entry + c.call for r in rows[:-1]) < saved

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
    split = _matrix(op, node.args)
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


def _again(builder: Builder, node: Node, args: list[Node]) -> Node:
    if isinstance(node.op, Concat):
        return builder.concat(args, node.op.axis)
    if isinstance(node.op, Slice):
        return builder.slice(args[0], node.op.axis, node.op.start, node.op.stop)
    if all(a is b for a, b in zip(args, node.args, strict=True)):
        return node
    return builder.make(node.op, tuple(args), node.shape, node.truth)
