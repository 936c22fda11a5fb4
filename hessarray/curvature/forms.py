r"""Gauss-Newton and empirical Fisher matrices, diagonals, and K-FAC factors.

With P_k = df/dz_k of the model's output f, L = d2l/df2 and G_k = dl/dz_k, all of one sample,

    Gauss-Newton       sum over n of  J^T L J,   J_k = u_k (x) P_k
    empirical Fisher   sum over n of  g g^T,     g_k = u_k (x) G_k

(sums become means with the loss). Both are positive semi-definite where the loss is convex in f;
for 'cross_entropy' and 'mse' the Gauss-Newton matrix is, up to its scale, the Fisher matrix of the
model that the loss is the likelihood of (Martens, New insights and perspectives on the natural
gradient method, 2020).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hessarray.curvature._asked import Names, asked
from hessarray.curvature._data import Data
from hessarray.curvature._gradients import diagonal_sums
from hessarray.curvature._matrices import Dict, form_scale, summed_dict, summed_matrix
from hessarray.curvature._outer_totals import outer_totals
from hessarray.curvature._problem import Problem
from hessarray.curvature._reduction import scale_of
from hessarray.curvature._totals import totals
from hessarray.errors import OptionError
from hessarray.function import Function
from hessarray.graph.node import Node
from hessarray.plan.parameters import joined

__all__ = [
    "empirical_fisher_diagonal",
    "empirical_fisher_dict",
    "empirical_fisher_matrix",
    "gauss_newton_diagonal",
    "gauss_newton_dict",
    "gauss_newton_matrix",
    "kfac_factors",
    "loss_hessian_diagonal",
]


def gauss_newton_dict(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names = None,
    diagonal_only: bool = False,
    is_batch: bool = True,
    **options: Any,
) -> Dict:
    """Blocks of the Gauss-Newton matrix; arguments as for ``loss_hessian_dict``."""
    return summed_dict(
        "gauss_newton", model, criterion, inputs, target, params, diagonal_only, is_batch, options
    )


def gauss_newton_matrix(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names = None,
    diagonal_only: bool = False,
    is_batch: bool = True,
    **options: Any,
) -> Any:
    """The Gauss-Newton matrix (p, p); arguments as for ``loss_hessian_matrix``."""
    return summed_matrix(
        "gauss_newton", model, criterion, inputs, target, params, diagonal_only, is_batch, options
    )


def empirical_fisher_dict(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names = None,
    diagonal_only: bool = False,
    is_batch: bool = True,
    **options: Any,
) -> Dict:
    """Blocks of the empirical Fisher matrix; arguments as for ``loss_hessian_dict``."""
    return summed_dict(
        "fisher", model, criterion, inputs, target, params, diagonal_only, is_batch, options
    )


def empirical_fisher_matrix(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names = None,
    diagonal_only: bool = False,
    is_batch: bool = True,
    **options: Any,
) -> Any:
    """The empirical Fisher matrix (p, p); arguments as for ``loss_hessian_matrix``."""
    return summed_matrix(
        "fisher", model, criterion, inputs, target, params, diagonal_only, is_batch, options
    )


def loss_hessian_diagonal(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names = None,
    is_batch: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """The diagonal of the loss's Hessian by name, in the parameters' shapes, without the blocks."""
    return _diagonal("hessian", model, criterion, inputs, target, params, is_batch, options)


def gauss_newton_diagonal(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names = None,
    is_batch: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """The diagonal of the Gauss-Newton matrix by name, in the parameters' shapes."""
    return _diagonal("gauss_newton", model, criterion, inputs, target, params, is_batch, options)


