"""What a solver sees of a network: some outputs, or a weighted sum, of one vector of variables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hessarray.errors import (
    BackendError,
    OptionError,
    SampleIndexError,
    ShapeError,
    TraceError,
    near_names,
)
from hessarray.function import Function
from hessarray.solve._arguments import vector

__all__ = [
    "Output",
    "Weights",
    "function_of",
    "objective",
    "objective_weights",
    "output_names",
    "rows_of",
    "selected",
    "with_objective",
]

Output = int | str
Weights = Sequence[float] | Mapping[Output, float] | np.ndarray


class _Selected(Function):
    """Rows of a function's flattened output (r,), or weighted sums of them, of a flat x.

    ``weights`` (r,) make one sum (), and (k, r) make k of them. Parameters are the function's own:
    what it loads later holds here as well.
    """

    def __init__(self, whole: Function, rows: list[int], weights: np.ndarray | None = None) -> None:
        self._whole, self._rows, self._weights = whole, rows, weights
        self._store = None
        self._setup((math.prod(whole.in_shape),))
        if weights is None and whole.output_names:
            names = output_names(whole)
            self.output_names = tuple(names[i] for i in rows)

    def _setup(self, in_shapes: Any) -> None:
        super()._setup((in_shapes,) if isinstance(in_shapes[0], int) else in_shapes)

    def _parameters(self) -> dict[str, Any]:
        return self._whole._parameters()

    def _version(self) -> int:
        return self._whole._version()

    def _code_version(self) -> int:
        return self._whole._code_version()

    def _replace(self, arrays: Mapping[str, Any]) -> None:
        self._whole._replace(arrays)

    def _apply(self, inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
        (x,) = inputs
        xp = x.__array_namespace__()
        y = self._whole._apply((xp.reshape(x, self._whole.in_shape),), params)
        y = xp.reshape(y, (-1,))
        if self._weights is not None and self._weights.tolist() == [1.0]:
            return y[self._rows[0]]
        if self._rows != list(range(y.shape[0])):
            y = xp.take(y, xp.asarray(np.asarray(self._rows)), axis=0)
        return y if self._weights is None else y @ self._weights.T


def function_of(net: Any) -> Function:
    """The network itself, once it is clear that a solver can call it.

    Raises
    ------
    TraceError, ShapeError, BackendError
        It is no function of hessarray, has several inputs, or takes other arrays than NumPy's.
    """
    if not isinstance(net, Function):
        raise TraceError(
            f"a solver needs a hessarray network or Function, got {type(net).__name__}: "
            "wrap the code as ha.Function(fn, in_shape=(d,))"
        )
    if len(net.in_shapes) != 1:
        raise ShapeError(
            f"a solver has one vector of variables, this function has {len(net.in_shapes)} inputs "
            f"of shapes {', '.join(map(str, net.in_shapes))}: join them into one array"
        )
    other = [k for k, a in net.parameters().items() if not isinstance(a, np.ndarray)]
    if other:
        raise BackendError(
            f"parameter '{other[0]}' is a {type(net.parameters()[other[0]]).__module__} array, "
            "solvers call with NumPy arrays: call to(None) on the network first"
        )
    return net


def output_names(net: Function) -> tuple[str, ...]:
    """One name for each entry of the flattened output: the network's own, else f0, f1, ..."""
    m = math.prod(net.out_shape)
    names = net.output_names
    if names is not None and len(names) == m:
        return tuple(names)
    return tuple(f"f{i}" for i in range(m))


def row_of(net: Function, output: Output) -> int:
    """Where an output stands in the flattened value.

    Raises
    ------
    SampleIndexError, OptionError
        There is no output of this number or name.
    """
    m = math.prod(net.out_shape)
    if isinstance(output, str):
        names = output_names(net)
        if output in names:
            return names.index(output)
        raise OptionError(
            f"output '{output}' is unknown: "
            + (near_names(output, names) or f"the outputs are {', '.join(names)}")
        )
    if isinstance(output, bool) or not isinstance(output, (int, np.integer)):
        raise OptionError(f"output is {output!r}: pass the number or the name of an output")
    if not -m <= output < m:
        raise SampleIndexError(
            f"output {output} is out of range, the network has {m} output{'s' * (m > 1)}: "
            f"pass 0{f' to {m - 1}' * (m > 1)}"
        )
    return int(output) % m


def rows_of(net: Function, outputs: Output | Sequence[Output] | None) -> list[int]:
    """Where these outputs stand in the flattened value; all of them for None."""
    if outputs is None:
        return list(range(math.prod(net.out_shape)))
    if isinstance(outputs, (int, str, np.integer)):
        return [row_of(net, outputs)]
    return [row_of(net, o) for o in outputs]


def selected(net: Any, outputs: Output | Sequence[Output] | None = None) -> Function:
    """These outputs, (k,), of x (d,); all of them where none are named."""
    whole = function_of(net)
    rows = rows_of(whole, outputs)
    if not rows:
        raise OptionError("outputs is empty: name at least one, or leave it out for all")
    if rows == rows_of(whole, None) and len(whole.in_shape) == len(whole.out_shape) == 1:
        return whole
    return _Selected(whole, rows)


def objective(net: Any, output: Output | None = None, weights: Weights | None = None) -> Function:
    """One output or a weighted sum of them, (), of x (d,); raises as `objective_weights`.

    Derivatives then have no axis of outputs, which a solver would have to take away at each call.
    """
    net = function_of(net)
    total = objective_weights(net, output, weights)
    rows = np.flatnonzero(total).tolist() or [0]
    return _Selected(net, rows, total[rows])


def with_objective(
    net: Any, output: Output | None, weights: Weights | None, outputs: Output | Sequence[Output]
) -> Function:
    """The objective and then these k outputs, (1 + k,), of x (d,); raises as `objective_weights`.

    Outputs of neither are not computed.
    """
    net = function_of(net)
    total, rows = objective_weights(net, output, weights), rows_of(net, outputs)
    used = np.flatnonzero(total).tolist()
    if total[used].tolist() == [1.0]:
        return selected(net, [*used, *rows])
    needed = sorted({*used, *rows}) or [0]
    sums = np.zeros((1 + len(rows), len(total)))
    sums[0] = total
    sums[range(1, 1 + len(rows)), rows] = 1.0
    return _Selected(net, needed, sums[:, needed])


def objective_weights(net: Function, output: Output | None, weights: Weights | None) -> np.ndarray:
    """The objective as weights (m,) of the outputs.

    Raises
    ------
    OptionError
        Several outputs and neither `output` nor `weights`, or both of them.
    SampleIndexError, ShapeError
        There is no such output, or `weights` has another length.
    """
    m = math.prod(net.out_shape)
    if output is not None and weights is not None:
        raise OptionError("output= and weights= are both given: pass one of them")
    if output is None and weights is None:
        if m > 1:
            raise OptionError(
                f"an objective is one number, the network has {m} outputs: pass output= or weights="
            )
        output = 0
    given = {output: 1.0} if weights is None else weights
    why = "one for each output, or a mapping such as {0: 1.0}"
    if isinstance(given, Mapping):
        total = np.zeros(m)
        rows = [row_of(net, name) for name in given]  # type: ignore[arg-type]
        np.add.at(total, rows, vector("weights", list(given.values()), len(rows), why))
    else:
        total = np.array(vector("weights", given, m, why))
    if not np.isfinite(total).all():
        raise OptionError(f"weights are {total.tolist()!r:.80}: pass finite numbers")
    return total
