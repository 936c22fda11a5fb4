r"""Sums over samples of outer products u (x) G: gradients, and their derivatives along a direction.

What a matrix contributes to the gradient is the product over samples of [u]_(n, i)^T and
[G]_(n, a); the derivative of that is u^T dG + du^T G. The diagonal of a form is the product of the
squares u^2 with the diagonals of d2l/dz2. What enters without a factor, a bias, is a sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hessarray.curvature._sums import transposed_product
from hessarray.graph.node import Node
from hessarray.plan.injection import Entry
from hessarray.plan.parameter_products import Product
from hessarray.plan.parameters import Form, HessianForm, block, diagonal_of, gradient_of

__all__ = ["OuterSums", "diagonal_sums", "gradient_sums", "product_sums"]


@dataclass(frozen=True)
class _Outer:
    """The sum over samples of left (x) right, by names of nodes; of right where left is None."""

    entry: Entry
    left: str | None
    right: str
    scale: float


class OuterSums:
    """Sums (psi) over samples, by the place of psi in ``Injected.parameters``."""

    def __init__(self, form: Form) -> None:
        self.form, self.inj, self.b = form, form.inj, form.inj.builder
        self.place = {id(psi): i for i, psi in enumerate(self.inj.parameters)}
        self.outers: list[_Outer] = []
        self.single: list[tuple[str, Entry]] = []
        self.nodes: dict[str, Node] = {}

    def outer(self, e: Entry, left: Node | None, right: Node, scale: float) -> None:
        """Of a dense entry: left with the entries of u, right with those of z."""
        name = None if left is None else self._named(self.b.reshape(left, (left.size,)))
        flat = self.b.reshape(right, (right.size,))
        self.outers.append(_Outer(e, name, self._named(flat), scale))

    def one(self, e: Entry, node: Node | None) -> None:
        """Of any other entry: psi's shape for each sample."""
        if node is not None:
            self.single.append((self._named(node), e))

    def _named(self, node: Node) -> str:
        for name, known in self.nodes.items():
            if known is node:
                return name
        name = f"s{len(self.nodes)}"
        self.nodes[name] = node
        return name

    @property
    def flops(self) -> int:
        """Of the sums, for each sample."""
        size = {name: node.size for name, node in self.nodes.items()}
        outer = sum(
            size[o.right] if o.left is None else 2 * size[o.left] * size[o.right]
            for o in self.outers
        )
        return outer + sum(size[name] for name, _ in self.single)

    def summed(self, xp: Any, found: Mapping[str, Any]) -> dict[int, Any]:
        """(psi) for these samples."""
        sums: dict[int, Any] = {}

        def add(e: Entry, part: Any, scale: float = 1.0) -> None:
            i = self.place[id(e.psi)]
            part = part if scale == 1.0 else scale * part
            sums[i] = sums[i] + part if i in sums else part

        for o in self.outers:
            e, right = o.entry, found[o.right]
            if o.left is None:
                part = xp.sum(right, axis=0)
            elif e.p == e.u + e.z:
                part = transposed_product(xp, found[o.left], right)
            else:
                part = transposed_product(xp, right, found[o.left])
            add(e, xp.reshape(part, e.psi.shape), o.scale)
        for name, e in self.single:
            add(e, xp.sum(found[name], axis=0))
        return sums


def gradient_sums(form: HessianForm) -> OuterSums:
    """dl/dpsi."""
    sums = OuterSums(form)
    for e in form.inj.entries:
        g = form.gradient(e.variable)
        if not e.dense:
            sums.one(e, gradient_of(form, e))
        elif g is not None:
            sums.outer(e, e.factor, g, e.scale)
    return sums


def product_sums(form: Form, product: Product) -> OuterSums:
    """The form times a direction."""
    sums, loss = OuterSums(form), product.loss
    for e in form.inj.entries:
        moved, g = product.tangent(e.variable), product.gradient(e.variable)
        tangent = None if e.factor is None else product.factor(e.factor)
        if moved is not None:
            if e.dense:
                sums.outer(e, e.factor, moved, e.scale)
            else:
                sums.one(e, gradient_of(loss, e, moved))
        if tangent is not None and g is not None:
            if e.dense:
                sums.outer(e, tangent, g, e.scale)
            else:
                sums.one(e, gradient_of(loss, e, g, tangent))
    return sums


def diagonal_sums(form: Form) -> OuterSums:
    """The diagonal of the form, (psi)."""
    sums, b = OuterSums(form), form.inj.builder
    for i, e in enumerate(form.inj.entries):
        found = form.diagonal(e.variable) if e.dense else None
        if not e.dense:
            sums.one(e, diagonal_of(form, e))
        elif found is not None:
            u = None if e.factor is None else b.reshape(e.factor, (e.rows,))
            squares = None if u is None else b.einsum(["a", "a"], "a", [u, u])
            sums.outer(e, squares, found, e.scale**2)
        for f in form.inj.entries[:i]:
            if f.psi is e.psi:  # a parameter that enters twice meets itself
                first, second = sorted((e, f), key=lambda entry: entry.variable)
                tied = block(form, first, second, tied=True)
                sums.one(e, None if tied is None else b.scale(tied, 2.0))
    return sums
