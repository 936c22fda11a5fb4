"""Dense layers from (weight, bias) pairs under whatever names somebody chose."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from hessarray.errors import LoadError
from hessarray.layers import Dense
from hessarray.networks import Network

__all__ = ["from_pairs"]


def from_pairs(
    arrays: Mapping[str, np.ndarray[Any, Any]], act: Any, final_act: Any, path: str
) -> Network:
    """A network of dense layers; the numbers in the names give the order."""
    if act is None:
        raise LoadError(
            f"{path} holds no architecture: say which activation follows its dense layers, act='tanh'"
        )
    weights = sorted((k for k, a in arrays.items() if a.ndim == 2), key=_natural)
    biases = sorted((k for k, a in arrays.items() if a.ndim == 1), key=_natural)
    others = [k for k, a in arrays.items() if a.ndim not in (1, 2)]
    if others or not weights:
        name = others[0] if others else "weight"
        raise LoadError(
            f"{path}: tensor '{name}' is no matrix and no vector, (weight, bias) pairs are expected"
            if others
            else f"{path}: there is no weight matrix, (weight, bias) pairs are expected"
        )
    if biases and len(biases) != len(weights):
        raise LoadError(f"{path}: {len(weights)} weights and {len(biases)} biases make no pairs")
    matrices = [np.asarray(arrays[k]) for k in weights]
    if all(k.lower().endswith("weight") for k in weights):
        matrices = [m.T for m in matrices]  # torch stores (out, in)
    layers = []
    for i, (name, K) in enumerate(zip(weights, matrices, strict=True)):
        if i and K.shape[0] != matrices[i - 1].shape[1]:
            raise LoadError(
                f"{path}: tensor '{name}' takes {K.shape[0]} features, "
                f"'{weights[i - 1]}' gives {matrices[i - 1].shape[1]}"
            )
        last = i == len(weights) - 1
        layer = Dense(*K.shape, act=final_act if last else act, bias=bool(biases), seed=...)
        layer.K = K
        if biases:
            b = np.asarray(arrays[biases[i]])
            if b.shape != (K.shape[1],):
                raise LoadError(
                    f"{path}: tensor '{biases[i]}' has shape {b.shape}, ({K.shape[1]},) is expected"
                )
            layer.b = b
        layers.append(layer)
    return Network(*layers)


def _natural(name: str) -> list[Any]:
    """Sorts net.10 behind net.2."""
    return [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", name)]
