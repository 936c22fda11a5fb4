"""ATen operators as array API code: one table. The batch axis is there, with length one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hessarray.activations import activation
from hessarray.errors import LoadError
from hessarray.load import neural
from hessarray.load.torch_shapes import SHAPES, axes_of
from hessarray.load.torch_windows import WINDOWS

__all__ = ["OPERATORS"]

Operator = Callable[..., Any]


def _narrowed(operator: Operator) -> Operator:
    """The elementwise operator without the axes that have length one: one shape for one thing."""

    def narrowed(xp: Any, *args: Any, **options: Any) -> Any:
        shapes = [a.shape for a in args if hasattr(a, "shape")]
        wide = np.broadcast_shapes(*shapes)
        out = operator(xp, *(_without_ones(xp, a, wide) for a in args), **options)
        return xp.reshape(out, wide)

    return narrowed


def _without_ones(xp: Any, a: Any, wide: tuple[int, ...]) -> Any:
    if not hasattr(a, "shape"):
        return a
    pairs = zip(a.shape, wide[len(wide) - len(a.shape) :], strict=True)
    return xp.reshape(a, tuple(n for n, m in pairs if m != 1))


# ---- elementwise ---------------------------------------------------------------------------


def _act(name: str, *parameters: str, **fixed: Any) -> Operator:
    """An activation of the table, whose parameters are the operator's further arguments."""

    def act(xp: Any, x: Any, *values: Any) -> Any:
        given = dict(zip(parameters, values, strict=False))
        return activation(name, **given, **fixed)(x)

    return _narrowed(act)


def _unary(name: str) -> Operator:
    return _narrowed(lambda xp, x: getattr(xp, name)(x))


def _binary(name: str) -> Operator:
    return _narrowed(lambda xp, x, y: getattr(xp, name)(x, y))


def _add(xp: Any, x: Any, y: Any, alpha: float = 1) -> Any:
    return xp.add(x, y if alpha == 1 else y * alpha)


def _subtract(xp: Any, x: Any, y: Any, alpha: float = 1) -> Any:
    return xp.subtract(x, y if alpha == 1 else y * alpha)


