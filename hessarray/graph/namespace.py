"""The array API namespace of traced arrays: each function adds its nodes to the graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hessarray.errors import TraceAttributeError, near_names
from hessarray.graph.array import TracedArray
from hessarray.graph.contraction import (
    einsum,
    matmul,
    max,
    mean,
    min,
    prod,
    std,
    sum,
    tensordot,
    var,
    vecdot,
)
from hessarray.graph.operands import real, wrap
from hessarray.graph.pointwise import (
    abs,
    acos,
    acosh,
    add,
    asin,
    asinh,
    atan,
    atan2,
    atanh,
    ceil,
    clip,
    cos,
    cosh,
    divide,
    equal,
    erf,
    erfc,
    exp,
    expm1,
    floor,
    floor_divide,
    greater,
    greater_equal,
    hypot,
    isnan,
    less,
    less_equal,
    log,
    log1p,
    log2,
    log10,
    logaddexp,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
    positive,
    pow,
    reciprocal,
    remainder,
    round,
    sign,
    sin,
    sinh,
    sqrt,
    square,
    stop_gradient,
    subtract,
    tan,
    tanh,
    trunc,
    where,
)
from hessarray.graph.shapes import (
    broadcast_arrays,
    broadcast_to,
    concat,
    expand_dims,
    flip,
    getitem,
    matrix_transpose,
    moveaxis,
    permute_dims,
    reshape,
    roll,
    squeeze,
    stack,
    take,
)
from hessarray.graph.where import trace_error

__all__ = [
    "FUNCTIONS",
    "NUMPY_NAMES",
    "abs",
    "acos",
    "acosh",
    "add",
    "arange",
    "asarray",
    "asin",
    "asinh",
    "astype",
    "atan",
    "atan2",
    "atanh",
    "bool",
    "broadcast_arrays",
    "broadcast_to",
    "ceil",
    "clip",
    "concat",
    "cos",
    "cosh",
    "divide",
    "e",
    "einsum",
    "equal",
    "erf",
    "erfc",
    "exp",
    "expand_dims",
    "expm1",
    "eye",
    "flip",
    "float32",
    "float64",
    "floor",
    "floor_divide",
    "full",
    "full_like",
    "getitem",
    "greater",
    "greater_equal",
    "hypot",
    "inf",
    "int32",
    "int64",
    "isnan",
    "less",
    "less_equal",
    "linspace",
    "log",
    "log10",
    "log1p",
    "log2",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "matmul",
    "matrix_transpose",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "moveaxis",
    "multiply",
    "nan",
    "negative",
    "newaxis",
    "not_equal",
    "ones",
    "ones_like",
    "permute_dims",
    "pi",
    "positive",
    "pow",
    "prod",
    "reciprocal",
    "remainder",
    "reshape",
    "roll",
    "round",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "stop_gradient",
    "subtract",
    "sum",
    "take",
    "tan",
    "tanh",
    "tensordot",
    "tril",
    "triu",
    "trunc",
    "var",
    "vecdot",
    "where",
    "zeros",
    "zeros_like",
]

__array_api_version__ = "2025.12"

# Creation functions and constants make plain NumPy arrays: they enter the graph when they meet a
# traced array.
pi, e, inf, nan, newaxis = math.pi, math.e, math.inf, math.nan, None
bool = np.bool_
float32, float64 = np.float32, np.float64
int32, int64 = np.int32, np.int64


def _np(name: str) -> Callable[..., Any]:
    def create(*args: Any, dtype: Any = None, device: Any = None, **kwargs: Any) -> Any:
        return getattr(np, name)(*args, **({} if dtype is None else {"dtype": dtype}), **kwargs)

    return create


zeros, ones, full, eye, arange, linspace, tril, triu = map(
    _np, ["zeros", "ones", "full", "eye", "arange", "linspace", "tril", "triu"]
)


def asarray(obj: Any, *, dtype: Any = None, device: Any = None, copy: Any = None) -> Any:
    if isinstance(obj, TracedArray):
        return obj if dtype is None else astype(obj, dtype)
    return np.asarray(obj, dtype=dtype)


def astype(x: Any, dtype: Any, *, copy: Any = True, device: Any = None) -> Any:
    if isinstance(x, TracedArray):
        kind = np.dtype(dtype).kind
        if kind == "f":
            return wrap(real(x), x.builder)
        if kind == "b" and x.node.truth:
            return x
        raise trace_error(
            f"astype(x, {np.dtype(dtype)})", "it has no derivative", "keep x real floating"
        )
    return np.asarray(x, dtype=dtype)


def zeros_like(x: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
    return full_like(x, 0.0)


def ones_like(x: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
    return full_like(x, 1.0)


def full_like(x: Any, /, fill_value: float, *, dtype: Any = None, device: Any = None) -> Any:
    if not isinstance(x, TracedArray):
        return np.full(x.shape, fill_value)
    return wrap(x.builder.broadcast(x.builder.constant(fill_value), x.shape), x.builder)


# NumPy's spellings of the standard's names, for np.f(x) called on a traced array.
NUMPY_NAMES = {
    "absolute": "abs",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "arctan2": "atan2",
    "concatenate": "concat",
    "transpose": "permute_dims",
    "true_divide": "divide",
    "power": "pow",
    "float_power": "pow",
    "amax": "max",
    "amin": "min",
    "bitwise_and": "logical_and",
    "bitwise_or": "logical_or",
    "bitwise_xor": "logical_xor",
    "invert": "logical_not",
    "mod": "remainder",
}

FUNCTIONS = frozenset(
    """
    abs acos acosh add asin asinh atan atan2 atanh broadcast_arrays broadcast_to ceil clip
    concat cos cosh divide einsum equal erf erfc exp expand_dims expm1 flip floor floor_divide
    full_like greater greater_equal hypot isnan less less_equal log log10 log1p log2 logaddexp
    logical_and logical_not logical_or logical_xor matmul matrix_transpose max maximum mean min
    minimum moveaxis multiply negative not_equal ones_like permute_dims positive pow prod
    reciprocal remainder reshape roll round sign sin sinh sqrt square squeeze stack std
    stop_gradient subtract sum take tan tanh tensordot trunc var vecdot where zeros_like
    """.split()
)


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise trace_error(
        f"xp.{name}",
        "hessarray knows no derivative of it",
        near_names(name, __all__)
        or "compose it from functions of the array API standard, see docs/tracing.md",
        TraceAttributeError,
    )
