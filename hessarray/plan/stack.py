"""Does once what all layers do alike: the stacking of equal operations.

Four rewritings of a graph, each where calls cost more than arithmetic (few samples, narrow
layers); the backend's costs decide, one by one. Here:

- A sum of contractions that differ in their operands only, the sum over curvature sites above all,
  becomes one contraction over operands that lie side by side.
- Sums and products with matrices merge: ``(a + h b) @ K`` is ``[a, b] @ [K; h K]``, and so is
  ``a @ K + b @ L``. The matrices are joined once, when the plan is bound.

Then, in ``group.py``, products with the same matrix and equal elementwise operations. Where the
memory planner lets the producers write next to each other, joining costs nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

from hessarray.backends.protocol import Costs
from hessarray.graph.builder import LETTERS, Builder
from hessarray.graph.node import SAMPLE, Add, Einsum, Node, remade, topological
from hessarray.plan.group import grouped, row_times_matrix
from hessarray.plan.symmetry import Weighed, gram_seconds, weighed

__all__ = ["stack"]


def stack(builder: Builder, outputs: list[Node], n: int, costs: Costs) -> list[Node]:
    """The same outputs with fewer, longer operations, where that is cheaper for n samples."""
    joined = _Sums(builder, n, costs)
    return grouped(builder, joined.all(outputs), n, costs)


class _Sums:
    """Rebuilds a graph from its leaves; what is summed is contracted in one."""

    def __init__(self, builder: Builder, n: int, costs: Costs) -> None:
        self.b, self.n, self.costs = builder, n, costs
        self.terms: dict[int, list[tuple[float, Node]]] = {}  # of a sum, without nesting

    def all(self, outputs: list[Node]) -> list[Node]:
        new = remade(topological(outputs), self.again)
        return [new[o] for o in outputs]

    def again(self, node: Node, args: tuple[Node, ...]) -> Node:
        op = node.op
        if node.level == SAMPLE:
            if isinstance(op, Add):
                return self.sum(op, args)
            if isinstance(op, Einsum) and len(args) > 1:
                return self.product(op, args)
        return self.b.again(node, args)

    def sum(self, op: Add, args: Sequence[Node]) -> Node:
        terms: list[tuple[float, Node]] = []
        for c, a in zip(op.coefficients, args, strict=True):
            terms += [(c * k, t) for k, t in self.terms.get(id(a), [(1.0, a)])]
        plain = [(c, a) for c, a in zip(op.coefficients, args, strict=True)]
        found = self._sites(self._matrices(terms, plain))
        out = self.b.add(found)
        self.terms[id(out)] = terms
        return out

    def product(self, op: Einsum, args: Sequence[Node]) -> Node:
        """A product whose factor stands at its smallest argument, and over sums side by side."""
        split = row_times_matrix(op, args)
        if split is not None:
            row, matrix, axis = split
            terms = self.terms.get(id(args[row]))
            if terms and all(t.level == SAMPLE for _, t in terms):
                columns = args[matrix].size // args[matrix].shape[axis]
                extra = (len(terms) - 1) * math.prod(args[row].shape) * columns
                saved = sum(1 + (c != 1.0) for c, _ in terms[1:])
                if self._pays(extra, [t for _, t in terms], saved):
                    return self._side_by_side(op, row, matrix, axis, terms, args[matrix])
        if op.scale != 1.0 and all(a.level == SAMPLE for a in args):
            i = min(range(len(args)), key=lambda k: args[k].size)
            letters = LETTERS[: len(args[i].shape)]
            scale = Einsum((letters,), letters, op.scale)
            args = [*args]
            args[i] = self.b.make(scale, (args[i],), args[i].shape)
            op = Einsum(op.inputs, op.output)
        return self.b.make(op, tuple(args), _shape(op, args))

    def _pays(self, extra: int, parts: Sequence[Node], saved: int) -> bool:
        """Whether more multiply-adds, and parts side by side, cost less than so many calls."""
        c = self.costs
        rows = sum(math.prod(a.shape[:-1]) for a in parts)
        seconds = self.n * (2 * extra * c.flop + 2 * rows * c.row)
        return seconds + self._joints(parts) < saved * c.call

    def _joints(self, parts: Sequence[Node], joints: int = 1) -> float:
        """Seconds to copy parts side by side, where they cannot be computed there."""
        c = self.costs
        return 0.0 if c.placed else joints * c.call + self.n * sum(a.size for a in parts) * c.entry

    def _together(self, parts: Sequence[Node]) -> Node:
        """Parts side by side; in ever longer joints where a sum that grew shares the shorter."""
        axis = len(parts[0].shape) - 1
        if not self.costs.placed:
            return self.b.concat(parts, axis)
        whole = parts[0]
        for part in parts[1:]:
            whole = self.b.concat([whole, part], axis)
        return whole

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
        args[row] = self._together([t for _, t in terms])
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
        split = row_times_matrix(op, found[0][1].args)
        assert split is not None
        row, matrix, axis = split
        wide = [t.args[row] for _, t in found]
        extra = sum(math.prod(a.shape) for a in wide[:-1]) * (
            found[0][1].args[matrix].size // found[0][1].args[matrix].shape[axis]
        )
        # Without nesting, all but the last product would have to be made again.
        if not self._pays(extra if len(plain) < len(terms) else 0, wide, len(plain) - 1):
            return plain
        args = [found[0][1]] * 2
        args[row] = self._together(wide)
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
            parts = [a for args in operands for a in args]
            rows = sum(math.prod(a.shape[:-1]) for a in parts)
            lost = self.n * (entries * self.costs.entry / 2 + rows * self.costs.row)
            lost += self._joints(parts, len(operands[0]))
            saved = (len(found) - 1) * (4 * self.costs.call + self.n * self._overhead(first))
            distinct = len(found) > 1 and first is not found[1][1]
            if not distinct or lost >= saved:
                result += [(c, node) for c, node, _ in found]
            elif site is not None:
                result.append((1.0, self._one_site(found)))
            else:
                columns = zip(*operands, strict=True)
                joined = [self.b.concat(side, len(side[0].shape) - 1) for side in columns]
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


def _shape(op: Einsum, args: Sequence[Node]) -> tuple[int, ...]:
    sizes = op.sizes(args)
    return tuple(sizes[c] for c in op.output)


def _matrix_key(node: Node) -> Hashable:
    if not isinstance(node.op, Einsum):
        return None
    split = row_times_matrix(node.op, node.args)
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
