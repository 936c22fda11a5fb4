r"""Second derivatives with respect to parameters, from those with respect to perturbations.

With z_k the variables of ``plan/injection.py``, P_{k->v} = dv/dz_k, G_k = dl/dz_k and parameters
psi, chi that enter z_k and z_l (k <= l) through the factors u and w,

    d2l / dpsi dchi = u (x) [d2l / dz_k dz_l] (x) w  +  u (x) P_{k->w} (x) G_l

per sample: the second term is there because w depends on z_k. The bracket is the derivative of a
reverse sweep along the forward sweep P_k. A *form* supplies it: the Hessian, the Gauss-Newton
matrix P^T (d2l / df2) P, or the empirical Fisher matrix G G^T; only the Hessian has a second term.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Protocol

from hessarray.graph.builder import LETTERS, Builder
from hessarray.graph.node import Einsum, Eye, Node
from hessarray.plan.chain_rule import ChainRule, Sweep, curvature_sites
from hessarray.plan.injection import Entry, Injected

__all__ = [
    "FisherForm",
    "Form",
    "GaussNewtonForm",
    "HessianForm",
    "block",
    "diagonal_of",
    "diagonal_vector",
    "gradient_of",
    "joined",
]


class Form(Protocol):
    """A quadratic form in the perturbations of the variables, for one sample."""

    inj: Injected
    m: tuple[int, ...]  # axes of the outputs, where they are kept apart

    def pair(self, k: int, l: int) -> Node | None:
        """(z_k, *m, z_l) entries for k <= l; None where zero."""

    def diagonal(self, k: int) -> Node | None:
        """(*m, z_k): the diagonal of pair(k, k)."""

    def factor(self, k: int, v: Node) -> Node | None:
        """(z_k, v): the derivative of a factor v, where the form's second term has it."""

    def gradient(self, k: int) -> Node | None:
        """(*m, z_k): what the second term multiplies it with."""


class HessianForm:
    """The Hessian of ``scale`` times a scalar, or of every entry of a flat output.

    ``scale`` is a seed: a number that comes with the call, such as one over the samples of a mean.
    """

    def __init__(self, inj: Injected) -> None:
        self.inj = inj
        self.b = inj.builder
        self.rule = ChainRule(inj.builder, inj.order)
        self.value = inj.outputs[0]
        self.m = self.value.shape
        self._forward: dict[int, Sweep] = {}
        self._tangent: dict[int, Sweep] = {}

    @cached_property
    def g(self) -> Sweep:
        """G: the reverse sweep from the value."""
        if not self.value.active:
            return {}
        seed = self.b.eye(self.m[0]) if self.m else self.b.seed("scale", ())
        return self.rule.reverse({self.value: seed}, len(self.m), self.rule.order)

    def after(self, k: int) -> list[Node]:
        return self.rule.order[self.rule.order.index(self.inj.variables[k]) + 1 :]

    def forward(self, k: int) -> Sweep:
        """P_k."""
        if k not in self._forward:
            z = self.inj.variables[k]
            seed = self.b.reshape(self.b.eye(z.size), (z.size, *z.shape))
            self._forward[k] = self.rule.forward({z: seed}, 1, self.after(k))
        return self._forward[k]

    def tangent(self, k: int) -> Sweep:
        """dG / dz_k."""
        if k not in self._tangent:
            p, rank = self.forward(k), len(self.m)
            self._tangent[k] = self.rule.reverse(
                {},
                1 + rank,
                self.after(k),
                lambda node: self.rule.tangent_terms(node, p, self.g, rank, 1),
            )
        return self._tangent[k]

    def pair(self, k: int, l: int) -> Node | None:
        z, y = self.inj.variables[k], self.inj.variables[l]
        found = self.tangent(k).get(id(y))
        return None if found is None else self.b.reshape(found, (z.size, *self.m, y.size))

    def diagonal(self, k: int) -> Node | None:
        p, rank = self.forward(k), "M" if self.m else ""
        sites = [v for v in curvature_sites(self.after(k)) if id(v) in self.g]
        terms = [t for v in sites for t in self.rule.site_terms(v, p, self.g[id(v)], "aa", rank)]
        if not terms:
            return None
        total = self.b.add([(1.0, t) for t in terms])
        return self.b.permute(total, (1, 0)) if rank else total

    def factor(self, k: int, v: Node) -> Node | None:
        found = self.forward(k).get(id(v))
        return None if found is None else self.b.reshape(found, (found.shape[0], v.size))

    def gradient(self, k: int) -> Node | None:
        z = self.inj.variables[k]
        found = self.g.get(id(z))
        return None if found is None else self.b.reshape(found, (*self.m, z.size))


