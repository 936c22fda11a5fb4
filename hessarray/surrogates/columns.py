"""Elementwise functions, one or several for each column: encodings and decodings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

from hessarray.activations import ACTIVATIONS, activation
from hessarray.errors import OptionError, UnknownActivationError, near_names
from hessarray.graph.elementary import PRIMITIVES, Elementary, power
from hessarray.layers import Layer

__all__ = ["Decode", "Encode", "column_function", "taken"]

Function = Callable[[Any], Any]


def _exponential(base: float) -> Function:
    return lambda z: PRIMITIVES["exp"](z * math.log(base))


def _wave(name: str) -> Callable[[float], Function]:
    return lambda rate: lambda z: PRIMITIVES[name](z * rate)


# Beside elementary functions and activations, by their own names.
_PLAIN: dict[str, Function] = {"exp2": _exponential(2.0), "exp10": _exponential(10.0)}
# Functions with numbers: how many, and from these to the function.
_WITH_NUMBERS: dict[str, tuple[int, Callable[..., Function]]] = {
    "clip": (2, ACTIVATIONS["hardtanh"]),
    "cos": (1, _wave("cos")),
    "power": (1, power),
    "sin": (1, _wave("sin")),
}


class Encode(Layer):
    """One or several functions of each column, side by side in the order of the columns.

    Parameters
    ----------
    *columns : str, tuple or callable
        For each input column what stands in its place: a function, or a list of several. A
        function is a name, a tuple of a name and its numbers, or array API code of one array.
        Names are those of elementary functions (``log``, ``log10``, ``log1p``, ``sqrt``,
        ``square``, ``reciprocal``, ``sin``, ...) and of activations (``identity``, ``sigmoid``,
        ``softplus``, ...), and ``exp2``, ``exp10``. With numbers: ``("sin", k)`` and ``("cos", k)``
        are sin(k u) and cos(k u), ``("power", p)`` is u**p, ``("clip", low, high)``,
        ``("leaky_relu", slope)`` and so on.

    Raises
    ------
    OptionError
        A function is unknown or takes other numbers; names the column.

    Examples
    --------
    An angle in degrees becomes a point on the circle, a pressure its logarithm:

    >>> import math, numpy as np, hessarray as ha
    >>> k = math.pi / 180
    >>> encode = ha.Encode([("sin", k), ("cos", k)], "log10", "identity")
    >>> encode.in_features, encode.out_features
    (3, 4)
    >>> np.round(encode(np.array([90.0, 1000.0, 7.0])), 12).tolist()
    [1.0, 0.0, 3.0, 7.0]
    """

    def __init__(self, *columns: Any) -> None:
        kind = type(self).__name__
        entries = [_entries(c) for c in columns]
        if not entries or not all(entries):
            raise OptionError(f"{kind}: give one function or a list of functions for each column")
        super().__init__(len(columns), sum(map(len, entries)))
        self.columns = tuple(entries)
        for i, functions in enumerate(entries):
            for f in functions:
                column_function(f, f"{kind}: column {i}")

    def __call__(self, u: Any) -> Any:
        """The layer's value for the features of one sample."""
        xp = u.__array_namespace__()
        # Each distinct function is evaluated once, on the columns side by side that it takes.
        groups: dict[Any, list[tuple[int, int]]] = {}
        place = 0
        for column, functions in enumerate(self.columns):
            for f in functions:
                groups.setdefault(f, []).append((place, column))
                place += 1
        parts, order = [], []
        for f, pairs in groups.items():
            parts.append(column_function(f, "")(taken(u, [c for _, c in pairs])))
            order += [p for p, _ in pairs]
        joined = parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)
        return taken(joined, sorted(range(len(order)), key=order.__getitem__))


class Decode(Encode):
    """One function of each column: from what a network gives to what is asked for.

    Parameters
    ----------
    *columns : str, tuple or callable
        A function for each column, as in `Encode`.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> ha.Decode("exp", "sigmoid", ("power", 2))(np.array([0.0, 0.0, 3.0])).tolist()
    [1.0, 0.5, 9.0]
    """

    def __init__(self, *columns: Any) -> None:
        for i, c in enumerate(columns):
            if len(_entries(c)) != 1:
                raise OptionError(f"Decode: column {i} is {c!r}, one function is expected")
        super().__init__(*columns)


def _entries(column: Any) -> tuple[Any, ...]:
    """The functions of a column, each a name, a tuple of a name and numbers, or a callable."""
    if isinstance(column, list):
        return tuple(_plain(f) for f in column)
    if isinstance(column, tuple) and not all(isinstance(v, (int, float)) for v in column[1:]):
        return tuple(_plain(f) for f in column)  # a tuple of functions
    return (_plain(column),)


def _plain(f: Any) -> Any:
    """(name,) and name are the same function, and so are whole numbers and floats."""
    if isinstance(f, (list, tuple)) and f and isinstance(f[0], str):
        return f[0] if len(f) == 1 else (f[0], *f[1:])
    return f


def column_function(f: Any, where: str) -> Function:
    """The function of this description.

    Raises
    ------
    OptionError
        There is none; the message begins with ``where``.
    """
    if callable(f):
        return cast(Function, activation(f))
    name, *numbers = [f] if isinstance(f, str) or not isinstance(f, tuple) or not f else f
    if not isinstance(name, str) or not all(_is_number(v) for v in numbers):
        raise OptionError(f"{where} is {f!r}: a name, or a tuple of a name and numbers is expected")
    return _named(name, tuple(map(float, numbers)), where)


def _built_in(name: str, numbers: tuple[float, ...]) -> Function | None:
    if numbers and name in _WITH_NUMBERS and len(numbers) == _WITH_NUMBERS[name][0]:
        return _WITH_NUMBERS[name][1](*numbers)
    if not numbers and name in _PLAIN:
        return _PLAIN[name]
    return PRIMITIVES.get(name) if not numbers else None


def _named(name: str, numbers: tuple[float, ...], where: str) -> Function:
    found: Any = _built_in(name, numbers)
    try:
        if found is None and not numbers:
            found = activation(name)
        elif found is None and callable(maker := ACTIVATIONS.get(name)):
            made = None if isinstance(maker, Elementary) else maker(*numbers)
            found = made if isinstance(made, Elementary) else None
    except UnknownActivationError:
        found = None
    except (ValueError, TypeError) as error:
        raise OptionError(f"{where}: {error}") from None
    if found is None:
        known = {*_WITH_NUMBERS, *_PLAIN, *PRIMITIVES, *ACTIVATIONS}
        near = "" if name in known else near_names(name, known)
        raise OptionError(
            f"{where}: there is no function {name[:40]!r} with {len(numbers)} numbers"
            + (f", {near}" if near else "")
        )
    return cast(Function, found)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def taken(u: Any, columns: Sequence[int]) -> Any:
    """u[columns]; what stands side by side is a slice, which costs nothing."""
    first, last = columns[0], columns[-1]
    if list(columns) == list(range(first, last + 1)):
        return u if len(columns) == u.shape[0] else u[first : last + 1]
    import numpy as np

    xp = u.__array_namespace__()
    return xp.take(u, np.asarray(columns), axis=0)
