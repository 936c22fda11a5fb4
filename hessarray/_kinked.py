"""The kinks of a traced graph, and the warning where a second derivative leaves them out.

A kinked node is an elementwise function whose value or slope jumps somewhere (relu, abs, sign), or
a selection by a comparison of what depends on x (maximum, clip, where).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import numpy as np

from hessarray.errors import KinkWarning
from hessarray.graph import where as places
from hessarray.graph.node import (
    SAMPLE,
    Add,
    Broadcast,
    Concat,
    Einsum,
    Elementwise,
    Flip,
    Frozen,
    Node,
    Pad,
    Reshape,
    Select,
    Slice,
    Take,
    Test,
    topological,
)

__all__ = ["JUMPS", "comparisons", "kink_name", "kinked_nodes", "warn_of_kinks"]

Mask = np.ndarray[Any, np.dtype[np.bool_]]

# Piecewise constant with infinitely many jumps, so without a list of kinks.
JUMPS = ("floor", "ceil", "round", "trunc")
_COMPARISONS = ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal")
_LINEAR = (Add, Broadcast, Concat, Einsum, Flip, Pad, Reshape, Slice, Take)


def kinked_nodes(outputs: Sequence[Node]) -> list[Node]:
    """The kinked nodes that the outputs depend on, in the order of evaluation.

    What is cut away on the way to the outputs does not count: the entries that matter are followed
    through slices and joints.
    """
    found: list[Node] = []
    needed = {id(node): np.ones(node.shape, dtype=bool) for node in outputs}
    for node in reversed(topological(list(outputs))):
        entries = needed.pop(id(node), None)
        if entries is None or not entries.any():
            continue
        if node.level < SAMPLE or isinstance(node.op, Frozen):
            continue
        if _is_kinked(node):
            found.append(node)
        # What a condition or a piecewise constant is made of may bend: their values do not.
        if isinstance(node.op, Elementwise) and node.op.function.s1 == 0.0:
            continue
        for i, a in enumerate(node.args):
            if not a.truth:
                part = _entries(node, entries, i)
                needed[id(a)] = needed[id(a)] | part if id(a) in needed else part
    return found[::-1]


def _entries(node: Node, entries: Mask, i: int) -> Mask:
    """The entries of argument i that these entries of the node depend on."""
    op, arg = node.op, node.args[i]
    found = np.zeros(arg.shape, dtype=bool)
    if isinstance(op, Slice):
        found[(slice(None),) * op.axis + (slice(op.start, op.stop),)] = entries
    elif isinstance(op, Take):
        rows = np.moveaxis(found, op.axis, 0)
        np.logical_or.at(rows, np.asarray(op.indices), np.moveaxis(entries, op.axis, 0))
    elif isinstance(op, Concat):
        start = sum(a.shape[op.axis] for a in node.args[:i])
        found |= entries.take(range(start, start + arg.shape[op.axis]), axis=op.axis)
    elif isinstance(op, Pad):
        found |= entries.take(range(op.before, op.before + arg.shape[op.axis]), axis=op.axis)
    elif isinstance(op, Flip):
        found |= np.flip(entries, op.axis)
    elif isinstance(op, Reshape):
        found |= entries.reshape(arg.shape)
    elif isinstance(op, Broadcast):
        grown = tuple(k for k, n in enumerate(arg.shape) if n != entries.shape[k])
        found |= entries.any(axis=grown, keepdims=True)
    elif isinstance(op, Einsum):
        term = op.inputs[i]
        summed = tuple(k for k, c in enumerate(op.output) if c not in term)
        kept = [c for c in op.output if c in term]
        if len(set(term)) < len(term):  # a diagonal
            found[...] = True
        else:
            axes = [kept.index(c) for c in term if c in kept]
            left = np.transpose(entries.any(axis=summed), axes)
            found |= left.reshape(
                [n if c in kept else 1 for c, n in zip(term, arg.shape, strict=True)]
            )
    elif arg.shape == node.shape:
        return entries
    else:
        found[...] = True
    return found


def _is_kinked(node: Node) -> bool:
    if isinstance(node.op, Elementwise):
        return bool(node.op.function.kinks) or node.op.function.name in JUMPS
    return isinstance(node.op, Select) and bool(comparisons(node))


def comparisons(node: Node) -> list[Node]:
    """The comparisons in the condition of a selection whose outcome depends on x."""
    return [
        n
        for n in topological([node.args[0]])
        if isinstance(n.op, Test)
        and n.op.name in _COMPARISONS
        and n.level == SAMPLE
        and n.args[0] is not n.args[1]  # isnan(x)
    ]


def kink_name(node: Node) -> str:
    """The function's name; of a selection maximum, minimum or where."""
    if isinstance(node.op, Elementwise):
        return node.op.function.name
    condition, a, b = node.args
    if isinstance(condition.op, Test) and set(condition.args) == {a, b}:
        larger = condition.op.name.startswith("greater") == (condition.args[0] is a)
        return "maximum" if larger else "minimum"
    return "where"


