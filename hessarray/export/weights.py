"""Weights of an exported module: in an npz file beside it, or inside as base64."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

from hessarray.plan.step import Program

__all__ = ["Store", "beside_text", "inside_text"]

_FEW = 8  # entries of a constant that is written out in the module


class Store:
    """Parameters and constants by name; ``arrays`` are stored, ``lines`` make the others."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self.arrays = {k: np.asarray(a, order="C") for k, a in parameters.items()}
        self.lines: list[str] = []
        self._known: dict[Any, str] = {}  # constants of all programs by their bits

    def constants(self, program: Program) -> dict[str, str]:
        """How a program reads each of its constants."""
        return {k: f"w[{self._name(np.asarray(a))!r}]" for k, a in program.made_constants()}

    def _name(self, a: Any) -> str:
        bits = (a.shape, a.dtype.str, a.tobytes())
        if bits not in self._known:
            text = _written(a)
            name = f"constant {a.item()!r}" if a.ndim == 0 else f"constant {len(self._known)}"
            while name in self.arrays:  # a parameter of that name
                name += "'"
            self._known[bits] = name
            if text:
                self.lines.append(f"_WEIGHTS[{name!r}] = np.{text}")
            else:
                self.arrays[name] = np.asarray(a, order="C")
        return self._known[bits]


def _written(a: Any) -> str:
    """A small or regular constant as what follows ``np.``; empty where it is to be stored."""
    if a.ndim == 2 and len(a) > 2 and np.array_equal(a, np.eye(len(a))):
        return f"eye({len(a)})"
    if a.size <= _FEW and np.all(np.isfinite(a)):
        return f"array({a.tolist()!r}, np.{a.dtype.name})"
    return ""


def beside_text(file: str) -> str:
    """Code that reads the weights from a file beside the module."""
    return (
        f"_FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), {file!r})\n"
        "with np.load(_FILE, allow_pickle=False) as _file:\n"
        "    _WEIGHTS = {name: _file[name] for name in _file.files}\n"
    )


def inside_text(arrays: Mapping[str, Any]) -> str:
    """Code that holds the weights: the bytes of each, little-endian, as base64."""
    lines = [_ARRAY, "", "", "_WEIGHTS = {"]
    for name, a in arrays.items():
        little = np.asarray(a, dtype=a.dtype.newbyteorder("<"), order="C")
        text = "\n".join(textwrap.wrap(base64.b64encode(little.tobytes()).decode(), 96))
        lines.append(f'    {name!r}: _array({little.dtype.str!r}, {a.shape}, """')
        lines += [text, '"""),']
    return "\n".join([*lines, "}"]) + "\n"


_ARRAY = '''def _array(dtype, shape, text):
    """The array whose bytes are these in base64."""
    found = np.frombuffer(base64.b64decode(text), np.dtype(dtype)).reshape(shape)
    return found.astype(found.dtype.newbyteorder("="))'''
