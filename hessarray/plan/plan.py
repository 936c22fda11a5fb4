"""A plan: the cheapest bracket for a graph and what is wanted, with its program and its costs."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property

from hessarray.backends.numpy_source import numpy_source
from hessarray.backends.protocol import Backend, Costs, Executable
from hessarray.graph.node import topological
from hessarray.graph.trace import Graph
from hessarray.plan.chain_rule import curvature_sites
from hessarray.plan.derive import Bracket, derive, dominators
from hessarray.plan.lower import lower
from hessarray.plan.memory import ELEMENTWISE, Layout, plan_memory
from hessarray.plan.source import (
    carried,
    expression,
    functional_source,
    literal,
    once_source,
    shape_text,
)
from hessarray.plan.step import Program
from hessarray.plan.want import Want

__all__ = ["Plan", "make_plan"]

# One pass over an entry costs about as much as this many flops inside a GEMM.
_PASS = 16


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """Immutable; depends on shapes and on what is wanted, never on values. Share it freely."""

    want: Want
    n: int
    bracket: Bracket
    mode: str
    sites: int
    program: Program
    layout: Layout
    chunk: int | None = None  # samples at a time, where it is known for which backend
    _compiled: dict[str, Executable] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

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
        return plan_memory(self.program.at(2), self.program.outputs, in_place=False).entries

    def intermediates(self, in_place: bool) -> int:
        """Numbers held at the same time for one sample by such a backend."""
        return self.entries_per_sample if in_place else self.entries_functional

    @cached_property
    def entries_once(self) -> int:
        """Numbers held without batch axis: folded constants, Jacobians of affine maps."""
        return sum(s.out.size for s in self.program.steps if not s.out.rows)

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
                        self.program, self.source_for(backend.name), self.layout
                    )
                    self._compiled[backend.name] = found
        return found

    @property
    def source(self) -> str:
        """The program as readable Python, in array API code."""
        return functional_source(self.program)

    def source_for(self, backend: str) -> str:
        """The program as this backend runs it (NumPy: in place, on planned buffers)."""
        if backend != "numpy":
            return self.source
        names = carried(self.program, 1)
        run = numpy_source(self.program, self.layout, expression, literal, shape_text, names)
        return once_source(self.program) + "\n\n" + run

    def describe(self, itemsize: int = 8) -> str:
        """Sites, bracket, paths, flops and bytes, as text."""
        once, each = self.program.flops
        wanted = ", ".join(self.want.names())
        lines = [
            f"plan for {wanted}; n = {self.n}",
            f"  curvature sites  {self.sites}",
            f"  bracket          {self.mode}",
            f"  steps            {len(self.program.at(0)) + len(self.program.at(1))} once, "
            f"{len(self.program.at(2))} per chunk",
            f"  flops            {once:,} once + {each:,} per sample = {once + each * self.n:,}",
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

    def __repr__(self) -> str:
        wanted = ", ".join(self.want.names())
        return f"<Plan of {wanted}; n = {self.n}; {self.mode}; {self.flops:,} flops>"

    def __str__(self) -> str:
        return self.describe()


def cost(program: Program, n: int) -> float:
    """Flops plus passes over memory, in units of one flop inside a GEMM."""
    total = 0.0
    for s in program.steps:
        many = n if s.out.rows else 1
        if s.op == "matmul":
            total += many * (s.flops + _PASS * s.out.size)
        elif s.op in ELEMENTWISE or s.op in ("sum", "copy", "where", "concat"):
            total += many * _PASS * s.flops
    return total


def make_plan(graph: Graph, want: Want, n: int, costs: Costs) -> Plan:
    """The cheapest plan among the brackets that ``want.forward`` allows."""
    best: tuple[float, str, Bracket, Program] | None = None
    tried: set[Bracket] = set()
    for mode, bracket in _brackets(graph, want):
        if bracket in tried:
            continue
        tried.add(bracket)
        builder, outputs = derive(graph, want, bracket)
        program = lower(builder, outputs, n, costs)
        price = cost(program, n)
        if best is None or price < best[0]:
            best = (price, mode, bracket, program)
    assert best is not None
    _, mode, bracket, program = best
    sites = len(curvature_sites(topological([graph.output])))
    layout = plan_memory(program.at(2), program.outputs)
    return Plan(want, n, bracket, mode, sites, program, layout)


def _brackets(graph: Graph, want: Want) -> list[tuple[str, Bracket]]:
    """Candidates: sum over sites, all left, all right, and one factored Jacobian."""
    if want.second not in ("hessian", "diagonal", "laplacian"):
        modes = {True: [False], False: [True], None: [True, False]}[want.forward]
        names = {True: "reverse sweep", False: "forward sweep"}
        return [(names[r], Bracket(reverse_gradient=r)) for r in modes]
    chain = dominators(graph)
    last = len(chain) - 1
    everything = tuple(range(1, last))
    left = ("all left (forward)", Bracket(left=last, reverse_gradient=False))
    right = ("all right (backward)", Bracket(cuts=everything))
    if want.forward is not None:
        return [left if want.forward else right]
    found = [("sum over sites", Bracket()), ("sum over sites", Bracket(reverse_gradient=False))]
    d = want.left or sum(x.size for x in graph.inputs)
    m = want.right or graph.output.size
    found += [left, right]  # always, so that the choice is never dearer than either
    narrow = [i for i in everything if chain[i].size < d]
    if narrow:
        i = min(narrow, key=lambda k: chain[k].size)
        found.append((f"Jacobian of dominator {i} of {last} factored out", Bracket(cuts=(i,))))
    inner = [i for i in everything if chain[i].size < m]
    if inner:
        found.append((f"all left up to dominator {inner[-1]} of {last}", Bracket(left=inner[-1])))
    return found
