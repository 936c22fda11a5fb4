"""Samples from files, block by block: .npy, .npz and .csv, however large they are."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hessarray.commands._csv import csv_blocks
from hessarray.errors import DTypeError, LoadError, ShapeError

__all__ = ["Samples", "open_samples"]

Shape = tuple[int, ...]
_KINDS = "fiu"


@dataclass(frozen=True)
class Samples:
    """Samples for one evaluation: an array for each input of the function.

    Attributes
    ----------
    name : str
        Of the member of an .npz file; else empty.
    batch : tuple of int, or None
        What stands before one sample's axes; None for a .csv file, whose length is not known.
    dtype : str
        'float32' or 'float64', of the arrays that ``blocks`` gives.
    blocks : callable
        ``blocks(rows)`` gives tuples of arrays (k, *in), k <= rows, in order.
    """

    name: str
    batch: Shape | None
    dtype: str
    blocks: Callable[[int], Iterator[tuple[Any, ...]]]

    @property
    def count(self) -> int | None:
        """How many samples there are, where that is known."""
        return None if self.batch is None else math.prod(self.batch)


def open_samples(
    path: Path, in_shapes: tuple[Shape, ...], names: Sequence[str] | None = None
) -> list[Samples]:
    """What a file holds: one entry, or one for each member of an .npz file.

    A function of several inputs takes them from members of these names (x0, x1, ... where left out)
    of one .npz file.

    Raises
    ------
    LoadError
        The file is missing, damaged, or no such file.
    ShapeError
        An array is no batch of samples.
    """
    if not path.is_file():
        raise LoadError(f"{path}: no such file")
    if path.suffix == ".npz":
        return _members(path, in_shapes, names or [f"x{i}" for i in range(len(in_shapes))])
    if len(in_shapes) > 1:
        members = ", ".join(names or [f"x{i}" for i in range(len(in_shapes))])
        raise LoadError(f"{path}: the model has several inputs: pass an .npz file with {members}")
    if path.suffix == ".npy":
        return [_joined("", [_Array(str(path), lambda: open(path, "rb"), in_shapes[0], path)])]
    if path.suffix == ".csv":

        def blocks(rows: int) -> Iterator[tuple[Any, ...]]:
            width = math.prod(in_shapes[0])
            for block in csv_blocks(path, rows, width):
                yield (block.reshape((len(block), *in_shapes[0])),)

        return [Samples("", None, "float64", blocks)]
    raise LoadError(f"{path}: samples of type '{path.suffix}': supported are .npy, .npz and .csv")


def _members(path: Path, in_shapes: tuple[Shape, ...], inputs: Sequence[str]) -> list[Samples]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [m for m in archive.namelist() if m.endswith(".npy")]
    except (OSError, zipfile.BadZipFile) as error:
        raise LoadError(f"{path}: not a readable npz file ({error})") from None

    def array(member: str, shape: Shape) -> _Array:
        return _Array(f"{path}: {member[:-4]}", lambda: _opened(path, member), shape)

    if len(in_shapes) == 1:
        if not names:
            raise LoadError(f"{path}: the file holds no arrays")
        alone = len(names) == 1
        shape = in_shapes[0]
        return [_joined("" if alone else m[:-4], [array(m, shape)]) for m in names]
    wanted = [f"{name}.npy" for name in inputs]
    missing = [m[:-4] for m in wanted if m not in names]
    if missing:
        raise LoadError(f"{path}: the model has several inputs, it lacks {', '.join(missing)}")
    return [_joined("", [array(m, s) for m, s in zip(wanted, in_shapes, strict=True)])]


@contextmanager
def _opened(path: Path, member: str) -> Iterator[Any]:
    with zipfile.ZipFile(path) as archive, archive.open(member) as file:
        yield file


def _joined(name: str, arrays: list[_Array]) -> Samples:
    if len({a.batch for a in arrays}) > 1:
        shapes = " and ".join(str(a.batch) for a in arrays)
        raise ShapeError(
            f"{arrays[0].what}: the inputs have batch shapes {shapes}: make them equal"
        )
    dtype = "float32" if all(a.dtype == np.dtype("f4") for a in arrays) else "float64"

    def blocks(rows: int) -> Iterator[tuple[Any, ...]]:
        yield from zip(*(a.blocks(rows, dtype) for a in arrays), strict=True)

    return Samples(name, arrays[0].batch, dtype, blocks)


class _Array:
    """An array in .npy format, of which only the header has been read."""

    def __init__(
        self,
        what: str,
        opened: Callable[[], AbstractContextManager[Any]],
        sample: Shape,
        path: Path | None = None,
    ) -> None:
        self.what, self.opened, self.sample = what, opened, sample
        self.path = path  # of a file that can be mapped
        try:
            with opened() as file:
                shape, self.fortran, self.dtype = _header(file)
        # zipfile, zlib and NumPy's parser raise a dozen kinds of errors for damaged files.
        except Exception as error:
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise LoadError(f"{what}: not a readable npy file ({text})") from None
        if self.dtype.hasobject:
            raise LoadError(f"{what} holds Python objects, not numbers")
        if self.dtype.kind not in _KINDS or self.dtype.itemsize not in (1, 2, 4, 8):
            raise DTypeError(f"{what} has dtype {self.dtype}, float32 or float64 is expected")
        if self.dtype == np.dtype("f2"):
            raise DTypeError(f"{what} has dtype float16: convert it to float32 or float64")
        k = len(sample)
        if len(shape) < k or shape[len(shape) - k :] != sample:
            expected = ", ".join(["...", *map(str, sample)])
            raise ShapeError(f"{what} has shape {shape}, ({expected}) is expected")
        self.batch: Shape = shape[: len(shape) - k]
        if self.fortran and len(shape) > 1 and len(self.batch) > 1:
            raise LoadError(f"{what} is in Fortran order: save numpy.ascontiguousarray of it")

    def blocks(self, rows: int, dtype: str) -> Iterator[Any]:
        """Arrays of at most so many samples."""
        n = math.prod(self.batch)
        if self.fortran and self.batch and self.sample:
            yield from self._columns(rows, dtype)
            return
        with self.opened() as file:
            _header(file)
            for start in range(0, n, rows):
                count = min(rows, n - start)
                yield self._read(file, (count, *self.sample)).astype(dtype, copy=False)

    def _columns(self, rows: int, dtype: str) -> Iterator[Any]:
        """In Fortran order the samples lie across the file: all of it is read, or mapped."""
        shape = (*self.batch, *self.sample)
        with self.opened() as file:
            _header(file)
            if self.path is None:
                whole = self._read(file, shape[::-1]).T
            else:
                place = file.tell()
                whole = np.memmap(self.path, self.dtype, "r", place, shape, order="F")
        for start in range(0, len(whole), rows):
            yield np.array(whole[start : start + rows], dtype=dtype, order="C")

    def _read(self, file: BinaryIO, shape: Shape) -> Any:
        size = math.prod(shape) * self.dtype.itemsize
        found = bytearray()
        while len(found) < size:  # piece by piece: a header that promises too much takes no memory
            data = file.read(min(size - len(found), 1 << 20))
            if not data:
                missing = size - len(found)
                raise LoadError(f"{self.what} is truncated: {missing:,} bytes are missing")
            found += data
        return np.frombuffer(found, self.dtype).reshape(shape)


def _header(file: BinaryIO) -> tuple[Shape, bool, Any]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"npy version {version}")
