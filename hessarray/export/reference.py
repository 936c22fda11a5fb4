"""An exported module's evaluations inside hessarray: the same plans, the same calls of NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hessarray.backends import Backend, backend_named
from hessarray.backends._special import Extended
from hessarray.backends.protocol import Executable, FunctionalExecutable, Run, Work
from hessarray.export import _array_runtime
from hessarray.export.programs import FUNCTIONS
from hessarray.function import Function
from hessarray.plan.plan import Plan
from hessarray.plan.want import Want

__all__ = ["Exported"]


class Exported(Function):
    """A function that is evaluated by given plans, on NumPy as plain functional code.

    What is not among the plans is evaluated as ever.
    """

    def __init__(
        self, function: Function, parameters: Mapping[str, Any], plans: Mapping[str, Plan]
    ) -> None:
        super().__init__(function._apply, function.in_shapes, parameters)
        self._exported = {FUNCTIONS[name].want: plan for name, plan in plans.items()}

    def _apply(self, inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
        return self._fn(inputs, params)

    def weighted_hessian(self, *x_and_lam: Any, **options: Any) -> Any:
        """As the module takes it: a weight for each sample."""
        *x, lam = x_and_lam
        batch = x[0].shape[: x[0].ndim - len(self.in_shape)]
        if isinstance(lam, np.ndarray) and lam.shape == self.out_shape:
            lam = np.broadcast_to(lam, batch + self.out_shape)
        return super().weighted_hessian(*x, lam, **options)

    def _check_inputs(self, x: Sequence[Any]) -> tuple[Backend, str, tuple[int, ...]]:
        backend, dtype, batch = super()._check_inputs(x)
        return (_plain if backend.name == "numpy" else backend), dtype, batch

    def _plan(self, want: Want, n: int, backend: Backend) -> Plan:
        return self._exported.get(want) or super()._plan(want, n, backend)


class _PlainNumpy:
    """NumPy as any library of the array API standard: new arrays, nothing compiled."""

    name = "plain numpy"
    in_place = False

    def __init__(self) -> None:
        self.xp = Extended(np)

    def __getattr__(self, name: str) -> Any:
        return getattr(backend_named("numpy"), name)

    def compile(self, program: Any, source: str, layout: Any) -> Executable:
        return _Plain(self.xp, source)

    def schedule(self, work: Work) -> tuple[int, int]:
        return _array_runtime._chunk(work.n, work.bytes_per_sample, _array_runtime.CHUNK_BYTES), 1


class _Plain(FunctionalExecutable):
    """Contiguous operands, as the module makes them: BLAS adds in an order of their strides."""

    def bind(self, parameters: Mapping[str, Any], constants: Mapping[str, Any]) -> Any:
        with np.errstate(all="ignore"):
            bound = super().bind(parameters, constants)
            return tuple(np.asarray(a, order="C") for a in bound)

    def run(
        self, bound: Any, inputs: Mapping[str, Any], seeds: Mapping[str, Any], run: Run
    ) -> tuple[Any, ...]:
        x = {k: np.ascontiguousarray(a) for k, a in inputs.items()}
        with np.errstate(all="ignore"):
            return tuple(np.array(a, order="C") for a in super().run(bound, x, seeds, run))


_plain: Any = _PlainNumpy()
