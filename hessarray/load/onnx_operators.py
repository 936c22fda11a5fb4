"""ONNX operators as array API code: elementwise, reductions and products; and the table of all."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hessarray.activations import activation
from hessarray.load import neural
from hessarray.load.onnx_node import Node, axes_of, integers, is_constant, namespace_of
from hessarray.load.onnx_samples import Samples, check_entries, check_product
from hessarray.load.onnx_shapes import SHAPE_OPERATORS
from hessarray.load.onnx_tensors import dtype_of
from hessarray.load.onnx_windows import WINDOW_OPERATORS

__all__ = ["CONSTANT_INPUTS", "OPERATORS"]

Operator = Callable[..., Any]

# ---- elementwise -----------------------------------------------------------------------------


def _unary(name: str) -> Operator:
    return lambda node, x: getattr(namespace_of(x), name)(x)


def act(function: Any, x: Any) -> Any:
    """The activation of x; it does not change on which samples an entry depends."""
    return x if isinstance(x, Samples) else function(x)


def _activation(name: str, /, **attributes: tuple[str, float]) -> Operator:
    """An activation whose parameters are attributes: keyword=(attribute, default)."""

    def operator(node: Node, x: Any) -> Any:
        given = {k: float(node.get(a, default)) for k, (a, default) in attributes.items()}
        return act(activation(name, **given), x)

    return operator


def _binary(name: str) -> Operator:
    def operator(node: Node, a: Any, b: Any) -> Any:
        check_entries(np.broadcast_shapes(a.shape, b.shape))
        return getattr(namespace_of(a, b), name)(a, b)

    return operator


def _variadic(name: str) -> Operator:
    pair = _binary(name)
    return lambda node, *args: functools.reduce(functools.partial(pair, node), args)


def _mean(node: Node, *args: Any) -> Any:
    return _variadic("add")(node, *args) / float(len(args))


def _divide(node: Node, a: Any, b: Any) -> Any:
    check_entries(np.broadcast_shapes(a.shape, b.shape))
    if not (is_constant(a) and is_constant(b) and a.dtype.kind in "iu"):
        return a / b
    if not np.all(b):
        raise ValueError("an integer is divided by 0")
    return np.where((a < 0) != (b < 0), -(abs(a) // abs(b)), abs(a) // abs(b)).astype(a.dtype)


def _mod(node: Node, a: Any, b: Any) -> Any:
    if not (is_constant(a) and is_constant(b)):
        raise ValueError("it jumps in x, and is for constants of the graph only")
    return (np.fmod if node.get("fmod", 0) else np.mod)(a, b)


def _pow(node: Node, a: Any, b: Any) -> Any:
    xp = namespace_of(a, b)
    shape = np.broadcast_shapes(a.shape, b.shape)
    check_entries(shape)
    if is_constant(a) and is_constant(b):
        return np.power(a, b).astype(a.dtype)
    exponents = np.unique(b) if is_constant(b) else np.zeros(0)
    if len(exponents) == 1:
        return xp.pow(xp.broadcast_to(a, shape), float(exponents[0]))
    if not 1 < len(exponents) <= 64:
        return xp.pow(a, b)  # exp(b log a)
    # Entries of one exponent together, so that negative a and whole b are right.
    flat = xp.reshape(xp.broadcast_to(a, shape), (math.prod(shape),))
    spots = [np.flatnonzero(np.broadcast_to(b, shape) == c) for c in exponents]
    parts = [
        xp.pow(xp.take(flat, i, axis=0), float(c)) for c, i in zip(exponents, spots, strict=True)
    ]
    back = np.argsort(np.concatenate(spots))
    return xp.reshape(xp.take(xp.concat(parts, axis=0), back, axis=0), shape)


def _clip(node: Node, x: Any, low: Any = None, high: Any = None) -> Any:
    if node.version < 11:
        low, high = (None if v is None else np.asarray(v) for v in map(node.get, ("min", "max")))
    xp = namespace_of(x, low, high)
    if low is not None:
        x = xp.maximum(x, low)
    return x if high is None else xp.minimum(x, high)


def _where(node: Node, condition: Any, a: Any, b: Any) -> Any:
    check_entries(np.broadcast_shapes(condition.shape, a.shape, b.shape))
    return namespace_of(condition, a, b).where(condition, a, b)


def _prelu(node: Node, x: Any, slope: Any) -> Any:
    return namespace_of(x, slope).where(x > 0.0, x, slope * x)


def _thresholded_relu(node: Node, x: Any) -> Any:
    return namespace_of(x).where(x > node.get("alpha", 1.0), x, 0.0)


def _selu(node: Node, x: Any) -> Any:
    alpha, gamma = node.get("alpha", 1.6732632423543772), node.get("gamma", 1.0507009873554805)
    return act(activation("elu", alpha=alpha), x) * float(gamma)


def _hard_sigmoid(node: Node, x: Any) -> Any:
    clipped = activation("hardtanh", min_val=0.0, max_val=1.0)
    return act(clipped, x * float(node.get("alpha", 0.2)) + float(node.get("beta", 0.5)))


def _gelu(node: Node, x: Any) -> Any:
    return act(activation("gelu", approximate=node.get("approximate", "none")), x)


def _swish(node: Node, x: Any) -> Any:
    alpha = float(node.get("alpha", 1.0))
    return act(activation("silu"), x * alpha) * (1.0 / alpha) if alpha else x * 0.5


def _cast(node: Node, x: Any, like: Any = None) -> Any:
    if like is not None:
        to = np.dtype(like.dtype).name
    else:
        to = dtype_of(node.get("to"))
    to = {"float16": "float32", "bfloat16": "float32"}.get(to, to)
    try:
        kind = np.dtype(to).kind
    except TypeError:
        kind = "?"
    if is_constant(x) and kind in "fiub":
        return x.astype(to)
    if kind == "b":
        return x if x.dtype == bool else x != 0.0
    if kind == "f" or (kind in "iu" and x.dtype == bool):
        return namespace_of(x).astype(x, np.float64)
    raise ValueError(f"values that depend on x are cast to {to}, which has no derivative")


def _dropout(node: Node, x: Any, ratio: Any = None, training: Any = None) -> Any:
    if training is not None and (not is_constant(training) or training.any()):
        raise ValueError("it is in training mode: export the model for inference")
    return x, np.ones(x.shape, dtype=bool)


# ---- reductions ------------------------------------------------------------------------------


def _reduction(reduce: Callable[[Any, Any, tuple[int, ...], bool], Any], version: int) -> Operator:
    """A reduction; ``version`` is the opset from which its axes are an input."""

    def operator(node: Node, x: Any, axes: Any = None) -> Any:
        given = node.get("axes") if node.version < version else axes
        chosen = [] if given is None else integers(given, "axes")
        if not chosen and node.get("noop_with_empty_axes", 0):
            return reduce(namespace_of(x), x, (), True)
        found = axes_of(chosen or list(range(x.ndim)), x.ndim)
        return reduce(namespace_of(x), x, found, bool(node.get("keepdims", 1)))

    return operator


def _over(xp: Any, x: Any, axes: tuple[int, ...], keep: bool, name: str = "sum") -> Any:
    return getattr(xp, name)(x, axis=axes, keepdims=keep) if axes else x


def _log_sum_exp(xp: Any, x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    return neural.logsumexp(xp, x, axes, keep) if axes else x


_REDUCTIONS: dict[str, Operator] = {
    "ReduceL1": _reduction(lambda xp, x, axes, keep: _over(xp, abs(x), axes, keep), 18),
    "ReduceL2": _reduction(
        lambda xp, x, axes, keep: xp.sqrt(_over(xp, xp.square(x), axes, keep)), 18
    ),
    "ReduceLogSum": _reduction(lambda xp, x, axes, keep: xp.log(_over(xp, x, axes, keep)), 18),
    "ReduceLogSumExp": _reduction(_log_sum_exp, 18),
    "ReduceMax": _reduction(lambda xp, x, axes, keep: _over(xp, x, axes, keep, "max"), 18),
    "ReduceMean": _reduction(lambda xp, x, axes, keep: _over(xp, x, axes, keep, "mean"), 18),
    "ReduceMin": _reduction(lambda xp, x, axes, keep: _over(xp, x, axes, keep, "min"), 18),
    "ReduceProd": _reduction(lambda xp, x, axes, keep: _over(xp, x, axes, keep, "prod"), 18),
    "ReduceSum": _reduction(_over, 13),
    "ReduceSumSquare": _reduction(
        lambda xp, x, axes, keep: _over(xp, xp.square(x), axes, keep), 18
    ),
}


def _normalised_exp(function: Callable[[Any, Any, int], Any]) -> Operator:
    def operator(node: Node, x: Any) -> Any:
        xp = namespace_of(x)
        if node.version >= 13:
            return function(xp, x, axes_of([node.get("axis", -1)], x.ndim)[0])
        # Before opset 13 all axes from this one on are one.
        (axis,) = axes_of([node.get("axis", 1)], x.ndim)
        flat = xp.reshape(x, (*x.shape[:axis], math.prod(x.shape[axis:])))
        return xp.reshape(function(xp, flat, axis), x.shape)

    return operator


# ---- products --------------------------------------------------------------------------------


def _matmul(node: Node, a: Any, b: Any) -> Any:
    if a.ndim > 1 and b.ndim > 1:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        check_entries((*batch, a.shape[-2], b.shape[-1]))
    return _product(a, b)


def _product(a: Any, b: Any) -> Any:
    if is_constant(a) and is_constant(b):
        check_product((a.size, *b.shape[-1:], *b.shape[:-2]), a, b)
    return neural.product(namespace_of(a, b), a, b)


def _gemm(node: Node, a: Any, b: Any, c: Any = None) -> Any:
    xp = namespace_of(a, b, c)
    a = xp.permute_dims(a, (1, 0)) if node.get("transA", 0) else a
    b = xp.permute_dims(b, (1, 0)) if node.get("transB", 0) else b
    alpha, beta = float(node.get("alpha", 1.0)), float(node.get("beta", 1.0))
    y = _product(a, b)
    y = y if alpha == 1.0 else y * alpha
    if c is None or beta == 0.0:
        return y
    return y + (c if beta == 1.0 else c * beta)


def _einsum(node: Node, *args: Any) -> Any:
    terms, output = _subscripts(node.get("equation"), [x.ndim for x in args])
    if all(map(is_constant, args)):
        sizes = dict(zip("".join(terms), (n for x in args for n in x.shape), strict=True))
        check_entries([sizes[c] for c in output])
        check_product(list(sizes.values()), *args)
        return np.einsum(f"{','.join(terms)}->{output}", *args)
    xp = namespace_of(*args)
    sizes = {}
    for term, x in zip(terms, args, strict=True):
        for c, n in zip(term, x.shape, strict=True):
            sizes[c] = max(n, sizes.get(c, 1))
    parts = [_term(xp, t, x, sizes) for t, x in zip(terms, args, strict=True)]
    kept = "".join(c for c in output if any(c in t for t, _ in parts))
    out = xp.einsum(f"{','.join(t for t, _ in parts)}->{kept}", *(x for _, x in parts))
    # Axes of length one, which every operand left out, come back.
    return xp.reshape(out, tuple(sizes[c] for c in output))


def _term(xp: Any, term: str, x: Any, sizes: dict[str, int]) -> tuple[str, Any]:
    """One operand without repeated letters, and without the axes of length one."""
    for c in sorted(set(term)):
        while term.count(c) > 1:
            i = term.index(c)
            j = term.index(c, i + 1)
            x, term = _diagonal(xp, x, i, j), term[:j] + term[j + 1 :]
    kept = [i for i, c in enumerate(term) if x.shape[i] != 1]
    wrong = [c for i, c in enumerate(term) if x.shape[i] not in (1, sizes[c])]
    if wrong:
        raise ValueError(f"axis {wrong[0]!r} of the equation has two lengths")
    return "".join(term[i] for i in kept), xp.reshape(x, tuple(x.shape[i] for i in kept))


def _diagonal(xp: Any, x: Any, i: int, j: int) -> Any:
    """x with axis j dropped and its entries x[.., k, .., k, ..] at axis i."""
    n = x.shape[i]
    if x.shape[j] != n:
        raise ValueError(f"the diagonal of axes of lengths {n} and {x.shape[j]}")
    rest = [a for a in range(x.ndim) if a not in (i, j)]
    lead = xp.permute_dims(x, (i, j, *rest))
    flat = xp.reshape(lead, (n * n, *lead.shape[2:]))
    taken = xp.take(flat, np.arange(n) * (n + 1), axis=0)
    order = list(range(1, taken.ndim))
    order.insert(i, 0)
    return xp.permute_dims(taken, tuple(order))


def _subscripts(equation: str, ndims: list[int]) -> tuple[list[str], str]:
    """Letters of the operands and of the output, with '...' and an implied output written out."""
    text = "".join(equation.split())
    left, arrow, output = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(ndims):
        raise ValueError(
            f"the equation {equation!r} has {len(terms)} terms for {len(ndims)} inputs"
        )
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in text]
    longest = 0
    for term, ndim in zip(terms, ndims, strict=True):
        missing = ndim - len(term.replace("...", ""))
        if missing < 0 or (missing and "..." not in term):
            raise ValueError(f"the term {term!r} of the equation meets an array of {ndim} axes")
        longest = max(longest, missing)
    if longest > len(free):
        raise ValueError(f"the equation {equation!r} has too many axes")
    dots = "".join(free[:longest])
    if not arrow:
        once = sorted(c for c in set(left) - set(".,") if left.count(c) == 1)
        output = ("..." if "..." in left else "") + "".join(once)
    full = [
        t.replace("...", dots[longest - (n - len(t.replace("...", ""))) :])
        for t, n in zip(terms, ndims, strict=True)
    ]
    output = output.replace("...", dots)
    if len(set(output)) < len(output) or not set(output) <= set("".join(full)):
        raise ValueError(f"the output of the equation {equation!r} does not follow from its inputs")
    return full, output


# ---- ai.onnx.ml ------------------------------------------------------------------------------


def _scaler(node: Node, x: Any) -> Any:
    offset, scale = (np.asarray(node.get(k, d)) for k, d in (("offset", [0.0]), ("scale", [1.0])))
    return (x - offset) * scale


def _normalizer(node: Node, x: Any) -> Any:
    xp, kind, axis = namespace_of(x), node.get("norm", "MAX"), x.ndim - 1
    if kind == "L2":
        norm = xp.sqrt(xp.sum(xp.square(x), axis=axis, keepdims=True))
    elif kind == "L1":
        norm = xp.sum(abs(x), axis=axis, keepdims=True)
    else:
        norm = xp.max(x, axis=axis, keepdims=True)
    return x / xp.where(norm == 0.0, 1.0, norm)


# ---- the table -------------------------------------------------------------------------------

_UNARY = {
    "Abs": "abs",
    "Ceil": "ceil",
    "Floor": "floor",
    "Neg": "negative",
    "Not": "logical_not",
    "Reciprocal": "reciprocal",
    "Round": "round",
    **{
        name: name.lower()
        for name in "Acos Acosh Asin Asinh Atan Atanh Cos Cosh Exp Log Sign Sin Sinh Sqrt Tan "
        "Tanh".split()
    },
}
_BINARY = {
    "Add": "add",
    "And": "logical_and",
    "Equal": "equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Mul": "multiply",
    "Or": "logical_or",
    "Sub": "subtract",
    "Xor": "logical_xor",
}

#: ``function(node, *inputs)`` by the operator's name; the domain ai.onnx.ml is written out.
OPERATORS: dict[str, Operator] = {
    **{kind: _unary(name) for kind, name in _UNARY.items()},
    **{kind: _binary(name) for kind, name in _BINARY.items()},
    **_REDUCTIONS,
    **SHAPE_OPERATORS,
    **WINDOW_OPERATORS,
    "Cast": _cast,
    "CastLike": _cast,
    "Celu": _activation("celu", alpha=("alpha", 1.0)),
    "Clip": _clip,
    "Div": _divide,
    "Dropout": _dropout,
    "Einsum": _einsum,
    "Elu": _activation("elu", alpha=("alpha", 1.0)),
    "Erf": _activation("erf"),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _activation("hard_swish"),
    "LeakyRelu": _activation("leaky_relu", negative_slope=("alpha", 0.01)),
    "LogSoftmax": _normalised_exp(neural.log_softmax),
    "MatMul": _matmul,
    "Max": _variadic("maximum"),
    "Mean": _mean,
    "Min": _variadic("minimum"),
    "Mish": _activation("mish"),
    "Mod": _mod,
    "PRelu": _prelu,
    "Pow": _pow,
    "Relu": _activation("relu"),
    "Selu": _selu,
    "Sigmoid": _activation("sigmoid"),
    "Softmax": _normalised_exp(neural.softmax),
    "Softplus": _activation("softplus"),
    "Softsign": _activation("softsign"),
    "Sum": _variadic("add"),
    "Swish": _swish,
    "ThresholdedRelu": _thresholded_relu,
    "Where": _where,
    "ai.onnx.ml.Normalizer": _normalizer,
    "ai.onnx.ml.Scaler": _scaler,
}

#: Inputs that say how to compute rather than what from: tensors there are constants, no parameters.
CONSTANT_INPUTS: dict[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Pad": (1, 2, 3),
    "Pow": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Tile": (1,),
}
