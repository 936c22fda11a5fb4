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
from functools import cache
from itertools import combinations
from operator import itemgetter
from typing import Any

import numpy as np

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

Times = np.ndarray[Any, np.dtype[np.float64]]

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
        self.place = np.array([place[id(u)] for u in self.chain])
        self.sizes = np.array([u.size for u in self.chain])
        self._find_scaled(place)
        self.d = want.directions(sum(x.size for x in graph.inputs))
        self.m = want.outputs(graph.output.size)
        self.tie = {"hessian": 2, "diagonal": 1, "laplacian": 0}[want.second or "hessian"]
        # Outputs that G starts from as the identity: up to the first product it carries no batch.
        self._constant_from = self._first_curved()

    def best(self) -> Bracket:
        last = len(self.chain) - 1
        tails = self._tails()
        lefts = self._lefts()
        time, cut, left = self._from_input(tails, None)
        for k in range(1, last):
            if lefts[k] < time:  # what comes before takes less than all of the best one
                time, cut, left = min(
                    (time, cut, left), self._from_input(tails, k, lefts[k]), key=itemgetter(0)
                )
        if last > 0 and lefts[last] < time + self._adjoint():
            return Bracket(left=last, reverse_gradient=False)
        cuts = []
        while cut < last:
            cuts.append(cut)
            cut = tails[1][cut]
        return Bracket(left=left, cuts=tuple(k for k in cuts if left is None or k > left))

    def _first_curved(self) -> int:
        """Nodes from here on are linear in what follows: their G is the same for all samples."""
        for i in range(len(self.nodes) - 1, -1, -1):
            if self.work[id(self.nodes[i])][0]:
                return i
        return -1

    def _find_scaled(self, place: dict[int, int]) -> None:
        """For each node the last node that scales a Jacobian on its way there, and before it.

        From a dominator before that node on, the Jacobian carries a batch axis; else it is the same
        for all samples.
        """
        c, n = self.c, self.n
        self.after, self.before = np.full((2, len(self.nodes)), -1)
        self.slope, self.fixed = np.zeros((2, len(self.nodes)))  # of a push: a row, and the calls
        for p, node in enumerate(self.nodes):
            scales, entries, flops, calls = self.work[id(node)]
            at = [place[id(a)] for a in node.args if id(a) in place]
            self.before[p] = max((self.after[q] for q in at), default=-1)
            self.after[p] = p if scales else self.before[p]
            self.slope[p] = n * (entries * c.entry + flops * c.flop)
            self.fixed[p] = calls * c.call

    # ---- the chain -----------------------------------------------------------------------------

    def _tails(self) -> tuple[Times, list[int]]:
        """Least time for H at each dominator, and the next one whose Jacobian is factored out.

        The last dominator stands for none.
        """
        last = len(self.chain) - 1
        times, following = np.zeros(last + 1), [last] * (last + 1)
        for i in range(last - 1, 0, -1):
            times[i], following[i] = self._tail(i, int(self.sizes[i]), 2, 0, times)
        return times, following

    def _tail(self, i: int, width: int, tie: int, skip: int, best: Times) -> tuple[float, int]:
        """H at dominator i along ``width`` directions; sites before node ``skip`` are not its."""
        last = len(self.chain) - 1
        if i >= last:
            return 0.0, last
        start = int(self.place[i])
        nodes = slice(start + 1, int(self.place[last]) + 1)
        constant = self.before[nodes] <= start
        each = np.where(constant, *(t[nodes] for t in self._site_times(width, tie)))
        each[: max(skip - start - 1, 0)] = 0.0
        each += (self.slope[nodes] * width + self.fixed[nodes]) * (self.after[nodes] > start)
        until = np.cumsum(each)[self.place[i + 1 :] - start - 1]
        inner = slice(i + 1, last)
        factored = np.where(
            self.after[self.place[inner]] <= start,
            *(t[inner] for t in self._sandwich_times(width, tie)),
        )
        total = until
        total[:-1] += best[inner] + factored
        total[:-1][self.place[inner] + 1 <= skip] = math.inf
        least = int(np.argmin(total[::-1]))  # no cut where that is no dearer
        j = last if least == 0 else i + 1 + int(np.argmin(total[:-1]))
        return float(total[j - i - 1]), j

    @cache  # noqa: B019 - lives as long as one choice takes
    def _site_times(self, width: int, tie: int) -> tuple[Times, Times]:
        """Of each node that is a site, for Jacobians without and with a batch axis; 0 elsewhere."""
        found = np.zeros((2, len(self.nodes)))
        for p, node in enumerate(self.nodes):
            if id(node) in self.sites:
                found[:, p] = [self._site(node, width, tie, constant) for constant in (True, False)]
        return found[0], found[1]

    @cache  # noqa: B019
    def _sandwich_times(self, width: int, tie: int) -> tuple[Times, Times]:
        """Of each dominator whose Jacobian is factored out, without and with a batch axis."""
        found = [
            np.array([self._sandwich(width, int(w), tie, constant) for w in self.sizes])
            for constant in (True, False)
        ]
        return found[0], found[1]

    def _from_input(
        self, tails: tuple[Times, list[int]], left: int | None, before: float = 0.0
    ) -> tuple[float, int, int | None]:
        """Time, the first cut, and the dominator up to which second derivatives are carried."""
        skip = int(self.place[left]) + 1 if left is not None else 0
        time, first = self._tail(0, self.d, self.tie, skip, tails[0])
        if left is not None:
            rows = _rows(self.d, self.tie)
            time += before + self._product(rows, self.chain[left].size, self.m)
        return time, first, left

    def _lefts(self) -> list[float]:
        """Time of second derivatives carried forward to each dominator, with the Jacobian."""
        times, time = [], 0.0
        j, h = _SweepTime(self, self.d), _SweepTime(self, _rows(self.d, self.tie))
        curved, places = False, set(self.place.tolist())
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
            if p in places:
                times.append(time)
        return times

    # ---- times ---------------------------------------------------------------------------------

    def _adjoint(self) -> float:
        """The reverse sweep of G, which all brackets but all left need."""
        sweep = _SweepTime(self, self.m)
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
        if tie == 2 and gram_pays(a, m, w, c, folded=constant):
            return weigh + n * gram_seconds(a, m, w, c) + add + c.call * 2
        if constant:  # folded: one product with a constant
            return weigh + flops + add + c.call
        if tie == 2:
            spread = min(m * a * w, a * a * w + a * a * m) * c.entry
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


class _SweepTime:
    """The time of a Jacobian's way through the nodes; free while it is the same for all samples."""

    def __init__(self, chain: _Chain, rows: int) -> None:
        self.n, self.c, self.rows, self.work = chain.n, chain.c, rows, chain.work
        self.batched: set[int] = set()

    def push(self, node: Node) -> float:
        scales, entries, flops, calls = self.work[id(node)]
        if not scales and not any(id(a) in self.batched for a in node.args):
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
