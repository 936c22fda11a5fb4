"""A form's blocks (theta, theta') summed over samples, on any array library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessarray._arguments import same_library
from hessarray.curvature._blocks import BlockSums
from hessarray.curvature._composed import Composition
from hessarray.curvature._data import Data, Options
from hessarray.curvature._gradients import gradient_sums
from hessarray.curvature._numpy_sums import NumpySums
from hessarray.curvature._outer_totals import outer_totals
from hessarray.curvature._problem import Problem
from hessarray.curvature._samples import Samples
from hessarray.curvature._sums import FunctionalSums
from hessarray.errors import MemoryLimitError
from hessarray.plan.parameters import HessianForm

__all__ = [
    "Pair",
    "Totals",
    "block_sums",
    "check_memory",
    "parameters_at",
    "psi_gradients",
    "pulled_totals",
    "result_bytes",
    "totals",
]

Pair = tuple[str, str]
_NAMES = {"hessian": "loss_hessian", "gauss_newton": "gauss_newton", "fisher": "empirical_fisher"}


@dataclass
class Totals:
    """Blocks by names, each (theta, theta') flat, and the matrix of which they are views."""

    blocks: dict[Pair, Any]
    matrix: Any = None


def parameters_at(task: Problem, data: Data, how: Options) -> dict[str, Any]:
    """The model's parameters as arrays beside the sums."""
    backend, x = data.backend, data.arrays[0]
    dtype, device = how.accumulate or backend.dtype_name(x), backend.device(x)
    return {
        k: backend.asarray(same_library(a, backend), dtype, device)
        for k, a in task.model._parameters().items()
    }


def totals(
    task: Problem, kind: str, pairs: Sequence[Pair], data: Data, how: Options, scale: float
) -> Totals:
    """Blocks for these pairs of names, and for their mirror images."""
    check_memory(task, pairs, data, how, kind)
    made = task.compositions(kind)
    what, samples = block_sums(task, kind, pairs)
    wanted = what.wanted
    plain = all(c.plain for c in made)
    result = _allocated(task, pairs, data, how) if plain else Totals({})
    in_place = data.backend.name == "numpy"
    sums: Any
    if in_place:
        into = _places(made, result, sorted(wanted), data, how, plain)
        sums = NumpySums(what, into, how.threads)
    else:
        sums = FunctionalSums(what, data.xp, how.accumulate)
    seeds = {"scale": np.asarray(scale)}
    held = result_bytes(task, pairs, data, how)
    for _, found in how.pieces(samples, data, what.made, seeds, held):
        sums.add(found)
    if in_place:
        sums.finish()
    if in_place and plain:
        return result
    blocks = into if in_place else _both(data.xp, sums.blocks(), made)
    return _composed(task, kind, made, blocks, pairs, data, how, scale)


def block_sums(task: Problem, kind: str, pairs: Sequence[Pair]) -> tuple[BlockSums, Samples]:
    """What to add up for these pairs, and the program for each sample."""
    made = task.compositions(kind)
    own = set(pairs) | {(b, a) for a, b in pairs}
    wanted = tuple(
        (i, j)
        for i, c in enumerate(made)
        for j, d in enumerate(made)
        if i <= j and any((a, b) in own for a in c.names for b in d.names)
    )
    key = ("blocks", kind, wanted)
    what = task.kept(key, lambda: BlockSums(task, kind, wanted))
    return what, task.samples(key, what.nodes, what.inj.builder)


def result_bytes(
    task: Problem, pairs: Sequence[Pair], data: Data, how: Options, each: int = 1
) -> int:
    """Of all blocks and their mirror images; ``each`` is how many there are of every block."""
    own = set(pairs) | {(b, a) for a, b in pairs}
    size = {k: math.prod(s) for k, s in task.shapes.items()}
    itemsize = 8 if how.accumulate == "float64" else data.itemsize
    return sum(size[a] * size[b] for a, b in own) * itemsize * each


def check_memory(
    task: Problem, pairs: Sequence[Pair], data: Data, how: Options, kind: str, each: int = 1
) -> None:
    """Before anything is allocated: the bytes of the result against the limit."""
    limit = how.memory_limit if how.memory_limit is not None else data.backend.memory()
    needed = result_bytes(task, pairs, data, how, each)
    if limit is not None and needed > limit:
        count = sum(math.prod(task.shapes[k]) for k in task.names)
        instead = (
            "name fewer parameters in params=, pass diagonal_only=True, or fewer samples at a time"
            if task.loss is None
            else f"{_NAMES[kind]}_operator multiplies with it without forming it, "
            f"{_NAMES[kind]}_diagonal gives its diagonal, params= and diagonal_only=True fewer "
            "blocks"
        )
        raise MemoryLimitError(
            f"second derivatives of {count:,} parameters would take {needed:,} bytes, the limit is "
            f"{limit:,}: {instead}"
        )


# ---- NumPy: where sums are written ---------------------------------------------------------------


def _allocated(task: Problem, pairs: Sequence[Pair], data: Data, how: Options) -> Totals:
    """Room for every pair: views of one matrix where all pairs are wanted."""
    names, dtype = task.names, how.accumulate or data.backend.dtype_name(data.arrays[0])
    size = {k: math.prod(task.shapes[k]) for k in names}
    if data.backend.name != "numpy":
        return Totals({})
    if len({frozenset(p) for p in pairs}) < len(names) * (len(names) + 1) // 2:
        blocks = {}
        for a, b in pairs:
            blocks[a, b] = np.empty((size[a], size[b]), dtype)
            blocks.setdefault((b, a), np.empty((size[b], size[a]), dtype))
        return Totals(blocks)
    ends = dict(zip(names, np.cumsum([size[k] for k in names]).tolist(), strict=True))
    matrix = np.empty((sum(size.values()),) * 2, dtype)
    spans = {k: slice(ends[k] - size[k], ends[k]) for k in names}
    return Totals({(a, b): matrix[spans[a], spans[b]] for a in names for b in names}, matrix)


def _places(
    made: Sequence[Composition],
    result: Totals,
    wanted: Sequence[tuple[int, int]],
    data: Data,
    how: Options,
    plain: bool,
) -> dict[tuple[int, int], Any]:
    dtype = how.accumulate or data.backend.dtype_name(data.arrays[0])
    into = {}
    unmet = dict(result.blocks)  # of parameters that enter nowhere
    for i, j in {*wanted, *((j, i) for i, j in wanted)}:
        c, d = made[i], made[j]
        into[i, j] = (
            unmet.pop((c.names[0], d.names[0]))
            if plain
            else np.empty((c.psi.size, d.psi.size), dtype)
        )
    for block in unmet.values():
        block[...] = 0.0
    return into


def _both(
    xp: Any, blocks: Mapping[tuple[int, int], Any], made: Sequence[Composition]
) -> dict[tuple[int, int], Any]:
    """Flat blocks and their mirror images."""
    found = {}
    for (i, j), block in blocks.items():
        flat = xp.reshape(block, (made[i].psi.size, made[j].psi.size))
        found[i, j] = flat
        found[j, i] = flat if i == j else xp.permute_dims(flat, (1, 0))
    return found


# ---- from what enters to what it is made of ----------------------------------------------------


def _composed(
    task: Problem,
    kind: str,
    made: Sequence[Composition],
    blocks: Mapping[tuple[int, int], Any],
    pairs: Sequence[Pair],
    data: Data,
    how: Options,
    scale: float,
) -> Totals:
    xp, at = data.xp, parameters_at(task, data, how)
    own = set(pairs) | {(b, a) for a, b in pairs}
    found: dict[Pair, Any] = {}

    def add(key: Pair, part: Any) -> None:
        if key in own:
            found[key] = found[key] + part if key in found else part

    for (i, j), block in blocks.items():
        for a, half in made[i].pulled(xp, block, at).items():
            turned = xp.permute_dims(half, (1, 0))
            for b, whole in made[j].pulled(xp, turned, at).items():
                add((a, b), xp.permute_dims(whole, (1, 0)))
    if kind == "hessian" and not all(c.plain for c in made):
        gradients = psi_gradients(task, kind, data, how, scale)
        for i, c in enumerate(made):
            if i in gradients:
                for (a, b), part in c.curved(gradients[i], at).items():
                    size = [math.prod(task.shapes[k]) for k in (a, b)]
                    add((a, b), xp.reshape(part, tuple(size)))
    for a, b in own:
        if (a, b) not in found:
            size = [math.prod(task.shapes[k]) for k in (a, b)]
            found[a, b] = data.zeros(tuple(size), how.accumulate)
    return Totals(found)


def psi_gradients(
    task: Problem, kind: str, data: Data, how: Options, scale: float
) -> dict[int, Any]:
    """d loss / dpsi summed over samples, by the place of psi."""
    form = task.form(kind)
    assert isinstance(form, HessianForm)
    what = task.kept(("gradients", kind), lambda: gradient_sums(form))
    return outer_totals(task, ("gradients", kind), what, data, how, {"scale": np.asarray(scale)})


def pulled_totals(
    task: Problem,
    kind: str,
    sums: Mapping[int, Any],
    data: Data,
    how: Options,
    at: Mapping[str, Any],
) -> dict[str, Any]:
    """From sums (psi) to sums by name, each in its parameter's shape; C^T dpsi for C at ``at``."""
    xp, made = data.xp, task.compositions(kind)
    found: dict[str, Any] = {}
    for i, g in sums.items():
        column = xp.reshape(g, (made[i].psi.size, 1))
        for name, part in made[i].pulled(xp, column, at).items():
            part = xp.reshape(part, task.shapes[name])
            found[name] = found[name] + part if name in found else part
    zeros = {k: data.zeros(task.shapes[k], how.accumulate) for k in task.names if k not in found}
    return {k: (found if k in found else zeros)[k] for k in task.names}
