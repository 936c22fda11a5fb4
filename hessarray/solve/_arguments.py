"""What a caller passes to a solver's adapter, checked: vectors, bounds, names, libraries."""

from __future__ import annotations

from typing import Any

import numpy as np

from hessarray.errors import BackendError, DTypeError, OptionError, ShapeError

__all__ = ["bounds", "missing", "vector"]

_FLOAT64 = np.dtype(np.float64)


def vector(name: str, values: Any, length: int, why: str = "one number for each input") -> Any:
    """values as a float64 array (length,).

    Raises
    ------
    ShapeError, DTypeError
        Another shape, or no real numbers.
    """
    if type(values) is np.ndarray and values.dtype is _FLOAT64 and values.shape == (length,):
        return values  # as solvers call, thousands of times
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "fiu":
            raise TypeError
    except (TypeError, ValueError):
        raise DTypeError(
            f"{name} is no array of real numbers: pass ({length},) floats, {why}"
        ) from None
    if array.shape != (length,):
        raise ShapeError(f"{name} has shape {array.shape}, ({length},) is expected: {why}")
    return np.ascontiguousarray(array, dtype=np.float64)


def bounds(lower: Any, upper: Any, length: int, names: str = "lb and ub") -> tuple[Any, Any]:
    """Lower and upper bounds as float64 (length,); None is no bound, a number holds for all.

    Raises
    ------
    ShapeError, OptionError
        Another shape, a NaN, or a lower bound above the upper one.
    """
    first, _, second = names.split()
    pair = []
    for name, values, none in ((first, lower, -np.inf), (second, upper, np.inf)):
        given = none if values is None else values
        array = np.full(length, given) if np.ndim(given) == 0 else given
        array = vector(name, array, length, "one for each, or one number for all")
        if np.isnan(array).any():
            raise OptionError(f"{name} holds NaN: pass infinity, or None, for no bound")
        pair.append(array)
    wrong = np.flatnonzero(pair[0] > pair[1])
    if wrong.size:
        i = int(wrong[0])
        raise OptionError(
            f"{first}[{i}] = {pair[0][i]:g} lies above {second}[{i}] = {pair[1][i]:g}: swap them"
        )
    return pair[0], pair[1]


def missing(library: str, extra: str) -> BackendError:
    """The sentence for a library that is not installed."""
    return BackendError(f"this needs {library}: pip install 'hessarray[{extra}]'")
