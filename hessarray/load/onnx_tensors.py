"""Tensors of ONNX files: dtypes and lengths checked first, external data from its own folder."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from hessarray.errors import LoadError
from hessarray.load.limits import shown

__all__ = ["dtype_of", "read_tensor", "tensor_bytes"]

_MAX_AXES = 8
# Half precision is widened, which is exact: nothing here computes in it.
_WIDENED = {"float16": "float32", "bfloat16": "float32"}
_FIELDS = {
    "float32": "float_data",
    "float64": "double_data",
    "int64": "int64_data",
    "uint32": "uint64_data",
    "uint64": "uint64_data",
}  # all others: int32_data
_KNOWN = (
    "float32 float64 float16 bfloat16 bool int8 int16 int32 int64 uint8 uint16 uint32 uint64"
).split()


def dtype_of(data_type: int) -> str:
    """The name of the dtype that ONNX numbers so; of unknown ones, that number."""
    import onnx

    names = {"FLOAT": "float32", "DOUBLE": "float64"}
    known = onnx.TensorProto.DataType
    name = known.Name(data_type) if data_type in known.values() else str(data_type)
    return names.get(name, name.lower())


def tensor_bytes(tensor: Any, place: str) -> int:
    """What the tensor takes as an array, from its dtype and shape; both are checked.

    Raises
    ------
    LoadError
        The dtype is unknown, the shape impossible, or the data of another length.
    """
    dtype, shape = _layout(tensor, place)
    count = math.prod(shape)
    if not _is_external(tensor):
        raw = tensor.HasField("raw_data")
        stored = len(tensor.raw_data) if raw else _entries(tensor, dtype)
        if stored != count * (_itemsize(dtype) if raw else 1):
            raise LoadError(
                f"{place}: tensor {shown(tensor.name)} of shape {shown(shape)} and dtype {dtype} "
                f"holds {stored:,} {'bytes' if raw else 'numbers'}"
            )
    return count * _itemsize(_WIDENED.get(dtype, dtype))


def read_tensor(tensor: Any, place: str, folder: Path | None) -> np.ndarray[Any, Any]:
    """The tensor as an array, after ``tensor_bytes`` has passed it.

    Raises
    ------
    LoadError
        External data is not in a file of its own in ``folder``, or is not all there.
    """
    import onnx

    dtype, shape = _layout(tensor, place)
    if _is_external(tensor):
        data = _external(tensor, place, folder, math.prod(shape) * _itemsize(dtype))
        raw = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=data)
    else:
        raw = tensor
    array = np.asarray(onnx.numpy_helper.to_array(raw))
    wide = _WIDENED.get(dtype)
    return np.ascontiguousarray(array.astype(wide) if wide else array).reshape(shape)


def _layout(tensor: Any, place: str) -> tuple[str, tuple[int, ...]]:
    name, dtype, shape = shown(tensor.name), dtype_of(tensor.data_type), tuple(tensor.dims)
    if dtype not in _KNOWN:
        raise LoadError(
            f"{place}: tensor {name} has dtype {dtype}, supported are {', '.join(_KNOWN)}"
        )
    if len(shape) > _MAX_AXES or any(n < 0 for n in shape):
        raise LoadError(
            f"{place}: tensor {name} has shape {shown(shape)}, at most {_MAX_AXES} axes and no "
            "negative length are expected"
        )
    if tensor.HasField("segment"):
        raise LoadError(f"{place}: tensor {name} is stored in segments, one piece is expected")
    return dtype, shape


def _itemsize(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _entries(tensor: Any, dtype: str) -> int:
    return len(getattr(tensor, _FIELDS.get(dtype, "int32_data")))


# ---- external data ---------------------------------------------------------------------------


def _is_external(tensor: Any) -> bool:
    return bool(tensor.data_location) or bool(tensor.external_data)


def _external(tensor: Any, place: str, folder: Path | None, size: int) -> bytes:
    name = shown(tensor.name)
    if folder is None:
        raise LoadError(
            f"{place}: tensor {name} lies in a file of its own: load the model by its path, or "
            "read it with onnx.load first"
        )
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    path = _inside(folder, location)
    if path is None:
        raise LoadError(
            f"{place}: tensor {name} points to {shown(location)}, which is no file in the "
            "model's own folder"
        )
    try:
        start, length = (
            int(entries.get(k, d)) for k, d in (("offset", "0"), ("length", str(size)))
        )
    except ValueError:
        start = length = -1
    if start < 0 or length != size:
        raise LoadError(
            f"{place}: tensor {name} of {size:,} bytes names offset "
            f"{shown(entries.get('offset'))} and length {shown(entries.get('length'))}"
        )
    try:
        data = _read(path, start, size)
    except OSError as error:
        reason = shown(error.strerror or "not readable")
        raise LoadError(
            f"{place}: the file {shown(location)} of tensor {name} cannot be read ({reason})"
        ) from None
    if data is None or len(data) != size:
        what = "is no plain file of its own" if data is None else "ends too early"
        raise LoadError(f"{place}: the file {shown(location)} of tensor {name} {what}")
    return data


def _inside(folder: Path, location: str) -> Path | None:
    """The path that a file names, if it lies in the folder and no link leads elsewhere."""
    there = PureWindowsPath(location)  # knows both separators, and drives
    if not location or "\0" in location or there.is_absolute() or there.drive or there.root:
        return None
    if ".." in there.parts:
        return None
    path = folder.joinpath(*there.parts)
    try:
        return path if path.resolve() == path else None
    except (OSError, RuntimeError):
        return None


def _read(path: Path, start: int, size: int) -> bytes | None:
    """A piece of a plain file that has one name only; a hard link may be somebody else's file."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    flags |= getattr(os, "O_NONBLOCK", 0)  # opening a pipe would wait for its writer
    with open(os.open(path, flags), "rb") as file:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
            return None
        if start + size > info.st_size:
            return b""
        file.seek(start)
        return file.read(size)
