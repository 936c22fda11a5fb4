"""What an exported module holds beside its programs, on torch: copied there as text.

As in ``_array_runtime``, ``IN_SHAPES``, ``CHUNK_BYTES`` and ``_WEIGHTS`` stand in for the module's.
"""

from __future__ import annotations

from typing import Any

import torch

from hessarray.export._shapes_runtime import _product

__all__: list[str] = []

_Shape = tuple[int, ...]
IN_SHAPES: tuple[_Shape, ...] = ()
CHUNK_BYTES = 256 << 20
_WEIGHTS: dict[str, Any] = {}


class _Program:
    """A straight line of tensor calls, with what it needs to be run.

    ``entries`` are the numbers that it holds at a time for one sample, ``results`` the shapes of
    its results for one sample.
    """

    def __init__(self, bind: Any, run: Any, entries: int, results: tuple[_Shape, ...]) -> None:
        self.bind, self.run, self.entries, self.results = bind, run, entries, results
        self.bound: dict[Any, Any] = {}  # what depends on the weights alone, by dtype and device

    def constants(self, dtype: Any, device: Any) -> Any:
        """The folded weights in this dtype on this device; computed once."""
        found = self.bound.get((dtype, device))
        if found is None:
            weights = {
                k: torch.tensor(a, dtype=dtype if a.dtype.kind == "f" else None, device=device)
                for k, a in _WEIGHTS.items()
            }
            found = self.bound[dtype, device] = self.bind(weights)
        return found


def _evaluate(program: _Program, x: Any, directions: Any = ()) -> tuple[_Shape, list[Any]]:
    """The shape of the batch, and the flat results for all samples, chunk by chunk."""
    batch = _samples(x)
    dtype, device, n = x[0].dtype, x[0].device, _product(batch)
    flat = [a.reshape((n, _product(s))) for a, s in zip(x, IN_SHAPES, strict=True)]
    if directions:
        flat.append(_directions(directions, batch, dtype, device))
    if n == 0:
        return batch, [x[0].new_zeros((0, *shape)) for shape in program.results]
    constants = program.constants(dtype, device)
    size = max(CHUNK_BYTES // max(program.entries * dtype.itemsize, 1), 1)
    parts = []
    for start in range(0, n, size):
        stop = min(start + size, n)
        parts.append(program.run(constants, stop - start, *(a[start:stop] for a in flat)))
    return batch, [torch.cat(pieces) for pieces in zip(*parts, strict=True)]


def _samples(x: Any) -> _Shape:
    """The shape of the batch, of inputs that must be tensors of one dtype on one device."""
    for a, shape in zip(x, IN_SHAPES, strict=True):
        if not isinstance(a, torch.Tensor) or a.dtype not in (torch.float32, torch.float64):
            got = getattr(a, "dtype", type(a).__name__)
            raise TypeError(f"x is {got}: pass a tensor of torch.float32 or torch.float64")
        if a.ndim < len(shape) or tuple(a.shape[a.ndim - len(shape) :]) != shape:
            expected = ", ".join(["...", *map(str, shape)])
            raise ValueError(f"x has shape {tuple(a.shape)}, ({expected}) is expected")
    batches = [tuple(a.shape[: a.ndim - len(s)]) for a, s in zip(x, IN_SHAPES, strict=True)]
    if len(set(batches)) > 1 or len({(a.dtype, a.device) for a in x}) > 1:
        raise ValueError("the inputs differ in batch shape, dtype or device: make them equal")
    return batches[0]


def _directions(directions: Any, batch: _Shape, dtype: Any, device: Any) -> Any:
    """Directions or weights, one for all samples or one for each, as (n, entries)."""
    parts = []
    for given, shape in directions:
        a = torch.as_tensor(given, device=device)
        if a.is_complex():
            raise TypeError(f"the direction has dtype {a.dtype}, real numbers are expected")
        if tuple(a.shape) not in (shape, batch + shape):
            raise ValueError(
                f"the direction has shape {tuple(a.shape)}, {shape} or {batch + shape} fits"
            )
        a = a.to(dtype).expand(batch + shape)
        parts.append(a.reshape((_product(batch), _product(shape))))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
