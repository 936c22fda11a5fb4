"""Keras layers as array API code of one sample: one table, by class name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessarray.activations import activation
from hessarray.errors import LoadError
from hessarray.load import neural
from hessarray.load.limits import shown
from hessarray.load.windows import average_pool, convolve, max_pool, window_sources

__all__ = ["LAYERS", "OPERATIONS", "Rule", "activation_of"]

Config = Mapping[str, Any]
Weights = Mapping[str, Any]

_EPSILON = 1e-7  # keras.backend.epsilon()
_LARGEST = 2**26  # entries of one sample's array, and of one layer's windows


@dataclass(frozen=True)
class Rule:
    """What a layer computes, and its weights in Keras's order; '~' marks what is not trained."""

    apply: Callable[[Any, Any, Config, Weights], Any]
    weights: Callable[[Config], str] = lambda config: ""


# ---- numbers in a description --------------------------------------------------------------


def _number(config: Config, key: str, default: Any = None) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise LoadError(f"{key}={shown(value)}, a number is expected")
    return float(value)


def _whole(config: Config, key: str, default: Any = None, least: int = 1) -> int:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST:
        raise LoadError(f"{key}={shown(value)}, a whole number from {least} on is expected")
    return value


def _wholes(config: Config, key: str, count: int, default: Any = None, least: int = 1) -> list[int]:
    """A number for each axis, which may be given as one."""
    value = config.get(key, default)
    values = value if isinstance(value, (list, tuple)) else [value] * count
    if len(values) != count:
        raise LoadError(f"{key}={shown(value)}, {count} whole numbers are expected")
    return [_whole({key: v}, key, least=least) for v in values]


def _room(*counts: int) -> None:
    if math.prod(counts) > _LARGEST:
        raise LoadError(f"an array of {math.prod(counts):,} entries for one sample is too large")


def _axis(x: Any, axis: Any) -> int:
    """Keras counts the batch axis, which is not there."""
    n = len(x.shape)
    if isinstance(axis, list) and len(axis) == 1:
        axis = axis[0]
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise LoadError(f"axis={shown(axis)}, a whole number is expected")
    if axis == 0 or axis == -n - 1:
        raise LoadError(f"axis={axis} is that of the batch, which would mix samples")
    if not -n <= axis <= n:
        raise LoadError(f"axis={axis} is out of range for {n} axes of one sample")
    return axis - 1 if axis > 0 else axis + n


def _axes(x: Any, axis: Any) -> list[int]:
    return sorted(_axis(x, a) for a in (axis if isinstance(axis, list) else [axis]))


def _along(x: Any, axes: Sequence[int]) -> tuple[int, ...]:
    """Shape that a weight over these axes takes to meet x."""
    return tuple(n if i in axes else 1 for i, n in enumerate(x.shape))


# ---- activations ---------------------------------------------------------------------------

_NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("identity", {}),
    "exponential": ("exp", {}),
    "leaky_relu": ("leaky_relu", {"negative_slope": 0.2}),
    "hard_silu": ("hard_swish", {}),
    "hard_tanh": ("hardtanh", {}),
    **{
        k: (k, {})
        for k in """relu relu6 sigmoid tanh softplus softsign silu swish gelu elu selu celu mish
        log_sigmoid hard_sigmoid hard_swish""".split()
    },
}
_OTHER: dict[str, Callable[[Any, Any], Any]] = {
    "softmax": lambda xp, x: neural.softmax(xp, x, -1),
    "log_softmax": lambda xp, x: neural.log_softmax(xp, x, -1),
    "tanh_shrink": lambda xp, x: x - xp.tanh(x),
    "squareplus": lambda xp, x: 0.5 * (x + xp.sqrt(xp.square(x) + 4.0)),
}
_AS_LAYERS = ("ReLU", "LeakyReLU", "ELU", "Softmax", "Activation")


def activation_of(given: Any) -> Any:
    """An activation of the table by Keras's description of it; None where it is none of them."""
    if given is None:
        return activation("identity")
    if isinstance(given, str) and given in _NAMED:
        name, parameters = _NAMED[given]
        return activation(name, **parameters)
    if isinstance(given, dict) and given.get("class_name") in _AS_LAYERS:
        return _layer_as_activation(given["class_name"], _config(given))
    return None


def _config(entry: Mapping[str, Any]) -> Config:
    config, module = entry.get("config"), entry.get("module")
    if not isinstance(config, dict) or not str(module).startswith("keras."):
        raise LoadError(f"{shown(entry.get('class_name'))} of {shown(module)} is not Keras's own")
    return config


