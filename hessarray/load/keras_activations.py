"""Keras's activations, by name and as layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hessarray.activations import activation
from hessarray.errors import LoadError
from hessarray.load import neural
from hessarray.load.keras_config import Config, Rule, Weights, axis_of, number
from hessarray.load.limits import shown

__all__ = ["ACTIVATION_LAYERS", "activated", "activation_of"]

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
        return activation("leaky_relu", negative_slope=number(config, "negative_slope", 0.3))
    if kind == "ELU":
        return activation("elu", alpha=number(config, "alpha", 1.0))
    if kind == "ReLU" and not number(config, "threshold", 0.0):
        slope, largest = number(config, "negative_slope", 0.0), config.get("max_value")
        if largest is None:
            return activation("leaky_relu", negative_slope=slope) if slope else activation("relu")
    return None


def activated(xp: Any, x: Any, given: Any) -> Any:
    """The activation that Keras describes so, of x."""
    act = activation_of(given)
    if act is not None:
        return act(x)
    if isinstance(given, str) and given in _OTHER:
        return _OTHER[given](xp, x)
    if isinstance(given, dict) and given.get("class_name") in _AS_LAYERS:
        return ACTIVATION_LAYERS[given["class_name"]].apply(xp, x, _config(given), {})
    name = (
        given if isinstance(given, str) else given.get("config") if isinstance(given, dict) else 0
    )
    raise LoadError(
        f"activation {shown(name)} is not supported, supported are "
        f"{', '.join(sorted((*_NAMED, *_OTHER)))}"
    )


def _activation(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    return activated(xp, x, config.get("activation"))


def _relu(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    """slope (x - t) below t, x from t on, and no more than max_value."""
    act = _layer_as_activation("ReLU", config)
    if act is not None:
        return act(x)
    t, slope = number(config, "threshold", 0.0), number(config, "negative_slope", 0.0)
    out = xp.where(x > t, x, (x - t) * slope)
    largest = config.get("max_value")
    return out if largest is None else xp.minimum(out, number(config, "max_value"))


def _layer_activation(kind: str) -> Rule:
    return Rule(lambda xp, x, config, w: _layer_as_activation(kind, config)(x))


def _prelu(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    return xp.where(x > 0.0, x, w["alpha"] * x)


def _softmax(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    return neural.softmax(xp, x, axis_of(x, config.get("axis", -1)))


ACTIVATION_LAYERS: dict[str, Rule] = {
    "Activation": Rule(_activation),
    "ReLU": Rule(_relu),
    "LeakyReLU": _layer_activation("LeakyReLU"),
    "ELU": _layer_activation("ELU"),
    "PReLU": Rule(_prelu, lambda config: "alpha"),
    "Softmax": Rule(_softmax),
}
