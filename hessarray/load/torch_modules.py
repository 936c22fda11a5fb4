"""Networks from torch modules: hessQuik's, Sequential ones, and what torch.export can trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hessarray.activations import activation
from hessarray.errors import LoadError
from hessarray.function import Function
from hessarray.layers import (
    Dense,
    InputConvex,
    InputConvexQuadratic,
    Quadratic,
    Residual,
)
from hessarray.networks import Network

__all__ = ["from_torch"]


def from_torch(module: Any, example_input: Any = None) -> Function:
    """A network or function with the weights of a torch module, copied to NumPy.

    The networks, layers and activations of hessQuik and of ``hessarray.hessquik``, and
    ``torch.nn.Sequential`` (nested ones too) of ``Linear``, ``Identity``, ``Dropout`` (which does
    nothing here) and the activations of the table become a ``Network``, with or without an example.

    Any other module needs an example of its input. It is traced by torch.export with one sample
    and becomes a ``Function``, whose parameters have torch's names; buffers, such as the running
    statistics of BatchNorm, are constants. Operators: see docs/loading.md.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode where it has dropout or batch normalisation.
    example_input : array, or tuple of arrays, optional
        A batch (n, ...) of each input, n from 1 on; only shapes matter, and that the module can
        be evaluated there.

    Returns
    -------
    Network or Function

    Raises
    ------
    LoadError
        A submodule or operator is not supported, or the module mixes samples; names its place.

    Examples
    --------
    >>> import torch, hessarray as ha
    >>> ha.from_torch(torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh()))
    Network(Dense(3, 8))
    >>> f = ha.from_torch(torch.nn.LayerNorm(3), example_input=torch.zeros(1, 3))
    >>> f.hessian(torch.ones(2, 3)).shape
    torch.Size([2, 3, 3, 3])
    """
    if example_input is None:
        return _from_layers(module)
    examples = example_input if _is_several(example_input) else (example_input,)
    if not hasattr(module, "named_modules"):
        raise LoadError(f"{type(module).__name__} is no torch module")
    if len(examples) == 1 and getattr(examples[0], "ndim", 0) == 2:
        try:
            return _from_layers(module)
        except LoadError:
            pass  # it is traced instead
    from hessarray.load.torch_graph import from_torch_graph

    return from_torch_graph(module, tuple(examples))


def _is_several(example: Any) -> bool:
    """Arrays in a tuple or list; a list of numbers is one array."""
    listed = isinstance(example, (tuple, list)) and len(example) > 0
    return listed and all(hasattr(x, "shape") for x in example)


def _from_layers(module: Any) -> Network:
    layers: list[Any] = []
    place = type(module).__name__
    _collect(module, place, layers)
    if len(layers) == 1 and isinstance(layers[0], Network):
        return layers[0]
    return _network(layers, place)


def _network(layers: list[Any], place: str) -> Network:
    if not layers:
        raise LoadError(f"{place} has no layers")
    try:
        return Network(*layers)
    except ValueError as error:  # neighbours of different widths
        raise LoadError(f"{place}: {error}") from None


def _collect(module: Any, place: str, layers: list[Any]) -> None:
    """Append what the module computes; an activation joins the dense layer before it."""
    kind = _kind(module, place)
    if kind in ("Sequential", "NN"):
        inner = layers if kind == "Sequential" else []
        # named_children() would leave out a module that is there twice, such as a shared Tanh().
        for name, child in module._modules.items():
            _collect(child, f"{place}.{name}", inner)
        if kind == "NN":
            layers.append(_network(inner, place))
        return
    if kind in _ACTIVATIONS:
        last: Any = layers[-1] if layers else None
        if not isinstance(last, Dense) or last.act is not activation("identity"):
            raise LoadError(f"{place}: activation {kind} follows no Linear layer")
    try:
        if kind in _ACTIVATIONS:
            last.act = _ACTIVATIONS[kind](module)
        elif kind in _LAYERS:
            layers.append(_LAYERS[kind](module, place))
    except LoadError:
        raise
    except (AttributeError, TypeError, ValueError) as error:
        raise LoadError(f"{place}: {kind}: {error}") from None


def _kind(module: Any, place: str) -> str:
    """Name of the class, or of its base class, in torch.nn, hessQuik or hessarray.hessquik."""
    own: Any = type(module)
    for cls in own.__mro__:
        name: str = cls.__name__
        if name in _KNOWN and cls.__module__.startswith(_HOMES):
            if own.forward is not cls.forward:
                break
            if module._forward_hooks or module._forward_pre_hooks:
                raise LoadError(
                    f"{place}: {name} has hooks, which may change what it computes: remove them"
                )
            return name
    raise LoadError(
        f"{place}: torch module {type(module).__name__} is not supported, supported are "
        f"{', '.join(sorted(_KNOWN))}, and with an example_input (n, ...) what torch.export traces"
    )


# ---- layers --------------------------------------------------------------------------------


def _array(tensor: Any, place: str) -> Any:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in ("float32", "float64"):
        raise LoadError(f"{place}: weights of dtype {dtype}, float32 or float64 is expected")
    if tensor.is_meta:
        raise LoadError(f"{place}: weights on the device 'meta' have no values")
    return tensor.detach().cpu().numpy()


def _fill(layer: Any, module: Any, names: str, place: str) -> Any:
    for name in names.split():
        tensor = getattr(module, name, None)
        if tensor is not None:
            setattr(layer, name, _array(tensor, place))
    return layer


def _linear(m: Any, place: str) -> Any:
    layer = Dense(m.in_features, m.out_features, bias=m.bias is not None, seed=...)
    layer.K = _array(m.weight, place).T
    if m.bias is not None:
        layer.b = _array(m.bias, place)
    return layer


def _act(module: Any, place: str) -> Any:
    kind = _kind(module, f"{place}.act")
    if kind not in _ACTIVATIONS:
        raise LoadError(f"{place}.act: {kind} is no activation")
    return _ACTIVATIONS[kind](module)


def _single(m: Any, place: str) -> Any:
    layer = Dense(m.in_features, m.out_features, _act(m.act, place), m.b is not None, seed=...)
    return _fill(layer, m, "K b", place)


def _resnet(m: Any, place: str) -> Any:
    inner = m.layer
    layer = Residual(m.width, m.h, _act(inner.act, f"{place}.layer"), inner.b is not None, seed=...)
    return _fill(layer, inner, "K b", place)


def _icnn(m: Any, place: str) -> Any:
    if getattr(m.nonneg, "__name__", "") != "softplus":
        raise LoadError(f"{place}: ICNNLayer with nonneg={m.nonneg}, softplus is expected")
    layer = InputConvex(
        m.input_dim, m.in_features, m.out_features, _act(m.act, place), m.b is not None, seed=...
    )
    return _fill(layer, m, "L K b", place)


def _quadratic(m: Any, place: str) -> Any:
    return _fill(Quadratic(m.in_features, m.rank, seed=...), m, "v A mu", place)


def _quadratic_icnn(m: Any, place: str) -> Any:
    layer = InputConvexQuadratic(m.input_dim, m.in_features, m.rank, seed=...)
    return _fill(layer, m, "w v A mu", place)


_LAYERS: dict[str, Callable[[Any, str], Any]] = {
    "Linear": _linear,
    "singleLayer": _single,
    "resnetLayer": _resnet,
    "ICNNLayer": _icnn,
    "quadraticLayer": _quadratic,
    "quadraticICNNLayer": _quadratic_icnn,
}


# ---- activations ---------------------------------------------------------------------------


def _plain(name: str, **attributes: str) -> Callable[[Any], Any]:
    """An activation by name, with parameters read from attributes of the module."""
    return lambda m: activation(name, **{k: getattr(m, a) for k, a in attributes.items()})


_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "identityActivation": _plain("identity"),
    "quadraticActivation": _plain("quadratic"),
    "tanhActivation": _plain("tanh"),
    "antiTanhActivation": _plain("antitanh"),
    "sigmoidActivation": _plain("sigmoid"),
    "softplusActivation": _plain("softplus", beta="beta", threshold="threshold"),
    "Tanh": _plain("tanh"),
    "Sigmoid": _plain("sigmoid"),
    "Softplus": lambda m: activation(
        "softplus", beta=m.beta, threshold=m.threshold, one_sided=True
    ),
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

_HOMES = ("torch.nn.modules.", "hessQuik.", "hessarray.hessquik.")
_KNOWN = {*_LAYERS, *_ACTIVATIONS, "Dropout", "Identity", "NN", "Sequential"}
