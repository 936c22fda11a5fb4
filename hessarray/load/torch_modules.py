"""Networks from torch modules: hessQuik's, and Sequential ones of Linear and activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hessarray.activations import activation
from hessarray.errors import LoadError
from hessarray.layers import (
    Dense,
    InputConvex,
    InputConvexQuadratic,
    Quadratic,
    Residual,
)
from hessarray.networks import Network

__all__ = ["from_torch"]


def from_torch(module: Any) -> Network:
    """A network with the weights of a torch module, copied to NumPy.

    Supported are hessQuik's networks, layers and activations, and ``torch.nn.Sequential`` (nested
    ones too) of ``Linear``, ``Identity``, ``Dropout`` (which does nothing here) and the activations
    of the table.

    Raises
    ------
    LoadError
        A submodule is not supported; names it and its place.

    Examples
    --------
    >>> import torch, hessarray as ha  # doctest: +SKIP
    >>> net = ha.from_torch(torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh()))
    """
    layers = _layers(module, type(module).__name__)
    if not layers:
        raise LoadError(f"{type(module).__name__} has no layers")
    return layers[0] if len(layers) == 1 and isinstance(layers[0], Network) else Network(*layers)


def _layers(module: Any, place: str) -> list[Any]:
    """The module as a list of layers; an activation joins the dense layer before it."""
    kind = _kind(module)
    if kind in _LAYERS:
        return [_LAYERS[kind](module)]
    children = list(module.named_children()) if hasattr(module, "named_children") else []
    if kind not in ("Sequential", "NN", "fullyConnectedNN", "resnetNN", "ICNN"):
        supported = ", ".join(sorted({*_LAYERS, *_ACTIVATIONS, "Sequential"}))
        raise LoadError(f"{place}: torch module {kind} is not supported, supported are {supported}")
    found: list[Any] = []
    free = False  # does the last layer still lack an activation?
    for name, child in children:
        kind = _kind(child)
        here = f"{place}.{name}"
        if kind in ("Identity", "Dropout"):
            continue
        if kind in _ACTIVATIONS:
            if not free:
                raise LoadError(f"{here}: activation {kind} follows no Linear layer")
            found[-1].act = _ACTIVATIONS[kind](child)
            free = False
        elif kind == "Sequential":
            inner = _layers(child, here)
            found += inner
            free = bool(inner) and _is_bare(inner[-1])
        else:
            inner = _layers(child, here)
            found.append(inner[0] if len(inner) == 1 else Network(*inner))
            free = kind == "Linear"
    return found if kind != "NN" else [Network(*found)]


def _is_bare(layer: Any) -> bool:
    return isinstance(layer, Dense) and layer.act is activation("identity")


def _kind(module: Any) -> str:
    """The class name, or that of a base class that is known (a user's subclass of NN, say)."""
    for cls in type(module).__mro__:
        if cls.__name__ in _LAYERS or cls.__name__ in _ACTIVATIONS:
            return cls.__name__
    names = [cls.__name__ for cls in type(module).__mro__]
    for name in ("NN", "Sequential", "Identity", "Dropout"):
        if name in names:
            return name
    return type(module).__name__


def _array(tensor: Any) -> Any:
    return tensor.detach().cpu().numpy()


def _fill(layer: Any, module: Any, names: str) -> Any:
    for name in names.split():
        tensor = getattr(module, name, None)
        if tensor is not None:
            setattr(layer, name, _array(tensor))
    return layer


def _linear(module: Any) -> Any:
    layer = Dense(module.in_features, module.out_features, bias=module.bias is not None, seed=...)
    layer.K = _array(module.weight).T
    if module.bias is not None:
        layer.b = _array(module.bias)
    return layer


def _act(module: Any) -> Any:
    kind = _kind(module)
    if kind not in _ACTIVATIONS:
        raise LoadError(
            f"activation {kind} is not supported, supported are {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[kind](module)


def _single(m: Any) -> Any:
    layer = Dense(m.in_features, m.out_features, _act(m.act), m.b is not None, seed=...)
    return _fill(layer, m, "K b")


def _resnet(m: Any) -> Any:
    layer = Residual(m.width, m.h, _act(m.layer.act), m.layer.b is not None, seed=...)
    return _fill(layer, m.layer, "K b")


def _icnn(m: Any) -> Any:
    layer = InputConvex(
        m.input_dim, m.in_features, m.out_features, _act(m.act), m.b is not None, seed=...
    )
    return _fill(layer, m, "L K b")


def _quadratic(m: Any) -> Any:
    return _fill(Quadratic(m.in_features, m.rank, seed=...), m, "v A mu")


def _quadratic_icnn(m: Any) -> Any:
    layer = InputConvexQuadratic(m.input_dim, m.in_features, m.rank, seed=...)
    return _fill(layer, m, "w v A mu")


def _softplus(m: Any) -> Any:
    return activation("softplus", beta=m.beta, threshold=m.threshold)


_LAYERS: dict[str, Callable[[Any], Any]] = {
    "Linear": _linear,
    "singleLayer": _single,
    "resnetLayer": _resnet,
    "ICNNLayer": _icnn,
    "quadraticLayer": _quadratic,
    "quadraticICNNLayer": _quadratic_icnn,
}


def _plain(name: str, **attributes: str) -> Callable[[Any], Any]:
    """An activation by name, with parameters read from attributes of the module."""
    return lambda m: activation(name, **{k: getattr(m, a) for k, a in attributes.items()})


_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "identityActivation": _plain("identity"),
    "quadraticActivation": _plain("quadratic"),
    "tanhActivation": _plain("tanh"),
    "antiTanhActivation": _plain("antitanh"),
    "sigmoidActivation": _plain("sigmoid"),
    "softplusActivation": _softplus,
    "Tanh": _plain("tanh"),
    "Sigmoid": _plain("sigmoid"),
    "Softplus": _softplus,
    "LogSigmoid": _plain("log_sigmoid"),
    "ReLU": _plain("relu"),
    "ReLU6": _plain("relu6"),
    "LeakyReLU": _plain("leaky_relu", negative_slope="negative_slope"),
    "ELU": _plain("elu", alpha="alpha"),
    "SELU": _plain("selu"),
    "CELU": _plain("celu", alpha="alpha"),
    "GELU": _plain("gelu", approximate="approximate"),
    "SiLU": _plain("silu"),
    "Mish": _plain("mish"),
    "Softsign": _plain("softsign"),
    "Hardtanh": _plain("hardtanh", min_val="min_val", max_val="max_val"),
    "Hardsigmoid": _plain("hard_sigmoid"),
    "Hardswish": _plain("hard_swish"),
}
