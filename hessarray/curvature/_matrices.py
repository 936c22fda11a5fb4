"""Blocks of a form as dictionaries and as one matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hessarray.curvature._asked import Names, asked
from hessarray.curvature._data import Data
from hessarray.curvature._problem import Problem
from hessarray.curvature._reduction import scale_of
from hessarray.curvature._totals import Totals, totals
from hessarray.function import Function

__all__ = [
    "Dict",
    "as_dict",
    "form_scale",
    "joined_matrix",
    "pairs_of",
    "summed_dict",
    "summed_matrix",
]

Dict = dict[str, dict[str, Any]]


def form_scale(kind: str, task: Problem, data: Data) -> float:
    """What the loss is multiplied with, so that the form has the loss's scale once."""
    scale = scale_of(task, data)
    return math.sqrt(scale) if kind == "fisher" else scale


def _summed(
    kind: str,
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names,
    diagonal_only: bool,
    is_batch: bool,
    options: dict[str, Any],
) -> tuple[Problem, Data, Totals]:
    rest = dict(options)
    per_layer = rest.pop("per_layer", False)
    task, data, how = asked(model, criterion, inputs, target, params, is_batch, rest)
    pairs = pairs_of(task.names, diagonal_only, per_layer)
    scale = form_scale(kind, task, data)
    return task, data, totals(task, kind, pairs, data, how.for_passes(data.n), scale)


def summed_dict(kind: str, *args: Any) -> Dict:
    """Blocks by two names, of the parameters' shapes; arguments in the order of ``_summed``."""
    task, data, found = _summed(kind, *args)
    return as_dict(task, data, found.blocks, ())


def summed_matrix(kind: str, *args: Any) -> Any:
    """The same blocks in one matrix (p, p)."""
    task, data, found = _summed(kind, *args)
    return found.matrix if found.matrix is not None else joined_matrix(task, data, found.blocks, 0)


def pairs_of(
    names: Sequence[str], diagonal_only: bool, per_layer: bool = False
) -> list[tuple[str, str]]:
    """The wanted blocks; a layer's parameters share the part of the name before the last dot."""
    if diagonal_only:
        return [(a, a) for a in names]
    layer = {k: k.rpartition(".")[0] for k in names}
    found = [(a, b) for i, a in enumerate(names) for b in names[i:]]
    return [(a, b) for a, b in found if not per_layer or layer[a] == layer[b]]


def as_dict(task: Problem, data: Data, blocks: dict[Any, Any], lead: tuple[int, ...]) -> Dict:
    s = task.shapes
    return {
        a: {
            b: data.xp.reshape(blocks[a, b], (*lead, *s[a], *s[b]))
            for b in task.names
            if (a, b) in blocks
        }
        for a in task.names
    }


def joined_matrix(task: Problem, data: Data, blocks: dict[Any, Any], lead: int) -> Any:
    """One matrix; zeros where there is no block."""
    xp = data.xp
    some = next(iter(blocks.values()))
    size = {k: math.prod(task.shapes[k]) for k in task.names}

    def found(a: str, b: str) -> Any:
        if (a, b) in blocks:
            return blocks[a, b]
        row, column = blocks[a, a][..., :, :1], blocks[b, b][..., :1, :]
        return xp.zeros_like(row) * xp.zeros_like(column)

    if len(size) == 1:
        return some
    rows = [xp.concat([found(a, b) for b in task.names], axis=lead + 1) for a in task.names]
    return xp.concat(rows, axis=lead)
