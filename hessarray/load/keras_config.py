"""What a Keras layer's description says, checked before any of it is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hessarray.errors import LoadError
from hessarray.load.limits import shown

__all__ = [
    "Config",
    "Rule",
    "Weights",
    "along",
    "axes_of",
    "axis_of",
    "number",
    "room",
    "whole",
    "wholes",
]

Config = Mapping[str, Any]
Weights = Mapping[str, Any]

_LARGEST = 2**24  # entries of one sample's array


@dataclass(frozen=True)
class Rule:
    """What a layer computes, and its weights in Keras's order; '~' marks what is not trained.

    A layer with named ``inputs`` takes the list of those that it is called with, and finds the
    ``options`` of the call in its description. ``parts`` are layers inside that hold weights.
    """

    apply: Callable[[Any, Any, Config, Weights], Any]
    weights: Callable[[Config], str] = lambda config: ""
    inputs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()


def number(config: Config, key: str, default: Any = None) -> float:
    """A real number of the description."""
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise LoadError(f"{key}={shown(value)}, a number is expected")
    return float(value)


def whole(config: Config, key: str, default: Any = None, least: int = 1) -> int:
    """A whole number of the description."""
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST:
        raise LoadError(f"{key}={shown(value)}, a whole number from {least} on is expected")
    return value


def wholes(config: Config, key: str, count: int, default: Any = None, least: int = 1) -> list[int]:
    """A number for each axis, which may be given as one."""
    value = config.get(key, default)
    values = value if isinstance(value, (list, tuple)) else [value] * count
    if len(values) != count:
        raise LoadError(f"{key}={shown(value)}, {count} whole numbers are expected")
    return [whole({key: v}, key, least=least) for v in values]


def room(*counts: int) -> None:
    """Refuse arrays of so many entries that a description would take all memory."""
    if math.prod(counts) > _LARGEST:
        raise LoadError(f"an array of {math.prod(counts):,} entries for one sample is too large")


def axis_of(x: Any, axis: Any) -> int:
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


def axes_of(x: Any, axis: Any) -> list[int]:
    """One axis or several, as ``axis_of`` has them."""
    return sorted(axis_of(x, a) for a in (axis if isinstance(axis, list) else [axis]))


def along(x: Any, axes: Sequence[int]) -> tuple[int, ...]:
    """Shape that a weight over these axes takes to meet x."""
    return tuple(n if i in axes else 1 for i, n in enumerate(x.shape))
