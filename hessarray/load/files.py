"""Reads and writes npz and safetensors; sizes are checked before memory is taken, nothing executes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hessarray.errors import LoadError
from hessarray.function import Function
from hessarray.load.architecture import from_architecture, to_architecture
from hessarray.load.pairs import from_pairs
from hessarray.networks import Network

__all__ = ["load", "save"]

_ARCHITECTURE = "hessarray.architecture"
_MAX_BYTES = 4 << 30
_MAX_TENSORS = 100_000
_DTYPES = ("float32", "float64")

Arrays = dict[str, np.ndarray[Any, Any]]


def load(
    path: str | os.PathLike[str],
    *,
    act: Any = None,
    final_act: Any = "identity",
    max_bytes: int = _MAX_BYTES,
) -> Network:
    """The network in a file.

    A file that ``save`` wrote holds its architecture. Any other .npz or .safetensors file is read
    as (weight, bias) pairs of dense layers in order: names that end in ``weight`` hold (out, in) as
    in torch, other matrices (in, out); ``act`` follows every layer but the last, ``final_act`` the
    last.

    Parameters
    ----------
    path : path
        .npz or .safetensors (needs the extra of that name).
    act, final_act : str or callable, optional
        Activations of a file of pairs; ``act`` is then required.
    max_bytes : int
        Refuse files whose tensors take more, before memory is taken.

    Raises
    ------
    LoadError
        The file is missing, truncated, too large, or holds what is not supported; one sentence
        that names file and tensor.

    Warns
    -----
    UserWarning
        A tensor holds NaN or infinity; names the tensor.
    """
    import json
    import warnings

    path = Path(path)
    readers: dict[str, Callable[[Path, int], tuple[Arrays, str | None]]] = {
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
    }
    if path.suffix not in readers:
        raise LoadError(
            f"{path}: unknown file type '{path.suffix}', supported are {', '.join(readers)}"
        )
    if not path.is_file():
        raise LoadError(f"{path}: no such file")
    arrays, architecture = readers[path.suffix](path, max_bytes)
    for name, a in arrays.items():
        if not np.all(np.isfinite(a)):
            warnings.warn(f"{path}: tensor '{name}' holds NaN or infinity", stacklevel=2)
    if architecture is not None:
        try:
            layers = json.loads(architecture)
        except (ValueError, RecursionError):
            raise LoadError(f"{path}: the architecture is no JSON") from None
        return from_architecture(layers, arrays, str(path))
    return from_pairs(arrays, act, final_act, str(path))


def save(function: Function, path: str | os.PathLike[str]) -> None:
    """Write parameters, and a network's architecture, to .npz or .safetensors.

    The file is written beside and then renamed: an interrupted write leaves no half file.

    Raises
    ------
    LoadError
        Unknown file type, or a layer or activation that a file cannot name.
    """
    import json
    import tempfile

    path = Path(path)
    if path.suffix not in (".npz", ".safetensors"):
        raise LoadError(f"{path}: unknown file type '{path.suffix}': use .npz or .safetensors")
    arrays = {k: np.ascontiguousarray(_numpy(a)) for k, a in function.parameters().items()}
    text = json.dumps(to_architecture(function)) if isinstance(function, Network) else None
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            if path.suffix == ".npz":
                extra = {} if text is None else {_ARCHITECTURE: np.asarray(text)}
                np.savez(file, **arrays, **extra)  # type: ignore[arg-type]
            else:
                metadata = None if text is None else {_ARCHITECTURE: text}
                file.write(_safetensors().save(arrays, metadata))
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _numpy(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        return array
    for name in ("detach", "cpu"):  # a torch tensor on its tape or on a device
        array = getattr(array, name)() if hasattr(array, name) else array
    return array.get() if hasattr(array, "get") else np.asarray(array)


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise LoadError(
            "safetensors files need the extra: pip install 'hessarray[safetensors]'"
        ) from None
    return safetensors.numpy


def _check_sizes(path: Path, sizes: Mapping[str, tuple[str, tuple[int, ...]]], limit: int) -> None:
    """Dtypes, ranks and the total in Python integers, before anything is allocated."""
    if len(sizes) > _MAX_TENSORS:
        raise LoadError(f"{path}: {len(sizes)} tensors are more than {_MAX_TENSORS}")
    total = 0
    for name, (dtype, shape) in sizes.items():
        if dtype not in _DTYPES:
            raise LoadError(
                f"{path}: tensor '{name}' has dtype {dtype}, float32 or float64 is expected"
            )
        if len(shape) > 8:
            raise LoadError(
                f"{path}: tensor '{name}' has {len(shape)} axes, at most 8 are expected"
            )
        total += math.prod(shape) * (4 if dtype == "float32" else 8)
    if total > limit:
        raise LoadError(f"{path}: the tensors take {total:,} bytes, max_bytes is {limit:,}")


def _read_npz(path: Path, limit: int) -> tuple[Arrays, str | None]:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            sizes: dict[str, tuple[str, tuple[int, ...]]] = {}
            text = None
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    raise LoadError(f"{path}: '{member.filename}' is no .npy member of an npz file")
                name = member.filename[:-4]
                with archive.open(member) as file:
                    shape, dtype = _npy_header(file)
                if name == _ARCHITECTURE:
                    if dtype.kind != "U" or shape != () or member.file_size > 10_000_000:
                        raise LoadError(f"{path}: the architecture is no short text")
                    with archive.open(member) as file:
                        text = str(np.lib.format.read_array(file, allow_pickle=False))
                    continue
                if name in sizes:
                    raise LoadError(f"{path}: tensor '{name}' appears twice")
                if math.prod(shape) * dtype.itemsize > member.file_size:
                    raise LoadError(f"{path}: tensor '{name}' is truncated")
                sizes[name] = (dtype.name, shape)
            _check_sizes(path, sizes, limit)
            arrays = {}
            for name in sizes:
                with archive.open(name + ".npy") as file:
                    arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError) as error:
        if isinstance(error, LoadError):
            raise
        raise LoadError(f"{path}: not a readable npz file ({error})") from None
    return arrays, text


def _npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"npy version {version}")
    shape, _, dtype = read(file)
    return shape, dtype


def _read_safetensors(path: Path, limit: int) -> tuple[Arrays, str | None]:
    library = _safetensors()
    from safetensors import safe_open

    kinds = {"F32": "float32", "F64": "float64"}
    try:
        # The library checks header size, offsets, overlaps and trailing bytes.
        with safe_open(path, framework="np") as file:
            slices = {k: file.get_slice(k) for k in file.keys()}  # noqa: SIM118
            sizes = {
                k: (kinds.get(s.get_dtype(), str(s.get_dtype())), tuple(s.get_shape()))
                for k, s in slices.items()
            }
            _check_sizes(path, sizes, limit)
            text = (file.metadata() or {}).get(_ARCHITECTURE)
        arrays = library.load_file(path)
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"{path}: not a readable safetensors file ({error})") from None
    return dict(arrays), text
