r"""The second-order chain rule: from the graph of f to the graphs of its derivatives.

For every node v let J_v = dv/dx and G_v = df/dv. Then

    Hess f_m = sum over curvature sites  J^T (local second derivative . G[:, m]) J

and everything wanted is this sum with some indices tied, summed or contracted early (docs/
mathematics.md). All of it is per sample: the axes of a direction (a, b) or an output (m) lead, the
axes of the node follow, and the batch axis is added when the program is lowered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from hessarray.graph.builder import LETTERS, Builder
from hessarray.graph.node import (
    Add,
    Broadcast,
    Concat,
    Einsum,
    Elementwise,
    Flip,
    Injection,
    Node,
    Pad,
    Reshape,
    Select,
    Slice,
    Take,
    topological,
)
from hessarray.graph.trace import code_node

__all__ = ["ChainRule", "curvature_sites"]

Sweep = dict[int, Node]  # id(node) -> J or G of that node; absent means zero


def curvature_sites(order: Iterable[Node]) -> list[Node]:
    """The nodes whose local second derivative is not zero."""
    sites = []
    for node in order:
        if not node.active:
            continue
        op = node.op
        if isinstance(op, Elementwise):
            curved = op.function.s2 != 0.0
        else:
            curved = isinstance(op, Einsum) and sum(a.active for a in node.args) > 1
        if curved:
            sites.append(node)
    return sites


class ChainRule:
    """Forward and reverse sweeps over ``order`` and the sums over sites that they feed."""

    def __init__(self, builder: Builder, order: Sequence[Node]) -> None:
        self.builder = builder
        self.order = [n for n in order if n.active]
        self._local: dict[tuple[int, int], Node | float] = {}

    # ---- sweeps ------------------------------------------------------------------------------

    def forward(self, seeds: Mapping[Node, Node], rank: int, nodes: Sequence[Node]) -> Sweep:
        """J of the nodes for the given J of the seeds, with ``rank`` direction axes in front.

        A seed among ``nodes`` adds to what reaches it from the others.
        """
        sweep: Sweep = {id(n): j for n, j in seeds.items()}
        for node in nodes:
            j = self.push(node, [sweep.get(id(a)) for a in node.args], rank)
            if j is not None:
                own = sweep.get(id(node))
                sweep[id(node)] = j if own is None else self.builder.add([(1.0, own), (1.0, j)])
                self.builder.hints.setdefault(id(j), "J" if rank else "T")
        return sweep

    def reverse(
        self,
        seeds: Mapping[Node, Node],
        rank: int,
        nodes: Sequence[Node],
        inject: Callable[[Node], Iterable[tuple[Node, Node]]] | None = None,
    ) -> Sweep:
        """G of the nodes for the given G of the seeds; ``inject`` adds contributions at sites."""
        terms: dict[int, list[Node]] = {id(n): [g] for n, g in seeds.items()}
        sweep: Sweep = {}
        for node in reversed(nodes):
            found = terms.pop(id(node), None)
            if found:
                g = self.builder.add([(1.0, t) for t in found])
                sweep[id(node)] = g
                self.builder.hints.setdefault(id(g), "G")
                for arg, t in self.pull(node, g, rank):
                    terms.setdefault(id(arg), []).append(t)
            for arg, t in inject(node) if inject else ():
                terms.setdefault(id(arg), []).append(t)
        for key, found in terms.items():  # nodes before the first of `nodes`: the inputs
            sweep[key] = self.builder.add([(1.0, t) for t in found])
        return sweep

    def local(self, node: Node, order: int) -> Node | float:
        """s' or s'' of an elementwise node at its argument."""
        key = (id(node), order)
        if key not in self._local:
            found = self._derivative(node, order)
            if isinstance(found, Node):
                self.builder.hints.setdefault(id(found), f"s{order}_")
            self._local[key] = found
        return self._local[key]

    def _derivative(self, node: Node, order: int) -> Node | float:
        assert isinstance(node.op, Elementwise)
        function, (z,) = node.op.function, node.args
        while order:
            slope = function.derivative()
            if isinstance(slope, float):
                return slope if order == 1 else 0.0
            if slope is None:
                return self._of_code(code_node(self.builder, function, z), z, order)
            function, order = slope, order - 1
        return self.builder.elementwise(function, z)

    def _of_code(self, code: Node, z: Node, order: int) -> Node | float:
        """The derivative of a node that depends on z entry by entry."""
        for _ in range(order):
            nodes = topological([code], [z])
            ones = self.builder.broadcast(self.builder.constant(1.0), z.shape)
            found = ChainRule(self.builder, nodes).forward({z: ones}, 0, nodes).get(id(code))
            if found is None:
                return 0.0
            code = found
        return code

    def _scaled(self, factor: Node | float, node: Node, rank: int) -> Node:
        """factor (of one sample's shape) times node (with ``rank`` leading axes)."""
        if isinstance(factor, float):
            return self.builder.scale(node, factor)
        letters = LETTERS[: len(node.shape)]
        return self.builder.einsum([letters[rank:], letters], letters, [factor, node])

    def push(self, node: Node, j: Sequence[Node | None], rank: int) -> Node | None:
        """The node's Jacobian from those of its arguments, with ``rank`` direction axes in front.

        None among them, and None as the result, stand for zero.
        """
        b, op = self.builder, node.op
        live = [i for i, t in enumerate(j) if t is not None]
        if not live or not node.active:
            return None
        first = j[live[0]]
        assert first is not None
        lead = first.shape[:rank]
        if isinstance(op, Einsum):
            front = "".join([c for c in reversed(LETTERS) if c not in op.subscripts][:rank])
            terms = []
            for i in live:
                inputs = [front + t if k == i else t for k, t in enumerate(op.inputs)]
                args = [j[i] if k == i else a for k, a in enumerate(node.args)]
                terms.append((1.0, b.einsum(inputs, front + op.output, args, op.scale)))  # type: ignore[arg-type]
            return b.add(terms)
        if isinstance(op, Add):
            return b.add([(op.coefficients[i], j[i]) for i in live])  # type: ignore[misc]
        if isinstance(op, Injection):
            return first
        if isinstance(op, Reshape):
            return b.reshape(first, lead + op.shape)
        if isinstance(op, Broadcast):
            return b.broadcast(first, lead + op.shape)
        if isinstance(op, Slice):
            return b.slice(first, op.axis + rank, op.start, op.stop)
        if isinstance(op, Pad):
            return b.pad(first, op.axis + rank, op.before, op.after)
        if isinstance(op, Flip):
            return b.flip(first, op.axis + rank)
        if isinstance(op, Take):
            return b.take(first, op.axis + rank, op.indices)
        if isinstance(op, Concat):
            parts = [self._or_zero(t, lead + a.shape) for t, a in zip(j, node.args, strict=True)]
            return b.concat(parts, op.axis + rank)
        if isinstance(op, Elementwise):
            return self._scaled(self.local(node, 1), first, rank)
        if isinstance(op, Select):
            mask = b.broadcast(node.args[0], lead + node.shape)
            yes, no = (self._or_zero(t, lead + node.shape) for t in j[1:])
            return b.select(mask, yes, no)
        raise AssertionError(f"no forward rule for {op}")

    def _or_zero(self, node: Node | None, shape: tuple[int, ...]) -> Node:
        return (
            node if node is not None else self.builder.broadcast(self.builder.constant(0.0), shape)
        )

    def pull(self, node: Node, g: Node, rank: int) -> Iterable[tuple[Node, Node]]:
        """(argument, contribution to its G) for every active argument: the transposed push."""
        b, op = self.builder, node.op
        lead = g.shape[:rank]
        arg = node.args[0] if node.args else node
        if isinstance(op, Einsum):
            for i, a in enumerate(node.args):
                if a.active:
                    yield a, self._pull_einsum(node, i, node.args, g, rank)
        elif isinstance(op, Add):
            for c, a in zip(op.coefficients, node.args, strict=True):
                if a.active:
                    yield a, b.scale(g, c)
        elif not arg.active and not isinstance(op, (Concat, Select)):
            return
        elif isinstance(op, Injection):
            yield arg, g
        elif isinstance(op, Reshape):
            yield arg, b.reshape(g, lead + arg.shape)
        elif isinstance(op, Broadcast):
            grown = [i for i, n in enumerate(arg.shape) if n != op.shape[i]]
            yield arg, b.reshape(b.sum(g, [rank + i for i in grown]), lead + arg.shape)
        elif isinstance(op, Slice):
            yield arg, b.pad(g, op.axis + rank, op.start, arg.shape[op.axis] - op.stop)
        elif isinstance(op, Pad):
            yield arg, b.slice(g, op.axis + rank, op.before, op.before + arg.shape[op.axis])
        elif isinstance(op, Flip):
            yield arg, b.flip(g, op.axis + rank)
        elif isinstance(op, Take):
            # The standard has no scatter-add: the transpose is a product with the 0/1 matrix.
            hot = np.zeros((len(op.indices), arg.shape[op.axis]))
            hot[np.arange(len(op.indices)), list(op.indices)] = 1.0
            letters = LETTERS[: len(g.shape)]
            row = letters[op.axis + rank]
            taken = letters.replace(row, "Z")
            yield arg, b.einsum([letters, row + "Z"], taken, [g, b.constant(hot)])
        elif isinstance(op, Concat):
            start = 0
            for a in node.args:
                stop = start + a.shape[op.axis]
                if a.active:
                    yield a, b.slice(g, op.axis + rank, start, stop)
                start = stop
        elif isinstance(op, Elementwise):
            yield arg, self._scaled(self.local(node, 1), g, rank)
        elif isinstance(op, Select):
            mask = b.broadcast(node.args[0], g.shape)
            zero = self._or_zero(None, g.shape)
            if node.args[1].active:
                yield node.args[1], b.select(mask, g, zero)
            if node.args[2].active:
                yield node.args[2], b.select(mask, zero, g)
        elif node.args:
            raise AssertionError(f"no reverse rule for {op}")

    def _pull_einsum(
        self, node: Node, i: int, args: Sequence[Node], g: Node, rank: int, lead: int = 0
    ) -> Node:
        """G of argument i of an einsum whose other arguments are ``args``.

        One of these may be a tangent with ``lead`` direction axes; they come first in the result.
        """
        b, op = self.builder, node.op
        assert isinstance(op, Einsum)
        spare = "".join([c for c in reversed(LETTERS) if c not in op.subscripts][: lead + rank])
        others = [k for k in range(len(args)) if k != i]
        front = [spare[:lead] if args[k] is not node.args[k] else "" for k in others]
        inputs = [f + op.inputs[k] for f, k in zip(front, others, strict=True)]
        inputs.append(spare[lead:] + op.output)
        known = set("".join(inputs))
        target = op.inputs[i]
        # An axis that argument i alone has was summed over: its G is constant along it.
        kept = "".join(c for c in target if c in known)
        out = b.einsum(inputs, spare + kept, [*(args[k] for k in others), g], op.scale)
        if kept != target:
            before, shape = out.shape[: lead + rank], node.args[i].shape
            ones = tuple(n if c in known else 1 for c, n in zip(target, shape, strict=True))
            out = b.broadcast(b.reshape(out, before + ones), before + shape)
        return out

    # ---- sums over sites ---------------------------------------------------------------------

    def site_terms(self, node: Node, j: Sweep, g: Node | None, ab: str, m: str) -> list[Node]:
        """The site's contribution J^T (s'' . G) J.

        ``ab`` is 'ab', 'aa' (diagonal) or '' (Laplacian). With ``g`` None the contribution is left
        open at the node (the forward recursion): no m axis, the node's own
        axes stay.
        """
        b, op = self.builder, node.op
        out_ab = "A" if ab == "aa" else ab.upper()
        first, second = ("A", "B") if ab == "ab" else ("A", "A")
        free = [c for c in LETTERS if c not in "ABM"]
        if isinstance(op, Elementwise):
            jz = j.get(id(node.args[0]))
            if jz is None:
                return []
            axes = "".join(free[: len(node.shape)])
            terms, args, scale = [first + axes, second + axes], [jz, jz], 1.0
            curvature = self.local(node, 2)
            if isinstance(curvature, float):
                scale = curvature
            else:
                terms.append(axes)
                args.append(curvature)
            terms, args, output = self._close(terms, args, g, m, axes, out_ab)
            return [b.einsum(terms, output, args, scale)]
        assert isinstance(op, Einsum)
        names = dict(zip(sorted(set(op.subscripts) - set(",->")), free, strict=False))
        inputs = ["".join(names[c] for c in t) for t in op.inputs]
        result = "".join(names[c] for c in op.output)
        found = []
        for p, q in combinations(range(len(node.args)), 2):
            jp, jq = j.get(id(node.args[p])), j.get(id(node.args[q]))
            if jp is None or jq is None:
                continue
            for one, two in (
                [(first, second)] if first == second else [(first, second), (second, first)]
            ):
                terms, args = list(inputs), list(node.args)
                terms[p], terms[q], args[p], args[q] = one + terms[p], two + terms[q], jp, jq
                terms, args, output = self._close(terms, args, g, m, result, out_ab)
                factor = 2.0 if one == two else 1.0
                found.append(b.einsum(terms, output, args, op.scale * factor))
        return found

    @staticmethod
    def _close(
        terms: list[str], args: list[Node], g: Node | None, m: str, axes: str, out_ab: str
    ) -> tuple[list[str], list[Node], str]:
        """Contract a site's axes with G, or leave them open."""
        if g is None:
            return terms, args, out_ab + axes
        return [*terms, m + axes], [*args, g], out_ab + m

    def tangent_terms(
        self, node: Node, t: Sweep, g: Sweep, rank: int, lead: int = 0
    ) -> Iterable[tuple[Node, Node]]:
        """What a site adds to the tangent of G: s'' t_z G at z, or G with a factor's tangent.

        T has ``lead`` direction axes, G ``rank`` output axes: the contributions have both.
        """
        gv = g.get(id(node))
        if gv is None:
            return
        op = node.op
        if isinstance(op, Elementwise):
            tz = t.get(id(node.args[0]))
            if tz is not None and op.function.s2 != 0.0:
                letters = LETTERS[: lead + len(gv.shape)]
                axes = letters[lead + rank :]
                bend = self._scaled(self.local(node, 2), gv, rank)  # no direction is in it
                terms = [letters[:lead] + axes, letters[lead:]]
                yield node.args[0], self.builder.einsum(terms, letters, [tz, bend])
        elif isinstance(op, Einsum):
            for i, q in ((i, q) for i in range(len(node.args)) for q in range(len(node.args))):
                tq = t.get(id(node.args[q]))
                if i != q and node.args[i].active and tq is not None:
                    args: list[Any] = list(node.args)
                    args[q] = tq
                    yield node.args[i], self._pull_einsum(node, i, args, gv, rank, lead)
