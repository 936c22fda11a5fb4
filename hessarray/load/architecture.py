"""A network's architecture as plain data: names from a table, numbers, nothing to import."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hessarray.activations import ACTIVATIONS, activation
from hessarray.errors import LoadError
from hessarray.layers import (
    Dense,
    InputConvex,
    InputConvexQuadratic,
    Layer,
    Quadratic,
    Residual,
)
from hessarray.load.limits import shown
from hessarray.load.surrogate_layers import SURROGATES, build, describe
from hessarray.networks import Network

__all__ = ["from_architecture", "to_architecture"]

# Class, and the constructor arguments that a file holds with the attribute of each.
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
_FIRST_MAY_BE_NONE = ("InputConvex", "InputConvexQuadratic")
# What an activation takes, in the order of ``Elementary.parameters``.
_PARAMETERS = {
    "softplus": ("beta", "threshold", "one_sided"),
    "leaky_relu": ("negative_slope",),
    "elu": ("alpha",),
    "celu": ("alpha",),
    "gelu": (),
    "hardtanh": ("min_val", "max_val"),
}
_MAX_WIDTH = 2**31 - 1
_MAX_DEPTH = 20


# ---- writing -------------------------------------------------------------------------------


def to_architecture(network: Network, prefix: str = "") -> list[dict[str, Any]]:
    """The layers as JSON-ready data.

    Raises
    ------
    LoadError
        A layer or an activation is the user's own: a file cannot name it.
    """
    for method in ("__call__", "_apply"):
        if getattr(type(network), method) is not getattr(Network, method):
            raise LoadError(
                f"{type(network).__name__} computes by code of its own, which a file cannot hold: "
                "save net.parameters() with numpy.savez instead"
            )
    return [_entry(layer, f"{prefix}{i}") for i, layer in enumerate(network.layers)]


def _entry(layer: Any, place: str) -> dict[str, Any]:
    """One layer, with the layers in it."""
    name = type(layer).__name__
    if isinstance(layer, Network):
        return {"layer": "Network", "layers": to_architecture(layer, f"{place}.")}
    if SURROGATES.get(name) is type(layer):
        return describe(layer, place, _entry)
    if _LAYERS.get(name, (None,))[0] is not type(layer):
        raise LoadError(
            f"layer {place} ({name}) is no layer of hessarray and cannot be described in a "
            "file: save net.parameters() with numpy.savez instead"
        )
    entry: dict[str, Any] = {"layer": name}
    values = vars(layer)
    for k, attribute in _LAYERS[name][1].items():
        value = values[attribute]  # perhaps a number of NumPy's
        entry[k] = None if value is None else float(value) if k == "h" else int(value)
    if name in _ACTIVATED:
        entry |= {"act": _named(values["act"], place), "bias": values["b"] is not None}
    return entry


def _named(act: Any, place: str) -> list[Any]:
    """[name, parameters] of an activation of the table."""
    for name, known in ACTIVATIONS.items():
        if known == act:
            return [name, []]
    values = list(getattr(act, "parameters", ()))
    for name, names in _PARAMETERS.items():
        if name == getattr(act, "name", None) and len(values) <= len(names):
            return [name, values]
    raise LoadError(
        f"layer {place} has an activation that is a plain function, which a file cannot hold: "
        "give it a name with register_activation"
    )


# ---- reading -------------------------------------------------------------------------------


def from_architecture(
    layers: Any, arrays: Mapping[str, np.ndarray[Any, Any]], path: str
) -> Network:
    """The network of this description with these parameters.

    Raises
    ------
    LoadError
        The description names an unknown layer or activation, or does not fit the arrays.
    """
    reader = _Reader(arrays, path)
    network = reader.network(layers, "")
    unused = next((k for k in arrays if k not in reader.used), None)
    if unused is not None:
        raise LoadError(f"{path}: tensor {shown(unused)} belongs to no layer of the architecture")
    return network


@dataclass(frozen=True)
class _Reader:
    """Builds layers from entries and arrays; ``used`` collects the names that were read."""

    arrays: Mapping[str, Any]
    path: str
    used: set[str] = field(default_factory=set)

    def network(self, entries: Any, prefix: str) -> Network:
        if not isinstance(entries, list) or not entries:
            raise LoadError(f"{self.path}: {_place(prefix)} is no list of layers")
        if prefix.count(".") > _MAX_DEPTH:
            raise LoadError(f"{self.path}: networks are nested more than {_MAX_DEPTH} deep")
        built = [self.layer(entry, f"{prefix}{i}.") for i, entry in enumerate(entries)]
        try:
            return Network(*built)
        except ValueError as error:  # neighbours of different widths
            raise LoadError(f"{self.path}: {_place(prefix)}: {shown(error)}") from None

    def layer(self, entry: Any, prefix: str) -> Any:
        if not isinstance(entry, dict) or not isinstance(entry.get("layer"), str):
            raise LoadError(f"{self.path}: entry {prefix[:-1]} of the architecture is no layer")
        given = {k: v for k, v in entry.items() if k != "layer"}
        kind = entry["layer"]
        where = f"{self.path}: layer {prefix[:-1]} ({kind})"
        if kind == "Network":
            if set(given) != {"layers"}:
                raise LoadError(f"{where} needs exactly layers")
            return self.network(given["layers"], prefix)
        if kind in SURROGATES:
            if prefix.count(".") > _MAX_DEPTH:
                raise LoadError(f"{self.path}: layers are nested more than {_MAX_DEPTH} deep")
            return build(entry, where, prefix, self.tensor, self.layer)
        if kind not in _LAYERS:
            raise LoadError(
                f"{self.path}: layer {prefix[:-1]} is {shown(kind)}, "
                f"supported are {', '.join((*_LAYERS, *SURROGATES, 'Network'))}"
            )
        names = _LAYERS[kind][1]
        expected = {*names, *(("act", "bias") if kind in _ACTIVATED else ())}
        if set(given) != expected:
            raise LoadError(f"{where} needs exactly {', '.join(sorted(expected))}")
        for k in names:
            _check_number(where, kind, k, given[k])
        if kind in _ACTIVATED:
            if not isinstance(given["bias"], bool):
                raise LoadError(f"{where} has bias={shown(given['bias'])}, true or false expected")
            given["act"] = _activation(where, given["act"])
        make: Callable[..., Any] = _LAYERS[kind][0]
        try:
            layer = make(**given, seed=...)  # takes no memory: shapes are compared first
        except ValueError as error:
            raise LoadError(f"{where}: {shown(error)}") from None
        for k, (shape, _, _) in layer._ranges().items():
            setattr(layer, k, self.tensor(prefix + k, shape))
        return layer

    def tensor(self, name: str, shape: tuple[int, ...]) -> Any:
        got = self.arrays.get(name)
        if got is None or got.shape != shape:
            has = "is missing" if got is None else f"has shape {got.shape}"
            raise LoadError(f"{self.path}: tensor '{name}' {has}, {shape} is expected")
        self.used.add(name)
        return got


def _place(prefix: str) -> str:
    return f"network {prefix[:-1]}" if prefix else "the architecture"


def _check_number(where: str, kind: str, name: str, value: Any) -> None:
    if name == "h":
        limit = sys.float_info.max
        if not _is_number(value) or not -limit <= value <= limit:
            raise LoadError(f"{where} has h={shown(value)}, a finite number is expected")
        return
    if value is None and name == "in_features" and kind in _FIRST_MAY_BE_NONE:
        return
    least = 0 if name == "rank" else 1
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MAX_WIDTH:
        raise LoadError(
            f"{where} has {name}={shown(value)}, a whole number from {least} to {_MAX_WIDTH} is "
            "expected"
        )


def _is_number(value: Any) -> bool:
    """A number, perhaps infinite, and neither a bool nor NaN."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _activation(where: str, act: Any) -> Any:
    if not (isinstance(act, list) and len(act) == 2 and isinstance(act[0], str)):
        raise LoadError(f"{where} has act={shown(act)}, [name, parameters] is expected")
    name, values = act
    names = _PARAMETERS.get(name, ())
    if not isinstance(values, list) or len(values) > len(names) or not all(map(_is_number, values)):
        raise LoadError(
            f"{where} has activation {shown(name)} with parameters {shown(values)}, at most "
            f"{len(names)} numbers are expected"
        )
    try:
        return activation(name, **dict(zip(names, values, strict=False)))
    except (ValueError, OverflowError) as error:
        raise LoadError(f"{where}: {shown(error)}") from None
