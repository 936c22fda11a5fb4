r"""Hessians with respect to parameters: of a model's outputs, and of a loss over samples.

The functions are those of hesse (github.com/dscamiss/hesse), with its names and arguments; its
definition, ``torch.func.hessian`` of model or loss, is what the tests compare with. With u_k what a
matrix K_k multiplies, z_k = u_k K_k + b_k and P_{k->v} = dv/dz_k,

    d2l / dz_k dz_l = sum over curvature sites r of  P_{k->r}^T D_r P_{l->r}
    d2l / dK_k dK_l = u_k (x) [d2l / dz_k dz_l] (x) u_l  +  (k < l)  u_k (x) P_{k->u_l} (x) G_l

and of a loss the sum over samples is one matrix product (``docs/curvature.md``).

All functions take ``frozen=`` (names that count as constants), ``memory_limit=`` (bytes for what is
held besides the result), ``threads=`` (NumPy), ``progress=`` and, for losses, ``accumulate=``
('float64': sums over samples of a float32 model are added up, and come back, in float64).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from hessarray.curvature._data import Data, Options, gather, posed
from hessarray.curvature._model_blocks import model_blocks
from hessarray.curvature._problem import Problem, selected
from hessarray.curvature._reduction import scale_of
from hessarray.curvature._totals import Totals, totals
from hessarray.curvature.losses import loss_of
from hessarray.function import Function

__all__ = [
    "loss_hessian_dict",
    "loss_hessian_matrix",
    "loss_sharpness",
    "model_hessian_dict",
    "model_hessian_matrix",
    "model_sharpness",
]

Names = Iterable[str] | str | None
Dict = dict[str, dict[str, Any]]


def model_hessian_dict(
    model: Function,
    inputs: Any,
    params: Names = None,
    diagonal_only: bool = False,
    is_batch: bool = True,
    **options: Any,
) -> Dict:
    """Second derivatives of every output with respect to the parameters, in blocks.

    Parameters
    ----------
    model : Function or Network
        With parameters; its output may have any shape.
    inputs : array or tuple of arrays
        One for each input of the model, (n, *in_shape), or (*in_shape) with ``is_batch=False``.
    params : iterable of str, optional
        Names of the parameters to differentiate by; all of them if left out.
    diagonal_only : bool
        Only the blocks H["P"]["P"].
    is_batch : bool
        Whether the first axis of the inputs counts samples.
    **options
        frozen, memory_limit, threads, progress: see the module.

    Returns
    -------
    dict of dict of array
        H["P"]["Q"] of shape (n, *out_shape, *P.shape, *Q.shape); without n for one sample.

    Raises
    ------
    ParameterError
        No parameter is selected, or a name is unknown.
    ShapeError
        Inputs do not fit the model.
    MemoryLimitError
        The blocks would not fit; the message has the bytes, and what needs less.
    """
    task, data, how = _asked(model, None, inputs, None, params, is_batch, options)
    blocks = model_blocks(task, _pairs(task.names, diagonal_only), data, how)
    lead = (*data.batch, *model.out_shape)
    return _as_dict(task, data, blocks, lead)


def model_hessian_matrix(
    model: Function,
    inputs: Any,
    params: Names = None,
    diagonal_only: bool = False,
    is_batch: bool = True,
    **options: Any,
) -> Any:
    """The blocks of ``model_hessian_dict`` in one matrix, (n, *out_shape, p, p).

    Rows and columns follow the parameters in the model's order, each flattened; with
    ``diagonal_only`` what is outside of the blocks H["P"]["P"] is zero.
    """
    task, data, how = _asked(model, None, inputs, None, params, is_batch, options)
    blocks = model_blocks(task, _pairs(task.names, diagonal_only), data, how)
    whole = _joined(data.xp, task, blocks, 2)
    return data.xp.reshape(whole, (*data.batch, *model.out_shape, *whole.shape[2:]))


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
    """Second derivatives of a loss over samples with respect to the parameters, in blocks.

    Parameters
    ----------
    model, inputs, params, diagonal_only, is_batch
        As for ``model_hessian_dict``.
    criterion : str, callable, Loss or criterion of torch.nn
        'mse', 'sum_of_squares', 'cross_entropy', 'binary_cross_entropy', 'poisson', 'huber'
        (``hessarray.curvature.losses`` has the formulas), or loss(output, target) in array API
        code: a sum or a mean over samples.
    target : array
        (n, *out_shape), or what the loss expects in its place.
    **options
        frozen, memory_limit, threads, progress, accumulate: see the module.

    Returns
    -------
    dict of dict of array
        H["P"]["Q"] of shape P.shape + Q.shape. On NumPy they may be views of one matrix.

    Raises
    ------
    OptionError
        The loss is neither a sum nor a mean over samples, or an option is unknown.
    ShapeError
        Inputs or target do not fit, or the loss of one sample is not one number.
    ParameterError, MemoryLimitError
        As for ``model_hessian_dict``.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> from hessarray.curvature import loss_hessian_dict
    >>> net = ha.fully_connected([3, 8, 2], act="tanh")
    >>> H = loss_hessian_dict(net, "mse", np.zeros((5, 3)), np.ones((5, 2)))
    >>> H["0.K"]["1.b"].shape
    (3, 8, 2)
    """
    task, data, how = _asked(model, criterion, inputs, target, params, is_batch, options)
    found = _summed(task, data, how, diagonal_only)
    return _as_dict(task, data, found.blocks, ())


def loss_hessian_matrix(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names = None,
    diagonal_only: bool = False,
    is_batch: bool = True,
    **options: Any,
) -> Any:
    """The blocks of ``loss_hessian_dict`` in one matrix, (p, p).

    Rows and columns follow the parameters in the model's order, each flattened.
    """
    task, data, how = _asked(model, criterion, inputs, target, params, is_batch, options)
    found = _summed(task, data, how, diagonal_only)
    return found.matrix if found.matrix is not None else _joined(data.xp, task, found.blocks, 0)


def model_sharpness(
    model: Function, inputs: Any, params: Names = None, is_batch: bool = True, **options: Any
) -> Any:
    """The largest absolute eigenvalue of each output's Hessian: (n, *out_shape)."""
    matrix = model_hessian_matrix(model, inputs, params, is_batch=is_batch, **options)
    return _spectral_radius(matrix)


