r"""Parameters that enter through functions of themselves, such as softplus(L) or A^T A.

What enters a layer is then psi = c(theta), and

    d2l / dtheta dtheta' = C^T [d2l / dpsi dpsi'] C'  +  sum_i dl/dpsi_i d2psi_i / dtheta dtheta'

with C = dpsi/dtheta. c has no samples and is a ``Function`` of the parameters: its own derivatives
do the work, C by pulling columns back, never as a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hessarray.function import Function
from hessarray.graph.array import TracedArray
from hessarray.graph.builder import Builder
from hessarray.graph.node import Node, Parameter, topological
from hessarray.plan.injection import Injected

__all__ = ["Composition", "compositions"]


class Composition:
    """psi as a function of the parameters that it is made of."""

    def __init__(self, psi: Node, names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]):
        self.psi, self.names = psi, tuple(names)
        self.plain = isinstance(psi.op, Parameter)
        others = [n.op.name for n in topological([psi]) if isinstance(n.op, Parameter)]
        self.fixed = [k for k in dict.fromkeys(others) if k not in names]
        self.function: Function | None = None
        self._weighted: Function | None = None
        if not self.plain:
            self.function = Function(
                self._traced,
                [shapes[k] for k in self.names],
                params={k: _zeros(shapes[k]) for k in self.fixed},
            )

    def _traced(self, *arrays: Any) -> Any:
        *theta, fixed = arrays
        builder: Builder = theta[0].builder
        given = dict(zip(self.names, theta, strict=True)) | fixed
        new: dict[int, Node] = {}
        for node in topological([self.psi]):
            if isinstance(node.op, Parameter):
                new[id(node)] = given[node.op.name].node
            else:
                args = tuple(new[id(a)] for a in node.args)
                new[id(node)] = builder.make(node.op, args, node.shape, node.truth)
        return TracedArray(new[id(self.psi)], builder)

    def pulled(self, xp: Any, columns: Any, at: Mapping[str, Any]) -> dict[str, Any]:
        """C^T times columns (psi, k): (theta, k) for each parameter."""
        if self.function is None:
            return {self.names[0]: columns}
        if not columns.shape[1]:  # of no sample
            empty = {k: (math.prod(at[k].shape), 0) for k in self.names}
            return {k: xp.reshape(columns, shape) for k, shape in empty.items()}
        theta, options = self._at(at)
        found = self.function.derivatives(
            *theta, do_gradient=True, v=columns, forward_mode=False, **options
        ).df
        parts = found if isinstance(found, tuple) else (found,)
        return {
            k: xp.reshape(p, (math.prod(t.shape), columns.shape[1]))
            for k, p, t in zip(self.names, parts, theta, strict=True)
        }

    def pushed(self, xp: Any, tangent: Mapping[str, Any], at: Mapping[str, Any]) -> Any:
        """C times a direction: dpsi."""
        if self.function is None:
            return tangent[self.names[0]]
        theta, options = self._at(at)
        flat = [xp.reshape(tangent[k], (-1,)) for k in self.names]
        v = xp.reshape(flat[0] if len(flat) == 1 else xp.concat(flat, axis=0), (1, -1))
        found = self.function.derivatives(
            *theta, do_gradient=True, v=v, forward_mode=True, **options
        ).df
        return xp.reshape(found, self.psi.shape)

    def curved(self, g: Any, at: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
        """sum_i g_i d2psi_i / dtheta dtheta', (theta, theta'); nothing where psi is a parameter."""
        if self.function is None:
            return {}
        theta, options = self._at(at)
        found = self.function.weighted_hessian(*theta, g, **options)
        if len(self.names) == 1:
            found = ((found,),)
        return {
            (a, b): found[i][j] for i, a in enumerate(self.names) for j, b in enumerate(self.names)
        }

    def second(self, xp: Any, at: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
        """d2psi / dtheta dtheta', (theta, theta', psi); nothing where psi is a parameter."""
        if self.function is None:
            return {}
        theta, options = self._at(at)
        found = self.function.hessian(*theta, **options)
        if len(self.names) == 1:
            found = ((found,),)
        size = [math.prod(t.shape) for t in theta]
        return {
            (a, b): xp.reshape(found[i][j], (size[i], size[j], self.psi.size))
            for i, a in enumerate(self.names)
            for j, b in enumerate(self.names)
        }

    def curved_product(
        self, xp: Any, g: Any, tangent: Mapping[str, Any], at: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The product of ``curved`` with a direction: what it adds for each parameter."""
        if self.function is None:
            return {}
        if self._weighted is None:
            shapes = {k: tuple(at[k].shape) for k in self.fixed}
            self._weighted = Function(
                lambda *a: _inner(self._traced(*a), a[-1][_WEIGHT]),
                self.function.in_shapes,
                params={k: _zeros(s) for k, s in shapes.items()} | {_WEIGHT: _zeros(g.shape)},
            )
        theta, options = self._at(at)
        options["parameters"][_WEIGHT] = g
        found = self._weighted.hvp(*theta, *(tangent[k] for k in self.names), **options)
        parts = found if isinstance(found, tuple) else (found,)
        return dict(zip(self.names, parts, strict=True))

    def _at(self, at: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        return [at[k] for k in self.names], {"parameters": {k: at[k] for k in self.fixed}}


_WEIGHT = "the weight of psi"


def _inner(psi: Any, g: Any) -> Any:
    return psi.__array_namespace__().sum(psi * g)


def _zeros(shape: tuple[int, ...]) -> Any:
    import numpy as np

    return np.zeros(shape)


def compositions(
    inj: Injected, names: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
) -> list[Composition]:
    """One for each psi of ``inj``, in order."""
    found = []
    for psi in inj.parameters:
        own = [k for k in inj.names(psi) if k in names]
        found.append(Composition(psi, own, shapes))
    return found
