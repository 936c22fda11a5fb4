"""First derivatives in the parameters: of a loss over samples, and of a model's outputs."""

from __future__ import annotations

from typing import Any

from hessarray.curvature._asked import Names, asked
from hessarray.curvature._model_blocks import model_gradients
from hessarray.curvature._reduction import scale_of, values
from hessarray.curvature._totals import parameters_at, psi_gradients, pulled_totals
from hessarray.function import Function

__all__ = ["loss_gradient", "loss_value", "model_gradient_dict"]


def loss_value(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    is_batch: bool = True,
    **options: Any,
) -> Any:
    """The loss over all samples, (); arguments as for ``loss_hessian_dict``."""
    task, data, how = asked(model, criterion, inputs, target, None, is_batch, options)
    each = values(task, data, how)
    if how.accumulate is not None:
        each = data.xp.astype(each, getattr(data.xp, how.accumulate))
    return data.xp.sum(each) * scale_of(task, data)


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
    return pulled_totals(task, "hessian", sums, data, how, parameters_at(task, data, how))


def model_gradient_dict(
    model: Function,
    inputs: Any,
    params: Names = None,
    is_batch: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """First derivatives of every output with respect to the parameters: df/dK = u (x) P.

    P = df/dz is the reverse sweep from each output. Arguments as for ``model_hessian_dict``.

    Returns
    -------
    dict of array
        J["P"] of shape (n, *out_shape, *P.shape); without n for one sample.

    Raises
    ------
    ParameterError
        No parameter is selected, or a name is unknown.
    ShapeError
        Inputs do not fit the model.
    MemoryLimitError
        The result would not fit.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> from hessarray.curvature import model_gradient_dict
    >>> net = ha.fully_connected([3, 8, 2], act="tanh")
    >>> model_gradient_dict(net, np.zeros((5, 3)))["1.K"].shape
    (5, 2, 8, 2)
    """
    task, data, how = asked(model, None, inputs, None, params, is_batch, options)
    made, at, xp = task.compositions("hessian"), parameters_at(task, data, how), data.xp
    found: dict[str, Any] = {}
    for i, g in model_gradients(task, data, how).items():
        n, m, size = g.shape
        columns = xp.permute_dims(xp.reshape(g, (n * m, size)), (1, 0))
        for name, part in made[i].pulled(xp, columns, at).items():
            part = xp.permute_dims(part, (1, 0))
            found[name] = found[name] + part if name in found else part
    lead = (*data.batch, *model.out_shape)
    return {
        k: xp.reshape(found[k], (*lead, *task.shapes[k]))
        if k in found
        else xp.broadcast_to(xp.zeros_like(at[k]), (*lead, *task.shapes[k]))
        for k in task.names
    }
