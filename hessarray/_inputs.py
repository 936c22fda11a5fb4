"""Checks of what is evaluated at: the inputs, and the directions and weights beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hessarray._arguments import DTYPES, refuse_mask, same_library
from hessarray.backends import Backend, backend_of, known_backends
from hessarray.errors import BackendError, DTypeError, ShapeError

__all__ = ["checked_inputs", "real_array"]

Shape = tuple[int, ...]


def checked_inputs(
    x: Sequence[Any], in_shapes: tuple[Shape, ...], pinned: str | None
) -> tuple[Backend, str, Shape]:
    """Library, dtype and batch shape that the inputs share; ``pinned`` names the only library."""
    if len(x) != len(in_shapes):
        raise ShapeError(f"{len(in_shapes)} inputs are expected, got {len(x)}")
    found: tuple[Backend, str, Shape] | None = None
    for a, shape in zip(x, in_shapes, strict=True):
        backend = backend_of(a)
        if backend is None:
            raise BackendError(
                f"x is a {type(a).__module__}.{type(a).__name__}: pass an array of "
                f"{', '.join(known_backends())}"
            )
        refuse_mask("x", a)
        if pinned is not None and pinned != backend.name:
            raise BackendError(
                f"x is a {backend.name} array, the parameters are pinned to {pinned}: "
                f"pass a {pinned} array, or call to('{backend.name}') first"
            )
        dtype = backend.dtype_name(a)
        if dtype not in DTYPES:
            raise DTypeError(
                f"x has dtype {dtype}, float32 or float64 is expected: convert it, "
                "for example x.astype('float64')"
            )
        got = tuple(int(s) for s in a.shape)
        k = len(shape)
        if len(got) < k or got[len(got) - k :] != shape:
            expected = ", ".join(["...", *map(str, shape)])
            raise ShapeError(
                f"x has shape {got}, ({expected}) is expected: "
                f"the last {'axis holds' if k == 1 else f'{k} axes hold'} one sample"
            )
        batch = got[: len(got) - k]
        if found is None:
            found = (backend, dtype, batch)
        elif (found[0].name, found[1]) != (backend.name, dtype):
            raise BackendError(
                f"inputs are {found[0].name} {found[1]} and {backend.name} {dtype}: make them "
                "of one array library and dtype"
            )
        elif found[2] != batch:
            raise ShapeError(f"inputs have batch shapes {found[2]} and {batch}: make them equal")
    assert found is not None
    return found


def real_array(name: str, array: Any, backend: Backend) -> Any:
    """A direction or weight in the library of x; its imaginary part must not vanish silently."""
    refuse_mask(name, array)
    array = same_library(array, backend)
    dtype = backend.dtype_name(array) if backend.owns(array) else str(array.dtype)
    if dtype.startswith("complex"):
        raise DTypeError(f"{name} has dtype {dtype}, a real array is expected: pass its real part")
    return array
