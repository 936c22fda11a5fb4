"""What an exported module holds beside its programs, on NumPy and CuPy: copied there as text.

``IN_SHAPES``, ``CHUNK_BYTES`` and ``_WEIGHTS`` are the module's own; those here only stand in for
them, so that this file is code to be read, linted and typed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hessarray.export._shapes_runtime import _product

__all__: list[str] = []

_Shape = tuple[int, ...]
IN_SHAPES: tuple[_Shape, ...] = ()
CHUNK_BYTES = 1 << 20
_WEIGHTS: dict[str, Any] = {}


class _Program:
    """A straight line of array calls, with what it needs to be run.

    ``entries`` are the numbers that it holds at a time for one sample, ``results`` the shapes of
    its results for one sample.
    """

    def __init__(self, bind: Any, run: Any, entries: int, results: tuple[_Shape, ...]) -> None:
        self.bind, self.run, self.entries, self.results = bind, run, entries, results
        self.bound: dict[str, Any] = {}  # what depends on the weights alone, by dtype

    def constants(self, dtype: Any) -> Any:
        """The folded weights in this dtype; computed once."""
        found = self.bound.get(dtype.name)
        if found is None:
            weights = {
                k: np.asarray(a, dtype=dtype if a.dtype.kind == "f" else None)
                for k, a in _WEIGHTS.items()
            }
            found = tuple(np.asarray(a, order="C") for a in self.bind(weights))
            self.bound[dtype.name] = found
        return found


@np.errstate(all="ignore")  # an intermediate may overflow on the way to a right result
def _evaluate(program: _Program, inputs: Any, directions: Any = ()) -> tuple[_Shape, list[Any]]:
    """The shape of the batch, and the flat results for all samples, chunk by chunk."""
    x, batch = _samples(inputs)
    dtype, n = x[0].dtype, _product(batch)
    flat = [
        np.ascontiguousarray(a).reshape((n, _product(s))) for a, s in zip(x, IN_SHAPES, strict=True)
    ]
    if directions:
        flat.append(_directions(directions, batch, dtype))
    found = [np.empty((n, *shape), dtype) for shape in program.results]
    if n == 0:
        return batch, found
    constants = program.constants(dtype)
    size = _chunk(n, program.entries * dtype.itemsize, CHUNK_BYTES)
    for start in range(0, n, size):
        stop = min(start + size, n)
        parts = program.run(constants, stop - start, *(a[start:stop] for a in flat))
        for whole, part in zip(found, parts, strict=True):
            whole[start:stop] = part
    return batch, found


def _samples(inputs: Any) -> tuple[list[Any], _Shape]:
    """The inputs as arrays of one dtype, float32 or float64, and the shape of the batch."""
    arrays = []
    for a, shape in zip(map(np.asarray, inputs), IN_SHAPES, strict=True):
        name = "float64" if a.dtype.kind in "biu" else a.dtype.name
        if name not in ("float32", "float64"):
            raise TypeError(f"x has dtype {a.dtype}, float32 or float64 is expected")
        if a.ndim < len(shape) or a.shape[a.ndim - len(shape) :] != shape:
            expected = ", ".join(["...", *map(str, shape)])
            raise ValueError(f"x has shape {a.shape}, ({expected}) is expected")
        arrays.append(np.asarray(a, dtype=name, order="C"))  # in the machine's byte order
    batches = [a.shape[: a.ndim - len(s)] for a, s in zip(arrays, IN_SHAPES, strict=True)]
    if len(set(batches)) > 1 or len({a.dtype for a in arrays}) > 1:
        raise ValueError("the inputs differ in batch shape or dtype: make them equal")
    return arrays, batches[0]


def _directions(directions: Any, batch: _Shape, dtype: Any) -> Any:
    """Directions or weights, one for all samples or one for each, as (n, entries)."""
    parts = []
    for given, shape in directions:
        a = np.asarray(given)
        if a.dtype.kind not in "biuf":
            raise TypeError(f"the direction has dtype {a.dtype}, real numbers are expected")
        if a.shape not in (shape, batch + shape):
            raise ValueError(f"the direction has shape {a.shape}, {shape} or {batch + shape} fits")
        a = np.ascontiguousarray(np.broadcast_to(a.astype(dtype), batch + shape))
        parts.append(a.reshape((_product(batch), _product(shape))))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _chunk(n: int, bytes_per_sample: int, room: int) -> int:
    """Samples at a time: what has room, yet not so few that products are slow; even shares."""
    least = min(8, (24 << 20) // max(bytes_per_sample, 1))
    most = max(room // max(bytes_per_sample, 1), least, 1)
    return -(-n // -(-n // most))
