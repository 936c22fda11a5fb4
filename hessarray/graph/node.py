"""The nodes of a traced graph: what is computed, from what, in which per-sample shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessarray.graph.elementary import Elementary

__all__ = [
    "Add",
    "Broadcast",
    "Concat",
    "Constant",
    "Einsum",
    "Elementwise",
    "Eye",
    "Flip",
    "Frozen",
    "Injection",
    "Input",
    "Node",
    "Op",
    "PARAMETER",
    "Pad",
    "Parameter",
    "Reshape",
    "SAMPLE",
    "SEED",
    "Seed",
    "Select",
    "Slice",
    "Take",
    "Test",
    "remade",
    "topological",
]

Shape = tuple[int, ...]

# When a value is known: with the parameters, with the call's directions, or with each sample. Only
# values of the last level carry the batch axis; the others are the "batch-free operands".
PARAMETER, SEED, SAMPLE = 0, 1, 2


class Op:
    """What a node does with its arguments. Operations are immutable and compare by value."""

    __slots__ = ()
    differentiable = True


@dataclass(frozen=True, slots=True)
class Input(Op):
    """The flat input number ``index`` of one sample."""

    index: int


@dataclass(frozen=True, slots=True)
class Parameter(Op):
    """A named array without batch axis that is bound after planning."""

    name: str


@dataclass(frozen=True, slots=True)
class Seed(Op):
    """An array given with the call: a direction or a weight, with batch axis where ``batched``."""

    name: str
    batched: bool = False


class Constant(Op):
    """An array that the traced code carries. Equal bytes are one node."""

    __slots__ = ("key", "value")

    def __init__(self, value: np.ndarray[Any, Any]) -> None:
        self.value = value
        self.key = (value.shape, value.dtype.str, value.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"Constant{self.value.shape}"


@dataclass(frozen=True, slots=True)
class Eye(Op):
    """The identity matrix; kept symbolic so that products with it cost nothing."""

    size: int


@dataclass(frozen=True, slots=True)
class Einsum(Op):
    """``scale`` times an Einstein sum, linear in each argument.

    With two or more active arguments this is the *product* kind of node; permute, sum, scale and
    diagonal scaling are the linear kind.
    """

    inputs: tuple[str, ...]
    output: str
    scale: float = 1.0

    @property
    def subscripts(self) -> str:
        return ",".join(self.inputs) + "->" + self.output

    def sizes(self, args: Sequence[Node]) -> dict[str, int]:
        """Length of each letter's axis, for these arguments."""
        return {
            c: n
            for term, a in zip(self.inputs, args, strict=True)
            for c, n in zip(term, a.shape, strict=True)
        }


@dataclass(frozen=True, slots=True)
class Add(Op):
    """The sum of coefficient times argument; all arguments have the node's shape."""

    coefficients: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Reshape(Op):
    shape: Shape


@dataclass(frozen=True, slots=True)
class Broadcast(Op):
    """Axes of length one grow to ``shape`` (same rank; reshape adds axes first)."""

    shape: Shape


@dataclass(frozen=True, slots=True)
class Slice(Op):
    axis: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Pad(Op):
    """Zeros before and after along an axis: the transpose of Slice."""

    axis: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Flip(Op):
    axis: int


@dataclass(frozen=True, slots=True)
class Take(Op):
    axis: int
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Concat(Op):
    axis: int


@dataclass(frozen=True, slots=True)
class Elementwise(Op):
    """v = s(z), entry by entry: the node kind with curvature diag(s''(z))."""

    function: Elementary


@dataclass(frozen=True, slots=True)
class Select(Op):
    """where(mask, a, b): linear in a and b, locally constant in the mask."""


@dataclass(frozen=True, slots=True)
class Test(Op):
    """A comparison or logical operation: boolean, locally constant."""

    name: str
    differentiable = False


@dataclass(frozen=True, slots=True)
class Frozen(Op):
    """The argument, held constant under differentiation: a scale that cancels exactly, say."""

    differentiable = False


@dataclass(frozen=True, slots=True)
class Injection(Op):
    """The argument plus a perturbation, which is zero: derivatives are taken with respect to it."""

    index: int


class Node:
    """One value of the graph: an operation, its arguments and the shape for one sample.

    ``level`` says when the value is known (PARAMETER, SEED or SAMPLE), ``active`` whether it has a
    derivative with respect to the inputs.
    """

    __slots__ = ("active", "args", "level", "op", "shape", "truth")

    def __init__(self, op: Op, args: tuple[Node, ...], shape: Shape, truth: bool = False) -> None:
        self.op = op
        self.args = args
        self.shape = shape
        self.truth = truth  # boolean, not real
        if isinstance(op, Input):
            self.level, self.active = SAMPLE, True
        elif isinstance(op, Injection):
            self.level, self.active = args[0].level, True
        elif isinstance(op, Seed):
            self.level, self.active = (SAMPLE if op.batched else SEED), False
        else:
            self.level = max((a.level for a in args), default=PARAMETER)
            flat = isinstance(op, Elementwise) and op.function.s1 == 0.0
            self.active = (
                op.differentiable and not truth and not flat and any(a.active for a in args)
            )

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __repr__(self) -> str:
        return f"Node({self.op}, shape={self.shape})"


def topological(outputs: list[Node], known: Iterable[Node] = ()) -> list[Node]:
    """All nodes that the outputs need, arguments first; ``known`` ones and what they need are not.

    Iterative: depth is no limit.
    """
    order: list[Node] = []
    done = set(known)
    stack = [*reversed(outputs)]
    while stack:
        node = stack[-1]
        waiting = [] if node in done else [a for a in node.args if a not in done]
        if waiting:
            stack += reversed(waiting)
            continue
        stack.pop()
        if node not in done:
            done.add(node)
            order.append(node)
    return order


def remade(
    order: Iterable[Node],
    remake: Callable[[Node, tuple[Node, ...]], Node],
    known: Mapping[Node, Node] | None = None,
) -> dict[Node, Node]:
    """What stands for each node: ``remake(node, what stands for its arguments)``, in this order."""
    new = dict(known or {})
    for node in order:
        new[node] = remake(node, tuple([new[a] for a in node.args]))
    return new
