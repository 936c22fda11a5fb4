"""Says where in the user's code a call came from."""

from __future__ import annotations

import linecache
import os
import sys

from hessarray.errors import TraceError

__all__ = ["trace_error", "user_line"]

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_BACKENDS = os.path.join(os.path.dirname(_PACKAGE), "backends")  # of an editable install


def user_line() -> str:
    """``file:line: code`` of the innermost frame outside hessarray, or an empty string."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_PACKAGE, _BACKENDS, "<")):
            code = linecache.getline(name, frame.f_lineno).strip()
            return f"{os.path.basename(name)}:{frame.f_lineno}: {code}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def trace_error(
    call: str, why: str, instead: str, kind: type[TraceError] = TraceError
) -> TraceError:
    """A TraceError that names the call, the user's line, and what to write instead."""
    line = user_line()
    at = f" (at {line})" if line else ""
    return kind(f"{call} cannot be traced: {why}; {instead}{at}")
