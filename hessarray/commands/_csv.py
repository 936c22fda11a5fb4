"""Numbers in text files, line by line: a header is skipped, an error names its line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from hessarray.errors import LoadError, ShapeError

__all__ = ["csv_blocks", "csv_lines"]

_DELIMITERS = (",", ";", "\t")
_LONGEST = 1 << 24  # characters of a line
_MOST_ROWS = 10_000  # lines at a time


def csv_blocks(path: Path, rows: int, width: int) -> Iterator[Any]:
    """Arrays (k, width) of float64, k <= rows.

    Columns are separated by commas, semicolons or tabs, else by spaces. Empty lines and lines that
    begin with # are left out, and so is a first line without a single number in it.

    Raises
    ------
    LoadError
        A line is no row of numbers; names it.
    ShapeError
        A line has too few or too many of them.
    """
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        return
    # A damaged sample must not pass for a header: it would be missing without a word.
    if any(_numbers([cell]) is not None for cell in _cells(first[1])):
        lines = chain([first], lines)
    while block := list(islice(lines, min(rows, _MOST_ROWS))):
        yield _parsed(path, block, width)


def _parsed(path: Path, lines: Sequence[tuple[int, str]], width: int) -> Any:
    """The numbers in these lines; where NumPy's parser fails, the sentence says which line."""
    delimiter = next((d for d in _DELIMITERS if d in lines[0][1]), None)
    try:
        text = [line for _, line in lines]
        found = np.loadtxt(text, np.float64, delimiter=delimiter, comments=None, ndmin=2)
        if found.shape == (len(lines), width):
            return found
    except ValueError:
        pass
    for number, line in lines:
        cells = _cells(line)
        if _numbers(cells) is None:
            bad = next(c for c in cells if _numbers([c]) is None)
            raise LoadError(f"{path}: line {number}: {bad[:50]!r} is no number")
        if len(cells) != width:
            raise ShapeError(f"{path}: line {number} has {len(cells)} columns, expected {width}")
    return np.array([_numbers(_cells(line)) for _, line in lines])


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            number = 0
            while line := file.readline(_LONGEST):
                number += 1
                if len(line) == _LONGEST:
                    raise LoadError(f"{path}: line {number} is longer than {_LONGEST:,} characters")
                text = line.strip()
                if text and not text.startswith("#"):
                    yield number, text
    except UnicodeDecodeError as error:
        raise LoadError(f"{path}: not a text file ({error})") from None


def _cells(line: str) -> list[str]:
    for delimiter in _DELIMITERS:
        if delimiter in line:
            return [cell.strip() for cell in line.split(delimiter)]
    return line.split()


def _numbers(cells: Sequence[str]) -> list[float] | None:
    try:
        return [float(cell) for cell in cells]
    except ValueError:
        return None


def csv_lines(block: Any) -> str:
    """Rows of a block as lines; the shortest text that gives the same number again."""
    if block.dtype == np.float32:
        rows = ([f"{v:.9g}" for v in row] for row in block.tolist())
    else:
        rows = ([repr(v) for v in row] for row in block.tolist())
    return "".join(f"{','.join(row)}\n" for row in rows)
