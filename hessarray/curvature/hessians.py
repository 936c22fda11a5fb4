r"""Hessians with respect to parameters: of a loss over samples.

The functions are those of hesse (github.com/dscamiss/hesse), with its names and arguments; its
definition, torch.func.hessian, is what the tests compare with. The formulas are in
``docs/curvature.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hessarray.curvature._data import Data, Options, gather, posed
from hessarray.curvature._problem import Problem, selected
from hessarray.curvature._reduction import scale_of
from hessarray.curvature._totals import gradient_totals, totals
from hessarray.curvature.losses import loss_of
from hessarray.function import Function

__all__ = ["loss_hessian_dict", "loss_hessian_matrix"]

Names = Iterable[str] | None
Dict = dict[str, dict[str, Any]]


def loss_hessian_dict(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names = None,
    diagonal_only: bool = False,
    is_batch: bool = True,
    **options: Any,
) -> Dict:
    """Blocks ``H["P"]["Q"]`` of shape P.shape + Q.shape."""
    loss = loss_of(criterion)
    names = selected(model, params, options.pop("frozen", ()))
    how = Options(**options)
    data = gather(model, loss, inputs, target, is_batch)
    task = posed(model, loss, names, data)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i:] if a == b or not diagonal_only]
    found = totals(task, "hessian", pairs, data, how, scale_of(task, data)).blocks
    s = task.shapes
    return {
        a: {
            b: data.xp.reshape(found[a, b], (*s[a], *s[b])) for b in names if (a, b) in found
        }
        for a in names
    }


def loss_hessian_matrix(*args: Any, **kw: Any) -> Any:
    return None
