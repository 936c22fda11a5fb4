"""Value and gradient of a loss over samples, with respect to the parameters."""

from __future__ import annotations

from typing import Any

from hessarray.curvature._asked import Names, asked
from hessarray.curvature._reduction import scale_of, values
from hessarray.curvature._totals import psi_gradients, pulled_totals
from hessarray.function import Function

__all__ = ["loss_gradient", "loss_value"]


def loss_value(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    is_batch: bool = True,
    **options: Any,
) -> Any:
    """The loss over all samples, (); arguments as for ``loss_hessian_dict``."""
    task, data, _ = asked(model, criterion, inputs, target, None, is_batch, options)
    return data.xp.sum(values(task, data)) * scale_of(task, data)


def loss_gradient(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names = None,
    is_batch: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """dl/dtheta = sum over samples of u (x) G, by name, in closed form.

    Losses over derivatives of the model (``Loss(..., needs=("value", "laplacian"))``) are no
    exception: the model's derivatives are themselves graphs in which the parameters occur.
    Arguments as for ``loss_hessian_dict``.

    Examples
    --------
    A physics-informed loss, the mean of (lap f - 1)^2 over the samples:

    >>> import numpy as np, hessarray as ha
    >>> from hessarray.curvature import Loss, loss_gradient
    >>> net = ha.fully_connected([2, 8, 1], act="tanh")
    >>> poisson = Loss(lambda lap, t: (lap[0, 0] - t[0]) ** 2, "mean", needs=("laplacian",))
    >>> x = np.random.default_rng(0).random((50, 2))
    >>> {k: g.shape for k, g in loss_gradient(net, poisson, x, np.ones((50, 1))).items()}
    {'0.K': (2, 8), '0.b': (8,), '1.K': (8, 1), '1.b': (1,)}
    """
    task, data, how = asked(model, criterion, inputs, target, params, is_batch, options)
    sums = psi_gradients(task, "hessian", data, how, scale_of(task, data))
    return pulled_totals(task, "hessian", sums, data, how)
