"""Says where in the user's code a call came from."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np

from hessarray.errors import SampleIndexError, ShapeError, TraceError

__all__ = ["naming_the_line", "trace_error", "user_line"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_CONTEXTLIB = contextlib.__file__
_NUMPY = os.path.dirname(np.__file__)  # whose functions may call back on a traced array
_BACKENDS = os.path.join(os.path.dirname(_PACKAGE), "backends")  # of an editable install


def user_line() -> str:
    """``file:line: code`` of the innermost frame outside hessarray, or an empty string."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_users(frame):
            return _shown(frame, frame.f_lineno)
        frame = frame.f_back
    return ""


@contextmanager
def naming_the_line() -> Iterator[None]:
    """Adds the user's line to errors about shapes and indices that pass through."""
    try:
        yield
    except (ShapeError, SampleIndexError) as error:
        lines = []
        step = error.__traceback__
        while step is not None:
            if _is_users(step.tb_frame):
                lines.append(_shown(step.tb_frame, step.tb_lineno))
            step = step.tb_next
        if lines and " (at " not in str(error):
            error.args = (f"{error} (at {lines[-1]})",)
        raise


def _is_users(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return not name.startswith((_PACKAGE, _BACKENDS, _NUMPY, _CONTEXTLIB, "<"))


def _shown(frame: FrameType, number: int) -> str:
    import linecache

    name = frame.f_code.co_filename
    return f"{os.path.basename(name)}:{number}: {linecache.getline(name, number).strip()}"


def trace_error(
    call: str, why: str, instead: str, kind: type[TraceError] = TraceError
) -> TraceError:
    """A TraceError that names the call, the user's line, and what to write instead."""
    line = user_line()
    at = f" (at {line})" if line else ""
    return kind(f"{call} cannot be traced: {why}; {instead}{at}")
