r"""Where parameters enter a graph, and the perturbations that stand for them.

A parameter psi enters at a node c = einsum(u, psi) or c = u + psi. To first order a change of psi
perturbs c by einsum(u, dpsi), so it is enough to differentiate with respect to a perturbation of c,
which is small and different for each sample; the factors u come in at the end
(docs/mathematics.md).
Bias and matrix of a layer perturb the same sum: they share one such *variable*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from hessarray.graph.builder import LETTERS, Builder
from hessarray.graph.node import (
    PARAMETER,
    Add,
    Broadcast,
    Einsum,
    Injection,
    Input,
    Node,
    Parameter,
    Reshape,
    topological,
)

__all__ = ["Entry", "Injected", "inject"]


@dataclass(frozen=True, eq=False)
class Entry:
    """psi enters the variable z as ``scale * einsum(u, psi)``; without u as psi itself."""

    psi: Node
    variable: int
    factor: Node | None  # u
    u: str
    p: str  # the axes of psi
    z: str
    scale: float

    @property
    def dense(self) -> bool:
        """Whether psi has the axes of u, then those of z or the other way round: a matrix."""
        apart = not set(self.u) & set(self.z)
        return apart and self.p in (self.u + self.z, self.z + self.u)

    @cached_property
    def rows(self) -> int:
        """Entries of u."""
        return 1 if self.factor is None else self.factor.size


@dataclass(frozen=True, eq=False)
class Injected:
    """A graph whose inputs are data and whose variables are perturbations."""

    builder: Builder
    order: tuple[Node, ...]
    outputs: tuple[Node, ...]
    variables: tuple[Node, ...]  # arguments first
    entries: tuple[Entry, ...]
    pins: tuple[int, ...]  # among the variables

    @cached_property
    def parameters(self) -> tuple[Node, ...]:
        """The psi, each once: parameters, and what is computed from parameters alone."""
        return tuple({id(e.psi): e.psi for e in self.entries}.values())

    @cached_property
    def order_of_outputs(self) -> frozenset[Node]:
        """The nodes that outputs and variables need."""
        return frozenset(topological([*self.outputs, *self.variables]))

    def names(self, psi: Node) -> list[str]:
        """The parameters that this psi is made of."""
        found = (n.op.name for n in topological([psi]) if isinstance(n.op, Parameter))
        return list(dict.fromkeys(found))


def inject(outputs: Sequence[Node], names: Collection[str], pins: Sequence[Node] = ()) -> Injected:
    """The graph of ``outputs`` with a perturbation wherever a parameter of ``names`` enters.

    Its inputs become data: batched seeds of the same names. The nodes ``pins`` are perturbed too.
    """
    order = topological([*outputs, *pins])
    uses = Counter(id(a) for node in order for a in node.args)
    depends: set[int] = set()
    for node in order:
        own = isinstance(node.op, Parameter) and node.op.name in names
        if own or (node.level == PARAMETER and any(id(a) in depends for a in node.args)):
            depends.add(id(node))
    consumer = {id(a): node for node in order for a in node.args}
    fixed = {id(n) for n in (*outputs, *pins)}

    def target(node: Node) -> tuple[Node, float]:
        """The last of the sums that this node goes into and nowhere else."""
        scale = 1.0
        while uses[id(node)] == 1 and id(node) not in fixed:
            after = consumer[id(node)]
            if not isinstance(after.op, Add):
                break
            scale *= after.op.coefficients[[a is node for a in after.args].index(True)]
            node = after
        return node, scale

    linear: list[tuple[Node, _Found]] = []
    direct: dict[int, Node] = {}
    for node in order:
        if node.level == PARAMETER:
            continue
        entering = [i for i, a in enumerate(node.args) if id(a) in depends]
        for i in entering:
            psi = node.args[i]
            terms = _terms(node, i) if len(entering) == 1 or isinstance(node.op, Add) else None
            if terms is None:
                direct[id(psi)] = psi
            else:
                z, scale = target(node)
                linear.append((psi, _Found(terms.psi, z, scale * terms.scale, terms)))
    direct |= {id(n): n for n in outputs if id(n) in depends}
    # What is perturbed itself is so wherever it goes.
    found = [entry for psi, entry in linear if id(psi) not in direct]
    found += [_Found(psi, psi, 1.0, None) for psi in direct.values()]
    return _rebuilt(outputs, order, found, pins)


@dataclass(frozen=True, eq=False)
class _Terms:
    """A node as ``scale * einsum(u, psi)``, in the graph as it was."""

    psi: Node
    factors: tuple[tuple[str, Node], ...]
    p: str
    z: str
    scale: float


class _Found(NamedTuple):
    """psi enters z, as ``terms`` say or as it is."""

    psi: Node
    z: Node
    scale: float
    terms: _Terms | None


def _terms(node: Node, i: int) -> _Terms | None:
    """How argument i enters the node, if it does so linearly and alone."""
    op, psi = node.op, node.args[i]
    if isinstance(op, Add):
        z = LETTERS[: len(node.shape)]
        return _Terms(*_grown(psi, z), z=z, scale=op.coefficients[i])
    if not isinstance(op, Einsum) or len(set(op.inputs[i])) < len(op.inputs[i]):
        return None
    others = [(t, a) for k, (t, a) in enumerate(zip(op.inputs, node.args, strict=True)) if k != i]
    # An axis of psi alone is summed over; one of z alone cannot be.
    if not set(op.inputs[i]) <= set(op.output).union(*(t for t, _ in others)):
        return None
    return _Terms(psi, tuple(others), op.inputs[i], op.output, op.scale)


def _grown(psi: Node, axes: str) -> tuple[Node, tuple[tuple[str, Node], ...], str]:
    """A term of a sum without its broadcasting: psi, no factors, and the axes that it has."""
    inner = psi.args[0] if isinstance(psi.op, Broadcast) else psi
    kept = [k for k, n in enumerate(inner.shape) if n == psi.shape[k] and n != 1]
    small = tuple(inner.shape[k] for k in kept)
    if isinstance(inner.op, Reshape) and inner.args[0].shape == small:
        return inner.args[0], (), "".join(axes[k] for k in kept)
    if inner.shape == small:
        return inner, (), "".join(axes[k] for k in kept)
    return psi, (), axes


def _rebuilt(
    outputs: Sequence[Node], order: Sequence[Node], found: Sequence[_Found], pins: Sequence[Node]
) -> Injected:
    builder = Builder()
    perturbed = {id(n) for n in pins} | {id(f.z) for f in found}
    plain: dict[int, Node] = {}  # without the perturbation of the node itself
    new: dict[int, Node] = {}
    place: dict[int, int] = {}
    variables: list[Node] = []
    for node in order:
        if isinstance(node.op, Input):
            made = builder.seed(f"x{node.op.index}", node.shape, batched=True)
        else:
            # What parameters alone make is not perturbed through them, but where it enters.
            source = plain if node.level == PARAMETER else new
            args = tuple(source[id(a)] for a in node.args)
            made = builder.make(node.op, args, node.shape, node.truth)
        plain[id(node)] = new[id(node)] = made
        if id(node) in perturbed:
            place[id(node)] = len(variables)
            new[id(node)] = builder.make(Injection(len(variables)), (made,), node.shape)
            variables.append(new[id(node)])
    entries = []
    for psi, z, scale, terms in found:
        u, factor, p, axes = "", None, LETTERS[: len(psi.shape)], LETTERS[: len(psi.shape)]
        if terms is not None:
            u, factor = _factor(builder, terms, new)
            p, axes = terms.p, terms.z
        entries.append(Entry(plain[id(psi)], place[id(z)], factor, u, p, axes, scale))
    ends = tuple(new[id(n)] for n in outputs)
    used = topological([*ends, *variables, *(e.factor for e in entries if e.factor is not None)])
    pinned = tuple(place[id(n)] for n in pins)
    return Injected(builder, tuple(used), ends, tuple(variables), tuple(entries), pinned)


def _factor(builder: Builder, terms: _Terms, new: dict[int, Node]) -> tuple[str, Node | None]:
    """The one array u that psi meets, with the axes that are left of it."""
    if not terms.factors:
        return "", None
    axes = [t for t, _ in terms.factors]
    axis = {c for t in axes for c in t}
    kept = "".join(dict.fromkeys(c for c in terms.p + terms.z if c in axis))
    return kept, builder.einsum(axes, kept, [new[id(a)] for _, a in terms.factors])
