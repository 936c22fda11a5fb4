"""A network's architecture as plain data: names from a fixed table and numbers, nothing to import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hessarray.activations import ACTIVATIONS, Elementary, activation
from hessarray.errors import LoadError
from hessarray.layers import (
    Dense,
    InputConvex,
    InputConvexQuadratic,
    Layer,
    Quadratic,
    Residual,
)
from hessarray.networks import Network

__all__ = ["from_architecture", "to_architecture"]

# Class and the constructor arguments that a file may hold, with the attribute of each.
_LAYERS: dict[str, tuple[type[Layer], dict[str, str]]] = {
    "Dense": (Dense, {"in_features": "in_features", "out_features": "out_features"}),
    "Residual": (Residual, {"width": "in_features", "h": "h"}),
    "InputConvex": (
        InputConvex,
        {"input_dim": "input_dim", "in_features": "width_in", "out_features": "width_out"},
    ),
    "Quadratic": (Quadratic, {"in_features": "in_features", "rank": "rank"}),
    "InputConvexQuadratic": (
        InputConvexQuadratic,
        {"input_dim": "input_dim", "in_features": "width_in", "rank": "rank"},
    ),
}
_ACTIVATED = ("Dense", "Residual", "InputConvex")


def to_architecture(network: Network) -> list[dict[str, Any]]:
    """The layers as JSON-ready data.

    Raises
    ------
    LoadError
        A layer or an activation is the user's own: a file cannot name it.
    """
    found: list[dict[str, Any]] = []
    for i, layer in enumerate(network):
        name = type(layer).__name__
        if isinstance(layer, Network):
            found.append({"layer": "Network", "layers": to_architecture(layer)})
            continue
        if _LAYERS.get(name, (None,))[0] is not type(layer):
            raise LoadError(
                f"layer {i} ({name}) is no layer of hessarray and cannot be described in a file: "
                "save net.parameters() with numpy.savez instead"
            )
        entry: dict[str, Any] = {"layer": name}
        entry |= {k: getattr(layer, a) for k, a in _LAYERS[name][1].items()}
        if name in _ACTIVATED:
            entry |= {"act": _named(layer.act, i), "bias": layer.bias}
        found.append(entry)
    return found


def _named(act: Any, i: int) -> list[Any]:
    """[name, parameters] of an activation of the table."""
    for name, known in ACTIVATIONS.items():
        if known is act or (isinstance(known, Elementary) and known == act):
            return [name, []]
    if isinstance(act, Elementary) and act.name in ACTIVATIONS:
        return [act.name, list(act.parameters)]
    raise LoadError(
        f"layer {i} has an activation that is a plain function, which a file cannot hold: "
        "give it a name with register_activation"
    )


def from_architecture(
    layers: Any, arrays: Mapping[str, np.ndarray[Any, Any]], path: str
) -> Network:
    """The network of this description with these parameters.

    Raises
    ------
    LoadError
        The description names an unknown layer or activation, or does not fit the arrays.
    """
    used: set[str] = set()
    network = Network(*_build(layers, arrays, "", path, used))
    unused = [k for k in arrays if k not in used]
    if unused:
        raise LoadError(f"{path}: tensor '{unused[0]}' belongs to no layer of the architecture")
    return network


def _build(
    layers: Any, arrays: Mapping[str, Any], prefix: str, path: str, used: set[str], depth: int = 0
) -> list[Any]:
    if not isinstance(layers, list) or not layers or depth > 20:
        raise LoadError(f"{path}: the architecture is no list of layers")
    built: list[Any] = []
    for i, entry in enumerate(layers):
        here = f"{prefix}{i}."
        if not isinstance(entry, dict) or not isinstance(entry.get("layer"), str):
            raise LoadError(f"{path}: entry {here[:-1]} of the architecture is no layer")
        entry = dict(entry)
        kind = entry.pop("layer")
        if kind == "Network":
            inner = _build(entry.get("layers"), arrays, here, path, used, depth + 1)
            built.append(Network(*inner))
            continue
        if kind not in _LAYERS:
            raise LoadError(
                f"{path}: layer '{kind}' is unknown, supported are {', '.join(_LAYERS)}"
            )
        built.append(_layer(kind, entry, arrays, here, path, used))
    return built


def _layer(
    kind: str,
    entry: dict[str, Any],
    arrays: Mapping[str, Any],
    here: str,
    path: str,
    used: set[str],
) -> Layer:
    cls, names = _LAYERS[kind]
    allowed = {*names, *(("act", "bias") if kind in _ACTIVATED else ())}
    if set(entry) != allowed:
        raise LoadError(
            f"{path}: layer {here[:-1]} ({kind}) needs exactly {', '.join(sorted(allowed))}"
        )
    for k in names:
        if not isinstance(entry[k], (int, float, type(None))) or isinstance(entry[k], bool):
            raise LoadError(f"{path}: layer {here[:-1]} ({kind}) has {k}={entry[k]!r}, no number")
    try:
        if "act" in entry:
            entry["act"] = _activation(*entry["act"])
        make: Callable[..., Any] = cls
        layer = make(**entry, seed=...)  # no memory is taken before the shapes were compared
        shapes = {k: shape for k, (shape, _, _) in layer._ranges().items()}
    except (TypeError, ValueError, KeyError) as error:
        raise LoadError(f"{path}: layer {here[:-1]} ({kind}): {error}") from None
    for k, shape in shapes.items():
        got = arrays.get(here + k)
        if got is None or got.shape != shape:
            has = "is missing" if got is None else f"has shape {got.shape}"
            raise LoadError(f"{path}: tensor '{here}{k}' {has}, {shape} is expected")
        setattr(layer, k, got)
        used.add(here + k)
    return layer  # type: ignore[no-any-return]


def _activation(name: Any, parameters: Any) -> Any:
    known = ACTIVATIONS.get(name) if isinstance(name, str) else None
    if not parameters:
        return activation(name)
    if (
        known is None
        or not callable(known)
        or not all(isinstance(p, (int, float)) for p in parameters)
    ):
        raise ValueError(f"activation {name!r} with parameters {parameters!r} is unknown")
    return known(*parameters)