class GaussNewtonForm:
    """P^T (d2l / df2) P with P the Jacobian of the model's output f, the last pin."""

    m: tuple[int, ...] = ()

    def __init__(self, inj: Injected) -> None:
        self.inj = inj
        self.b = inj.builder
        self.loss = HessianForm(inj)
        self.f = inj.variables[inj.pins[-1]]
        self.inner = self.loss.pair(inj.pins[-1], inj.pins[-1])
        seed = self.b.reshape(self.b.eye(self.f.size), (self.f.size, *self.f.shape))
        rule = self.loss.rule
        before = rule.order[: rule.order.index(self.f) + 1]
        self.sweep = rule.reverse({self.f: seed}, 1, before)

    def jacobian(self, k: int) -> Node | None:
        """(f, z_k)."""
        z = self.inj.variables[k]
        found = self.sweep.get(id(z))
        return None if found is None else self.b.reshape(found, (self.f.size, z.size))

    def pair(self, k: int, l: int) -> Node | None:
        j, h = self.jacobian(k), self.jacobian(l)
        if j is None or h is None or self.inner is None:
            return None
        return self.b.einsum(["ia", "ij", "jb"], "ab", [j, self.inner, h])

    def diagonal(self, k: int) -> Node | None:
        j = self.jacobian(k)
        if j is None or self.inner is None:
            return None
        return self.b.einsum(["ia", "ij", "ja"], "a", [j, self.inner, j])

    def factor(self, k: int, v: Node) -> Node | None:
        return None

    def gradient(self, k: int) -> Node | None:
        return None


class FisherForm:
    """G G^T: the outer product of one sample's gradient with itself."""

    m: tuple[int, ...] = ()

    def __init__(self, inj: Injected) -> None:
        self.inj = inj
        self.loss = HessianForm(inj)

    def pair(self, k: int, l: int) -> Node | None:
        g, h = self.loss.gradient(k), self.loss.gradient(l)
        if g is None or h is None:
            return None
        return self.inj.builder.einsum(["a", "b"], "ab", [g, h])

    def diagonal(self, k: int) -> Node | None:
        g = self.loss.gradient(k)
        return None if g is None else self.inj.builder.einsum(["a", "a"], "a", [g, g])

    def factor(self, k: int, v: Node) -> Node | None:
        return None

    def gradient(self, k: int) -> Node | None:
        return None


# ---- per sample, for entries of any kind ------------------------------------------------------


def _apart(entry: Entry, letters: str) -> dict[str, str]:
    """The entry's axes under names of their own."""
    return dict(zip(dict.fromkeys(entry.u + entry.p + entry.z), letters, strict=False))


def _named(term: str, names: dict[str, str]) -> str:
    return "".join(names[c] for c in term)


# z and Z stay for the outputs, the last of each half for diagonals.
_LEFT, _RIGHT, _SPARE = LETTERS[:20], LETTERS[26:46], LETTERS[20:25] + LETTERS[46:51]


def _einsum(
    b: Builder, inputs: Sequence[str], output: str, args: Sequence[Node], scale: float
) -> Node:
    """An einsum in which an operand may have an axis twice: its diagonal."""
    spare = iter(_SPARE)
    terms: list[str] = []
    ties: list[str] = []
    eyes: list[Node] = []
    for term, node in zip(inputs, args, strict=True):
        seen = ""
        for c, size in zip(term, node.shape, strict=True):
            if c in seen:
                ties.append(c + next(spare))
                eyes.append(b.eye(size))
                c = ties[-1][1]
            seen += c
        terms.append(seen)
    return b.einsum([*terms, *ties], output, [*args, *eyes], scale)


