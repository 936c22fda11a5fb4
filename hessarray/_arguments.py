"""Checks and conversions of what callers pass: arrays, parameters, shapes, options."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hessarray.backends import Backend, backend_of
from hessarray.errors import (
    BackendError,
    DTypeError,
    OptionError,
    ParameterError,
    ShapeError,
    near_names,
)

__all__ = [
    "DTYPES",
    "KEYWORDS",
    "check_mode",
    "check_names",
    "dtype_name",
    "dtype_option",
    "evaluation_options",
    "frozen",
    "is_masked",
    "plain",
    "progress_callback",
    "result_arrays",
    "refuse_mask",
    "same_library",
    "sample_shapes",
    "whole",
]

Shape = tuple[int, ...]
DTYPES = ("float32", "float64")
# What every evaluation takes, and what some of them take besides.
OPTIONS = ("memory_limit", "threads", "progress", "parameters", "out")
KEYWORDS = ("do_Hessian", "do_Laplacian", "do_gradient", "forward_mode", "v")


def frozen(name: str, array: Any) -> np.ndarray[Any, Any]:
    """A read-only NumPy copy: a parameter changes by being replaced, never in place."""
    refuse_mask(f"parameter '{name}'", array)
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


def is_masked(array: Any) -> bool:
    ma = sys.modules.get("numpy.ma")  # NumPy loads it when somebody first asks for it
    return ma is not None and isinstance(array, ma.MaskedArray)


def refuse_mask(name: str, array: Any) -> None:
    if is_masked(array):
        raise BackendError(
            f"{name} is a masked array, whose mask would be ignored: pass an array without one, "
            "such as its .filled(0.0)"
        )


def check_names(given: Mapping[str, Any], known: Mapping[str, Any], *, complete: bool) -> None:
    if not isinstance(given, Mapping):
        raise OptionError(
            f"parameters is a {type(given).__name__}: pass a mapping from names to arrays, "
            "such as what parameters() gives"
        )
    for k, v in given.items():
        if k not in known:
            hint = near_names(str(k), known) or f"known are {', '.join(known) or 'none'}"
            raise ParameterError(f"parameter '{k}' is unknown: {hint}")
        got, expected = tuple(np.shape(v)), tuple(known[k].shape)
        if got != expected:
            raise ParameterError(f"parameter '{k}' has shape {got}, {expected} is expected")
        refuse_mask(f"parameter '{k}'", v)
        dtype = getattr(v, "dtype", None)
        if getattr(dtype, "kind", "f") == "c" or getattr(dtype, "is_complex", False):
            raise DTypeError(
                f"parameter '{k}' has dtype {dtype_name(v)}, float32 or float64 is expected: "
                "pass its real part"
            )
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


def whole(name: str, value: Any, least: int) -> int:
    """The value as an int, which must be ``least`` or more."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise OptionError(f"{name}={value!r}: expected a whole number, {least} or more")
    return int(value)


def dtype_option(dtype: Any) -> str:
    """The name of a dtype that parameters can have, from that name or from NumPy's type."""
    try:
        name = str(np.dtype(dtype).name)
    except TypeError:
        name = ""
    if name not in DTYPES:
        raise DTypeError(f"dtype={dtype!r} is not supported: use 'float32' or 'float64'")
    return name


def check_mode(forward_mode: Any) -> None:
    if forward_mode is not None and not isinstance(forward_mode, (bool, np.bool_)):
        raise OptionError(
            f"forward_mode={forward_mode!r}: expected True (all left), False (all right), or leave "
            "it out for the cheapest"
        )


def evaluation_options(options: dict[str, Any]) -> tuple[int | None, int | None, Any, Any]:
    for name in options:
        if name not in OPTIONS:
            # A keyword of other evaluations is spelt right, so its own name is no help.
            known = OPTIONS if name in KEYWORDS else OPTIONS + KEYWORDS
            hint = near_names(name, known) or f"known here are {', '.join(known)}"
            raise OptionError(f"unknown option '{name}': {hint}")
    limit, threads = options.get("memory_limit"), options.get("threads")
    if limit is not None:
        if not (isinstance(limit, (int, float, np.integer, np.floating)) and limit >= 1):
            raise OptionError(f"memory_limit={limit!r}: expected a positive number of bytes")
        limit = int(min(limit, 2**62))  # 1e9 and infinity are numbers of bytes, too
    if threads is not None:
        threads = whole("threads", threads, 1)
    return limit, threads, options.get("progress"), options.get("parameters")


def result_arrays(
    out: Any, shapes: Mapping[str, Shape], dtype: str, in_place: bool
) -> dict[str, Any] | None:
    """The caller's arrays for the results, by name: one array, or one for each result in order."""
    if out is None:
        return None
    if not in_place:
        raise OptionError("out= needs NumPy arrays: leave it out, other libraries return their own")
    arrays = [out] if not isinstance(out, (tuple, list)) else [a for a in out if a is not None]
    if len(arrays) != len(shapes):
        raise OptionError(
            f"out holds {len(arrays)} arrays, {len(shapes)} are expected: {', '.join(shapes)}"
        )
    for (name, shape), a in zip(shapes.items(), arrays, strict=True):
        if not isinstance(a, np.ndarray) or a.shape != shape or str(a.dtype) != dtype:
            got = f"{a.shape} {a.dtype}" if hasattr(a, "dtype") else type(a).__name__
            raise ShapeError(f"out for the {name} is {got}: expected {shape} {dtype}")
        if not (a.flags.c_contiguous and a.flags.writeable and a.flags.aligned):
            raise OptionError(
                f"out for the {name} must be contiguous, aligned and writeable: pass "
                f"np.empty({shape}, '{dtype}')"
            )
    if any(np.may_share_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i]):
        raise OptionError("arrays in out share memory: pass separate ones")
    return dict(zip(shapes, arrays, strict=True))


def progress_callback(progress: Any, n: int) -> Callable[[int], None] | None:
    if progress is None or progress is False:
        return None
    if callable(progress):
        return progress  # type: ignore[no-any-return]
    if progress is not True:
        raise OptionError(
            f"progress={progress!r}: expected True for a bar, or a function of the number of "
            "samples done"
        )
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
