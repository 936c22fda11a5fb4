"""ATen operators as array API code: one table. The batch axis is there, with length one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hessarray.errors import LoadError
from hessarray.load import neural
from hessarray.load.torch_elementwise import ELEMENTWISE, add, cast, multiply, subtract
from hessarray.load.torch_shapes import SHAPES, axes_of
from hessarray.load.torch_windows import WINDOWS

__all__ = ["OPERATORS"]

Operator = Callable[..., Any]


# ---- reductions ----------------------------------------------------------------------------


def _reduction(name: str) -> Operator:
    def reduction(
        xp: Any, x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None
    ) -> Any:
        return getattr(xp, name)(cast(xp, x, "float64"), axis=axes_of(x, dim), keepdims=keepdim)

    return reduction


def _extreme(name: str) -> Operator:
    """Values and indices, of which there are none here."""

    def extreme(xp: Any, x: Any, dim: int, keepdim: bool = False) -> Any:
        return getattr(xp, name)(x, axis=axes_of(x, dim), keepdims=keepdim), None

    return extreme


def _variance(
    xp: Any, x: Any, dim: Any = None, correction: Any = None, keepdim: bool = False
) -> Any:
    correction = 1.0 if correction is None else float(correction)
    return xp.var(x, axis=axes_of(x, dim), correction=correction, keepdims=keepdim)


def _norm(
    xp: Any, x: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Any:
    options: dict[str, Any] = {"axis": axes_of(x, dim), "keepdims": keepdim}
    if ord == 2:
        return xp.sqrt(xp.sum(xp.square(x), **options))
    if ord == 1:
        return xp.sum(xp.abs(x), **options)
    if math.isinf(ord):
        return (xp.max if ord > 0 else xp.min)(xp.abs(x), **options)
    return xp.pow(xp.sum(xp.pow(xp.abs(x), float(ord)), **options), 1.0 / ord)


def _cumulative_sum(xp: Any, x: Any, dim: int, dtype: Any = None) -> Any:
    n = x.shape[dim]
    summed = xp.matmul(xp.moveaxis(x, dim, -1), np.triu(np.ones((n, n))))
    return xp.moveaxis(summed, -1, dim)


def _softmax(xp: Any, x: Any, dim: int, *_: Any, **__: Any) -> Any:
    return neural.softmax(xp, x, dim)


def _log_softmax(xp: Any, x: Any, dim: int, *_: Any, **__: Any) -> Any:
    return neural.log_softmax(xp, x, dim)


def _logsumexp(xp: Any, x: Any, dim: Any, keepdim: bool = False) -> Any:
    return neural.logsumexp(xp, x, axes_of(x, dim), keepdim)


# ---- products ------------------------------------------------------------------------------


def _linear(xp: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    z = neural.product(xp, x, xp.matrix_transpose(weight)) if len(x.shape) > 1 else weight @ x
    return z if bias is None else add(xp, z, bias)


def _addmm(xp: Any, z: Any, x: Any, y: Any, beta: float = 1, alpha: float = 1) -> Any:
    product = neural.product(xp, x, y)
    return add(xp, product if alpha == 1 else product * alpha, z if beta == 1 else z * beta)


def _bilinear(xp: Any, x: Any, y: Any, weight: Any, bias: Any = None) -> Any:
    z = xp.einsum("ni,oij,nj->no", *(_rows(xp, x), weight, _rows(xp, y)))
    z = xp.reshape(z, (*x.shape[:-1], weight.shape[0]))
    return z if bias is None else add(xp, z, bias)


def _rows(xp: Any, x: Any) -> Any:
    return xp.reshape(x, (-1, x.shape[-1]))


def _attention(
    xp: Any,
    q: Any,
    k: Any,
    v: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if dropout_p:
        raise LoadError("dropout is active, and random: call module.eval() first")
    if enable_gqa:
        raise LoadError("attention with enable_gqa=True is not supported: repeat keys and values")
    mask = np.tri(q.shape[-2], k.shape[-2], dtype=bool) if is_causal else attn_mask
    return neural.attention(xp, q, k, v, mask, scale)


# ---- normalisation -------------------------------------------------------------------------


def _affine(xp: Any, x: Any, weight: Any, bias: Any, shape: Sequence[int]) -> Any:
    for array, operator in ((weight, multiply), (bias, add)):
        if array is not None:
            x = operator(xp, x, xp.reshape(array, tuple(shape)))
    return x


def _channels(x: Any) -> tuple[int, ...]:
    return (x.shape[1], *(1 for _ in x.shape[2:]))


def _layer_norm(
    xp: Any,
    x: Any,
    shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    lead = tuple(n for n in x.shape[: len(x.shape) - len(shape)] if n != 1)
    u = xp.reshape(x, (*lead, *shape))
    u = neural.standardised(xp, u, range(len(lead), len(u.shape)), eps)
    return xp.reshape(_affine(xp, u, weight, bias, shape), x.shape)


def _group_norm(
    xp: Any, x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Any:
    u = neural.standardised(xp, xp.reshape(x, (x.shape[0], groups, -1)), [2], eps)
    return _affine(xp, xp.reshape(u, x.shape), weight, bias, _channels(x))


def _instance_norm(
    xp: Any,
    x: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    own: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Any:
    if own:
        return _group_norm(xp, x, x.shape[1], weight, bias, eps)
    return _batch_norm(xp, x, weight, bias, mean, var, momentum, eps)[0]


def _batch_norm(
    xp: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float
) -> tuple[Any, None, None]:
    """With statistics of the training: affine. The two others are statistics of the batch."""
    shape = _channels(x)
    u = subtract(xp, x, np.reshape(mean, shape))
    u = multiply(xp, u, np.reshape(1.0 / np.sqrt(np.asarray(var, dtype=float) + eps), shape))
    return _affine(xp, u, weight, bias, shape), None, None


def _batch_norm_or_not(
    xp: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *rest: Any
) -> Any:
    if training:
        raise LoadError("statistics of the batch mix samples: call module.eval() first")
    return _batch_norm(xp, x, weight, bias, mean, var, *rest[:2])[0]


# ---- the table -----------------------------------------------------------------------------


def _same(xp: Any, x: Any, *_: Any, **__: Any) -> Any:
    return x


def _dropout(xp: Any, x: Any, p: float, train: bool) -> Any:
    if train and p:
        raise LoadError("dropout is active, and random: call module.eval() first")
    return x


#: By name without overload, or with it where overloads differ. What torch has beyond it is
#: decomposed by torch into these.
OPERATORS: dict[str, Operator] = {
    **ELEMENTWISE,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    # reductions
    "sum": _reduction("sum"),
    "mean": _reduction("mean"),
    "prod": _reduction("prod"),
    "amax": _reduction("max"),
    "amin": _reduction("min"),
    "max.dim": _extreme("max"),
    "min.dim": _extreme("min"),
    "var.correction": _variance,
    "linalg_vector_norm": _norm,
    "logsumexp": _logsumexp,
    "cumsum": _cumulative_sum,
    # products
    "linear": _linear,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "bilinear": _bilinear,
    **dict.fromkeys("mm bmm matmul mv dot".split(), neural.product),
    "scaled_dot_product_attention": _attention,
    # normalisation
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "batch_norm": _batch_norm_or_not,
    "_native_batch_norm_legit_no_training": _batch_norm,
    **SHAPES,
    **WINDOWS,
    # what changes no number
    **dict.fromkeys("clone alias".split(), _same),
    "dropout": _dropout,
    "detach": lambda xp, x: xp.stop_gradient(x),
    "_to_copy": cast,
}
