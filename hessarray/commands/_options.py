"""Types of options that several commands have."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from hessarray.errors import OptionError, OverwriteError, near_names

__all__ = ["attached", "check_output", "choice", "length", "names", "positive", "seed", "size"]

_UNITS = {"": 1, **{k: 1000**i for i, k in enumerate("kmgt", 1)}}
_UNITS |= {f"{k}i": 1024**i for i, k in enumerate("kmgt", 1)}


def positive(text: str) -> int:
    """A whole number, one or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no positive integer")
    return int(text)


def seed(text: str) -> int:
    """A whole number, zero or more."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 0 on")
    return int(text)


def length(text: str) -> float:
    """A finite number above zero."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0.0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is no positive number")
    return found


def attached(arguments: Sequence[str]) -> list[str]:
    """``--weights -1,2`` as ``--weights=-1,2``: argparse takes the list for an option."""
    found: list[str] = []
    for text in arguments:
        if re.match(r"-[\d.]+[\d.e+-]*,", text) and found and re.fullmatch(r"--[\w-]+", found[-1]):
            found[-1] += f"={text}"
        else:
            found.append(text)
    return found


def size(text: str) -> int:
    """A number of bytes: 500000000, 500MB, 0.5GiB."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)(e\d{1,2})?\s*([kmgt]i?)?b?", text.strip().lower())
    number = 0.0 if found is None else float(found[1] + (found[2] or "")) * _UNITS[found[3] or ""]
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of bytes such as 500MB or 2GiB")
    return int(number)


def choice(kind: str, known: Sequence[str]) -> Callable[[str], str]:
    """A parser of one name; an unknown one is told its near names."""

    def parse(text: str) -> str:
        if text not in known:
            hint = near_names(text, known) or f"use {', '.join(known)}"
            raise argparse.ArgumentTypeError(f"{kind} '{text}' is unknown: {hint}")
        return text

    return parse


def names(kind: str, known: Sequence[str]) -> Callable[[str], list[str]]:
    """A parser of names with commas between them."""
    one = choice(kind, known)
    return lambda text: [one(name.strip()) for name in text.split(",")]


def check_output(path: Path, force: bool, *inputs: Path) -> None:
    """Refuse to replace a file without --force, and an input with it.

    Raises
    ------
    OverwriteError
        The file exists.
    OptionError
        There is no folder for it.
    """
    if not path.parent.is_dir():
        raise OptionError(f"there is no folder {path.parent} to write {path.name} into")
    if not path.exists():
        return
    if any(i.exists() and path.samefile(i) for i in inputs):
        raise OverwriteError(f"{path} is what is read: give the output another name")
    if not force:
        raise OverwriteError(f"{path} exists: pass --force to replace it")
