"""Reads and writes safetensors with the library of that name, which is an extra."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from hessarray.errors import LoadError
from hessarray.load.limits import ARCHITECTURE, MAX_TEXT, Arrays, check_sizes, shown

__all__ = ["read_safetensors", "write_safetensors"]

_DTYPES = {"F32": "float32", "F64": "float64"}


def read_safetensors(path: Path, limit: int) -> tuple[Arrays, str | None]:
    """The tensors, and the text of the architecture if there is one.

    Raises
    ------
    LoadError
        The library is missing, or the file is damaged, too large, or holds other dtypes.
    """
    library = _library()
    try:
        # The library checks header size, offsets, overlaps and trailing bytes.
        with library.safe_open(path, framework="np") as file:
            slices = {k: file.get_slice(k) for k in file.keys()}  # noqa: SIM118
            dtypes = {k: str(s.get_dtype()) for k, s in slices.items()}
            sizes = {
                k: (_DTYPES.get(dtypes[k], dtypes[k]), tuple(s.get_shape()))
                for k, s in slices.items()
            }
            check_sizes(path, sizes, limit)
            text = (file.metadata() or {}).get(ARCHITECTURE)
            if text is not None and len(text) > MAX_TEXT:
                raise LoadError(f"{path}: the architecture takes more than {MAX_TEXT:,} bytes")
            return {k: file.get_tensor(k) for k in sizes}, text
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"{path}: not a readable safetensors file ({shown(error)})") from None


def write_safetensors(file: BinaryIO, arrays: Mapping[str, Any], text: str | None) -> None:
    """What ``safetensors.numpy.save_file`` writes, the architecture among its metadata."""
    metadata = None if text is None else {ARCHITECTURE: text}
    file.write(_library().numpy.save(dict(arrays), metadata))


def _library() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError:
        raise LoadError(
            "safetensors files need the extra: pip install 'hessarray[safetensors]'"
        ) from None
    return safetensors
