"""Matrix products with packed constants, by a kernel of our own.

A constant is packed in the order in which the kernel (``_matmul.h``) reads it: groups of columns, in
each group row after row. On processors with AVX-512 it multiplies at 60 Gflop/s and more of the 76
that a core can do, where OpenBLAS reaches 40 to 55, also where rows are few, and it weighs rows on
their way. Products of two arrays that both depend on the samples are NumPy's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

try:
    from hessarray.backends import _loops
except ImportError:  # built without a C compiler
    _loops = None  # type: ignore[assignment]

__all__ = ["LINE", "aligned", "has_packed", "operands", "pack", "packed_matmul", "scaled_matmul"]

LINE = 64  # bytes of a cache line


def has_packed() -> bool:
    """Whether the kernel is there, and its vectors are wide enough to beat a BLAS library."""
    return hasattr(_loops, "packed_matmul")


def pack(b: Any) -> Any:
    """(k, p) in one axis: up to three vectors of columns at a time, zeros after the last."""
    k, p = b.shape
    lanes = _loops.VECTOR // b.dtype.itemsize
    wide = -(-p // lanes) * lanes
    found = aligned((k * wide,), b.dtype)
    for start in range(0, wide, 3 * lanes):
        stop = min(start + 3 * lanes, wide)
        panel = found[start * k : stop * k].reshape(k, stop - start)
        columns = b[:, start:stop]
        panel[:, : columns.shape[1]] = columns
        panel[:, columns.shape[1] :] = 0.0
    return found


def packed_matmul(a: Any, b: Any, out: Any) -> None:
    """A B into ``out``, with packed B."""
    _loops.packed_matmul(a, b, out)


def scaled_matmul(a: Any, s: Any, b: Any, out: Any) -> None:
    """(A . S) B into ``out``, with packed B; A and S broadcast against each other."""
    _loops.scaled_matmul(*operands(a, s, b, out))


def operands(a: Any, s: Any, b: Any, out: Any) -> tuple[Any, ...]:
    """The same with A and S in their common shape."""
    shape = (*out.shape[:-1], max(a.shape[-1], s.shape[-1]))
    return np.broadcast_to(a, shape), np.broadcast_to(s, shape), b, out


def aligned(shape: Any, dtype: Any) -> Any:
    """An empty array that starts with a cache line."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + size].view(dtype).reshape(shape)
