"""Dense layers from (weight, bias) pairs under whatever names somebody chose."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from hessarray.errors import LoadError
from hessarray.layers import Dense
from hessarray.load.limits import shown
from hessarray.networks import Network

__all__ = ["from_pairs", "numbers_in"]

Numbers = tuple[tuple[int, str], ...]


def from_pairs(
    arrays: Mapping[str, np.ndarray[Any, Any]], act: Any, final_act: Any, path: str
) -> Network:
    """A network of dense layers; the numbers in the names give the order.

    Raises
    ------
    LoadError
        ``act`` is missing, or the tensors are no chain of (weight, bias) pairs.
    """
    if act is None:
        raise LoadError(
            f"{path} holds no architecture: say which activation follows its dense layers, "
            "act='tanh', or which network or function its tensors fill, architecture="
        )
    for name, a in arrays.items():
        if a.ndim not in (1, 2) or not a.size:
            raise LoadError(
                f"{path}: tensor {shown(name)} of shape {a.shape} is no matrix and no vector, "
                "(weight, bias) pairs are expected"
            )
    weights = _ordered((k for k, a in arrays.items() if a.ndim == 2), path)
    biases = _ordered((k for k, a in arrays.items() if a.ndim == 1), path)
    if not weights:
        raise LoadError(f"{path}: there is no weight matrix, (weight, bias) pairs are expected")
    for numbers, name in biases.items():
        if numbers not in weights or name.lower().endswith("weight"):
            raise LoadError(f"{path}: vector {shown(name)} is the bias of no weight matrix")
    layers: list[Dense] = []
    for i, (numbers, name) in enumerate(weights.items()):
        # torch stores (out, in)
        K = arrays[name].T if name.lower().endswith("weight") else arrays[name]
        if layers and K.shape[0] != layers[-1].out_features:
            raise LoadError(
                f"{path}: tensor {shown(name)} takes {K.shape[0]} features, the layer before "
                f"gives {layers[-1].out_features}"
            )
        last = i == len(weights) - 1
        bias = biases.get(numbers)
        rows, columns = K.shape
        layer = Dense(rows, columns, final_act if last else act, bias is not None, seed=...)
        layer.K = K
        if bias is not None:
            layer.b = arrays[bias]
            if layer.b.shape != K.shape[1:]:
                raise LoadError(
                    f"{path}: tensor {shown(bias)} has shape {layer.b.shape}, {K.shape[1:]} is "
                    "expected"
                )
        layers.append(layer)
    return Network(*layers)


def _ordered(names: Iterable[str], path: str) -> dict[Numbers, str]:
    """Names by their numbers, in order; 'dense/kernel' comes before 'dense_1/kernel'."""
    found: dict[Numbers, str] = {}
    stems: dict[str, str] = {}
    for name in names:
        stems.setdefault("".join(filter(str.isalpha, name)), name)
        other = found.setdefault(numbers_in(name), name)
        first = next(iter(stems.values()))
        if len(stems) > 1 or other != name:
            raise LoadError(
                f"{path}: the names {shown(first if len(stems) > 1 else other)} and {shown(name)} "
                "tell no order: names that differ in nothing but a number are expected"
            )
    return dict(sorted(found.items()))


def numbers_in(name: str) -> Numbers:
    """The numbers in a name, sortable: net.10 comes after net.2."""
    return tuple((len(n), n) for n in re.findall(r"0*([0-9]+)", name))
