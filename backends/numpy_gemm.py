"""Products of tall matrices, in pieces that OpenBLAS multiplies without packing them first.

On processors with AVX-512, OpenBLAS has kernels for products of up to 10^6 multiply-adds that read
their operands where they lie. They reach 52 to 59 Gflop/s where the packing ones reach 40 to 44 on
the same core, so a tall matrix is multiplied a few rows at a time. The sums of an entry's products
stay whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

__all__ = ["matmul", "pieces"]

_SMALL = 10**6  # multiply-adds of a product that is not packed
_LARGEST = 1 << 15  # entries of the right matrix; of a larger one a piece has too few rows
_UNPACKED = {"SkylakeX", "Cooperlake", "SapphireRapids"}


def matmul(a: Any, b: Any, out: Any) -> None:
    """``np.matmul`` into ``out``, in pieces where that is faster."""
    for x, y, z in pieces(a, b, out):
        np.matmul(x, y, out=z)


def pieces(a: Any, b: Any, out: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Operands and results of the products that make up ``a @ b``: a stack, and what is left."""
    rows = _rows(a.shape[0], a.shape[1], b.shape[1]) if a.ndim == b.ndim == 2 else 0
    if not rows or rows >= len(a) or not _unpacked():
        yield a, b, out
        return
    whole = len(a) // rows * rows
    yield _stack(a[:whole], rows), b, _stack(out[:whole], rows)
    if whole < len(a):
        yield a[whole:], b, out[whole:]


def _rows(m: int, k: int, p: int) -> int:
    """Rows of a piece: about the same in each of as few as there can be."""
    if not m * k * p > _SMALL or k * p > _LARGEST:
        return m
    most = _SMALL // (k * p)
    even = -(-m // -(-m // most))
    return min(-(-even // 8) * 8, most)


def _stack(matrix: Any, rows: int) -> Any:
    """(m, k) as (m / rows, rows, k): a view, whatever the strides."""
    (m, k), (down, right) = matrix.shape, matrix.strides
    strides = (rows * down, down, right)
    return np.lib.stride_tricks.as_strided(matrix, (m // rows, rows, k), strides)


@lru_cache(maxsize=1)
def _unpacked() -> bool:
    """Whether NumPy's BLAS is an OpenBLAS with such kernels for this processor."""
    from threadpoolctl import ThreadpoolController

    found = [lib for lib in ThreadpoolController().lib_controllers if lib.user_api == "blas"]
    kinds = {getattr(lib, "architecture", "") for lib in found if lib.internal_api == "openblas"}
    return bool(kinds) and kinds <= _UNPACKED
