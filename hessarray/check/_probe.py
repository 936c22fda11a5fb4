"""A function of any array library, probed at float64 NumPy points."""

from __future__ import annotations

import math
from typing import Any

import array_api_compat
import numpy as np

from hessarray._arguments import frozen

Array = np.ndarray[Any, Any]


class Probe:
    """The function at samples (n, d), in NumPy, evaluated where x lives."""

    def __init__(self, net: Any, x: Any) -> None:
        self.net = net
        self.like = tuple(x) if isinstance(x, (tuple, list)) else (x,)
        arrays = [frozen("x", a) for a in self.like]
        self.shapes = tuple(getattr(net, "in_shapes", None) or (a.shape[-1:] for a in arrays))
        batch = arrays[0].shape[: arrays[0].ndim - len(self.shapes[0])]
        self.n = math.prod(batch)
        self.sizes = [math.prod(s) for s in self.shapes]
        self.d = sum(self.sizes)
        self.dtype = arrays[0].dtype
        self.eps = float(np.finfo(self.dtype).eps)
        flat = [
            a.reshape(self.n, size).astype(np.float64)
            for a, size in zip(arrays, self.sizes, strict=True)
        ]
        self.x = np.concatenate(flat, axis=1)

    def rounded(self, x: Array) -> Array:
        """The points that the function really sees."""
        return x.astype(self.dtype).astype(np.float64)

    def to_library(self, a: Array, like: Any = None) -> Any:
        """The array in the library, dtype and device of x."""
        like = self.like[0] if like is None else like
        xp = array_api_compat.array_namespace(like)
        plain = np.array(a, dtype=self.dtype)
        return xp.asarray(plain, dtype=like.dtype, device=array_api_compat.device(like))

    def inputs(self, x: Array) -> list[Any]:
        parts = np.split(x, np.cumsum(self.sizes)[:-1], axis=1)
        return [
            self.to_library(part.reshape(len(x), *shape), like)
            for part, shape, like in zip(parts, self.shapes, self.like, strict=True)
        ]

    def value(self, x: Array) -> Array:
        """(n, m)."""
        return to_numpy(self.net.value(*self.inputs(x))).reshape(len(x), -1)

    def gradient(self, x: Array) -> Array:
        """(n, d, m)."""
        return self.joined(self.net.gradient(*self.inputs(x)), len(x))

    def hessian(self, x: Array) -> Array:
        """(n, d, d, m)."""
        return self.joined2(self.net.hessian(*self.inputs(x)), len(x))

    def joined(self, parts: Any, n: int) -> Array:
        """The blocks of several inputs in one array (n, d, m)."""
        blocks = parts if isinstance(parts, tuple) else (parts,)
        return np.concatenate(
            [to_numpy(b).reshape(n, size, -1) for b, size in zip(blocks, self.sizes, strict=True)],
            axis=1,
        )

    def joined2(self, parts: Any, n: int) -> Array:
        """The blocks of several inputs in one array (n, d, d, m)."""
        rows = parts if isinstance(parts, tuple) else ((parts,),)
        return np.concatenate(
            [
                np.concatenate(
                    [
                        to_numpy(b).reshape(n, i, j, -1)
                        for b, j in zip(row, self.sizes, strict=True)
                    ],
                    axis=2,
                )
                for row, i in zip(rows, self.sizes, strict=True)
            ],
            axis=1,
        )


def to_numpy(a: Any) -> Array:
    """A float64 NumPy copy of an array of any library."""
    return frozen("result", a).astype(np.float64)
