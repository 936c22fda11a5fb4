"""Work buffers: one for each thread, for all programs."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from hessarray.backends.numpy_kernels import aligned

__all__ = ["scratch"]

_KEEP_BYTES = 64 << 20  # of a thread's work buffer, between calls
_MOST_LAID = 64  # programs and chunk sizes, whose buffers are laid out


class _Buffer:
    """A work buffer for all programs: it grows, and is dropped when very large."""

    def __init__(self) -> None:
        self.drop()

    def drop(self) -> None:
        self.memory = np.empty(0, np.float64)
        self.laid: dict[Any, Any] = {}  # (workspace, n, dtype) -> its views of the memory

    def room(self, size: int) -> Any:
        """The work buffer, at least so many bytes long."""
        if self.memory.nbytes < size:
            self.drop()
            self.memory = aligned((-(-size // 8),), np.dtype(np.float64))
        return self.memory

    def views(self, workspace: Any, xp: Any, n: int, entries: int, dtype: Any) -> Any:
        """The program's buffers for n samples: made for the chunk and for the remainder."""
        size = n * entries
        arena = self.room(size * dtype.itemsize).view(dtype)[:size]
        key = (workspace, n, dtype)
        found = self.laid.get(key)
        if found is None:
            if len(self.laid) >= _MOST_LAID:
                self.laid.clear()
            found = self.laid[key] = workspace(xp, n, arena)
        return found


class _Scratch(threading.local):
    """The work buffer of a thread; an evaluation inside another one finds that it is taken.

    A signal's handler may evaluate between any two lines of a program, and so may whatever the
    garbage collector calls.
    """

    def __init__(self) -> None:
        self.free: list[_Buffer] = []
        self.taken: list[_Buffer] = []

    def __enter__(self) -> _Buffer:
        try:
            buffer = self.free.pop()
        except IndexError:
            buffer = _Buffer()
        self.taken.append(buffer)
        return buffer

    def __exit__(self, *error: object) -> None:
        buffer = self.taken.pop()
        if buffer.memory.nbytes > _KEEP_BYTES:
            buffer.drop()
        if not self.free:
            self.free.append(buffer)


scratch = _Scratch()
