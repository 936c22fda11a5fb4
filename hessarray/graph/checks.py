"""What calls on traced arrays are given (axes, lengths, indices, subscripts), checked and plain."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import numpy as np

from hessarray.errors import SampleIndexError, ShapeError, TraceError
from hessarray.graph.array import TracedArray
from hessarray.graph.where import trace_error

__all__ = [
    "axes",
    "axis",
    "index_array",
    "index_keys",
    "integer",
    "integers",
    "pairs",
    "subscripts",
]


def integers(call: str, what: str, value: Any) -> list[int]:
    """One integer, or a sequence of them, as a list."""
    array = isinstance(value, np.ndarray) and value.ndim > 0
    items = list(value) if array or isinstance(value, (list, tuple, range)) else [value]
    try:
        if any(isinstance(i, (bool, np.bool_)) for i in items):
            raise TypeError
        return [operator.index(i) for i in items]
    except TraceError:  # an index that is traced
        raise
    except TypeError:
        raise trace_error(
            f"{call} with {what} {_short(value)}", "it is no integer", "write whole numbers"
        ) from None


def integer(call: str, what: str, value: Any) -> int:
    found = integers(call, what, value)
    if len(found) != 1:
        raise trace_error(f"{call} with {what} {_short(value)}", "it takes one integer", "name one")
    return found[0]


def axis(call: str, value: Any, ndim: int) -> int:
    """One axis, counted from the front."""
    found = integer(call, "axis", value)
    if not -ndim <= found < ndim:
        raise ShapeError(
            f"axis {found} of {call} is out of range for one sample's {ndim} axes: "
            "a traced function sees one sample, without the batch axis"
        )
    return found % ndim


def axes(call: str, value: Any, ndim: int) -> tuple[int, ...]:
    """Different axes, counted from the front; all of them for None."""
    if value is None:
        return tuple(range(ndim))
    found = tuple(axis(call, i, ndim) for i in integers(call, "axis", value))
    twice = [i for i in found if found.count(i) > 1]
    if twice:
        raise trace_error(
            f"{call} over axes {_short(value)}",
            f"axis {twice[0]} is there twice",
            "name each axis once",
        )
    return found


def pairs(call: str, first: Sequence[int], second: Sequence[int]) -> list[tuple[int, int]]:
    """What belongs together, of two sequences of one length."""
    if len(first) != len(second):
        raise trace_error(
            f"{call} of {tuple(first)} and {tuple(second)}",
            f"{len(first)} cannot be paired with {len(second)}",
            "give as many of the one as of the other",
        )
    return list(zip(first, second, strict=True))


def subscripts(text: Any, operands: int) -> tuple[list[str], str]:
    """The terms of the operands and of the output of an einsum."""
    call = f"einsum({text!r})"

    def refused(why: str, instead: str) -> TraceError:
        return trace_error(call, why, instead)

    if not isinstance(text, str):
        raise refused("its subscripts come first, as a string", "write xp.einsum('ij,j->i', a, b)")
    inputs, arrow, output = text.replace(" ", "").partition("->")
    if not arrow or "." in text:
        raise refused("the output must be explicit", "write 'ij,j->i'")
    terms = inputs.split(",")
    strange = [c for c in "".join(terms) + output if not (c.isascii() and c.isalpha())]
    if strange:
        raise refused(f"{strange[0]!r} is no letter", "name each axis by a letter, as in 'ij,j->i'")
    if any(len(set(t)) < len(t) for t in terms):
        raise refused(
            "an index that repeats in one operand is a diagonal", "stack its entries x[i, i]"
        )
    if len(set(output)) < len(output):
        raise refused("an index repeats in the output", "name each axis of the output once")
    unknown = [c for c in output if c not in inputs]
    if unknown:
        raise refused(
            f"the output's {unknown[0]!r} is in no operand", "use xp.broadcast_to for a new axis"
        )
    if len(terms) != operands:
        raise refused(
            f"the number of its terms is {len(terms)}, that of the operands {operands}",
            "write one term for each, with commas between them",
        )
    return terms, output


# ---- indices ---------------------------------------------------------------------------------


def index_array(call: str, value: Any) -> np.ndarray[Any, Any]:
    """Fixed integers, which may be an empty list."""
    if isinstance(value, TracedArray):
        raise trace_error(call, "indices must not depend on x", "use fixed indices")
    array = np.asarray(value)
    if array.size == 0 and not hasattr(value, "dtype"):
        array = array.astype(np.intp)  # NumPy reads [] as float64
    if array.dtype.kind not in "iu":
        raise trace_error(
            call,
            f"the index {_short(value)} is no integer",
            "use integers, such as int(i) for a whole number i",
        )
    return array


def index_keys(key: Any, shape: tuple[int, ...]) -> list[Any]:
    """One integer, slice or integer array for each axis, and None for each new one."""
    given = list(key) if isinstance(key, tuple) else [key]
    call = f"x[{', '.join(map(_short, given))}]"
    keys = [_index(call, k) for k in given]
    if len([k for k in keys if k is ...]) > 1:
        raise trace_error(call, "it has two ellipses", "keep one and write : for the other axes")
    if len([k for k in keys if isinstance(k, np.ndarray)]) > 1:
        raise trace_error(
            call,
            "NumPy would pair the two index arrays",
            "stack the entries, xp.stack([x[0, 1], x[2, 3]]), or index twice",
        )
    used = len([k for k in keys if k is not None and k is not ...])
    if used > len(shape):
        raise SampleIndexError(
            f"{call} uses {used} indices, one sample has shape {shape}: "
            "a traced function sees one sample without the batch axis; write x[..., i]"
        )
    if not any(k is ... for k in keys):
        keys.append(...)
    spot = next(i for i, k in enumerate(keys) if k is ...)
    keys[spot : spot + 1] = [slice(None)] * (len(shape) - used)
    _check_adjacent(call, keys)
    return keys


def _check_adjacent(call: str, keys: list[Any]) -> None:
    """Refuse what NumPy transposes: an array apart from an integer, behind another axis."""
    fixed = [i for i, k in enumerate(keys) if isinstance(k, (int, np.ndarray))]
    array = next((i for i in fixed if isinstance(keys[i], np.ndarray)), None)
    if array is None or fixed[-1] - fixed[0] < len(fixed):
        return
    if any(not isinstance(k, int) for k in keys[:array]):
        raise trace_error(
            call,
            "NumPy would put the axis of the index array first",
            "index in two steps, first by the integer",
        )


def _index(call: str, key: Any) -> Any:
    if key is None or key is ...:
        return key
    if isinstance(key, slice):
        for bound in (key.start, key.stop, key.step):
            if bound is not None:
                integers(call, "the bound", bound)
        if key.step == 0:
            raise trace_error(call, "the step of its slice is 0", "step by 1, -1 or more")
        return key
    if isinstance(key, TracedArray) or np.asarray(key).dtype.kind == "b":
        raise trace_error(
            "x[mask] or x[traced index]",
            "the shape of the result would depend on values",
            "write xp.where(mask, x, 0.0), or index with fixed integers",
        )
    array = index_array(call, key)
    return array if array.ndim else int(array)


def _short(key: Any) -> str:
    """The index as it is written, in one line; long ones by their length."""
    if isinstance(key, slice):
        parts = ["" if p is None else _short(p) for p in (key.start, key.stop, key.step)]
        return ":".join(parts if key.step is not None else parts[:2])
    if isinstance(key, EllipsisType):
        return "..."
    text = " ".join((repr(key) if isinstance(key, (str, TracedArray)) else str(key)).split())
    return text if len(text) <= 40 else f"{text[:36]} ..."
