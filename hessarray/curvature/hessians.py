r"""Hessians with respect to parameters: of a model's outputs, and of a loss over samples.

The functions are those of hesse (github.com/dscamiss/hesse), with its names and arguments; its
definition, ``torch.func.hessian`` of model or loss, is what the tests compare with. With u_k what a
matrix K_k multiplies, z_k = u_k K_k + b_k and P_{k->v} = dv/dz_k,

    d2l / dz_k dz_l = sum over curvature sites r of  P_{k->r}^T D_r P_{l->r}
    d2l / dK_k dK_l = u_k (x) [d2l / dz_k dz_l] (x) u_l  +  (k < l)  u_k (x) P_{k->u_l} (x) G_l

and of a loss the sum over samples is one matrix product (``docs/curvature.md``).

All functions take ``frozen=`` (names that count as constants), ``memory_limit=`` (bytes, of the
result and of what is held besides), ``threads=`` (NumPy), ``progress=`` and, for losses,
``accumulate=`` ('float64': sums over samples of a float32 model are added up, and come back, in
float64) and ``per_layer=`` (True: only blocks of parameters of one layer, those that share the
part of their names before the last dot).
"""

from __future__ import annotations

from typing import Any

from hessarray.backends import backend_of
from hessarray.curvature._asked import Names, asked
from hessarray.curvature._matrices import (
    Dict,
    as_dict,
    joined_matrix,
    pairs_of,
    summed_dict,
    summed_matrix,
)
from hessarray.curvature._model_blocks import model_blocks
from hessarray.errors import CurvatureError
from hessarray.function import Function

__all__ = [
    "loss_hessian_dict",
    "loss_hessian_matrix",
    "loss_sharpness",
    "model_hessian_dict",
    "model_hessian_matrix",
    "model_sharpness",
]


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
    task, data, how = asked(model, None, inputs, None, params, is_batch, options)
    pairs = pairs_of(task.names, diagonal_only)
    blocks = model_blocks(task, pairs, data, how.for_passes(data.n))
    lead = (*data.batch, *model.out_shape)
    return as_dict(task, data, blocks, lead)


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
    task, data, how = asked(model, None, inputs, None, params, is_batch, options)
    pairs = pairs_of(task.names, diagonal_only)
    blocks = model_blocks(task, pairs, data, how.for_passes(data.n))
    whole = joined_matrix(task, data, blocks, 2)
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
    return summed_dict(
        "hessian", model, criterion, inputs, target, params, diagonal_only, is_batch, options
    )


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
    return summed_matrix(
        "hessian", model, criterion, inputs, target, params, diagonal_only, is_batch, options
    )


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
        loss_hessian_matrix(model, criterion, inputs, target, params, is_batch=is_batch, **options)
    )


def _spectral_radius(matrix: Any) -> Any:
    backend = backend_of(matrix)
    assert backend is not None
    xp = backend.xp
    try:
        values = xp.linalg.eigvalsh(matrix)
    except Exception as error:
        if bool(xp.all(xp.isfinite(matrix))):
            raise
        raise CurvatureError(
            "the Hessian has entries that are not finite: check parameters, inputs and target"
        ) from error
    return xp.max(xp.abs(values), axis=-1)
