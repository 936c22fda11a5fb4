"""Programs that give, for every sample, what the sums over samples are made of."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hessarray._evaluation import Evaluation, planned_for
from hessarray._memory import division
from hessarray.backends import Backend, backend_of
from hessarray.backends.protocol import Run
from hessarray.function import Function
from hessarray.graph.builder import Builder
from hessarray.graph.node import Node, Reshape, Seed
from hessarray.plan.derive import Bracket
from hessarray.plan.lower import lower
from hessarray.plan.plan import Plan
from hessarray.plan.want import Want, wanted

__all__ = ["Consumed", "Samples"]

Shape = tuple[int, ...]


class Samples(Evaluation):
    """Named nodes of a perturbed graph, evaluated for each sample with the model's parameters."""

    def __init__(
        self, model: Function, builder: Builder, nodes: Mapping[str, Node], shapes: Sequence[Shape]
    ) -> None:
        self._model = weakref.ref(model)  # which keeps this program, not the other way round
        self.builder, self.nodes = builder, dict(nodes)
        self._setup(tuple(shapes))

    def _parameters(self) -> dict[str, Any]:
        return self._owner()._parameters()

    def _version(self) -> int:
        return self._owner()._version()

    def _owner(self) -> Function:
        model = self._model()
        assert model is not None
        return model

    def _plan(self, want: Want, n: int, backend: Backend) -> Plan:
        about = planned_for(n, backend)

        def make() -> Plan:
            program = lower(self.builder, self.nodes, about, backend.costs)
            return Plan(want, about, Bracket(), "sum over samples", 0, program)

        return self._kept_plan((about, backend.name), make)

    def _seeds(self, seeds: Any, want: Want, backend: Backend, *rest: Any) -> Any:
        dtype, device = rest[:2]
        return want, {k: backend.asarray(v, dtype, device) for k, v in seeds.items()}

    def _shaped(self, name: str, a: Any, batch: Shape, want: Want, xp: Any) -> Any:
        return a

    def __call__(
        self, arrays: Sequence[Any], seeds: Mapping[str, Any] | None = None, **options: Any
    ) -> dict[str, Any]:
        """Each node's values, (n, ...), for arrays of n samples each."""
        return self._evaluate(arrays, wanted(), options, seeds)

    @property
    def entries(self) -> int:
        """Numbers that come back for each sample."""
        return sum(node.size for node in self.nodes.values())


class Consumed(Samples):
    """The same where the values are used up span by span, by the thread that made them.

    What is an input as it comes is not made, but read where it is.
    """

    _consumed = True

    def __init__(
        self, model: Function, builder: Builder, nodes: Mapping[str, Node], shapes: Sequence[Shape]
    ) -> None:
        places = {name: _input(node) for name, node in nodes.items()}
        made = {name: node for name, node in nodes.items() if places[name] is None}
        super().__init__(model, builder, made, shapes)
        self.read = {k: (i, nodes[k].size) for k, i in places.items() if i is not None}

    def consume(
        self,
        arrays: Sequence[Any],
        take: Callable[[int, dict[str, Any]], None],
        seeds: Mapping[str, Any],
        **options: Any,
    ) -> None:
        """Call take(number of the span, values by name); the memory is used again after it."""

        def taken(number: int, samples: slice, found: dict[str, Any]) -> None:
            read = {k: arrays[i][samples].reshape(-1, size) for k, (i, size) in self.read.items()}
            take(number, found | read)

        self._prepare(arrays, wanted(), options, seeds).consume(taken)

    def _check_inputs(self, x: Sequence[Any]) -> tuple[Backend, str, Shape]:
        # Whoever made the data has checked it; what was kept is the program's own.
        backend = backend_of(x[0])
        assert backend is not None
        return backend, backend.dtype_name(x[0]), (int(x[0].shape[0]),)

    def scheduled(
        self, plan: Plan, n: int, itemsize: int, limit: int | None, threads: int | None
    ) -> Run:
        """How n samples would be divided on NumPy."""
        backend = backend_of(np.empty(0))
        assert backend is not None
        return division(
            plan, n, itemsize, backend, limit=limit, threads=threads, given=True, consumed=True
        )


def _input(node: Node) -> int | None:
    """The place of the flat input that the node is, if it is one."""
    while isinstance(node.op, Reshape) and len(node.shape) == 1:
        (node,) = node.args
    if isinstance(node.op, Seed) and node.op.batched and len(node.shape) == 1:
        return int(node.op.name[1:])
    return None
