r"""A form times a direction in parameter space, without the form.

For a direction dpsi the perturbations move by dz_k = sum over what enters of einsum(u, dpsi), and a
forward sweep of tangents T carries them on. The Hessian's product is the derivative of the gradient
u (x) G along the direction,

    (H dpsi)_k = u_k (x) dG_k + du_k (x) G_k,

the Gauss-Newton matrix's u_k (x) dG_k with dG pulled back from (d2l / df2) df, and the Fisher
matrix's u_k (x) G_k times the directional derivative of the loss.
"""

from __future__ import annotations

from collections.abc import Iterable

from hessarray.graph.builder import LETTERS
from hessarray.graph.node import Node
from hessarray.plan.chain_rule import Sweep
from hessarray.plan.injection import Entry
from hessarray.plan.parameters import FisherForm, Form, GaussNewtonForm, HessianForm

__all__ = ["Product", "product_of", "seed_name"]


def seed_name(i: int) -> str:
    """Of the direction in psi number i."""
    return f"p{i}"


class Product:
    """dG of every variable, and du where the form has the second term."""

    def __init__(self, loss: HessianForm) -> None:
        self.loss, self.inj, self.b = loss, loss.inj, loss.b
        place = {id(psi): i for i, psi in enumerate(self.inj.parameters)}
        moved: dict[Node, list[Node]] = {}
        self.directions = [
            (e, self.b.seed(seed_name(place[id(e.psi)]), e.psi.shape)) for e in self.inj.entries
        ]
        for e, seed in self.directions:
            moved.setdefault(self.inj.variables[e.variable], []).append(self._moved(e, seed))
        self.seeds = {
            z: self.b.add([(1.0, t) for t in terms]) if len(terms) > 1 else terms[0]
            for z, terms in moved.items()
        }
        self.t: Sweep = loss.rule.forward(self.seeds, 0, loss.rule.order)

    def _moved(self, e: Entry, direction: Node) -> Node:
        """einsum(u, dpsi) in the shape of z."""
        if e.factor is not None:
            return self.b.einsum([e.u, e.p], e.z, [e.factor, direction], e.scale)
        shape = self.inj.variables[e.variable].shape
        sizes = dict(zip(e.z, shape, strict=True))
        grown = tuple(sizes[c] if c in e.p else 1 for c in e.z)
        ordered = self.b.einsum([e.p], "".join(c for c in e.z if c in e.p), [direction], e.scale)
        return self.b.broadcast(self.b.reshape(ordered, grown), shape)

    def tangent(self, k: int) -> Node | None:
        """dG_k, (z_k)."""
        raise NotImplementedError

    def factor(self, v: Node) -> Node | None:
        """du, where the second term has it."""
        return None

    def gradient(self, k: int) -> Node | None:
        """G_k, which the second term multiplies with it."""
        return None

    def _flat(self, sweep: Sweep, k: int) -> Node | None:
        z = self.inj.variables[k]
        found = sweep.get(id(z))
        return None if found is None else self.b.reshape(found, (z.size,))


class _HessianProduct(Product):
    def __init__(self, form: HessianForm) -> None:
        super().__init__(form)
        self.entering: dict[int, list[tuple[Entry, Node]]] = {}
        for e, seed in self.directions:
            self.entering.setdefault(id(self.inj.variables[e.variable]), []).append((e, seed))
        self.sweep = form.rule.reverse({}, 0, form.rule.order, self._moving)

    def _moving(self, node: Node) -> Iterable[tuple[Node, Node]]:
        """What adds to dG: curvature sites, and the change of what factors are multiplied with."""
        rule = self.loss.rule
        yield from rule.tangent_terms(node, self.t, self.loss.g, 0)
        g = self.loss.g.get(id(node))
        for e, seed in self.entering.get(id(node), ()) if g is not None else ():
            if e.factor is not None and e.factor.active:
                pulled = self.b.einsum([e.p, e.z], e.u, [seed, g], e.scale)  # type: ignore[list-item]
                if e.factor in self.inj.order_of_outputs:
                    yield e.factor, pulled
                else:  # made for the entry, behind the node
                    yield from rule.pull(e.factor, pulled, 0)

    def tangent(self, k: int) -> Node | None:
        return self._flat(self.sweep, k)

    def factor(self, v: Node) -> Node | None:
        return self.t.get(id(v))

    def gradient(self, k: int) -> Node | None:
        return self.loss.gradient(k)


class _GaussNewtonProduct(Product):
    def __init__(self, form: GaussNewtonForm) -> None:
        super().__init__(form.loss)
        rule, g = form.loss.rule, form.loss.g
        place = rule.order.index(form.f)
        behind = rule.reverse(
            {}, 0, rule.order[place + 1 :], lambda node: rule.tangent_terms(node, self.t, g, 0)
        )
        seed = behind.get(id(form.f))
        self.sweep = (
            {} if seed is None else rule.reverse({form.f: seed}, 0, rule.order[: place + 1])
        )

    def tangent(self, k: int) -> Node | None:
        return self._flat(self.sweep, k)


class _FisherProduct(Product):
    def __init__(self, form: FisherForm) -> None:
        super().__init__(form.loss)
        terms = []
        for z, moved in self.seeds.items():
            g = form.loss.g.get(id(z))
            if g is not None:
                axes = LETTERS[: len(z.shape)]
                terms.append(self.b.einsum([axes, axes], "", [g, moved]))
        self.rate = self.b.add([(1.0, t) for t in terms]) if terms else None

    def tangent(self, k: int) -> Node | None:
        g = self.loss.gradient(k)
        if g is None or self.rate is None:
            return None
        return self.b.einsum(["", "a"], "a", [self.rate, g])


def product_of(form: Form) -> Product:
    """The product that belongs to a form."""
    if isinstance(form, GaussNewtonForm):
        return _GaussNewtonProduct(form)
    if isinstance(form, FisherForm):
        return _FisherProduct(form)
    assert isinstance(form, HessianForm)
    return _HessianProduct(form)
