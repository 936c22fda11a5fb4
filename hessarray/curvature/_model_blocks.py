"""Second derivatives of a model's outputs with respect to parameters, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

from hessarray.curvature._composed import Composition
from hessarray.curvature._data import Data, Options
from hessarray.curvature._problem import Problem
from hessarray.curvature._totals import Pair, check_memory, parameters_at
from hessarray.graph.node import Node
from hessarray.plan.injection import Entry
from hessarray.plan.parameters import HessianForm, block, gradient_of

__all__ = ["model_blocks", "model_gradients"]


def model_blocks(task: Problem, pairs: Sequence[Pair], data: Data, how: Options) -> dict[Pair, Any]:
    """(n, m, theta, theta') for these pairs of names and their mirror images."""
    form = task.form("hessian")
    assert isinstance(form, HessianForm)
    check_memory(task, pairs, data, how, "hessian", each=data.n * form.m[0])
    inj = form.inj
    made = task.compositions("hessian")
    own = set(pairs) | {(b, a) for a, b in pairs}
    nodes = task.kept(("model blocks", frozenset(own)), lambda: _nodes(form, made, own))
    found: dict[tuple[int, int], Any] = {}
    if nodes:
        samples = task.samples(("model blocks", frozenset(own)), nodes, inj.builder)
        for key, a in how.whole(samples, data).items():
            i, j = map(int, key.split(","))
            found[i, j] = a
    xp, m = data.xp, form.m[0]
    result: dict[Pair, Any] = {}

    def add(key: Pair, part: Any) -> None:
        if key in own:
            result[key] = result[key] + part if key in result else part

    if all(c.plain for c in made):
        for (i, j), a in found.items():
            add((made[i].names[0], made[j].names[0]), a)
            if i != j:
                add((made[j].names[0], made[i].names[0]), xp.permute_dims(a, (0, 1, 3, 2)))
    else:
        _compose(xp, task, made, found, data, how, add)
    for a, b in own:
        if (a, b) not in result:
            shape = (data.n, m, *(math.prod(task.shapes[k]) for k in (a, b)))
            result[a, b] = data.zeros(shape)
    return result


def _nodes(form: HessianForm, made: Sequence[Composition], own: set[Pair]) -> dict[str, Node]:
    """Blocks (m, psi, chi) with i <= j by key 'i,j'."""
    b = form.inj.builder
    place = {id(psi): i for i, psi in enumerate(form.inj.parameters)}
    terms: dict[tuple[int, int], list[Node]] = {}

    def put(e: Entry, f: Entry, node: Node, turn: bool) -> None:
        i, j = place[id(e.psi)], place[id(f.psi)]
        if i > j:
            return
        if turn:
            first, second = len(f.p), len(e.p)
            order = (0, *range(1 + first, 1 + first + second), *range(1, 1 + first))
            node = b.permute(node, order)
        terms.setdefault((i, j), []).append(node)

    ordered = sorted(form.inj.entries, key=lambda e: e.variable)
    for e, f in combinations_with_replacement(ordered, 2):
        i, j = place[id(e.psi)], place[id(f.psi)]
        if not any((p, q) in own for p in made[i].names for q in made[j].names):
            continue
        node = block(form, e, f)
        if node is not None:
            put(e, f, node, turn=False)
            if e is not f:
                put(f, e, node, turn=True)
    m = form.m[0]
    size = [psi.size for psi in form.inj.parameters]
    return {
        f"{i},{j}": b.reshape(b.add([(1.0, t) for t in found]), (m, size[i], size[j]))
        for (i, j), found in terms.items()
    }


def model_gradients(task: Problem, data: Data, how: Options) -> dict[int, Any]:
    """(n, m, psi) by the place of psi."""
    form = task.form("hessian")
    assert isinstance(form, HessianForm)
    b = form.inj.builder
    terms: dict[str, list[Node]] = {}
    place = {id(psi): i for i, psi in enumerate(form.inj.parameters)}
    for e in form.inj.entries:
        node = gradient_of(form, e)
        if node is not None:
            flat = b.reshape(node, (form.m[0], e.psi.size))
            terms.setdefault(str(place[id(e.psi)]), []).append(flat)
    nodes = {k: b.add([(1.0, t) for t in found]) for k, found in terms.items()}
    if not nodes:
        return {}
    samples = task.samples("model gradients", nodes, b)
    return {int(k): a for k, a in how.whole(samples, data).items()}


def _compose(
    xp: Any,
    task: Problem,
    made: Sequence[Composition],
    found: Mapping[tuple[int, int], Any],
    data: Data,
    how: Options,
    add: Any,
) -> None:
    """From what enters to the parameters that it is made of."""
    at = parameters_at(task, data, how)

    def pulled(c: Composition, a: Any) -> dict[str, Any]:
        """C^T on the last axis, which comes last again."""
        n, m, rows, size = a.shape
        columns = xp.reshape(xp.permute_dims(a, (3, 0, 1, 2)), (size, n * m * rows))
        return {
            k: xp.permute_dims(xp.reshape(p, (p.shape[0], n, m, rows)), (1, 2, 3, 0))
            for k, p in c.pulled(xp, columns, at).items()
        }

    for (i, j), a in found.items():
        for q, half in pulled(made[j], a).items():
            for p, whole in pulled(made[i], xp.permute_dims(half, (0, 1, 3, 2))).items():
                add((p, q), xp.permute_dims(whole, (0, 1, 3, 2)))
                if i != j:
                    add((q, p), whole)
    for i, g in model_gradients(task, data, how).items():
        for (p, q), second in made[i].second(xp, at).items():
            add((p, q), xp.tensordot(g, second, axes=((2,), (2,))))