def _layer_as_activation(kind: str, config: Config) -> Any:
    if kind == "Activation":
        return activation_of(config.get("activation"))
    if kind == "LeakyReLU":
        return activation("leaky_relu", negative_slope=_number(config, "negative_slope", 0.3))
    if kind == "ELU":
        return activation("elu", alpha=_number(config, "alpha", 1.0))
    if kind == "ReLU" and not _number(config, "threshold", 0.0):
        slope, largest = _number(config, "negative_slope", 0.0), config.get("max_value")
        if largest is None:
            return activation("leaky_relu", negative_slope=slope) if slope else activation("relu")
    return None


def _activated(xp: Any, x: Any, given: Any) -> Any:
    act = activation_of(given)
    if act is not None:
        return act(x)
    if isinstance(given, str) and given in _OTHER:
        return _OTHER[given](xp, x)
    if isinstance(given, dict) and given.get("class_name") in _AS_LAYERS:
        return LAYERS[given["class_name"]].apply(xp, x, _config(given), {})
    name = (
        given if isinstance(given, str) else given.get("config") if isinstance(given, dict) else 0
    )
    raise LoadError(
        f"activation {shown(name)} is not supported, supported are "
        f"{', '.join(sorted((*_NAMED, *_OTHER)))}"
    )


def _activation(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    return _activated(xp, x, config.get("activation"))


def _relu(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    """slope (x - t) below t, x from t on, and no more than max_value."""
    act = _layer_as_activation("ReLU", config)
    if act is not None:
        return act(x)
    t, slope = _number(config, "threshold", 0.0), _number(config, "negative_slope", 0.0)
    out = xp.where(x > t, x, (x - t) * slope)
    largest = config.get("max_value")
    return out if largest is None else xp.minimum(out, _number(config, "max_value"))


def _layer_activation(kind: str) -> Rule:
    return Rule(lambda xp, x, config, w: _layer_as_activation(kind, config)(x))


def _prelu(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    return xp.where(x > 0.0, x, w["alpha"] * x)


def _softmax(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    return neural.softmax(xp, x, _axis(x, config.get("axis", -1)))


# ---- dense and convolutions ----------------------------------------------------------------


def _with_bias(names: str) -> Callable[[Config], str]:
    return lambda config: f"{names} bias" if config.get("use_bias", True) else names


def _dense(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    z = x @ w["kernel"]
    return _activated(xp, z + w["bias"] if "bias" in w else z, config.get("activation"))


def _channels_first(xp: Any, x: Any, config: Config) -> tuple[Any, bool]:
    """x as (1, channels, *space)."""
    last = config.get("data_format") != "channels_first"
    n = len(x.shape)
    order = (n - 1, *range(n - 1)) if last else tuple(range(n))
    return xp.expand_dims(xp.permute_dims(x, order), axis=0), last


def _back(xp: Any, z: Any, out: Sequence[int], last: bool) -> Any:
    """(1, channels, windows) as (*out, channels), or (channels, *out)."""
    z = xp.reshape(z, (z.shape[1], *out))
    return xp.permute_dims(z, (*range(1, len(out) + 1), 0)) if last else z


def _frame(
    space: Sequence[int], config: Config, kernel: Sequence[int], stride: Any = 1, dilation: Any = 1
) -> tuple[Any, list[int]]:
    """Sources of all windows, and how many there are along each axis."""
    count = len(space)
    s = _wholes({"strides": stride}, "strides", count)
    d = _wholes({"dilation_rate": dilation}, "dilation_rate", count)
    padding = config.get("padding", "valid")
    axes = list(zip(space, kernel, s, d, strict=True))
    reach = [step * (k - 1) + 1 for _, k, _, step in axes]
    if padding == "same":
        out = [-(-n // s) for n, _, s, _ in axes]
        spare = zip(out, s, reach, space, strict=True)
        before = [max(0, (m - 1) * s + r - n) // 2 for m, s, r, n in spare]
    elif padding in ("valid", "causal"):
        before = [r - 1 if padding == "causal" else 0 for r in reach]
        spare = zip(space, before, reach, s, strict=True)
        out = [(n + b - r) // s + 1 for n, b, r, s in spare]
    else:
        raise LoadError(f"padding={shown(padding)}, valid, same or causal is expected")
    if any(m < 1 for m in out):
        raise LoadError(f"windows of {list(kernel)} do not fit in {tuple(space)}")
    _room(*out, *kernel)
    return window_sources(space, out, kernel, s, before, d), out


def _convolution(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    kernel = w["kernel"]
    axes = len(kernel.shape) - 2
    u, last = _channels_first(xp, x, config)
    sources, out = _frame(
        u.shape[2:], config, kernel.shape[:axes], config.get("strides"), config.get("dilation_rate")
    )
    weight = xp.permute_dims(kernel, (axes + 1, axes, *range(axes)))
    z = convolve(xp, u, weight, sources, _whole(config, "groups", 1))
    if "bias" in w:
        z = z + xp.reshape(w["bias"], (-1, 1))
    return _activated(xp, _back(xp, z, out, last), config.get("activation"))


def _depthwise(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    """Each channel by itself, ``depth_multiplier`` times."""
    kernel = w["kernel"]
    axes = len(kernel.shape) - 2
    u, last = _channels_first(xp, x, config)
    sources, out = _frame(
        u.shape[2:], config, kernel.shape[:axes], config.get("strides"), config.get("dilation_rate")
    )
    weight = xp.permute_dims(kernel, (axes, axes + 1, *range(axes)))
    weight = xp.reshape(weight, (-1, 1, *kernel.shape[:axes]))
    z = convolve(xp, u, weight, sources, u.shape[1])
    if "bias" in w:
        z = z + xp.reshape(w["bias"], (-1, 1))
    return _activated(xp, _back(xp, z, out, last), config.get("activation"))


def _pool(axes: int, largest: bool) -> Rule:
    def apply(xp: Any, x: Any, config: Config, w: Weights) -> Any:
        u, last = _channels_first(xp, x, config)
        kernel = _wholes(config, "pool_size", axes)
        stride = config.get("strides")
        sources, out = _frame(u.shape[2:], config, kernel, kernel if stride is None else stride)
        if largest:
            z = max_pool(xp, u, sources)
        else:  # the padding does not count
            z = average_pool(xp, u, sources, np.sum(sources >= 0, axis=1))
        return _back(xp, z, out, last)

    return Rule(apply)


def _global_pool(name: str) -> Rule:
    def apply(xp: Any, x: Any, config: Config, w: Weights) -> Any:
        n = len(x.shape)
        axes = range(1, n) if config.get("data_format") == "channels_first" else range(n - 1)
        keep = bool(config.get("keepdims", False))
        return getattr(xp, name)(x, axis=tuple(axes), keepdims=keep)

    return Rule(apply)


# ---- normalisation and scaling -------------------------------------------------------------


def _scale_and_center(config: Config) -> str:
    return "gamma " * bool(config.get("scale", True)) + "beta " * bool(config.get("center", True))


def _affine(xp: Any, x: Any, w: Weights, shape: tuple[int, ...]) -> Any:
    if "gamma" in w:
        x = x * xp.reshape(w["gamma"], shape)
    return x + xp.reshape(w["beta"], shape) if "beta" in w else x


def _batch_norm(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    """With moving averages, which are constants."""
    shape = _along(x, [_axis(x, config.get("axis", -1))])
    mean, variance = (np.asarray(w[k], dtype=float) for k in ("~moving_mean", "~moving_variance"))
    factor = 1.0 / np.sqrt(variance + _number(config, "epsilon", 1e-3))
    u = (x - np.reshape(mean, shape)) * np.reshape(factor, shape)
    return _affine(xp, u, w, shape)


def _layer_norm(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    if config.get("rms_scaling"):
        raise LoadError("rms_scaling=True is not supported, use RMSNormalization")
    axes = _axes(x, config.get("axis", -1))
    u = neural.standardised(xp, x, axes, _number(config, "epsilon", 1e-3))
    return _affine(xp, u, w, _along(x, axes))


def _group_norm(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    axis, n = _axis(x, config.get("axis", -1)), len(x.shape)
    groups = _whole(config, "groups", least=-1)
    groups = x.shape[axis] if groups == -1 else groups
    u = xp.moveaxis(x, axis, 0)
    v = xp.reshape(u, (groups, -1))
    v = neural.standardised(xp, v, [1], _number(config, "epsilon", 1e-3))
    u = _affine(xp, xp.reshape(v, u.shape), w, (x.shape[axis], *[1] * (n - 1)))
    return xp.moveaxis(u, 0, axis)


def _rms_norm(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    axes = _axes(x, config.get("axis", -1))
    squares = xp.mean(xp.square(x), axis=tuple(axes), keepdims=True)
    u = x * xp.pow(squares + _number(config, "epsilon", 1e-6), -0.5)
    return u * xp.reshape(w["scale"], _along(x, axes))


def _unit_norm(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    axes = tuple(_axes(x, config.get("axis", -1)))
    return x / xp.sqrt(xp.maximum(xp.sum(xp.square(x), axis=axes, keepdims=True), 1e-12))


def _normalization(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    """(x - mean) / max(sqrt(variance), epsilon), by given numbers or by adapted ones."""
    axis = config.get("axis", -1)
    axes = [] if axis is None or axis == [] else _axes(x, axis)
    shape = _along(x, axes)
    if config.get("mean") is None:
        mean, variance = w["~mean"], w["~variance"]
    else:
        mean, variance = config["mean"], config.get("variance")
    mean, variance = (_filled(a, shape) for a in (mean, variance))
    deviation = np.maximum(np.sqrt(variance), _EPSILON)
    return x * deviation + mean if config.get("invert") else (x - mean) * (1.0 / deviation)


def _filled(values: Any, shape: tuple[int, ...]) -> Any:
    array = _constant(values)
    return np.reshape(array, shape) if array.size == math.prod(shape) else array


def _constant(values: Any) -> Any:
    """Numbers of a description, which may be one, a list, or Keras's description of an array."""
    if isinstance(values, dict) and isinstance(values.get("config"), dict):
        values = values["config"].get("value")
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise LoadError(f"{shown(values)} are no numbers")
    return array.astype(float)


def _rescaling(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    return x * _constant(config.get("scale")) + _constant(config.get("offset", 0.0))


# ---- several inputs ------------------------------------------------------------------------


def _merged(name: str) -> Rule:
    def apply(xp: Any, xs: Any, config: Config, w: Weights) -> Any:
        if not isinstance(xs, (list, tuple)) or len(xs) < 2:
            raise LoadError("a list of two or more inputs is expected")
        out = xs[0]
        for x in xs[1:]:
            out = getattr(xp, name)(out, x)
        return out

    return Rule(apply)


def _average(xp: Any, xs: Any, config: Config, w: Weights) -> Any:
    return LAYERS["Add"].apply(xp, xs, config, w) * (1.0 / len(xs))


def _concatenate(xp: Any, xs: Any, config: Config, w: Weights) -> Any:
    return xp.concat(list(xs), axis=_axis(xs[0], config.get("axis", -1)))


# ---- shape ---------------------------------------------------------------------------------


def _flatten(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    if config.get("data_format") == "channels_first" and len(x.shape) > 1:
        x = xp.moveaxis(x, 0, -1)
    return xp.reshape(x, (-1,))


def _reshape(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    shape = config.get("target_shape")
    if not isinstance(shape, list):
        raise LoadError(f"target_shape={shown(shape)}, a list of whole numbers is expected")
    return xp.reshape(x, _wholes(config, "target_shape", len(shape), least=-1))


def _permute(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    return xp.permute_dims(x, [d - 1 for d in _wholes(config, "dims", len(x.shape))])


def _repeat(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    n = _whole(config, "n")
    _room(n, *x.shape)
    return xp.broadcast_to(x, (n, *x.shape))


def _pairs(config: Config, key: str, axes: int) -> list[tuple[int, int]]:
    """(before, after) of each axis, from a number, numbers, or pairs."""
    value = config.get(key)
    values = value if isinstance(value, list) and (axes > 1 or len(value) != 2) else [value] * axes
    pairs = [v if isinstance(v, list) else [v, v] for v in values]
    if len(pairs) != axes:
        raise LoadError(f"{key}={shown(value)}, numbers for {axes} axes are expected")
    return [tuple(_wholes({key: p}, key, 2, least=0)) for p in pairs]  # type: ignore[misc]


def _zero_padding(axes: int) -> Rule:
    def apply(xp: Any, x: Any, config: Config, w: Weights) -> Any:
        first = int(config.get("data_format") == "channels_first")
        for i, (before, after) in enumerate(_pairs(config, "padding", axes), first):
            wide = [before + after + n if i == j else n for j, n in enumerate(x.shape)]
            _room(*wide)
            parts = [
                np.zeros([m if i == j else n for j, n in enumerate(x.shape)])
                for m in (before, after)
            ]
            x = xp.concat([p for p in (parts[0], x, parts[1]) if p.shape[i]], axis=i)
        return x

    return Rule(apply)


def _cropping(axes: int) -> Rule:
    def apply(xp: Any, x: Any, config: Config, w: Weights) -> Any:
        first = int(config.get("data_format") == "channels_first")
        pairs = _pairs(config, "cropping", axes)
        key = [slice(a, x.shape[first + i] - b) for i, (a, b) in enumerate(pairs)]
        return x[(*[slice(None)] * first, *key)]

    return Rule(apply)


def _upsampling(axes: int) -> Rule:
    def apply(xp: Any, x: Any, config: Config, w: Weights) -> Any:
        if config.get("interpolation", "nearest") != "nearest":
            raise LoadError("only interpolation='nearest' is supported")
        first = int(config.get("data_format") == "channels_first")
        for i, size in enumerate(_wholes(config, "size", axes), first):
            _room(size, *x.shape)
            x = xp.take(x, np.repeat(np.arange(x.shape[i]), size), axis=i)
        return x

    return Rule(apply)


def _same(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    return x


def _kernel(config: Config) -> str:
    return _with_bias("kernel")(config)


#: What does nothing outside training.
_IDLE = """ActivityRegularization AlphaDropout Dropout GaussianDropout GaussianNoise Identity
SpatialDropout1D SpatialDropout2D""".split()

LAYERS: dict[str, Rule] = {
    "Dense": Rule(_dense, _kernel),
    "Activation": Rule(_activation),
    "ReLU": Rule(_relu),
    "LeakyReLU": _layer_activation("LeakyReLU"),
    "ELU": _layer_activation("ELU"),
    "PReLU": Rule(_prelu, lambda config: "alpha"),
    "Softmax": Rule(_softmax),
    **{f"Conv{k}D": Rule(_convolution, _kernel) for k in (1, 2, 3)},
    **{f"DepthwiseConv{k}D": Rule(_depthwise, _kernel) for k in (1, 2)},
    **{f"AveragePooling{k}D": _pool(k, largest=False) for k in (1, 2, 3)},
    **{f"MaxPooling{k}D": _pool(k, largest=True) for k in (1, 2, 3)},
    **{f"GlobalAveragePooling{k}D": _global_pool("mean") for k in (1, 2, 3)},
    **{f"GlobalMaxPooling{k}D": _global_pool("max") for k in (1, 2, 3)},
    "BatchNormalization": Rule(
        _batch_norm, lambda config: _scale_and_center(config) + "~moving_mean ~moving_variance"
    ),
    "LayerNormalization": Rule(_layer_norm, _scale_and_center),
    "GroupNormalization": Rule(_group_norm, _scale_and_center),
    "RMSNormalization": Rule(_rms_norm, lambda config: "scale"),
    "UnitNormalization": Rule(_unit_norm),
    "Normalization": Rule(
        _normalization,
        lambda config: "~mean ~variance ~count" if config.get("mean") is None else "",
    ),
    "Rescaling": Rule(_rescaling),
    "Add": _merged("add"),
    "Subtract": _merged("subtract"),
    "Multiply": _merged("multiply"),
    "Maximum": _merged("maximum"),
    "Minimum": _merged("minimum"),
    "Average": Rule(_average),
    "Concatenate": Rule(_concatenate),
    "Flatten": Rule(_flatten),
    "Reshape": Rule(_reshape),
    "Permute": Rule(_permute),
    "RepeatVector": Rule(_repeat),
    **{f"ZeroPadding{k}D": _zero_padding(k) for k in (1, 2)},
    **{f"Cropping{k}D": _cropping(k) for k in (1, 2)},
    **{f"UpSampling{k}D": _upsampling(k) for k in (1, 2)},
    **dict.fromkeys(_IDLE, Rule(_same)),
}

#: Of keras.ops, what arithmetic on Keras tensors writes into a model.
OPERATIONS: dict[str, Callable[..., Any]] = {
    **{
        name: lambda xp, x, y, f=f: getattr(xp, f)(x, y)
        for name, f in {
            "Add": "add", "Subtract": "subtract", "Multiply": "multiply", "Divide": "divide",
            "TrueDivide": "divide", "Power": "pow", "Maximum": "maximum", "Minimum": "minimum",
            "Matmul": "matmul", "Arctan2": "atan2",
        }.items()
    },
    **{
        name: lambda xp, x, f=f: getattr(xp, f)(x)
        for name, f in {
            "Negative": "negative", "Exp": "exp", "Expm1": "expm1", "Log": "log",
            "Log1p": "log1p", "Log10": "log10", "Sqrt": "sqrt", "Square": "square",
            "Reciprocal": "reciprocal", "Abs": "abs", "Absolute": "abs", "Sin": "sin",
            "Cos": "cos", "Tan": "tan", "Tanh": "tanh", "Sinh": "sinh", "Cosh": "cosh",
            "Arctan": "atan", "Erf": "erf",
        }.items()
    },
    **{
        name: lambda xp, x, f=f: activation(f)(x)
        for name, f in {"Relu": "relu", "Sigmoid": "sigmoid", "Softplus": "softplus",
                        "Silu": "silu", "Mish": "mish"}.items()
    },
}  # fmt: skip
