r"""Mixed derivatives in inputs and parameters, and how a solution moves with the parameters.

d2f / dx dtheta is the block between the input, perturbed itself, and where theta enters:

    d2f / dx dK_k = [d2f / dx dz_k] (x) u_k  +  P_{x->u_k} (x) G_k

At a stationary point of f(., theta), df/dx = 0, the implicit function theorem gives

    dx*/dtheta = - [d2f / dx2]^(-1) d2f / dx dtheta.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from hessarray.curvature._asked import Names, asked
from hessarray.curvature._data import Data, Options
from hessarray.curvature._problem import Problem
from hessarray.curvature._totals import parameters_at
from hessarray.curvature.losses import Loss
from hessarray.errors import CurvatureError, OptionError, ShapeError
from hessarray.function import Function
from hessarray.graph.builder import LETTERS
from hessarray.graph.node import Node
from hessarray.plan.injection import Entry
from hessarray.plan.parameters import HessianForm, block

__all__ = ["mixed_hessian_dict", "solution_sensitivity"]

_NEWTON = 1e-3  # of the size of x: how far a stationary point may be away


def mixed_hessian_dict(
    model: Function,
    inputs: Any,
    params: Names = None,
    weights: Any = None,
    is_batch: bool = True,
    **options: Any,
) -> Any:
    """d2f / dx dtheta by parameter.

    Parameters
    ----------
    model, inputs, params, is_batch, options
        As for ``model_hessian_dict``.
    weights : array, optional
        One number for each output, (*out_shape) or (n, *out_shape): of their weighted sum.

    Returns
    -------
    dict of array
        H["P"] of shape (n, *out_shape, *in_shape, *P.shape), without out_shape for a weighted sum;
        a tuple of such dictionaries for several inputs.
    """
    task, data, how = _asked(model, inputs, params, weights, is_batch, options)
    found = _by_name(task, data, how)
    return found[0] if len(found) == 1 else tuple(found)


def solution_sensitivity(
    model: Function,
    x: Any,
    params: Names = None,
    weights: Any = None,
    is_batch: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """dx*/dtheta at a stationary point x* of f(., theta), by parameter.

    Parameters
    ----------
    model : Function or Network
        Of one input; with one output, or with ``weights``.
    x : array
        (*in_shape) with df/dx = 0, or (n, *in_shape) with ``is_batch=True``.
    params, weights, options
        As for ``mixed_hessian_dict``.

    Returns
    -------
    dict of array
        S["P"] of shape (*in_shape, *P.shape), with n in front for a batch.

    Raises
    ------
    CurvatureError
        d2f/dx2 is singular, or x is no stationary point: a Newton step from it is longer than a
        thousandth of its size.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> from hessarray.curvature import solution_sensitivity
    >>> f = ha.Function(lambda x, p: (x[0] - p["a"][0] ** 2) ** 2, (1,), {"a": np.array([3.0])})
    >>> solution_sensitivity(f, np.array([9.0]))["a"]
    array([[6.]])
    """
    if len(model.in_shapes) > 1:
        raise OptionError("solution_sensitivity is for models of one input: join the inputs")
    size = math.prod(model.out_shape)
    if weights is None and size != 1:
        raise OptionError(
            f"the model has {size} outputs: pass weights= for the sum that is stationary at x"
        )
    task, data, how = _asked(model, x, params, weights, is_batch, options)
    (mixed,) = _by_name(task, data, how)
    xp, d, n = data.xp, math.prod(model.in_shape), data.n
    points = data.arrays[0]
    ones = xp.ones_like(points[..., :1]) if weights is None else None
    lam = data.arrays[1] if ones is None else xp.reshape(ones, (n, *model.out_shape))
    hess = xp.reshape(model.weighted_hessian(points, lam), (n, d, d))
    gradient = xp.reshape(model.gradient(points), (n, d, size))
    slope = xp.matmul(gradient, xp.reshape(lam, (n, size, 1)))
    columns = {k: xp.reshape(a, (n, d, math.prod(task.shapes[k]))) for k, a in mixed.items()}
    try:
        step = xp.linalg.solve(hess, slope)
        moved = {k: -xp.linalg.solve(hess, c) for k, c in columns.items()}
    except Exception as error:
        raise CurvatureError(
            "d2f/dx2 is singular at x, so the stationary point does not move with the parameters "
            "in one way only: add a term that makes it unique"
        ) from error
    length = float(xp.max(xp.abs(step))) if n else 0.0
    allowed = _NEWTON * (1.0 + (float(xp.max(xp.abs(points))) if n else 0.0))
    if not length <= allowed:
        raise CurvatureError(
            f"x is no stationary point: a Newton step from it has length {length:.3g}, at most "
            f"{allowed:.3g} is expected; minimise first"
        )
    return {
        k: xp.reshape(a, (*data.batch, *model.in_shape, *task.shapes[k])) for k, a in moved.items()
    }


# ---- what they share ---------------------------------------------------------------------------


def _weighted_sum(f: Any, weights: Any) -> Any:
    return f.__array_namespace__().sum(f * weights)


_WEIGHTED = Loss(_weighted_sum, "sum")


def _asked(
    model: Function,
    inputs: Any,
    params: Names,
    weights: Any,
    is_batch: bool,
    options: dict[str, Any],
) -> tuple[Problem, Data, Options]:
    if weights is None:
        return asked(model, None, inputs, None, params, is_batch, options)
    first = inputs[0] if isinstance(inputs, (tuple, list)) else inputs
    out = model.out_shape
    weights = weights if hasattr(weights, "shape") else np.asarray(weights)
    lead = tuple(first.shape[:1]) if is_batch else ()
    got = tuple(weights.shape)
    if got not in (out, (*lead, *out)):
        raise ShapeError(f"weights have shape {got}, {out} or {(*lead, *out)} is expected")
    if got == out and is_batch:
        xp = array_namespace(first)
        weights = xp.broadcast_to(xp.asarray(weights), (*lead, *out))
    return asked(model, _WEIGHTED, inputs, weights, params, is_batch, options)


def _by_name(task: Problem, data: Data, how: Options) -> list[dict[str, Any]]:
    """For each input, (n, *m, *in_shape, *P.shape) by name."""
    form = task.form("mixed")
    assert isinstance(form, HessianForm)
    nodes: dict[str, Node] = task.kept("mixed nodes", lambda: _nodes(form))
    samples = task.samples("mixed", nodes, form.inj.builder)
    seeds = {} if task.loss is None else {"scale": np.asarray(1.0)}
    arrays = how.whole(samples, data, seeds) if nodes else {}
    xp, made, model = data.xp, task.compositions("mixed"), task.model
    at = parameters_at(task, data, how)
    found = []
    for i, shape in enumerate(model.in_shapes):
        sums: dict[str, Any] = {}
        for j, c in enumerate(made):
            a = arrays.get(f"{i},{j}")
            if a is None:
                continue
            rows = math.prod(a.shape[:-1])
            columns = xp.permute_dims(xp.reshape(a, (rows, a.shape[-1])), (1, 0))
            for name, part in c.pulled(xp, columns, at).items():
                part = xp.permute_dims(part, (1, 0))
                sums[name] = sums[name] + part if name in sums else part
        out = model.out_shape if task.loss is None else ()
        lead = (*data.batch, *out, *shape)
        found.append({k: _shaped(sums.get(k), lead, task, k, data) for k in task.names})
    return found


def _shaped(a: Any, lead: tuple[int, ...], task: Problem, name: str, data: Data) -> Any:
    shape = (*lead, *task.shapes[name])
    if a is not None:
        return data.xp.reshape(a, shape)
    return data.zeros(shape)


def _nodes(form: HessianForm) -> dict[str, Node]:
    """(*m, x, psi) by the numbers of the input and of psi."""
    inj, b = form.inj, form.inj.builder
    place = {id(psi): j for j, psi in enumerate(inj.parameters)}
    terms: dict[str, list[Node]] = {}
    for i, k in enumerate(inj.pins):
        x = inj.variables[k]
        axes = LETTERS[: len(x.shape)]
        for f in inj.entries:
            node = block(form, Entry(x, k, None, "", axes, axes, 1.0), f)
            if node is not None:
                flat = b.reshape(node, (*form.m, x.size, f.psi.size))
                terms.setdefault(f"{i},{place[id(f.psi)]}", []).append(flat)
    return {name: b.add([(1.0, t) for t in found]) for name, found in terms.items()}
