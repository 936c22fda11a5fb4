"""From what is wanted and a bracket to the per-sample graph of the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from hessarray.graph.builder import LETTERS, Builder
from hessarray.graph.node import Elementwise, Node, topological
from hessarray.graph.trace import Graph
from hessarray.plan.chain_rule import ChainRule, Sweep, curvature_sites
from hessarray.plan.symmetry import assembled, factors
from hessarray.plan.want import Want

__all__ = ["Bracket", "derive", "dominators"]

# Directions, width and number of the sites of a region -> how their symmetry is used.
Choose = Callable[[int, int, int], str]
_TIED = {"hessian": "ab", "diagonal": "aa", "laplacian": ""}  # the directions of both factors J
_FREE = {"ab": "ab", "aa": "a", "": ""}  # those that the result has


@dataclass(frozen=True)
class Bracket:
    """How the sum over sites is bracketed along the chain of dominators.

    Up to dominator number ``left`` second derivatives are carried forward (all left); what follows
    is summed over sites, with the Jacobians of the dominators in ``cuts`` factored out from the
    right: Hess f = J_u^T [Hess_u f] J_u + ... Forward mode is ``left`` = the last dominator,
    backward mode has every dominator in ``cuts``; neither is the plain sum over sites.
    """

    left: int | None = None
    cuts: tuple[int, ...] = ()
    reverse_gradient: bool = True


def dominators(graph: Graph) -> list[Node]:
    """The active nodes that every path from the inputs to the output passes through, in order."""
    order = [n for n in topological([graph.output]) if n.active]
    place = {id(n): i for i, n in enumerate(order)}
    last = list(range(len(order)))
    for i, node in enumerate(order):
        for a in node.args:
            if a.active:
                last[place[id(a)]] = i
    found = []
    reach = -1
    for i, node in enumerate(order):
        if i >= reach and (i > 0 or len(graph.inputs) == 1):
            found.append(node)
        reach = max(reach, last[i])
    if len(graph.inputs) > 1:  # before the last input enters, a node does not see all of x
        used = [place[id(x)] for x in graph.inputs if id(x) in place]
        found = [n for n in found if place[id(n)] > max(used, default=-1)] or order[-1:]
    return found


def derive(
    graph: Graph, want: Want, bracket: Bracket, choose: Choose | None = None
) -> tuple[Builder, dict[str, Node]]:
    """The nodes of everything wanted: value (m,), gradient (d, m), second derivatives.

    Shapes: hessian (d, d, m), diagonal (d, m), laplacian (1, m), hvp (d, m); with directions d is
    their number (left) or m is (right); a right weight vector without axis leaves m out.
    ``choose`` says whether sites of a region make use of symmetry (plan/symmetry.py).
    """
    builder = Builder(graph.builder)
    return builder, _Derivation(builder, graph, want, choose).results(bracket)


class _Derivation:
    def __init__(
        self, builder: Builder, graph: Graph, want: Want, choose: Choose | None = None
    ) -> None:
        self.b, self.graph, self.want, self.choose = builder, graph, want, choose
        self.order = topological([graph.output])
        self.rule = ChainRule(builder, self.order)
        self.sites = {id(n) for n in curvature_sites(self.order)}
        self.d = sum(x.size for x in graph.inputs)
        size = graph.output.size
        # The two seeds: directions (or the identity) for J, weights (or the identity) for G.
        if want.second == "hvp":
            self.tangent = builder.seed("p", (self.d,), batched=True)
        self.v = (
            builder.eye(self.d) if want.left is None else builder.seed("v", (want.left, self.d))
        )
        self.m = "" if want.right == 0 else "M"
        if want.right is None:
            self.w = builder.eye(size)
        else:
            shape = (want.right, size) if want.right else (size,)
            self.w = builder.seed("w", shape, batched=want.batched_right)

    def results(self, bracket: Bracket) -> dict[str, Node]:
        found = {}
        if self.want.value:
            found["value"] = self.graph.output
        if self.want.gradient:
            found["gradient"] = self._gradient(bracket.reverse_gradient)
        if self.want.second == "hvp":
            found["hvp"] = self._hvp()
        elif self.want.second:
            found[self.want.second] = self._second(bracket)
        return found

    # ---- sweeps ------------------------------------------------------------------------------

    def _input_seeds(self, seed: Node, rank: int) -> dict[Node, Node]:
        """Split the directions' last axis over the inputs."""
        seeds, start = {}, 0
        for x in self.graph.inputs:
            seeds[x] = self.b.slice(seed, rank, start, start + x.size)
            start += x.size
        return seeds

    @cached_property
    def _from_inputs(self) -> Sweep:
        return self.rule.forward(self._input_seeds(self.v, 1), 1, self.rule.order)

    @cached_property
    def _to_output(self) -> Sweep:
        return self.rule.reverse({self.graph.output: self.w}, len(self.m), self.rule.order)

    def _joined(self, sweep: Sweep, lead: tuple[int, ...]) -> Node:
        parts = [
            sweep[id(x)] if id(x) in sweep else self._zeros((*lead, x.size))
            for x in self.graph.inputs
        ]
        return self.b.concat(parts, len(lead))

    # ---- results -----------------------------------------------------------------------------

    def _gradient(self, reverse: bool) -> Node:
        f, m = self.graph.output, self.m
        if not f.active:
            return self._zero("a")
        if reverse:
            g = self._joined(self._to_output, self.w.shape[:-1])
            return self.b.einsum(["ai", m + "i"], "a" + m, [self.v, g])
        j = self._from_inputs[id(f)]
        return self.b.einsum(["ai", m + "i"], "a" + m, [j, self.w])

    def _zero(self, axes: str) -> Node:
        return self._zeros((self.v.shape[0],) * len(axes) + self.w.shape[:-1])

    def _zeros(self, shape: tuple[int, ...]) -> Node:
        return self.b.broadcast(self.b.constant(0.0), shape)

    def _hvp(self) -> Node:
        rank = len(self.m)
        if not self.graph.output.active:
            return self._zeros((self.d, *self.w.shape[:-1]))
        t = self.rule.forward(self._input_seeds(self.tangent, 0), 0, self.rule.order)
        g = self._to_output
        r = self.rule.reverse(
            {}, rank, self.rule.order, lambda n: self.rule.tangent_terms(n, t, g, rank)
        )
        joined = self._joined(r, self.w.shape[:-1])
        return self.b.permute(joined, (1, 0)) if rank else joined

    def _second(self, bracket: Bracket) -> Node:
        second = self.want.second
        assert second is not None
        tie = _TIED[second]
        terms = self._bracketed(bracket, tie) if self.graph.output.active else []
        axes = _FREE[tie]
        node = self.b.add([(1.0, t) for t in terms]) if terms else self._zero(axes)
        return self.b.reshape(node, (1, *node.shape)) if second == "laplacian" else node

    def _bracketed(self, bracket: Bracket, tie: str) -> list[Node]:
        chain = dominators(self.graph) if bracket != Bracket() else []
        nodes, m = self.rule.order, self.m
        g = self._to_output
        terms: list[Node] = []
        start = 0
        if bracket.left is not None:
            u = chain[bracket.left]
            start = nodes.index(u) + 1
            h = self._forward_second(nodes[:start], tie)
            gu = g.get(id(u))
            if h is not None and gu is not None:
                front = _FREE[tie].upper()
                free = LETTERS[: len(u.shape)]
                terms.append(self.b.einsum([front + free, m + free], front + m, [h, gu]))
        # Sites from `start` on, with the Jacobians of the cuts factored out, innermost last.
        cuts = [chain[i] for i in bracket.cuts if nodes.index(chain[i]) >= start]
        bounds = [start, *(nodes.index(u) + 1 for u in cuts), len(nodes)]
        inner: Node | None = None
        for k in range(len(cuts), -1, -1):
            region = nodes[bounds[k] : bounds[k + 1]]
            here = tie if k == 0 else "ab"
            if k == 0:
                j = self._from_inputs
            else:
                u = cuts[k - 1]
                j = self.rule.forward({u: self._identity(u)}, 1, nodes[bounds[k] :])
            found = self._sites(region, j, g, here)
            if inner is not None:
                found.append(self._sandwich(j[id(cuts[k])], inner, here))
            if k == 0:
                return terms + found
            inner = self.b.add([(1.0, t) for t in found]) if found else None
        raise AssertionError

    def _identity(self, u: Node) -> Node:
        return self.b.reshape(self.b.eye(u.size), (u.size, *u.shape))

    def _sites(self, region: Sequence[Node], j: Sweep, g: Sweep, tie: str) -> list[Node]:
        here = [v for v in region if id(v) in self.sites and id(v) in g]
        scaled = [v for v in here if isinstance(v.op, Elementwise) and id(v.args[0]) in j]
        kind = ""
        if tie == "ab" and scaled and self.choose is not None:
            directions = j[id(scaled[0].args[0])].shape[0]
            width = sum(v.size for v in scaled) // len(scaled)
            kind = self.choose(directions, width, len(scaled))
        found = [self._symmetric(scaled, j, g, kind)] if kind else []
        for node in here:
            if not kind or node not in scaled:
                found += self.rule.site_terms(node, j, g[id(node)], tie, self.m)
        return found

    def _symmetric(self, sites: Sequence[Node], j: Sweep, g: Sweep, kind: str) -> Node:
        """The sum over elementwise sites from the pieces that symmetry leaves."""
        sums: list[list[tuple[float, Node]]] = []
        for node in sites:
            jz, curvature = j[id(node.args[0])], self.rule.local(node, 2)
            axes = "".join([c for c in LETTERS if c not in "ABM"][: len(node.shape)])
            terms, args = [self.m + axes], [g[id(node)]]
            if isinstance(curvature, Node):
                terms, args = [axes, *terms], [curvature, *args]
            scale = 1.0 if isinstance(curvature, Node) else curvature
            for k, pair in enumerate(factors(self.b, jz, kind)):
                front = "".join(c for c, _ in pair)
                product = self.b.einsum(
                    [*(c + axes for c, _ in pair), *terms],
                    front + self.m,
                    [*(f for _, f in pair), *args],
                    scale,
                )
                sums += [[]] if k == len(sums) else []
                sums[k].append((1.0, product))
        d = j[id(sites[0].args[0])].shape[0]
        return assembled(self.b, [self.b.add(terms) for terms in sums], d, kind)

    def _sandwich(self, j: Node, h: Node, tie: str) -> Node:
        """J^T H J, tied as wanted."""
        m = self.m
        j = self.b.reshape(j, (j.shape[0], h.shape[0]))
        first, second = ("a", "b") if tie == "ab" else ("a", "a")
        output = _FREE[tie] + m
        return self.b.einsum([first + "i", second + "j", "ij" + m], output, [j, j, h])

    def _forward_second(self, nodes: Sequence[Node], tie: str) -> Node | None:
        """Second derivatives carried forward node by node, as hessQuik's forward mode does."""
        rank = len(_FREE[tie])
        j = self._from_inputs
        h: Sweep = {}
        for node in nodes:
            pushed = self.rule.push(node, [h.get(id(a)) for a in node.args], rank)
            found = [pushed] if pushed is not None else []
            if id(node) in self.sites:
                found += self.rule.site_terms(node, j, None, tie, "")
            if found:
                h[id(node)] = self.b.add([(1.0, t) for t in found])
        return h.get(id(nodes[-1]))
