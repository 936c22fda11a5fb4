"""The exceptions of hessarray; each also is the builtin that a caller would catch."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "BackendError",
    "CurvatureError",
    "DTypeError",
    "HessarrayError",
    "KinkWarning",
    "LoadError",
    "MemoryLimitError",
    "OptionError",
    "OverwriteError",
    "ParameterError",
    "SampleIndexError",
    "ShapeError",
    "TraceAttributeError",
    "TraceError",
    "UnknownActivationError",
    "near_names",
]


class HessarrayError(Exception):
    """Base class of all errors that hessarray raises on purpose."""


class ShapeError(HessarrayError, ValueError):
    """An array, layer or direction has a shape that does not fit; the message names both."""


class DTypeError(HessarrayError, TypeError):
    """An array's dtype is not float32 or float64."""


class BackendError(HessarrayError, TypeError):
    """An array's library is unknown, or other than the one a network is pinned to."""


class TraceError(HessarrayError, TypeError):
    """Code cannot be traced; the message names call and line, and what to write instead."""


class SampleIndexError(HessarrayError, IndexError):
    """An index does not fit one sample's shape (a traced function sees no batch axis)."""


class TraceAttributeError(TraceError, AttributeError):
    """A traced array lacks this attribute (an AttributeError, so that ``hasattr`` works)."""


class MemoryLimitError(HessarrayError, MemoryError):
    """A result or one sample's intermediates would exceed ``memory_limit``."""


class ParameterError(HessarrayError, KeyError):
    """A parameter is missing, unknown or of the wrong shape."""

    def __str__(self) -> str:  # KeyError would show the repr
        return str(self.args[0]) if self.args else ""


class OptionError(HessarrayError, ValueError, TypeError):
    """A keyword is unknown, or has a value it cannot take; the message says what it can."""


class OverwriteError(HessarrayError, FileExistsError):
    """A file exists that would be replaced; the message says how to allow it."""


class CurvatureError(HessarrayError, ArithmeticError):
    """Products with a curvature operator do not allow what was asked for; the message says why."""


class LoadError(HessarrayError, ValueError):
    """A file or foreign model cannot be read; the message names the file, tensor or module."""


class KinkWarning(UserWarning):
    """A second derivative leaves out the bends of relu, abs, clip; once per function."""


class UnknownActivationError(HessarrayError, ValueError):
    """No activation has this name; the message lists the near names."""


def near_names(name: str, known: Iterable[str]) -> str:
    """``did you mean a or b``, of the known names most like this one; empty where none is."""
    import difflib  # which only a message needs

    near = difflib.get_close_matches(name, known, 3)
    return f"did you mean {' or '.join(near)}" if near else ""
