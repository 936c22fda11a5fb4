"""Gradients summed over samples: (psi) from the factors u and G of each entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hessarray.curvature._sums import transposed_product
from hessarray.graph.node import Node
from hessarray.plan.injection import Entry, Injected
from hessarray.plan.parameters import HessianForm, gradient_of, joined

__all__ = ["GradientSums"]


class GradientSums:
    """Sums of gradients, or of their tangents, by the place of psi in ``Injected.parameters``."""

    def __init__(self, form: HessianForm, prefix: str = "") -> None:
        self.inj: Injected = form.inj
        self.place = {id(psi): i for i, psi in enumerate(self.inj.parameters)}
        self.dense: dict[int, list[Entry]] = {}
        self.nodes: dict[str, Node] = {}
        self.single: dict[str, Entry] = {}
        for i, e in enumerate(self.inj.entries):
            g = form.gradient(e.variable)
            if g is None:
                continue
            if e.dense:
                self.dense.setdefault(e.variable, []).append(e)
                self.nodes[f"G{e.variable}"] = g
            else:
                found = gradient_of(form, e)
                assert found is not None
                self.nodes[f"S{i}"] = found
                self.single[f"S{i}"] = e
        for k, entries in self.dense.items():
            self.nodes[f"u{k}"] = joined(form, entries)

    def summed(self, xp: Any, found: Mapping[str, Any]) -> dict[int, Any]:
        """(psi) for these samples."""
        sums: dict[int, Any] = {}

        def add(e: Entry, part: Any) -> None:
            i = self.place[id(e.psi)]
            sums[i] = sums[i] + part if i in sums else part

        for k, entries in self.dense.items():
            part = transposed_product(xp, found[f"u{k}"], found[f"G{k}"])
            start = 0
            for e in entries:
                rows = part[start : start + e.rows, :]
                start += e.rows
                add(e, in_order(xp, rows, e))
        for name, e in self.single.items():
            add(e, xp.sum(found[name], axis=0))
        return sums


def in_order(xp: Any, rows: Any, e: Entry) -> Any:
    """(u, z) as psi."""
    if e.p != e.u + e.z:
        rows = xp.permute_dims(rows, (1, 0))
    return xp.reshape(rows, e.psi.shape)