def _divide(xp: Any, x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    rounded = {None: lambda q: q, "floor": xp.floor, "trunc": xp.trunc}
    return rounded[rounding_mode](xp.divide(x, y))


def _elu(xp: Any, x: Any, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Any:
    """ATen's elu is selu and celu, too."""
    if input_scale == 1:
        return activation("elu", alpha=alpha)(x) * scale
    below = xp.expm1(xp.minimum(x, 0.0) * input_scale) * alpha
    return xp.where(x > 0.0, x, below) * scale


def _clamp(xp: Any, x: Any, min: Any = None, max: Any = None) -> Any:
    return xp.clip(x, min, max)


def _power(xp: Any, x: Any, y: Any) -> Any:
    return xp.pow(x, y)


def _cast(xp: Any, x: Any, dtype: str | None = None, **_: Any) -> Any:
    """A traced array has no dtype of its own, but truth values and numbers differ."""
    if dtype is None:
        return x
    if dtype == "bool":
        return x if x.dtype.kind == "b" else xp.not_equal(x, 0.0)
    if dtype not in ("float32", "float64"):
        raise LoadError(f"a conversion to {dtype} has no derivative: keep float32 or float64")
    return xp.positive(x)


def _logical_not(xp: Any, x: Any) -> Any:
    return xp.logical_not(_cast(xp, x, "bool"))


def _logical(name: str) -> Operator:
    def logical(xp: Any, x: Any, y: Any) -> Any:
        return getattr(xp, name)(_cast(xp, x, "bool"), _cast(xp, y, "bool"))

    return _narrowed(logical)


def _dropout(xp: Any, x: Any, p: float, train: bool) -> Any:
    if train and p:
        raise LoadError("dropout is active, and random: call module.eval() first")
    return x


# ---- reductions ----------------------------------------------------------------------------


def _reduction(name: str) -> Operator:
    def reduction(
        xp: Any, x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None
    ) -> Any:
        return getattr(xp, name)(_cast(xp, x, "float64"), axis=axes_of(x, dim), keepdims=keepdim)

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
    return z if bias is None else _ADD(xp, z, bias)


def _addmm(xp: Any, z: Any, x: Any, y: Any, beta: float = 1, alpha: float = 1) -> Any:
    product = neural.product(xp, x, y)
    return _ADD(xp, product if alpha == 1 else product * alpha, z if beta == 1 else z * beta)


def _bilinear(xp: Any, x: Any, y: Any, weight: Any, bias: Any = None) -> Any:
    z = xp.einsum("ni,oij,nj->no", *(_rows(xp, x), weight, _rows(xp, y)))
    z = xp.reshape(z, (*x.shape[:-1], weight.shape[0]))
    return z if bias is None else _ADD(xp, z, bias)


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
    for array, operator in ((weight, _MULTIPLY), (bias, _ADD)):
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
    u = _SUBTRACT(xp, x, np.reshape(mean, shape))
    u = _MULTIPLY(xp, u, np.reshape(1.0 / np.sqrt(np.asarray(var, dtype=float) + eps), shape))
    return _affine(xp, u, weight, bias, shape), None, None


def _batch_norm_or_not(
    xp: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *rest: Any
) -> Any:
    if training:
        raise LoadError("statistics of the batch mix samples: call module.eval() first")
    return _batch_norm(xp, x, weight, bias, mean, var, *rest[:2])[0]


_ADD, _SUBTRACT, _MULTIPLY = _narrowed(_add), _narrowed(_subtract), _binary("multiply")

# ---- the table -----------------------------------------------------------------------------


def _same(xp: Any, x: Any, *_: Any, **__: Any) -> Any:
    return x


#: By name without overload, or with it where overloads differ. What torch has beyond it is
#: decomposed by torch into these.
OPERATORS: dict[str, Operator] = {
    # arithmetic
    "add": _ADD,
    "sub": _SUBTRACT,
    "rsub": _narrowed(lambda xp, x, y, alpha=1: _subtract(xp, y, x, alpha)),
    "mul": _MULTIPLY,
    "div": _narrowed(_divide),
    "pow": _narrowed(_power),
    "remainder": _binary("remainder"),
    "neg": _unary("negative"),
    "rsqrt": _narrowed(lambda xp, x: xp.pow(x, -0.5)),
    "clamp": _narrowed(_clamp),
    "clamp_min": _narrowed(lambda xp, x, low: xp.clip(x, low, None)),
    "clamp_max": _narrowed(lambda xp, x, high: xp.clip(x, None, high)),
    **{k: _binary(k) for k in "maximum minimum atan2 hypot logaddexp".split()},
    **{
        k: _unary(k)
        for k in """abs acos acosh asin asinh atan atanh ceil cos cosh erf erfc exp expm1 floor log
        log10 log1p log2 reciprocal round sign sin sinh sqrt square tan tanh trunc isnan""".split()
    },
    # choice
    "where": _narrowed(lambda xp, c, x, y: xp.where(_cast(xp, c, "bool"), x, y)),
    "eq": _binary("equal"),
    "ne": _binary("not_equal"),
    "gt": _binary("greater"),
    "ge": _binary("greater_equal"),
    "lt": _binary("less"),
    "le": _binary("less_equal"),
    "logical_and": _logical("logical_and"),
    "logical_or": _logical("logical_or"),
    "logical_xor": _logical("logical_xor"),
    "bitwise_and": _logical("logical_and"),
    "bitwise_or": _logical("logical_or"),
    "bitwise_xor": _logical("logical_xor"),
    "logical_not": _narrowed(_logical_not),
    "bitwise_not": _narrowed(_logical_not),
    # activations
    "relu": _act("relu"),
    "relu6": _act("relu6"),
    "leaky_relu": _act("leaky_relu", "negative_slope"),
    "elu": _narrowed(_elu),
    "selu": _act("selu"),
    "celu": _act("celu", "alpha"),
    "gelu": _narrowed(
        lambda xp, x, approximate="none": activation("gelu", approximate=approximate)(x)
    ),
    "silu": _act("silu"),
    "mish": _act("mish"),
    "sigmoid": _act("sigmoid"),
    "log_sigmoid": _act("log_sigmoid"),
    "softplus": _narrowed(
        lambda xp, x, beta=1.0, threshold=20.0: activation(
            "softplus", beta=float(beta), threshold=float(threshold), one_sided=True
        )(x)
    ),
    "hardtanh": _act("hardtanh", "min_val", "max_val"),
    "hardsigmoid": _act("hard_sigmoid"),
    "hardswish": _act("hard_swish"),
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
    "_to_copy": _cast,
}
