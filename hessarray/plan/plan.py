"""A plan: the cheapest bracket for a graph and what is wanted, with its program and its costs."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from functools import cached_property

from hessarray.backends.protocol import Backend, Costs, Executable
from hessarray.graph.node import topological
from hessarray.graph.trace import Graph
from hessarray.plan.bracket import cheapest
from hessarray.plan.chain_rule import curvature_sites
from hessarray.plan.derive import Bracket, derive, dominators
from hessarray.plan.join import joined
from hessarray.plan.lower import lower, with_code
from hessarray.plan.memory import Layout, plan_memory
from hessarray.plan.numpy_source import numpy_source
from hessarray.plan.source import functional_source, once_source
from hessarray.plan.step import VIEWS, Program, Step, Value
from hessarray.plan.symmetry import choose, gram_seconds
from hessarray.plan.want import Want

__all__ = ["Plan", "make_plan"]


_SYMMETRY = {
    "gram": "J diag(w) J^T in one",
    "halves": "block halves, the lower one transposed",
    "pairs": "packed pairs a <= b",
}


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """Immutable; depends on shapes and on what is wanted, never on values. Share it freely."""

    want: Want
    n: int
    bracket: Bracket
    mode: str
    sites: int
    program: Program
    symmetry: tuple[str, ...] = ()
    chunk: int | None = None  # samples at a time, where it is known for which backend
    costs: Costs | None = None  # of the backend that it was made for
    _compiled: dict[str, Executable] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @cached_property
    def in_place(self) -> Program:
        """The program as it runs on planned buffers."""
        return joined(self.program, self.n) if self.program.joins else self.functional

    @cached_property
    def functional(self) -> Program:
        """The program in operations of the array API standard."""
        return with_code(self.program)

    @cached_property
    def layout(self) -> Layout:
        """Where its values live."""
        return plan_memory(self.in_place.at(2), self.in_place.outputs)

    @cached_property
    def flops(self) -> int:
        """Floating-point operations for n samples."""
        once, each = self.program.flops
        return once + each * self.n

    @property
    def entries_per_sample(self) -> int:
        """Numbers held at the same time for one sample, besides inputs and results."""
        return self.layout.entries

    @cached_property
    def entries_functional(self) -> int:
        """The same where an operation cannot write over its operand."""
        program = self.functional
        return plan_memory(program.at(2), program.outputs, in_place=False).entries

    def intermediates(self, in_place: bool) -> int:
        """Numbers held at the same time for one sample by such a backend."""
        return self.entries_per_sample if in_place else self.entries_functional

    @cached_property
    def stacked(self) -> int:
        """Arrays of which several operations or layers share one, side by side."""
        return sum(s.op == "concat" for s in self.program.at(2))

    @cached_property
    def entries_once(self) -> int:
        """Numbers held without batch axis: folded constants, Jacobians of affine maps."""
        return sum(s.out.size for s in self.program.steps if not s.out.rows)

    @cached_property
    def entries_read(self) -> int:
        """Numbers without batch axis that every chunk of samples reads."""
        args = {a for s in self.in_place.at(2) for a in s.args if isinstance(a, Value)}
        return sum(a.size for a in args if not a.rows)

    @cached_property
    def result_entries(self) -> int:
        """Numbers per sample in the results."""
        return sum(v.size for v in self.program.outputs.values())

    def compiled(self, backend: Backend) -> Executable:
        """The program for one array library, compiled once."""
        found = self._compiled.get(backend.name)
        if found is None:
            with self._lock:
                found = self._compiled.get(backend.name)
                if found is None:
                    found = backend.compile(
                        self.in_place, self.source_for(backend.name), self.layout
                    )
                    self._compiled[backend.name] = found
        return found

    @property
    def source(self) -> str:
        """The program as readable Python, in array API code."""
        return functional_source(self.functional)

    def source_for(self, backend: str) -> str:
        """The program as this backend runs it (NumPy: in place, on planned buffers)."""
        if backend != "numpy":
            return self.source
        run = numpy_source(self.in_place, self.layout)
        return once_source(self.in_place) + "\n\n" + run

    def describe(self, itemsize: int = 8) -> str:
        """Sites, bracket, paths, flops and bytes, as text."""
        once, each = self.program.flops
        wanted = ", ".join(self.want.names())
        lines = [
            f"plan for {wanted}; n = {self.n}",
            f"  curvature sites  {self.sites}",
            f"  bracket          {self.mode}",
            f"  sweeps           {self._sweeps()}",
            f"  symmetry         {self._symmetries()}",
            f"  stacked          {self.stacked} joints, {len(self.layout.homes)} parts in place",
            f"  folded           {len(self.program.at(0))} steps without batch axis",
            f"  steps            {len(self.program.at(0)) + len(self.program.at(1))} once, "
            f"{len(self.program.at(2))} per chunk",
            f"  flops            {once:,} once + {each:,} per sample = {once + each * self.n:,}",
            *self._estimate(),
            f"  memory           {self.entries_once * itemsize:,} bytes once + "
            f"{self.entries_per_sample * itemsize:,} per sample of a chunk",
            f"  results          {self.result_entries * itemsize:,} bytes per sample",
        ]
        if self.chunk is not None:
            peak = (self.entries_once + self.entries_per_sample * self.chunk) * itemsize
            lines.append(
                f"  chunk            {self.chunk:,} samples; peak {peak:,} bytes per thread"
            )
        lines += [f"  path             {p}" for p in self.program.paths]
        return "\n".join(lines)

    @property
    def seconds(self) -> float | None:
        """Estimated time of n samples on one thread: the backend's costs of calls, flops, entries.

        Constants that are folded once, and the CUDA backend's calls, are not in it.
        """
        return None if self.costs is None else cost(self.program, self.n, self.costs)

    def _estimate(self) -> list[str]:
        seconds = self.seconds
        return [] if not seconds else [f"  estimate         {1e3 * seconds:.3g} ms on one thread"]

    def _sweeps(self) -> str:
        second, bracket = self.want.second, self.bracket
        if second == "hvp":
            return "tangents forward, G with its tangent in reverse"
        if second is None:
            way = "G in reverse" if bracket.reverse_gradient else "J forward"
            return way if self.want.gradient else "none"
        if not bracket.reverse_gradient:
            return "J and second derivatives forward"
        found = f"J forward and G in reverse, once for all {self.sites} sites"
        more = len(bracket.cuts)
        return found + (f"; J forward from {more} dominator{'s' * (more > 1)}, too" * (more > 0))

    def _symmetries(self) -> str:
        used = {*self.symmetry, *(s.op for s in self.program.at(2) if s.op == "gram")}
        return ", ".join(text for kind, text in _SYMMETRY.items() if kind in used) or "not used"

    def __repr__(self) -> str:
        wanted = ", ".join(self.want.names())
        return f"<Plan of {wanted}; n = {self.n}; {self.mode}; {self.flops:,} flops>"

    def __str__(self) -> str:
        return self.describe()


def cost(program: Program, n: int, costs: Costs) -> float:
    """Estimated seconds on one thread for n samples, without what is bound once."""
    return sum(_seconds(s, n, costs) for s in program.steps if s.out.rows)


def _seconds(s: Step, n: int, costs: Costs) -> float:
    if s.op == "matmul":
        stacked = 0 if s.out.ndim == 2 else n * math.prod(s.out.shape[:-2])
        return costs.call + stacked * costs.matrix + n * s.flops * costs.flop
    if s.op == "gram":
        (a, width), m = s.args[0].shape, math.prod(s.out.shape[2:])  # type: ignore[union-attr]
        return costs.call + n * gram_seconds(a, m, width, costs)
    if s.op in VIEWS or not s.args:
        return 0.0
    return costs.call + n * s.flops * costs.entry


def make_plan(graph: Graph, want: Want, n: int, costs: Costs) -> Plan:
    """The plan for the bracket that ``want.forward`` names, or for the cheapest."""
    mode, bracket = _bracket(graph, want, n, costs)
    m = want.outputs(graph.output.size)
    used: dict[str, None] = {}

    def symmetry(directions: int, width: int, sites: int) -> str:
        kind = choose(directions, m, width, sites, n, costs)
        used.update({kind: None} if kind else {})
        return kind

    builder, outputs = derive(graph, want, bracket, symmetry if want.forward is None else None)
    program = lower(builder, outputs, n, costs)
    sites = len(curvature_sites(topological([graph.output])))
    return Plan(want, n, bracket, mode, sites, program, tuple(used), costs=costs)


def _bracket(graph: Graph, want: Want, n: int, costs: Costs) -> tuple[str, Bracket]:
    if want.second is None and not want.gradient:
        return "none: the value alone", Bracket()
    if want.second not in ("hessian", "diagonal", "laplacian"):
        d = want.directions(sum(x.size for x in graph.inputs))
        m = want.outputs(graph.output.size)
        reverse = m <= d if want.forward is None else not want.forward
        return ("reverse sweep" if reverse else "forward sweep"), Bracket(reverse_gradient=reverse)
    last = len(dominators(graph)) - 1
    if want.forward:
        return "all left (forward)", Bracket(left=last, reverse_gradient=False)
    everything = tuple(range(1, last))
    if want.forward is not None:
        return "all right (backward)", Bracket(cuts=everything)
    return _described(cheapest(graph, want, n, costs), last)


def _described(bracket: Bracket, last: int) -> tuple[str, Bracket]:
    """The bracket in words."""
    if bracket.left == last:
        return "all left (forward)", bracket
    parts = [f"all left up to dominator {bracket.left}"] if bracket.left is not None else []
    if bracket.cuts == tuple(range(1, last)) and last > 1 and not parts:
        return "all right (backward)", bracket
    if bracket.cuts:
        some = ", ".join(map(str, bracket.cuts))
        word = "Jacobian of dominator" if len(bracket.cuts) == 1 else "Jacobians of dominators"
        parts.append(f"{word} {some} of {last} factored out")
    return ", then ".join([*parts, "sum over sites"]) if parts else "sum over sites", bracket
