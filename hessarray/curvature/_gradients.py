r"""Sums over samples of outer products u (x) G: gradients, and their derivatives along a direction.

What a matrix contributes to the gradient is the product over samples of [u]_(n, i)^T and
[G]_(n, a); the derivative of that is u^T dG + du^T G, one product of twice the rows. The diagonal
of a form is the product of the squares u^2 with the diagonals of d2l/dz2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hessarray.curvature._sums import transposed_product
from hessarray.graph.node import Node
from hessarray.plan.injection import Entry
from hessarray.plan.parameter_products import Product
from hessarray.plan.parameters import (
    Form,
    HessianForm,
    block,
    diagonal_of,
    gradient_of,
    joined,
)

__all__ = ["OuterSums", "diagonal_sums", "gradient_sums", "product_sums"]


class OuterSums:
    """Sums (psi) over samples, by the place of psi in ``Injected.parameters``."""

    def __init__(self, form: Form) -> None:
        self.form, self.inj, self.b = form, form.inj, form.inj.builder
        self.place = {id(psi): i for i, psi in enumerate(self.inj.parameters)}
        self.dense: dict[int, list[Entry]] = {}
        self.single: dict[str, Entry] = {}
        self.nodes: dict[str, Node] = {}

    def outer(self, k: int, left: Node, right: Node) -> None:
        """Of variable k's dense entries: left (.., rows of u) and right (.., z)."""
        self.nodes |= {f"u{k}": left, f"G{k}": right}
        self.dense[k] = self.entries(k)

    def entries(self, k: int) -> list[Entry]:
        return [e for e in self.inj.entries if e.variable == k and e.dense]

    def one(self, e: Entry, node: Node | None) -> None:
        """Of any other entry: psi's shape for each sample."""
        if node is not None:
            name = f"S{len(self.single)}"
            self.nodes[name], self.single[name] = node, e

    @property
    def flops(self) -> int:
        """Of the sums, for each sample."""
        dense = sum(
            2 * self.nodes[f"u{k}"].size * self.nodes[f"G{k}"].shape[-1] for k in self.dense
        )
        return dense + sum(self.nodes[name].size for name in self.single)

    def summed(self, xp: Any, found: Mapping[str, Any]) -> dict[int, Any]:
        """(psi) for these samples."""
        sums: dict[int, Any] = {}

        def add(e: Entry, part: Any) -> None:
            i = self.place[id(e.psi)]
            sums[i] = sums[i] + part if i in sums else part

        for k, entries in self.dense.items():
            u, g = (xp.reshape(a, (-1, a.shape[-1])) for a in (found[f"u{k}"], found[f"G{k}"]))
            part = transposed_product(xp, u, g)
            start = 0
            for e in entries:
                rows = part[start : start + e.rows, :]
                start += e.rows
                if e.p != e.u + e.z:
                    rows = xp.permute_dims(rows, (1, 0))
                add(e, xp.reshape(rows, e.psi.shape))
        for name, e in self.single.items():
            add(e, xp.sum(found[name], axis=0))
        return sums


def gradient_sums(form: HessianForm) -> OuterSums:
    """dl/dpsi."""
    sums = OuterSums(form)
    for k in range(len(form.inj.variables)):
        g, entries = form.gradient(k), sums.entries(k)
        if g is not None and entries:
            sums.outer(k, joined(form, entries), g)
    for e in form.inj.entries:
        if not e.dense:
            sums.one(e, gradient_of(form, e))
    return sums


def product_sums(form: Form, product: Product) -> OuterSums:
    """The form times a direction."""
    sums, b = OuterSums(form), form.inj.builder
    for k in range(len(form.inj.variables)):
        entries = sums.entries(k)
        if not entries:
            continue
        left, right = [], []
        moved = product.tangent(k)
        if moved is not None:
            left.append(joined(form, entries))
            right.append(moved)
        tangents = [None if e.factor is None else product.factor(e.factor) for e in entries]
        g = product.gradient(k)
        if g is not None and any(t is not None for t in tangents):
            parts = [
                b.broadcast(b.constant(0.0), (e.rows,))
                if t is None
                else b.scale(b.reshape(t, (e.rows,)), e.scale)
                for e, t in zip(entries, tangents, strict=True)
            ]
            left.append(b.concat(parts, 0))
            right.append(g)
        if left:
            rows = len(left)
            sums.outer(
                k,
                b.reshape(b.concat(left, 0), (rows, left[0].size)),
                b.reshape(b.concat(right, 0), (rows, right[0].size)),
            )
    loss = product.loss
    for e in form.inj.entries:
        if e.dense:
            continue
        moved = product.tangent(e.variable)
        if moved is not None:
            sums.one(e, gradient_of(loss, e, moved))
        tangent = None if e.factor is None else product.factor(e.factor)
        g = product.gradient(e.variable)
        if tangent is not None and g is not None:
            sums.one(e, gradient_of(loss, e, g, tangent))
    return sums


def diagonal_sums(form: Form) -> OuterSums:
    """The diagonal of the form, (psi)."""
    sums = OuterSums(form)
    squares = form.inj.builder
    for k in range(len(form.inj.variables)):
        entries = sums.entries(k)
        found = form.diagonal(k) if entries else None
        if found is not None:
            u = joined(form, entries)
            sums.outer(k, squares.einsum(["a", "a"], "a", [u, u]), found)
    for i, e in enumerate(form.inj.entries):
        if not e.dense:
            sums.one(e, diagonal_of(form, e))
        for f in form.inj.entries[:i]:
            if f.psi is e.psi:  # a parameter that enters twice meets itself
                first, second = sorted((e, f), key=lambda entry: entry.variable)
                tied = block(form, first, second, tied=True)
                sums.one(e, None if tied is None else squares.scale(tied, 2.0))
    return sums