# ---- the warning -----------------------------------------------------------------------------


def warn_of_kinks(function: Any, want: Any) -> bool:
    """Warn, once, if the wanted second derivative leaves a kink out; whether that was looked at."""
    second = want.second is not None
    name = None
    while (parent := getattr(function, "_parent", None)) is not None:
        # Derivative functions hold s' and s'', most as code: the kinks are those of the original.
        second = second or function._name != "gradient" or want.gradient
        function, name = parent, function._name
    if not second or function._warned:
        return second
    function._warned = True
    names = list(dict.fromkeys(map(kink_name, _flat_kinks(function.graph().output))))
    if names:
        warnings.warn(
            f"the second derivative of {', '.join(names)} is zero almost everywhere, and the "
            f"{want.second or name} leaves the bends out: hessarray.kinks(function, x) says which "
            "samples are on or near one",
            KinkWarning,
            stacklevel=_users_level(),
        )
    return True


def _flat_kinks(output: Node) -> list[Node]:
    """The kinked nodes that are linear on both sides, so that all their curvature is in the kink.

    A selection may instead join two curved pieces, or keep a function in its domain inside a
    branch of a selection by the same quantity: where(x > 0, log(where(x > 0, x, 1)), 0).
    """
    nodes = [n for n in kinked_nodes([output]) if n.active]
    guards = [n for n in nodes if isinstance(n.op, Select) and not _is_flat(n)]
    guarded = {
        id(inner)
        for outer in guards
        for inner in topological([a for a in outer.args[1:] if a.level == SAMPLE])
        if isinstance(inner.op, Select) and _bases(inner) & _bases(outer)
    }
    return [n for n in nodes if _is_flat(n) and id(n) not in guarded]


def _is_flat(node: Node) -> bool:
    if isinstance(node.op, Elementwise):
        return node.op.function.s2 == 0.0
    bases = _bases(node)
    stack, seen = [a for a in node.args[1:] if a.active], set(bases)
    while stack:
        n = stack.pop()
        if id(n) in seen or id(_base(n)) in bases:
            continue
        seen.add(id(n))
        inner = [a for a in n.args if a.active]
        linear = isinstance(n.op, _LINEAR) or (isinstance(n.op, Select) and _bases(n) & bases)
        if not linear or (isinstance(n.op, Einsum) and len(inner) > 1):
            return False
        stack += inner
    return True


def _bases(node: Node) -> set[int]:
    """What is compared in the condition of a selection, up to factors, shifts and shapes."""
    return {id(_base(a)) for n in comparisons(node) for a in n.args if a.level == SAMPLE}


def _base(node: Node) -> Node:
    while isinstance(node.op, _LINEAR):
        inner = [a for a in node.args if a.level == SAMPLE]
        if len(inner) != 1:
            break
        (node,) = inner
    return node


def _users_level() -> int:
    """How many frames up the first one outside hessarray is, for the caller of this function."""
    frames = list(_frames(sys._getframe(1)))
    return next((i for i, f in enumerate(frames, 1) if places._is_users(f)), 1)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
