"""Keras layers as array API code of one sample: one table, by class name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hessarray.activations import activation
from hessarray.errors import LoadError
from hessarray.load import neural
from hessarray.load.keras_activations import ACTIVATION_LAYERS, activated
from hessarray.load.keras_attention import ATTENTION_LAYERS
from hessarray.load.keras_config import (
    Config,
    Rule,
    Weights,
    along,
    axes_of,
    axis_of,
    number,
    room,
    whole,
    wholes,
)
from hessarray.load.keras_windows import WINDOW_LAYERS
from hessarray.load.limits import shown

__all__ = ["LAYERS", "OPERATIONS"]

_EPSILON = 1e-7  # keras.backend.epsilon()


def _dense(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    z = x @ w["kernel"]
    return activated(xp, z + w["bias"] if "bias" in w else z, config.get("activation"))


# ---- normalisation and scaling -------------------------------------------------------------


def _scale_and_center(config: Config) -> str:
    return "gamma " * bool(config.get("scale", True)) + "beta " * bool(config.get("center", True))


def _affine(xp: Any, x: Any, w: Weights, shape: tuple[int, ...]) -> Any:
    if "gamma" in w:
        x = x * xp.reshape(w["gamma"], shape)
    return x + xp.reshape(w["beta"], shape) if "beta" in w else x


def _batch_norm(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    """With moving averages, which are constants."""
    shape = along(x, [axis_of(x, config.get("axis", -1))])
    mean, variance = (np.asarray(w[k], dtype=float) for k in ("~moving_mean", "~moving_variance"))
    factor = 1.0 / np.sqrt(variance + number(config, "epsilon", 1e-3))
    u = (x - np.reshape(mean, shape)) * np.reshape(factor, shape)
    return _affine(xp, u, w, shape)


def _layer_norm(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    if config.get("rms_scaling"):
        raise LoadError("rms_scaling=True is not supported, use RMSNormalization")
    axes = axes_of(x, config.get("axis", -1))
    u = neural.standardised(xp, x, axes, number(config, "epsilon", 1e-3))
    return _affine(xp, u, w, along(x, axes))


def _group_norm(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    axis, n = axis_of(x, config.get("axis", -1)), len(x.shape)
    groups = whole(config, "groups", least=-1)
    groups = x.shape[axis] if groups == -1 else groups
    u = xp.moveaxis(x, axis, 0)
    v = xp.reshape(u, (groups, -1))
    v = neural.standardised(xp, v, [1], number(config, "epsilon", 1e-3))
    u = _affine(xp, xp.reshape(v, u.shape), w, (x.shape[axis], *[1] * (n - 1)))
    return xp.moveaxis(u, 0, axis)


def _rms_norm(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    axes = axes_of(x, config.get("axis", -1))
    squares = xp.mean(xp.square(x), axis=tuple(axes), keepdims=True)
    u = x * xp.pow(squares + number(config, "epsilon", 1e-6), -0.5)
    return u * xp.reshape(w["scale"], along(x, axes))


def _unit_norm(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    axes = tuple(axes_of(x, config.get("axis", -1)))
    return x / xp.sqrt(xp.maximum(xp.sum(xp.square(x), axis=axes, keepdims=True), 1e-12))


def _normalization(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    """(x - mean) / max(sqrt(variance), epsilon), by given numbers or by adapted ones."""
    axis = config.get("axis", -1)
    axes = [] if axis is None or axis == [] else axes_of(x, axis)
    shape = along(x, axes)
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
    return xp.concat(list(xs), axis=axis_of(xs[0], config.get("axis", -1)))


# ---- shape ---------------------------------------------------------------------------------


def _flatten(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    if config.get("data_format") == "channels_first" and len(x.shape) > 1:
        x = xp.moveaxis(x, 0, -1)
    return xp.reshape(x, (-1,))


def _reshape(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    shape = config.get("target_shape")
    if not isinstance(shape, list):
        raise LoadError(f"target_shape={shown(shape)}, a list of whole numbers is expected")
    return xp.reshape(x, wholes(config, "target_shape", len(shape), least=-1))


def _permute(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    return xp.permute_dims(x, [d - 1 for d in wholes(config, "dims", len(x.shape))])


def _repeat(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    n = whole(config, "n")
    room(n, *x.shape)
    return xp.broadcast_to(x, (n, *x.shape))


def _same(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    return x


def _kernel(config: Config) -> str:
    return "kernel bias" if config.get("use_bias", True) else "kernel"


#: What does nothing outside training.
_IDLE = """ActivityRegularization AlphaDropout Dropout GaussianDropout GaussianNoise Identity
SpatialDropout1D SpatialDropout2D""".split()

LAYERS: dict[str, Rule] = {
    "Dense": Rule(_dense, _kernel),
    **ACTIVATION_LAYERS,
    **ATTENTION_LAYERS,
    **WINDOW_LAYERS,
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
            "Reciprocal": "reciprocal", "Absolute": "abs", "Sin": "sin",
            "Cos": "cos", "Tan": "tan", "Tanh": "tanh", "Sinh": "sinh", "Cosh": "cosh",
            "Arctan": "atan", "Erf": "erf",
        }.items()
    },
    **{
        name: lambda xp, x, f=f: activation(f)(x)
        for name, f in {"Relu": "relu", "Sigmoid": "sigmoid", "Softplus": "softplus",
                        "Silu": "silu"}.items()
    },
}  # fmt: skip
