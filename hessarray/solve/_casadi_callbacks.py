"""The callbacks behind `casadi_function`; imported with CasADi only.

CasADi differentiates a callback by asking it for further ones. Their inputs and outputs, for
x (d,), f (m,) and adjoints l (m,):

    value      x           -> f
    jacobian   x, f        -> J (m, d)                  and in turn d vec(J) / dx (m d, d)
    adjoint    x, f, l     -> J^T l (d,)                and in turn sum_m l_m d2f_m (d, d), J^T
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import casadi
import numpy as np

from hessarray.function import Function
from hessarray.solve._shared import JACOBIAN, VALUE, Shared

__all__ = ["value_callback"]


class _Callback(casadi.Callback):  # type: ignore[misc]  # CasADi is untyped
    """One function of dense or empty columns, evaluated on CasADi's own buffers."""

    def __init__(
        self,
        name: str,
        inputs: dict[str, Any],
        outputs: dict[str, Any],
        evaluate: Callable[[Sequence[np.ndarray | None], list[np.ndarray | None]], None],
        *,
        jacobian: Callable[..., Any] | None = None,
        adjoint: Callable[..., Any] | None = None,
    ) -> None:
        casadi.Callback.__init__(self)
        self._inputs, self._outputs, self._evaluate = inputs, outputs, evaluate
        self._jacobian, self._adjoint = jacobian, adjoint
        self._alive: list[Any] = []  # CasADi keeps no Python references to what it is given
        self.construct(name, {})

    def get_n_in(self) -> int:
        return len(self._inputs)

    def get_n_out(self) -> int:
        return len(self._outputs)

    def get_name_in(self, i: int) -> str:
        return list(self._inputs)[i]

    def get_name_out(self, i: int) -> str:
        return list(self._outputs)[i]

    def get_sparsity_in(self, i: int) -> Any:
        return list(self._inputs.values())[i]

    def get_sparsity_out(self, i: int) -> Any:
        return list(self._outputs.values())[i]

    def has_eval_buffer(self) -> bool:
        return True

    def eval_buffer(self, given: Sequence[Any], wanted: Sequence[Any]) -> int:
        """Inputs and outputs as memory; None where CasADi has or needs nothing."""
        arrays = [None if a is None else np.frombuffer(a) for a in given]
        self._evaluate(arrays, [None if a is None else np.frombuffer(a) for a in wanted])
        return 0

    def has_jacobian(self) -> bool:
        return self._jacobian is not None

    def get_jacobian(self, name: str, inputs: Any, outputs: Any, _options: Any) -> Any:
        assert self._jacobian is not None
        self._alive.append(self._jacobian(name, inputs, outputs))
        return self._alive[-1]

    def has_reverse(self, directions: int) -> bool:
        return self._adjoint is not None and directions == 1

    def get_reverse(
        self, _directions: int, name: str, inputs: Any, outputs: Any, _options: Any
    ) -> Any:
        assert self._adjoint is not None
        self._alive.append(self._adjoint(name, inputs, outputs))
        return self._alive[-1]


def value_callback(name: str, function: Function) -> _Callback:
    """x -> f, with its derivatives."""
    shared = Shared(function)
    x, f = _column(shared.d), _column(shared.m)

    def evaluate(given: Any, wanted: Any) -> None:
        wanted[0][:] = shared.at(_point(given[0], shared), VALUE)

    def jacobian(name: str, inputs: Any, outputs: Any) -> _Callback:
        return _jacobian(shared, name, inputs, outputs)

    def adjoint(name: str, inputs: Any, outputs: Any) -> _Callback:
        return _adjoint(shared, name, inputs, outputs)

    return _Callback(name, {"x": x}, {"f": f}, evaluate, jacobian=jacobian, adjoint=adjoint)


def _jacobian(shared: Shared, name: str, inputs: Any, outputs: Any) -> _Callback:
    d, m = shared.d, shared.m

    def evaluate(given: Any, wanted: Any) -> None:
        # CasADi's matrices are in columns: (m, d) there is (d, m) here.
        wanted[0][:] = shared.at(_point(given[0], shared), JACOBIAN).reshape(-1)

    def second(name: str, inputs: Any, outputs: Any) -> _Callback:
        def evaluate(given: Any, wanted: Any) -> None:
            if wanted[0] is not None:
                d2f = shared.function.hessian(_point(given[0], shared))
                wanted[0][:] = d2f.reshape(-1)  # symmetric in its first two axes

        sizes = _column(d), _nothing(m), _nothing(m, d)
        blocks = casadi.Sparsity.dense(m * d, d), _nothing(m * d, m)
        return _Callback(name, _named(inputs, sizes), _named(outputs, blocks), evaluate)

    sizes = _column(d), _nothing(m)
    blocks = (casadi.Sparsity.dense(m, d),)
    return _Callback(
        name, _named(inputs, sizes), _named(outputs, blocks), evaluate, jacobian=second
    )


def _adjoint(shared: Shared, name: str, inputs: Any, outputs: Any) -> _Callback:
    d, m = shared.d, shared.m

    def evaluate(given: Any, wanted: Any) -> None:
        wanted[0][:] = shared.at(_point(given[0], shared), JACOBIAN) @ _weights(given[2], m)

    def second(name: str, inputs: Any, outputs: Any) -> _Callback:
        def evaluate(given: Any, wanted: Any) -> None:
            x = _point(given[0], shared)
            if wanted[0] is not None:
                wanted[0][:] = shared.weighted_hessian(x, _weights(given[2], m)).reshape(-1)
            if wanted[2] is not None:
                wanted[2][:] = shared.jacobian(x).reshape(-1)

        sizes = _column(d), _nothing(m), _column(m), _nothing(d)
        blocks = casadi.Sparsity.dense(d, d), _nothing(d, m), casadi.Sparsity.dense(d, m)
        return _Callback(name, _named(inputs, sizes), _named(outputs, blocks), evaluate)

    sizes = _column(d), _nothing(m), _column(m)
    blocks = (_column(d),)
    return _Callback(
        name, _named(inputs, sizes), _named(outputs, blocks), evaluate, jacobian=second
    )


def _column(size: int) -> Any:
    return casadi.Sparsity.dense(size, 1)


def _nothing(rows: int, columns: int = 1) -> Any:
    """What no result depends on, so that CasADi need not compute it."""
    return casadi.Sparsity(rows, columns)


def _named(names: Sequence[str], sparsities: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(names, sparsities, strict=True))


def _point(buffer: np.ndarray | None, shared: Shared) -> np.ndarray:
    """x; no buffer stands for zeros."""
    return np.zeros(shared.d) if buffer is None else buffer


def _weights(buffer: np.ndarray | None, m: int) -> np.ndarray:
    return np.zeros(m) if buffer is None else buffer