def loss_sharpness(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names = None,
    is_batch: bool = True,
    **options: Any,
) -> Any:
    """The largest absolute eigenvalue of the loss's Hessian, from the matrix.

    For more parameters than a matrix fits, ``sharpness(loss_hessian_operator(...))``.
    """
    return _spectral_radius(
        loss_hessian_matrix(
            model, criterion, inputs, target, params, is_batch=is_batch, **options
        )
    )


# ---- what they share -------------------------------------------------------------------------------


def _asked(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names,
    is_batch: bool | None,
    options: dict[str, Any],
) -> tuple[Problem, Data, Options]:
    frozen = options.pop("frozen", ())
    how = Options.of(options)
    names = selected(model, params, frozen)
    loss = None if criterion is None else loss_of(criterion)
    data = gather(model, loss, inputs, target, is_batch)
    return posed(model, loss, names, data), data, how


def _pairs(names: Sequence[str], diagonal_only: bool) -> list[tuple[str, str]]:
    if diagonal_only:
        return [(a, a) for a in names]
    return [(a, b) for i, a in enumerate(names) for b in names[i:]]


def _summed(task: Problem, data: Data, how: Options, diagonal_only: bool) -> Totals:
    pairs = _pairs(task.names, diagonal_only)
    return totals(task, "hessian", pairs, data, how, scale_of(task, data))


def _as_dict(task: Problem, data: Data, blocks: dict[Any, Any], lead: tuple[int, ...]) -> Dict:
    s = task.shapes
    return {
        a: {
            b: data.xp.reshape(blocks[a, b], (*lead, *s[a], *s[b]))
            for b in task.names
            if (a, b) in blocks
        }
        for a in task.names
    }


def _joined(xp: Any, task: Problem, blocks: dict[Any, Any], lead: int) -> Any:
    """One matrix; zeros where there is no block."""
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


def _spectral_radius(matrix: Any) -> Any:
    from hessarray.backends import backend_of

    backend = backend_of(matrix)
    assert backend is not None
    xp = backend.xp
    return xp.max(xp.abs(xp.linalg.eigvalsh(matrix)), axis=-1)
