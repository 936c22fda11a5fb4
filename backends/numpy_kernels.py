"""Kernels of our own (``_kernels.h``), as programs call them.

Each function here finds the ufunc that does it and its operands in their full shapes; NumPy calls
that at once, the recorder notes it. What they are for is in ``plan/join.py``.

A matrix that is bound once is packed in the order in which products read it: groups of columns, in
each group row after row. With AVX-512 they reach 60 of the 76 Gflop/s that a core can do, where
OpenBLAS reaches 40 to 55, also where rows are few.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    from hessarray.backends import _loops
except ImportError:  # built without a C compiler: programs run call by call
    _loops = None  # type: ignore[assignment]

__all__ = [
    "ACTIVATIONS",
    "KERNELS",
    "LINE",
    "_loops",
    "aligned",
    "called",
    "has_gram",
    "has_products",
    "pack",
]

LINE = 64  # bytes of a cache line

Call = tuple[Any, ...]  # a ufunc, its operands and results


def has_gram() -> bool:
    """Whether J diag(w) J^T is one operation."""
    return hasattr(_loops, "gram")


def has_products() -> bool:
    """Whether products with packed constants are; vectors are too narrow for it elsewhere."""
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


def aligned(shape: Any, dtype: Any) -> Any:
    """An empty array that starts with a cache line."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + size].view(dtype).reshape(shape)


def called(kernel: Callable[..., Call]) -> Callable[..., None]:
    """The kernel as a function that does it."""

    def call(*args: Any, **options: Any) -> None:
        ufunc, *operands = kernel(*args, **options)
        ufunc(*operands)

    return call


# ---- one function for each -----------------------------------------------------------------------


def _packed_matmul(a: Any, b: Any, out: Any, scale: Any = None, plus: Any = None) -> Call:
    """T + (A . S) B with packed B; S and T broadcast, and may be left out."""
    return _product("product", a, b, out, scale, plus)


def _row_dots(a: Any, b: Any, out: Any, scale: Any = None, plus: Any = None) -> Call:
    """T + (A . S) B^T with packed B."""
    return _product("row_dots", a, b, out, scale, plus)


def _product(name: str, a: Any, b: Any, out: Any, scale: Any, plus: Any) -> Call:
    more = []
    if scale is not None:
        shape = (*out.shape[:-1], max(a.shape[-1], scale.shape[-1]))
        a, scale = np.broadcast_to(a, shape), np.broadcast_to(scale, shape)
        name, more = name + "_scaled", [scale]
    if plus is not None:
        name, more = name + "_plus", [*more, np.broadcast_to(plus, out.shape)]
    return getattr(_loops, name), a, b, *more, out


def _gram(j: Any, w: Any, out: Any) -> Call:
    """J diag(w) J^T."""
    return _loops.gram, j, w, out


def _grams(j: Any, w: Any, out: Any) -> Call:
    """J diag(w) J^T for each of the w, along the last axis of the result."""
    return _loops.grams, j, w, out


def _gram_plus(j: Any, w: Any, total: Any, out: Any) -> Call:
    """T + J diag(w) J^T."""
    return _loops.gram_plus, j, w, total, out


def _product_sum(x: Any, y: Any, axis: int, out: Any) -> Call:
    """The sum of x y over one axis, not the last; x and y broadcast against each other."""
    shape = np.broadcast_shapes(x.shape, y.shape)
    rows = [np.moveaxis(np.broadcast_to(a, shape), axis, -2) for a in (x, y)]
    return _loops.product_sum, *rows, out


def _multiply_add(a: Any, b: Any, c: Any, out: Any) -> Call:
    """c + a b."""
    return _loops.multiply_add, a, b, c, out


def _activation(name: str) -> Callable[..., Call]:
    """An activation with its slopes: silu_02(z, s, s2) fills s and s2."""
    return lambda *arrays: (getattr(_loops, name), *arrays)


#: Those that come with their slopes, as far as wanted, in one pass.
ACTIVATIONS = ("tanh", "sigmoid", "silu")
_ORDERS = ("0", "1", "01", "2", "02", "12", "012")

KERNELS: dict[str, Callable[..., Call]] = {
    "gram": _gram,
    "gram_plus": _gram_plus,
    "grams": _grams,
    "multiply_add": _multiply_add,
    "packed_matmul": _packed_matmul,
    "product_sum": _product_sum,
    "row_dots": _row_dots,
}
for _name in (f"{activation}_{orders}" for activation in ACTIVATIONS for orders in _ORDERS):
    KERNELS[_name] = _activation(_name)
