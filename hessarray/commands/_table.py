"""Tables: drawn by rich where a person looks on, aligned text everywhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["show_table"]


def show_table(heads: Sequence[str], rows: Sequence[Sequence[Any]], numbers: str = "") -> None:
    """Print a table; ``numbers`` names the columns that are aligned to the right, with spaces.

    rich draws it in a terminal, or where FORCE_COLOR is set. Without rich, and in a pipe, the
    columns are separated by two spaces or more.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    right = [head in numbers.split() for head in heads]
    if (sys.stdout.isatty() or os.environ.get("FORCE_COLOR")) and _drawn(heads, cells, right):
        return
    lines = [list(heads), *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        parts = [
            cell.rjust(width) if r else cell.ljust(width)
            for cell, width, r in zip(line, widths, right, strict=True)
        ]
        print("  ".join(parts).rstrip())


def _drawn(heads: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> bool:
    """Whether rich is there and has drawn the table."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table()
    for head, r in zip(heads, right, strict=True):
        table.add_column(head, justify="right" if r else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))  # no markup: names from files may hold brackets
    Console().print(table)
    return True
