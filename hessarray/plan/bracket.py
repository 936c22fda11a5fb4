"""Which bracket of the sum over sites is cheapest: dynamic programming over the dominators.

Let v_0 = x, v_1, ..., v_p = f be the dominators, w_i their sizes, and H_i the second derivative of
f with respect to v_i. For any later v_j,

    H_i = J_ij^T H_j J_ij + (sites between v_i and v_j, seen from v_i)

with J_ij = dv_j / dv_i: the second-order matrix chain. ``best[i]`` is the least time for H_i, over
all j, where j = p stands for summing over all the sites that are left. In front of that chain,
second derivatives may be carried forward up to some dominator, all left. All right and all left are
the two ends of this family, so the choice is never dearer than either (Naumann, "Hessian chain
bracketing", 2021).

Times are estimates from shapes alone: multiply-adds, passes over entries and calls, each at the
backend's cost. What carries no batch axis costs nothing here, since it is folded once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from hessarray.backends.protocol import Costs
from hessarray.graph.node import (
    SAMPLE,
    Add,
    Concat,
    Einsum,
    Elementwise,
    Node,
    Pad,
    Select,
    Take,
    topological,
)
from hessarray.graph.trace import Graph
from hessarray.plan.chain_rule import curvature_sites
from hessarray.plan.derive import Bracket, dominators
from hessarray.plan.symmetry import gram_pays, gram_seconds
from hessarray.plan.want import Want

__all__ = ["cheapest"]

_SMALL = 2.0  # how much longer a multiply-add takes in a small product than in a large one


def cheapest(graph: Graph, want: Want, n: int, costs: Costs) -> Bracket:
    """The bracket with the least estimated time for n samples."""
    return _Chain(graph, want, n, costs).best()


class _Chain:
    def __init__(self, graph: Graph, want: Want, n: int, costs: Costs) -> None:
        self.n, self.c = n, costs
        self.nodes = [v for v in topological([graph.output]) if v.active]
        self.sites = {id(v) for v in curvature_sites(self.nodes)}
        self.work = {id(v): _work(v) for v in self.nodes}
        self.chain = dominators(graph)
        place = {id(v): i for i, v in enumerate(self.nodes)}
        self.place = [place[id(u)] for u in self.chain]
        self.d = want.left or sum(x.size for x in graph.inputs)
        self.m = max(want.right or (1 if want.right == 0 else graph.output.size), 1)
        self.tie = {"hessian": 2, "diagonal": 1, "laplacian": 0}[want.second or "hessian"]
        # Outputs that G starts from as the identity: up to the first product it carries no batch.
        self._constant_from = self._first_curved()

    def best(self) -> Bracket:
        last = len(self.chain) - 1
        tails = self._tails()
        lefts = self._lefts()
        options = [self._from_input(tails, None)]
        options += [self._from_input(tails, k, lefts[k]) for k in range(1, last)]
        adjoint = self._adjoint()
        options = [(time + adjoint, bracket) for time, bracket in options]
        if last > 0:
            options.append((lefts[last], Bracket(left=last, reverse_gradient=False)))
        return min(options, key=lambda option: option[0])[1]

    def _first_curved(self) -> int:
        """Nodes from here on are linear in what follows: their G is the same for all samples."""
        for i in range(len(self.nodes) - 1, -1, -1):
            if self.work[id(self.nodes[i])][0]:
                return i
        return -1

    # ---- the chain -----------------------------------------------------------------------------

    def _tails(self) -> list[tuple[float, tuple[int, ...]]]:
        """Least time for H at each dominator, and whose Jacobians are factored out after it."""
        last = len(self.chain) - 1
        best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())] * (last + 1)
        for i in range(last - 1, 0, -1):
            best[i] = self._tail(i, self.chain[i].size, 2, 0, best)
        return best

    def _tail(
        self,
        i: int,
        width: int,
        tie: int,
        skip: int,
        best: Sequence[tuple[float, tuple[int, ...]]],
    ) -> tuple[float, tuple[int, ...]]:
        """H at dominator i along ``width`` directions; sites before node ``skip`` are not its."""
        last = len(self.chain) - 1
        found: tuple[float, tuple[int, ...]] | None = None
        time = 0.0
        sweep = _Sweep(self, width)
        for j in range(i + 1, last + 1):
            for p in range(self.place[j - 1] + 1, self.place[j] + 1):
                node = self.nodes[p]
                if id(node) in self.sites and p >= skip:
                    time += self._site(node, width, tie, sweep.constant(node))
                time += sweep.push(node)
            here = self.chain[j].size
            if j < last and self.place[j] + 1 > skip:
                rest, cuts = best[j]
                total = time + rest + self._sandwich(width, here, tie, sweep.at(self.chain[j]))
                if found is None or total < found[0]:
                    found = total, (j, *cuts)
            elif j == last and (found is None or time <= found[0]):
                found = time, ()
        return found if found is not None else (0.0, ())

    def _from_input(
        self,
        tails: Sequence[tuple[float, tuple[int, ...]]],
        left: int | None,
        before: float = 0.0,
    ) -> tuple[float, Bracket]:
        skip = self.place[left] + 1 if left is not None else 0
        time, cuts = self._tail(0, self.d, self.tie, skip, tails)
        if left is not None:
            size = self.chain[left].size
            rows = _rows(self.d, self.tie)
            time += before + self._product(rows, size, self.m)
            cuts = tuple(k for k in cuts if k > left)
        return time, Bracket(left=left, cuts=cuts)

    def _lefts(self) -> list[float]:
        """Time of second derivatives carried forward to each dominator, with the Jacobian."""
        times, time = [], 0.0
        j, h = _Sweep(self, self.d), _Sweep(self, _rows(self.d, self.tie))
        curved = False
        for p, node in enumerate(self.nodes):
            if id(node) in self.sites:
                size = node.size * _rows(self.d, self.tie)
                time += self.n * size * 2 * self.c.entry + 2 * self.c.call
                if self.tie == 0:
                    time += self.n * node.size * self.d * self.c.entry
                curved = True
            time += j.push(node)
            if curved:
                time += h.push(node)
            if p in self.place:
                times.append(time)
        return times

    # ---- times ---------------------------------------------------------------------------------

    def _adjoint(self) -> float:
        """The reverse sweep of G, which all brackets but all left need."""
        sweep = _Sweep(self, self.m)
        sweep.batched.update(id(v) for v in self.nodes[:1])
        return sum(sweep.push(v) for v in self.nodes[: self._constant_from + 1])

    def _site(self, node: Node, a: int, tie: int, constant: bool) -> float:
        """J^T (s'' . G) J of one site along a directions, for m outputs."""
        n, m, w, c = self.n, self.m, node.size, self.c
        if isinstance(node.op, Einsum):
            w = math.prod(node.op.sizes(node.args).values())
            pairs = list(combinations([v for v in node.args if v.active], 2))
            w *= len(pairs) * (2 if tie == 2 else 1)
        weigh: float = n * m * w * c.entry + c.call  # s'' . G
        add = n * _rows(a, tie) * m * c.entry + c.call
        flops = n * 2 * _rows(a, tie) * w * m * c.flop
        if constant:  # folded: one product with a constant
            return weigh + flops + add + c.call
        if tie == 2:
            spread = min(m * a * w, a * a * w + a * a * m) * c.entry
            if gram_pays(a, m, w, c):
                return weigh + n * gram_seconds(a, m, w, c) + add + c.call * 2
            return weigh + n * (spread + c.matrix) + _SMALL * flops + add + c.call * 3
        return weigh + n * a * w * 2 * c.entry + flops + add + c.call * 3

    def _sandwich(self, a: int, w: int, tie: int, constant: bool) -> float:
        """J^T H J with J (w, a), H (w, w, m)."""
        n, m, c = self.n, self.m, self.c
        if constant and tie < 2:  # J J^T is folded
            return n * _rows(a, tie) * m * (2 * w * w * c.flop + c.entry) + 2 * c.call
        second = 2 * a * w * m * (a if tie == 2 else 1)
        out = _rows(a, tie) * m
        products = 1 if constant else 2
        each = (2 * a * w * w * m + second) * _SMALL * c.flop + products * c.matrix + out * c.entry
        if tie < 2:
            each += a * w * m * c.entry
        if not constant:
            each += a * w * c.entry
        return n * each + c.call * 3

    def _product(self, rows: int, w: int, m: int) -> float:
        return self.n * (2 * rows * w * m * self.c.flop + rows * m * self.c.entry) + self.c.call


class _Sweep:
    """The time of a Jacobian's way through the nodes; free while it is the same for all samples."""

    def __init__(self, chain: _Chain, rows: int) -> None:
        self.n, self.c, self.rows, self.work = chain.n, chain.c, rows, chain.work
        self.batched: set[int] = set()

    def constant(self, node: Node) -> bool:
        """Whether the Jacobians of the node's active arguments carry no batch axis."""
        return not any(id(a) in self.batched for a in node.args)

    def at(self, node: Node) -> bool:
        return id(node) not in self.batched

    def push(self, node: Node) -> float:
        scales, entries, flops, calls = self.work[id(node)]
        if not scales and self.constant(node):
            return 0.0
        self.batched.add(id(node))
        c = self.c
        return self.n * self.rows * (entries * c.entry + flops * c.flop) + calls * c.call


def _work(node: Node) -> tuple[bool, int, int, int]:
    """What pushing one direction through a node takes.

    Whether its local derivative differs from sample to sample; entries passed over, flops, calls.
    """
    op, active = node.op, sum(v.active for v in node.args)
    if isinstance(op, Einsum):
        everything = math.prod(op.sizes(node.args).values())
        scales = active > 1 or any(v.level == SAMPLE for v in node.args if not v.active)
        if everything > node.size:  # sums over something
            return scales, 0, active * 2 * everything, active
        return scales, active * everything, 0, active
    if isinstance(op, Elementwise):
        return callable(op.function.s1), node.size, 0, 1
    if isinstance(op, Add):
        return False, (active - 1) * node.size, 0, active - 1
    if isinstance(op, (Concat, Pad, Select, Take)):
        return isinstance(op, Select), node.size, 0, 1
    return False, 0, 0, 0


def _rows(directions: int, tie: int) -> int:
    """Direction axes of the result, as one: a Hessian has two, a diagonal one, a Laplacian none."""
    return (1, directions, directions * directions)[tie]
