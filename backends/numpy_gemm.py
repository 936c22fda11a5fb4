"""Matrix products with packed constants, by a kernel of our own.

A constant is packed in the order in which the kernel (``_matmul.h``) reads it: groups of columns,
in each group row after row. On processors with AVX-512 it multiplies at 60 Gflop/s and more of the 76
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

__all__ = ["LINE", "aligned", "has_packed", "pack", "packed_matmul", "product", "product_sum", "rows_of"]

LINE = 64  # bytes of a cache line


def has_packed() -> bool:
    """Whether the kernel is there, and its vectors are wide enough to beat a BLAS library."""
    return hasattr(_loops, "product")


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


def packed_matmul(a: Any, b: Any, out: Any, scale: Any = None, plus: Any = None) -> None:
    """T + (A . S) B into ``out``, with packed B; S and T broadcast, and may be left out."""
    ufunc, *operands = product(a, b, out, scale, plus)
    ufunc(*operands)


def product(a: Any, b: Any, out: Any, scale: Any, plus: Any) -> tuple[Any, ...]:
    """The ufunc for such a product, and its operands in their full shapes."""
    name, more = "product", []
    if scale is not None:
        shape = (*out.shape[:-1], max(a.shape[-1], scale.shape[-1]))
        a, scale = np.broadcast_to(a, shape), np.broadcast_to(scale, shape)
        name, more = name + "_scaled", [scale]
    if plus is not None:
        name, more = name + "_plus", [*more, np.broadcast_to(plus, out.shape)]
    return getattr(_loops, name), a, b, *more, out


def product_sum(x: Any, y: Any, axis: int, out: Any) -> None:
    """The sum of x y over one axis, into ``out``; x and y broadcast against each other."""
    _loops.product_sum(*rows_of(x, y, axis), out)


def rows_of(x: Any, y: Any, axis: int) -> tuple[Any, Any]:
    """x and y in their common shape, the axis that is summed over last but one."""
    shape = np.broadcast_shapes(x.shape, y.shape)
    return tuple(np.moveaxis(np.broadcast_to(a, shape), axis, -2) for a in (x, y))


def aligned(shape: Any, dtype: Any) -> Any:
    """An empty array that starts with a cache line."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + size].view(dtype).reshape(shape)
