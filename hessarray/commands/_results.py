"""Results to files, block by block: .npy, .npz and .csv, whole or not there."""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from hessarray._files import replacing
from hessarray.commands._csv import csv_lines
from hessarray.errors import OptionError

__all__ = ["Output", "check_format", "output_to"]

Shape = tuple[int, ...]


class Output(Protocol):
    """What results are handed to, evaluation by evaluation."""

    def begin(self, name: str, batch: Shape | None, shapes: dict[str, Shape], dtype: Any) -> None:
        """Results of these shapes for one sample follow, for the samples of this name.

        ``batch`` is what stands before them; None where the number of samples is not known before
        the last.
        """

    def write(self, blocks: dict[str, Any]) -> None:
        """The next samples' results, (k, ...) each."""

    def end(self) -> None:
        """All samples are there."""


def check_format(path: Path | None, results: int, members: int) -> None:
    """Refuse what a file of this type cannot hold, before anything is computed.

    Raises
    ------
    OptionError
        The type is unknown, or holds fewer arrays.
    """
    suffix = ".csv" if path is None else path.suffix
    if suffix not in (".npy", ".npz", ".csv"):
        raise OptionError(f"{path}: results of type '{suffix}': supported are .npy, .npz and .csv")
    if path is not None and suffix == ".npy" and results * members > 1:
        raise OptionError(
            f"{path}: {results * members} arrays do not fit into one .npy file: choose "
            f"{path.with_suffix('.npz').name}"
        )
    if suffix == ".csv" and members > 1:
        raise OptionError(f"X holds {members} arrays, which do not fit into one table: -o OUT.npz")


@contextmanager
def output_to(path: Path | None) -> Iterator[Output]:
    """The output for a path, or for the terminal; the file takes its name when the block ends."""
    if path is None:
        yield _Csv(sys.stdout.buffer)
        sys.stdout.flush()
        return
    with replacing(path) as file:
        if path.suffix == ".csv":
            yield _Csv(file)
        elif path.suffix == ".npy":
            yield _One(file)
        else:
            with (
                tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder,
                ExitStack() as stack,
            ):
                several = _Several(Path(folder), stack)
                yield several
                several.pack(file)


class _Npy:
    """An .npy file that grows at its end."""

    def __init__(self, file: BinaryIO, batch: Shape | None, tail: Shape, dtype: Any) -> None:
        self.file, self.batch, self.tail = file, batch, tail
        self.descr = np.lib.format.dtype_to_descr(dtype)
        self.count = 0
        self._header((0,) if batch is None else batch)

    def append(self, block: Any) -> None:
        self.file.write(np.ascontiguousarray(block).data)
        self.count += len(block)

    def close(self) -> None:
        """The length is known now: the format leaves room in the header for any first axis."""
        if self.batch is None:
            self.file.seek(0)
            self._header((self.count,))

    def _header(self, batch: Shape) -> None:
        header = {"descr": self.descr, "fortran_order": False, "shape": (*batch, *self.tail)}
        np.lib.format.write_array_header_1_0(self.file, header)


class _One:
    """One .npy file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def begin(self, name: str, batch: Shape | None, shapes: dict[str, Shape], dtype: Any) -> None:
        (tail,) = shapes.values()
        self.array = _Npy(self.file, batch, tail, dtype)

    def write(self, blocks: dict[str, Any]) -> None:
        (block,) = blocks.values()
        self.array.append(block)

    def end(self) -> None:
        self.array.close()


class _Several:
    """Files in a folder, one for each result, that become members of one .npz file."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.names: list[str] = []
        self.open: dict[str, _Npy] = {}

    def begin(self, name: str, batch: Shape | None, shapes: dict[str, Shape], dtype: Any) -> None:
        for result, tail in shapes.items():
            path = self.folder / str(len(self.names))
            file = self.stack.enter_context(open(path, "xb"))  # noqa: SIM115  (it is a context)
            self.open[result] = _Npy(file, batch, tail, dtype)
            self.names.append(f"{name}.{result}" if name else result)

    def write(self, blocks: dict[str, Any]) -> None:
        for result, block in blocks.items():
            self.open[result].append(block)

    def end(self) -> None:
        for array in self.open.values():
            array.close()
        self.open = {}
        self.stack.close()

    def pack(self, file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for i, name in enumerate(self.names):
                part = self.folder / str(i)
                # A ZipInfo has a fixed date: equal results make equal files.
                with (
                    open(part, "rb") as source,
                    archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member,
                ):
                    shutil.copyfileobj(source, member, 1 << 20)
                part.unlink()


class _Csv:
    """A table: a line for each sample, the results side by side."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def begin(self, name: str, batch: Shape | None, shapes: dict[str, Shape], dtype: Any) -> None:
        columns = [
            "_".join([result, *map(str, place)])
            for result, tail in shapes.items()
            for place in np.ndindex(*tail)
        ]
        self.file.write(f"{','.join(columns)}\n".encode())

    def write(self, blocks: dict[str, Any]) -> None:
        parts = [block.reshape((len(block), -1)) for block in blocks.values()]
        self.file.write(csv_lines(np.concatenate(parts, axis=1)).encode())

    def end(self) -> None:
        pass
