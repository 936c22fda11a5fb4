"""A network filled from a state dict: tensors that somebody else's layers are named by."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from hessarray.errors import LoadError
from hessarray.function import Function
from hessarray.load.limits import shown
from hessarray.load.pairs import numbers_in

__all__ = ["filled"]

F = TypeVar("F", bound=Function)
Names = dict[str, str]

# torch and flax: what they call a Dense layer's arrays, and whether they store (out, in).
_ALIASES = {"weight": ("K", True), "kernel": ("K", False), "bias": ("b", False)}


def filled(network: F, arrays: Mapping[str, Any], path: str) -> F:
    """A copy of the network, or any function, with these arrays as its parameters.

    Names are those of ``network.parameters()``, or those of torch, flax or hessQuik: one group of
    tensors for each layer that has parameters, in the order of the numbers in their names.

    Raises
    ------
    LoadError
        Groups and layers do not match, or shapes differ; names the tensor.
    """
    if not isinstance(network, Function):
        raise LoadError(
            f"architecture is a {type(network).__name__}, a Network is expected, such as "
            "Network(Dense(3, 16, 'tanh'), Dense(16, 1))"
        )
    known = network.parameters()
    if set(known) == set(arrays):
        chosen = {k: (k, False) for k in known}
    else:
        chosen = _matched(_groups(known), _groups(arrays), path)
    found = {}
    for name, (given, transposed) in chosen.items():
        array = arrays[given].T if transposed else arrays[given]
        if array.shape != known[name].shape:
            raise LoadError(
                f"{path}: tensor {shown(given)} has shape {arrays[given].shape}, "
                f"{known[name].shape[::-1] if transposed else known[name].shape} is expected for "
                f"parameter '{name}' of the architecture"
            )
        found[name] = array
    twin = copy.deepcopy(network)
    twin.load_parameters(found)
    return twin


def _matched(
    layers: dict[str, Names], groups: dict[str, Names], path: str
) -> dict[str, tuple[str, bool]]:
    """Parameter to (tensor, transposed), layer by layer."""
    if len(groups) != len(layers):
        raise LoadError(
            f"{path}: the tensors are those of {len(groups)} layers ({', '.join(_some(groups))}), "
            f"the architecture has {len(layers)} with parameters"
        )
    chosen = {}
    for (prefix, wanted), (place, given) in zip(
        layers.items(), _ordered(groups, path), strict=True
    ):
        for short, name in given.items():
            alias, transposed = _ALIASES.get(short.lower(), (short, False))
            if alias not in wanted:
                raise LoadError(
                    f"{path}: tensor {shown(name)} is no parameter of layer '{prefix}', which has "
                    f"{', '.join(wanted)}"
                )
            chosen[wanted[alias]] = (name, transposed)
        missing = next((k for k in wanted.values() if k not in chosen), None)
        if missing is not None:
            raise LoadError(f"{path}: no tensor of {shown(place)} is the parameter '{missing}'")
    return chosen


def _ordered(groups: dict[str, Names], path: str) -> list[tuple[str, Names]]:
    """By the numbers in their names; hessQuik's residual layers have a ``layer`` inside."""
    stems: dict[str, str] = {}
    for prefix in groups:
        stems.setdefault(re.sub("[^A-Za-z]", "", prefix.removesuffix(".layer")), prefix)
    if len(stems) > 1:
        first, second = list(stems.values())[:2]
        raise LoadError(
            f"{path}: the names {shown(first)} and {shown(second)} tell no order: names of layers "
            "that differ in nothing but a number are expected"
        )
    return sorted(groups.items(), key=lambda item: numbers_in(item[0]))


def _groups(names: Iterable[str]) -> dict[str, Names]:
    """Short name to name, by what comes before the last dot or stroke."""
    found: dict[str, Names] = {}
    for name in names:
        prefix, _, short = name.replace("/", ".").rpartition(".")
        found.setdefault(prefix, {})[short] = name
    return found


def _some(names: Iterable[str]) -> list[str]:
    listed = [shown(k) for k in names]
    return listed if len(listed) < 5 else [*listed[:4], "..."]
