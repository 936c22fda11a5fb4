"""Which samples sit on or near a kink: where a function bends, its derivatives say nothing."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessarray._arguments import plain
from hessarray._kinked import JUMPS, comparisons, kink_name, kinked_nodes
from hessarray.errors import OptionError
from hessarray.function import Function
from hessarray.graph import namespace
from hessarray.graph.array import TracedArray
from hessarray.graph.builder import Builder
from hessarray.graph.node import (
    Elementwise,
    Input,
    Node,
    Parameter,
    Select,
    Test,
    remade,
    topological,
)
from hessarray.graph.trace import Graph, trace
from hessarray.layers import _below
from hessarray.networks import Network

__all__ = ["Kinks", "kinks"]

Shape = tuple[int, ...]

_AT_ONCE = 256  # samples whose kinks are looked at closely
_SAME = 1e-9  # relative difference of values and slopes that is rounding


@dataclass(frozen=True)
class Kinks:
    """What `hessarray.kinks` found.

    Attributes
    ----------
    near : ndarray of bool (...)
        The samples that sit on or near a kink.
    distances : ndarray (..., k)
        For each kinked function the distance of its argument from the nearest kink, for each
        comparison the difference of what is compared, in units of the argument; infinite where it
        is within the tolerance and bends nothing.
    names : tuple of str, length k
        The kinked functions in the order of evaluation, those of a network with their layers.
    tolerance : float
        What counts as near.
    """

    near: np.ndarray[Any, Any]
    distances: np.ndarray[Any, Any]
    names: tuple[str, ...]
    tolerance: float

    def __str__(self) -> str:
        if not self.names:
            return "no kinks"
        counts = np.sum(self.distances <= self.tolerance, axis=tuple(range(self.near.ndim)))
        width = max(map(len, self.names))
        lines = [
            f"{name:{width}}  {count:8}" for name, count in zip(self.names, counts, strict=True)
        ]
        total = f"{np.sum(self.near)} of {self.near.size} samples within {self.tolerance:g}"
        return "\n".join([*lines, f"{total} of a kink"])


def kinks(function: Function, *x: Any, tolerance: float = 1e-6) -> Kinks:
    """The samples that sit on or near a kink, where value or slope of the function jumps.

    The kinks are those of relu, abs, sign and the like, of maximum, minimum, clip and where, and
    the jumps of floor and round. At a kink the derivatives are those of one side, near it they
    hold for a step no longer than the distance, and second derivatives never see the bend.

    A kink counts where the output bends: not in a branch of ``where`` that is not taken, nor where
    both branches have the same value and slope, as in logaddexp.

    Parameters
    ----------
    function : Function or Network
        What is evaluated.
    *x : array
        Samples (..., *in), of any library.
    tolerance : float
        What counts as near, in units of the argument of the kinked function: of the
        pre-activation for relu, of the difference for ``maximum(a, b)``.

    Returns
    -------
    Kinks
        NumPy arrays ``near`` (...) and ``distances`` (..., k), and ``names``.

    Raises
    ------
    OptionError
        tolerance is negative or no number.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> f = ha.Function(lambda x: np.abs(x[0]) + np.maximum(x[0], x[1]), in_shape=(2,))
    >>> found = ha.kinks(f, np.array([[0.0, 1.0], [2.0, 2.0], [3.0, 1.0]]))
    >>> found.near.tolist(), found.names, found.distances.tolist()
    ([True, True, False], ('abs', 'maximum'), [[0.0, 1.0], [2.0, 0.0], [3.0, 2.0]])
    """
    number: Any = tolerance
    if not isinstance(number, (int, float)) or not number >= 0.0:
        raise OptionError(f"tolerance={tolerance!r}: a number from 0 on is expected")
    while (parent := getattr(function, "_parent", None)) is not None:
        function = parent  # a derivative function's kinks are those of the original
    arrays = [np.asarray(plain(a)) for a in x]
    whole = _Traced(function)
    distances = whole.distances(arrays)
    *batch, count = distances.shape
    distances = distances.reshape((math.prod(batch), count))
    flat = [a.reshape((-1, *s)) for a, s in zip(arrays, function.in_shapes, strict=True)]
    for k, node in enumerate(whole.nodes):
        rows = np.flatnonzero(distances[:, k] <= tolerance)
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            distances[some, k] = whole.checked(node, [a[some] for a in flat], tolerance)
    distances = distances.reshape((*batch, count))
    return Kinks(np.any(distances <= tolerance, axis=-1), distances, whole.names, float(tolerance))


class _Traced:
    """The kinked nodes of a function, and functions of the same inputs that look at them.

    A node is an elementwise function with kinks, or a comparison that a selection depends on.
    """

    def __init__(self, function: Function) -> None:
        self.params = {k: plain(v) for k, v in function.parameters().items()}
        self.graph, layers = _traced(function)
        named: dict[Node, str] = {}
        for node in kinked_nodes([self.graph.output]):
            for n in comparisons(node) if isinstance(node.op, Select) else [node]:
                named.setdefault(n, layers.get(id(node), "") + kink_name(node))
        self.nodes, self.names = tuple(named), tuple(named.values())

    def _function(self, make: Callable[..., Any], more: Sequence[Shape] = ()) -> Function:
        """``make(place, *others)`` of the inputs and of ``more``; place puts a node there."""
        count = len(self.graph.in_shapes)

        def fn(*args: Any) -> Any:
            inputs, others, params = args[:count], args[count:-1], args[-1]
            return make(lambda node, *change: _placed(node, inputs, params, *change), *others)

        return Function(fn, in_shape=(*self.graph.in_shapes, *more), params=self.params)

    def distances(self, x: Sequence[Any]) -> np.ndarray[Any, Any]:
        """The least distance at each node: (..., k)."""
        if not self.nodes:
            value = self._function(lambda place: place(self.graph.output)).value(*x)
            return np.zeros((*value.shape[:-1], 0))
        builder = Builder(self.graph.builder)
        least = [namespace.min(_distance(builder, n)) for n in self.nodes]
        node = namespace.stack(least).node
        return np.array(self._function(lambda place: place(node)).value(*x), dtype=np.float64)

    def checked(self, node: Node, x: Sequence[Any], tolerance: float) -> np.ndarray[Any, Any]:
        """The least distance among those entries of a node that bend the output: (n,)."""
        each = _distance(Builder(self.graph.builder), node)
        found = self._function(lambda place: place(each.node)).value(*x).reshape((len(x[0]), -1))
        if isinstance(node.op, Test):
            counts = self._flips(node, each, x, tolerance)[:, None]
        else:
            counts = self._matters(node, x)
        return np.asarray(np.where(counts, found, np.inf).min(axis=1))

    def _matters(self, node: Node, x: Sequence[Any]) -> np.ndarray[Any, Any]:
        """Whether the output depends on each entry of a node: (n, size)."""
        output = self.graph.output
        f = self._function(
            lambda place, step: place(output, node, lambda value: value + step), [node.shape]
        )
        slopes = f.gradient(*x, np.zeros((len(x[0]), *node.shape), dtype=x[0].dtype))[-1]
        return np.asarray(np.any(slopes.reshape((len(x[0]), node.size, -1)) != 0.0, axis=-1))

    def _flips(
        self, node: Node, distance: Any, x: Sequence[Any], tolerance: float
    ) -> np.ndarray[Any, Any]:
        """Whether value or slope jump where a comparison of near numbers comes out otherwise: (n,).

        The comparison is changed wherever it occurs, so that conditions which keep a function in
        its domain change together with those which choose it.
        """

        def outcome(yes: bool) -> Any:
            def make(place: Any) -> Any:
                near = place(distance.node) <= tolerance
                return place(self.graph.output, node, lambda v: v | near if yes else v & ~near)

            f = self._function(make)
            slopes = f.gradient(*x)
            slopes = slopes if isinstance(slopes, tuple) else (slopes,)
            n, m = len(x[0]), self.graph.output.size
            return f.value(*x), np.concatenate([s.reshape((n, -1, m)) for s in slopes], axis=1)

        (f, df), (g, dg) = outcome(True), outcome(False)
        slope = np.max(np.abs(df) + np.abs(dg), axis=1)
        bend = np.max(np.abs(df - dg), axis=1) > min(_SAME + 10.0 * tolerance, 0.1) * slope
        f, g = f.reshape(slope.shape), g.reshape(slope.shape)
        jump = np.abs(f - g) > _SAME * (np.abs(f) + np.abs(g)) + 10.0 * tolerance * slope
        return np.asarray(np.any(bend | jump, axis=1))


def _placed(
    output: Node, inputs: Sequence[Any], params: Any, at: Node | None = None, change: Any = None
) -> TracedArray:
    """The node on other inputs; ``change`` is applied to the value of the node ``at``."""
    builder = inputs[0].builder

    def remake(old: Node, args: tuple[Node, ...]) -> Any:
        if isinstance(old.op, Input):
            x = inputs[old.op.index].node
            new = builder.reshape(x, (x.size,))
        elif isinstance(old.op, Parameter):
            new = params[old.op.name].node
        else:
            new = builder.again(old, args)
        return change(TracedArray(new, builder)).node if old is at else new

    return TracedArray(remade(topological([output]), remake)[output], builder)


def _distance(builder: Builder, node: Node) -> Any:
    """|argument - nearest kink|, or |a - b| of a comparison, entry by entry."""
    z: Any = TracedArray(node.args[0], builder)
    if isinstance(node.op, Test):
        return namespace.abs(z - TracedArray(node.args[1], builder))
    assert isinstance(node.op, Elementwise)
    if node.op.function.name in JUMPS:
        if node.op.function.name == "round":
            z = z + 0.5
        return namespace.abs(z - namespace.round(z))
    return functools.reduce(
        namespace.minimum, [namespace.abs(z - k) for k in node.op.function.kinks]
    )


# ---- layers ------------------------------------------------------------------------------------


def _traced(function: Function) -> tuple[Graph, dict[int, str]]:
    """The graph, and for each node of a network the layer that it belongs to."""
    if not isinstance(function, Network) or type(function)._apply is not Network._apply:
        return function.graph(), {}
    marks: list[tuple[str, Node]] = []

    def fn(x: Any, params: Any) -> Any:
        return _through(function, x, params, "", marks)

    shapes = {k: tuple(map(int, v.shape)) for k, v in function.parameters().items()}
    graph = trace(fn, function.in_shapes, shapes)
    layers: dict[int, str] = {}
    for label, output in marks:
        for node in topological([output]):
            layers.setdefault(id(node), label)
    return graph, layers


def _through(network: Network, u: Any, params: Any, prefix: str, marks: list[Any]) -> Any:
    """The layers one after another, each one's output noted."""
    for i, layer in enumerate(network.layers):
        own = _below(params, str(i))
        if isinstance(layer, Network):
            u = _through(layer, u, own, f"{prefix}{i}.", marks)
            continue
        u = layer.with_parameters(own)(u)
        marks.append((f"layer {prefix}{i} ({type(layer).__name__}): ", u.node))
    return u
