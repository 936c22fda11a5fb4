r"""Blocks of a form summed over samples.

Matrices and biases enter a variable z through factors u, so their blocks are products over samples:
with pairs of entries side by side, the sum over n of u_i H_ab w_j is one matrix product of

    [u_i w_j]_(n, ij)^T  and  [H_ab]_(n, ab),

of which for one variable (H and u u^T symmetric) only i <= j and a <= b are needed: a quarter of
the work. The second term P_{k->w} (x) G is another such product. What enters in other ways (scales,
kernels of convolutions, parameters in a broadcast) is made a block for each sample and added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

from hessarray.curvature._problem import Problem
from hessarray.graph.node import Node
from hessarray.plan.injection import Entry
from hessarray.plan.parameters import Form, block, diagonal_vector, joined

__all__ = ["BlockSums", "Second"]


@dataclass(frozen=True)
class Second:
    """The second term for one factor w of a variable: a name among the nodes, and what it is."""

    node: str  # P_{k->w}, or the diagonal of it
    diagonal: bool
    start: int  # rows of w among the variable's
    rows: int


class BlockSums:
    """What to compute for each sample, and which sums over samples make up the blocks."""

    def __init__(self, problem: Problem, kind: str, pairs: Sequence[tuple[int, int]]) -> None:
        """``pairs`` of places in ``Injected.parameters``, i <= j, are wanted."""
        self.form: Form = problem.form(kind)
        self.inj = self.form.inj
        self.place = {id(psi): i for i, psi in enumerate(self.inj.parameters)}
        wanted = set(pairs)
        entries = self.inj.entries
        self.dense: dict[int, list[Entry]] = {}
        for e in entries:
            if e.dense:
                self.dense.setdefault(e.variable, []).append(e)
        # Entries in the order of their variables: a block is made for the earlier one first.
        ordered = sorted(entries, key=lambda e: e.variable)
        chosen = [
            (e, f)
            for e, f in combinations_with_replacement(ordered, 2)
            if self.key(e, f) in wanted or self.key(f, e) in wanted
        ]
        self.products = sorted({(e.variable, f.variable) for e, f in chosen if e.dense and f.dense})
        self.second: dict[tuple[int, int], list[Second]] = {}
        self.single: dict[str, tuple[Entry, Entry]] = {}  # by node: blocks of one sample
        self.wanted = wanted
        self.nodes = self._nodes([p for p in chosen if not (p[0].dense and p[1].dense)])

    def key(self, e: Entry, f: Entry) -> tuple[int, int]:
        """Places of what the entries are of, in ``Injected.parameters``."""
        return self.place[id(e.psi)], self.place[id(f.psi)]

    # ---- per sample --------------------------------------------------------------------------

    def rows(self, k: int) -> int:
        """Length of the factors [u_1, u_2, ..., 1] of a variable."""
        return sum(e.rows for e in self.dense[k])

    def spans(self, k: int) -> list[tuple[Entry, int]]:
        """The variable's dense entries, each with its first row among the factors."""
        found, start = [], 0
        for e in self.dense[k]:
            found.append((e, start))
            start += e.rows
        return found

    @property
    def made(self) -> int:
        """The most numbers per sample that a sum over samples makes of the nodes at a time."""
        return max((self.rows(k) * self.rows(l) for k, l in self.products), default=0)

    @property
    def flops(self) -> int:
        """Of the sums, for each sample."""
        size = [z.size for z in self.inj.variables]
        total = sum(self.nodes[name].size for name in self.single)
        for k, l in self.products:
            if f"H{k},{l}" in self.nodes:
                pairs = self.rows(k) * self.rows(l) * size[k] * size[l]
                total += pairs // 2 if k == l else 2 * pairs
            for second in self.second.get((k, l), ()):
                columns = size[k] * (1 if second.diagonal else second.rows)
                total += 2 * self.rows(k) * size[l] * columns
        return total

    def _nodes(self, single: Sequence[tuple[Entry, Entry]]) -> dict[str, Node]:
        nodes: dict[str, Node] = {}
        for k, l in self.products:
            middle = self.form.pair(k, l)
            if middle is not None:
                nodes[f"H{k},{l}"] = middle
                nodes |= {f"u{v}": joined(self.form, self.dense[v]) for v in (k, l)}
            if k < l:
                nodes |= self._second_terms(k, l)
        for i, (e, f) in enumerate(single):
            found = block(self.form, e, f)
            if found is not None:
                nodes[f"B{i}"] = found
                self.single[f"B{i}"] = e, f
        return nodes

    def _second_terms(self, k: int, l: int) -> dict[str, Node]:
        """P_{k->w} for the factors w of variable l, and G_l."""
        nodes: dict[str, Node] = {}
        g = self.form.gradient(l)
        for i, (f, start) in enumerate(self.spans(l)):
            pushed = None if f.factor is None else self.form.factor(k, f.factor)
            if pushed is None or g is None:
                continue
            name, diagonal = f"P{k},{l},{i}", diagonal_vector(pushed)
            node, scale = diagonal or (pushed, 1.0)
            nodes[name] = self.inj.builder.scale(node, scale * f.scale)
            nodes |= {f"G{l}": g, f"u{k}": joined(self.form, self.dense[k])}
            self.second.setdefault((k, l), []).append(
                Second(name, diagonal is not None, start, f.rows)
            )
        return nodes
