"""Checks and conversions of what callers pass: arrays, parameters, shapes, options."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hessarray.backends import Backend, backend_of
from hessarray.errors import DTypeError, ParameterError, ShapeError

__all__ = [
    "DTYPES",
    "check_names",
    "dtype_name",
    "evaluation_options",
    "frozen",
    "plain",
    "progress_callback",
    "same_library",
    "sample_shapes",
]

Shape = tuple[int, ...]
DTYPES = ("float32", "float64")


def frozen(name: str, array: Any) -> np.ndarray[Any, Any]:
    """A read-only NumPy copy: a parameter changes by being replaced, never in place."""
    value = np.array(plain(array), order="C", copy=True)
    if value.dtype.kind in "iu":
        value = value.astype(np.float64)
    if value.dtype.name not in DTYPES:
        raise DTypeError(
            f"parameter '{name}' has dtype {value.dtype}, float32 or float64 is expected"
        )
    value.flags.writeable = False
    return value


def plain(array: Any) -> Any:
    backend = backend_of(array)
    return array if backend is None else backend.to_numpy(array)


def dtype_name(array: Any) -> str:
    backend = backend_of(array)
    return str(array.dtype) if backend is None else backend.dtype_name(array)


def same_library(array: Any, backend: Backend) -> Any:
    """The array as it is, or through NumPy where it comes from another library."""
    return array if backend.owns(array) else np.asarray(plain(array))


def check_names(given: Mapping[str, Any], known: Mapping[str, Any], *, complete: bool) -> None:
    for k, v in given.items():
        if k not in known:
            import difflib

            near = difflib.get_close_matches(k, known, 3)
            hint = f"did you mean {' or '.join(near)}" if near else f"known are {', '.join(known)}"
            raise ParameterError(f"parameter '{k}' is unknown: {hint}")
        got, expected = tuple(np.shape(v)), tuple(known[k].shape)
        if got != expected:
            raise ParameterError(f"parameter '{k}' has shape {got}, {expected} is expected")
    missing = [k for k in known if k not in given]
    if complete and missing:
        raise ParameterError(f"parameters are missing: {', '.join(missing)}")


def sample_shapes(in_shape: Any) -> tuple[Shape, ...]:
    try:
        items = list(in_shape) if isinstance(in_shape, Sequence) else [in_shape]
        if all(isinstance(s, (int, np.integer)) for s in items):
            items = [items]
        shapes = tuple(tuple(operator.index(n) for n in s) for s in items)
    except TypeError:
        shapes = ()
    if not shapes or any(n < 1 for s in shapes for n in s):
        raise ShapeError(
            f"in_shape={in_shape!r}: expected positive lengths, such as (3,) or ((3,), (2,))"
        )
    return shapes


def evaluation_options(options: dict[str, Any]) -> tuple[int | None, int | None, Any, Any]:
    known = ("memory_limit", "threads", "progress", "parameters")
    unknown = [k for k in options if k not in known]
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}: evaluations take {', '.join(known)}")
    limit, threads = options.get("memory_limit"), options.get("threads")
    for name, number in (("memory_limit", limit), ("threads", threads)):
        if number is not None and number < 1:
            raise ValueError(f"{name}={number}: expected a positive number")
    return limit, threads, options.get("progress"), options.get("parameters")


def progress_callback(progress: Any, n: int) -> Callable[[int], None] | None:
    if progress is None or progress is False:
        return None
    if callable(progress):
        return progress  # type: ignore[no-any-return]
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError(
            "progress=True draws its bar with tqdm: pip install 'hessarray[progress]', or pass a "
            "function of the number of samples done"
        ) from None

    bar = tqdm(total=n, unit="sample", unit_scale=True)

    def show(done: int) -> None:
        bar.update(done - bar.n)
        if done >= n:
            bar.close()

    return show