def block(form: Form, e: Entry, f: Entry, tied: bool = False) -> Node | None:
    """(*m, *psi, *chi): one sample's block for entries of variables k <= l; None where zero.

    ``tied`` entries are of one psi: the diagonal of the block, (*m, *psi).
    """
    b, m = form.inj.builder, "z" * len(form.m)
    left, right = _apart(e, _LEFT), _apart(f, _RIGHT)
    if tied:
        right |= {c: left[d] for c, d in zip(f.p, e.p, strict=True)}
    shape = [form.inj.variables[i].shape for i in (e.variable, f.variable)]
    out = m + _named(e.p, left) + ("" if tied else _named(f.p, right))
    scale = e.scale * f.scale
    terms = []
    middle = form.pair(e.variable, f.variable)
    if middle is not None:
        inputs = [_named(e.z, left) + m + _named(f.z, right)]
        args = [b.reshape(middle, (*shape[0], *form.m, *shape[1]))]
        for entry, names in ((e, left), (f, right)):
            if entry.factor is not None:
                inputs.append(_named(entry.u, names))
                args.append(entry.factor)
        terms.append(_einsum(b, inputs, out, args, scale))
    pushed = None if f.factor is None else form.factor(e.variable, f.factor)
    g = form.gradient(f.variable)
    if pushed is not None and g is not None and f.factor is not None:
        inputs = [_named(e.z, left) + _named(f.u, right), m + _named(f.z, right)]
        args = [
            b.reshape(pushed, (*shape[0], *f.factor.shape)),
            b.reshape(g, (*form.m, *shape[1])),
        ]
        if e.factor is not None:
            inputs.append(_named(e.u, left))
            args.append(e.factor)
        terms.append(_einsum(b, inputs, out, args, scale))
    return b.add([(1.0, t) for t in terms]) if terms else None


def diagonal_of(form: Form, e: Entry) -> Node | None:
    """(*m, *psi): the diagonal of ``block(form, e, e)``."""
    if not set(e.z) <= set(e.p):  # an entry of psi meets several of z
        return block(form, e, e, tied=True)
    b, m = form.inj.builder, "Z" * len(form.m)
    found = form.diagonal(e.variable)
    if found is None:
        return None
    inputs = [m + e.z]
    args = [b.reshape(found, (*form.m, *form.inj.variables[e.variable].shape))]
    if e.factor is not None:
        inputs += [e.u, e.u]
        args += [e.factor, e.factor]
    return b.einsum(inputs, m + e.p, args, e.scale**2)


def gradient_of(
    form: HessianForm, e: Entry, g: Node | None = None, factor: Node | None = None
) -> Node | None:
    """(*m, *psi): what the entry contributes to one sample's gradient, u (x) G.

    Another G, or another factor, may stand in for the entry's own.
    """
    b, m = form.inj.builder, "Z" * len(form.m)
    g = form.gradient(e.variable) if g is None else g
    if g is None:
        return None
    factor = e.factor if factor is None else factor
    shape = form.inj.variables[e.variable].shape
    inputs, args = [m + e.z], [b.reshape(g, (*form.m, *shape))]
    if factor is not None:
        inputs.append(e.u)
        args.append(factor)
    return b.einsum(inputs, m + e.p, args, e.scale)


# ---- for matrices and biases: factors, to be multiplied over all samples at once -------------


def joined(form: Form, entries: Iterable[Entry]) -> Node:
    """[u_1, u_2, ..., 1]: the scaled factors of a variable's dense entries side by side."""
    b = form.inj.builder
    parts = []
    for e in entries:
        one = b.broadcast(b.constant(e.scale), (1,))
        parts.append(one if e.factor is None else b.scale(b.reshape(e.factor, (e.rows,)), e.scale))
    return b.concat(parts, 0)


def diagonal_vector(node: Node) -> tuple[Node, float] | None:
    """v and c where the node is c diag(v), built as such."""
    op = node.op
    if not isinstance(op, Einsum) or len(node.args) != 2:
        return None
    for i, a in enumerate(node.args):
        if isinstance(a.op, Eye) and op.inputs[i] == op.output and len(op.inputs[1 - i]) == 1:
            return node.args[1 - i], op.scale
    return None