def empirical_fisher_diagonal(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names = None,
    is_batch: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """The diagonal of the empirical Fisher matrix by name, in the parameters' shapes."""
    return _diagonal("fisher", model, criterion, inputs, target, params, is_batch, options)


def kfac_factors(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names = None,
    is_batch: bool = True,
    **options: Any,
) -> dict[tuple[str, ...], tuple[Any, Any]]:
    """A and S with A (x) S close to a layer's block of the Gauss-Newton matrix.

    For the parameters that enter one pre-activation z = [u, 1] [K; b]

        A = 1/n sum over n of [u, 1]^T [u, 1],   S = n times scale, mean over n of P^T L P

    (Martens and Grosse, Optimizing neural networks with Kronecker-factored approximate curvature,
    2015), so that with one sample A (x) S is the block.

    Returns
    -------
    dict of tuple of str to (A, S)
        By the names of what enters, in the order of A's rows: ``("0.K", "0.b")``. A is
        (rows of K and b, the same), S (width, width).

    Raises
    ------
    OptionError
        A parameter enters otherwise than as a matrix or bias (a scale, a convolution's kernel).
    """
    task, data, how = asked(model, criterion, inputs, target, params, is_batch, options)
    form = task.form("gauss_newton")
    layers: dict[int, list[Any]] = {}
    for e in form.inj.entries:
        names = form.inj.names(e.psi)
        if not e.dense or len(names) != 1 or e.psi.shape != task.shapes[names[0]]:
            raise OptionError(
                f"parameter '{names[0]}' is neither matrix nor bias of a layer: K-FAC has no "
                "factors for it; leave it out of params, or take gauss_newton_dict"
            )
        layers.setdefault(e.variable, []).append(e)
    nodes: dict[str, Node] = {}
    for k, entries in layers.items():
        middle = form.pair(k, k)
        if middle is not None:
            nodes |= {f"u{k}": joined(form, entries), f"S{k}": middle}
    samples = task.samples("kfac", nodes, form.inj.builder)
    xp, n = data.xp, max(data.n, 1)
    sums: dict[str, Any] = {}
    seeds = {"scale": np.asarray(scale_of(task, data))}
    for _, found in how.pieces(samples, data, seeds=seeds):
        for name, a in found.items():
            if name[0] == "u":
                part = xp.matmul(xp.permute_dims(a, (1, 0)), a) / n
            else:
                part = xp.sum(a, axis=0)
            if how.accumulate is not None:
                part = xp.astype(part, getattr(xp, how.accumulate))
            sums[name] = sums[name] + part if name in sums else part
    for name, node in nodes.items():  # of no samples
        if name not in sums:
            sums[name] = data.zeros((node.shape[-1], node.shape[-1]), how.accumulate)
    return {
        tuple(form.inj.names(e.psi)[0] for e in entries): (sums[f"u{k}"], sums[f"S{k}"])
        for k, entries in layers.items()
        if f"u{k}" in sums
    }


# ---- what they share ---------------------------------------------------------------------------


def _diagonal(
    kind: str,
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names,
    is_batch: bool,
    options: dict[str, Any],
) -> dict[str, Any]:
    task, data, how = asked(model, criterion, inputs, target, params, is_batch, options)
    scale, how = form_scale(kind, task, data), how.for_passes(data.n)
    made = task.compositions(kind)
    xp = data.xp
    found: dict[str, Any] = {}
    # Through a function of parameters the diagonal mixes with the rest of the block.
    composed = [k for k in task.names if any(k in c.names and not c.plain for c in made)]
    if composed:
        blocks = totals(task, kind, [(k, k) for k in composed], data, how, scale).blocks
        for k in composed:
            found[k] = xp.linalg.diagonal(blocks[k, k])
    if len(composed) < len(task.names):
        what = task.kept(("diagonal", kind), lambda: diagonal_sums(task.form(kind)))
        seeds = {"scale": np.asarray(scale)}
        sums = outer_totals(task, ("diagonal", kind), what, data, how, seeds)
        for i, a in sums.items():
            if made[i].plain and made[i].names[0] not in composed:
                found[made[i].names[0]] = a
    return {
        k: xp.reshape(_or_zero(found.get(k), task, k, data), task.shapes[k]) for k in task.names
    }


def _or_zero(a: Any, task: Problem, name: str, data: Data) -> Any:
    if a is not None:
        return a
    return data.zeros(task.shapes[name])
