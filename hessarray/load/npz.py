"""Reads and writes npz: sizes are checked before memory is taken, pickles are refused."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from hessarray.errors import LoadError
from hessarray.load.archives import GROWTH
from hessarray.load.limits import ARCHITECTURE, MAX_TEXT, Arrays, check_count, check_sizes, shown

__all__ = ["read_npz", "write_npz"]


def read_npz(path: Path, limit: int) -> tuple[Arrays, str | None]:
    """The tensors, in the machine's byte order, and the text of the architecture if there is one.

    Raises
    ------
    LoadError
        The file is damaged, too large, or holds something else than float tensors.
    """
    with _reading(f"{path}: not a readable npz file"), zipfile.ZipFile(path) as archive:
        check_count(path, len(archive.infolist()))
        members = _members(path, archive)
        headers = {k: _header(path, k, archive, member) for k, member in members.items()}
        for name, member in members.items():
            _check_member(path, name, member, headers[name])
        text = members.pop(ARCHITECTURE, None)
        sizes = {k: (headers[k].dtype.name, headers[k].shape) for k in members}
        check_sizes(path, sizes, limit)
        arrays = {k: _array(path, k, archive, member) for k, member in members.items()}
        if text is None:
            return arrays, None
        return arrays, str(_array(path, ARCHITECTURE, archive, text))


def write_npz(file: BinaryIO, arrays: Mapping[str, Any], text: str | None) -> None:
    """What ``numpy.savez`` writes, for any name: savez takes some names as its own arguments."""
    extra = {} if text is None else {ARCHITECTURE: np.asarray(text)}
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in {**arrays, **extra}.items():
            # A ZipInfo has a fixed date: equal networks make equal files.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    try:
        yield
    except LoadError:
        raise
    # zipfile, zlib and NumPy's parser raise a dozen kinds of errors for damaged files.
    except Exception as error:
        raise LoadError(f"{what} ({shown(error)})") from None


class _Header:
    """Shape, dtype and length of the header that begins an .npy member."""

    def __init__(self, file: Any) -> None:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):  # later ones serve record types, and allow headers of 4 GB
            raise ValueError(f"npy version {version}")
        self.shape, _, self.dtype = np.lib.format.read_array_header_1_0(file)
        self.length = file.tell()


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        place = PurePosixPath(member.filename)
        name, _, ending = member.filename.rpartition(".")
        if not name or ending != "npy" or place.is_absolute() or ".." in place.parts:
            raise LoadError(f"{path}: {shown(member.filename)} is no .npy member of an npz file")
        if name in members:
            raise LoadError(f"{path}: tensor {shown(name)} appears twice")
        members[name] = member
    if sum(member.compress_size for member in archive.infolist()) > path.stat().st_size:
        raise LoadError(f"{path}: the members overlap")
    return members


def _header(path: Path, name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Header:
    with _reading(f"{path}: tensor {shown(name)} is not readable"):
        if member.compress_type not in GROWTH:
            raise ValueError(f"compression method {member.compress_type}")
        with archive.open(member) as file:
            return _Header(file)


def _check_member(path: Path, name: str, member: zipfile.ZipInfo, header: _Header) -> None:
    """The member holds what its header says, neither more nor less."""
    if name == ARCHITECTURE and not (header.dtype.kind == "U" and header.shape == ()):
        raise LoadError(f"{path}: the architecture is no text")
    if name == ARCHITECTURE and header.dtype.itemsize > MAX_TEXT:
        raise LoadError(f"{path}: the architecture takes more than {MAX_TEXT:,} bytes")
    if header.dtype.hasobject:
        raise LoadError(f"{path}: tensor {shown(name)} holds Python objects, not numbers")
    promised = header.length + math.prod(header.shape) * header.dtype.itemsize
    grown = member.compress_size * GROWTH[member.compress_type]
    if promised != member.file_size or member.file_size > grown:
        raise LoadError(
            f"{path}: tensor {shown(name)} of shape {shown(header.shape)} and dtype "
            f"{shown(header.dtype.str)} does not fit its member of "
            f"{min(member.file_size, grown):,} bytes"
        )


def _array(path: Path, name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    with _reading(f"{path}: tensor {shown(name)} is not readable"), archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        return array.astype(array.dtype.newbyteorder("="), copy=False)
