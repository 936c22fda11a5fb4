"""What a file from a stranger may hold, and how its names are shown in a message."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hessarray.errors import LoadError

__all__ = ["ARCHITECTURE", "Arrays", "MAX_TEXT", "check_count", "check_sizes", "shown"]

Arrays = dict[str, np.ndarray[Any, Any]]

ARCHITECTURE = "hessarray.architecture"
MAX_TEXT = 10_000_000  # bytes of the architecture
_MAX_TENSORS = 100_000
_MAX_AXES = 8
_BYTES = {"float32": 4, "float64": 8}

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100


def shown(value: Any) -> str:
    """The repr of what a file holds, short and on one line whatever it holds."""
    if isinstance(value, BaseException):
        text = next(iter(str(value).splitlines()), type(value).__name__)
        text = text if text.isprintable() else repr(text)
        return text if len(text) <= 200 else f"{text[:200]}..."
    return _short.repr(value)


def check_count(path: Path, count: int) -> None:
    """The number of tensors, before each is looked at."""
    if count > _MAX_TENSORS:
        raise LoadError(f"{path}: {count} tensors are more than {_MAX_TENSORS}")


def check_sizes(path: Path, sizes: Mapping[str, tuple[str, tuple[int, ...]]], limit: int) -> None:
    """Dtypes, shapes and the total in Python integers, before anything is allocated."""
    check_count(path, len(sizes))
    total = 0
    for name, (dtype, shape) in sizes.items():
        if dtype not in _BYTES:
            raise LoadError(
                f"{path}: tensor {shown(name)} has dtype {dtype}, float32 or float64 is expected"
            )
        if len(shape) > _MAX_AXES:
            raise LoadError(
                f"{path}: tensor {shown(name)} has {len(shape)} axes, at most {_MAX_AXES} are "
                "expected"
            )
        if any(n < 0 for n in shape):
            raise LoadError(f"{path}: tensor {shown(name)} has the negative shape {shown(shape)}")
        total += math.prod(shape) * _BYTES[dtype]
    if total > limit:
        raise LoadError(f"{path}: the tensors take {total:,} bytes, max_bytes is {limit:,}")
