"""A node of an ONNX graph as its operator sees it, and what operators share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from hessarray.activations import activation
from hessarray.load.onnx_samples import check_entries

__all__ = ["Node", "axes_of", "constant", "integers", "is_constant", "namespace_of"]


@dataclass(frozen=True)
class Node:
    """One node: its operator, its attributes, and the opset that says what they mean."""

    kind: str
    name: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute of this name; strings as text, tensors as arrays."""
        return self.attributes.get(name, default)


def is_constant(x: Any) -> bool:
    """Whether x is a plain array, whose values are known."""
    return isinstance(x, np.ndarray)


def constant(x: Any, what: str) -> np.ndarray[Any, Any]:
    """x, which must not depend on the inputs of the model.

    Raises
    ------
    ValueError
        It does, or it is missing.
    """
    if not is_constant(x):
        raise ValueError(
            f"its {what} is missing" if x is None else f"its {what} must be a constant of the graph"
        )
    return x  # type: ignore[no-any-return]


def integers(x: Any, what: str) -> list[int]:
    """The constant x as a list of integers."""
    array = constant(x, what) if not isinstance(x, (list, tuple)) else np.asarray(x, dtype=np.int64)
    if array.dtype.kind not in "iu" or array.ndim > 1:
        raise ValueError(f"its {what} must be one integer or a list of them")
    return [int(i) for i in array.reshape(-1)]


def axes_of(axes: list[int], ndim: int) -> tuple[int, ...]:
    """Axes counted from the front, each once."""
    if any(not -ndim <= a < ndim for a in axes):
        raise ValueError(f"axes {axes} of an array with {ndim} axes")
    found = tuple(a % ndim for a in axes)
    if len(set(found)) < len(found):
        raise ValueError(f"axes {axes} name one axis twice")
    return found


def _broadcast_to(x: Any, shape: Any) -> Any:
    check_entries(shape)
    return np.broadcast_to(x, shape)


class _Constants(SimpleNamespace):
    """NumPy, and what traced arrays know besides."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


_CONSTANTS = _Constants(
    broadcast_to=_broadcast_to,
    erf=activation("erf"),
    stop_gradient=lambda x: x,
)


def namespace_of(*arrays: Any) -> Any:
    """The array namespace of the arguments; NumPy's where all of them are constants."""
    for x in arrays:
        if x is not None and not is_constant(x):
            return x.__array_namespace__()
    return _CONSTANTS
