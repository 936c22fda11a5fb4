"""The argument MODEL and the options that say how to read it."""

from __future__ import annotations

import argparse
import inspect
import json
from pathlib import Path
from typing import Any

import hessarray as ha
from hessarray.errors import LoadError, OptionError

__all__ = ["add_model", "read_model"]


def add_model(parser: argparse.ArgumentParser) -> None:
    """MODEL, and the options that ``hessarray.load`` takes."""
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="a file that hessarray.load reads"
    )
    how = parser.add_argument_group("how to read MODEL")
    how.add_argument("--act", metavar="NAME", help="activation, for a file of weights alone")
    how.add_argument("--final-act", metavar="NAME", help="activation of the last layer")
    how.add_argument(
        "--architecture",
        type=Path,
        metavar="FILE",
        help="a saved network or .onnx model whose parameters the weights in MODEL fill",
    )
    how.add_argument(
        "--outputs", metavar="NAME,...", help="of an .onnx file that has several (default: all)"
    )
    how.add_argument(
        "--load",
        action="append",
        default=[],
        type=_pair,
        metavar="NAME=VALUE",
        help="any other keyword of hessarray.load (from_onnx for .onnx); may be repeated",
    )


def _pair(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form NAME=VALUE")
    return name, _parsed(value)


def _parsed(text: str) -> Any:
    """A number, list or object of JSON; anything else is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def read_model(options: argparse.Namespace) -> ha.Function:
    """The model.

    Raises
    ------
    LoadError
        The file cannot be read.
    OptionError
        ``hessarray.load``, or ``from_onnx`` for an .onnx file, has no such keyword.
    """
    given = {k: v for k in ("act", "final_act") if (v := getattr(options, k)) is not None}
    if options.outputs is not None:
        given["outputs"] = options.outputs.split(",")
    if options.architecture is not None:
        given["architecture"] = ha.load(options.architecture)
    given |= dict(options.load)
    name = "from_onnx" if options.model.suffix == ".onnx" else "load"
    read = getattr(ha, name)
    known = list(inspect.signature(read).parameters)[1:]
    for k in given:
        if k not in known:
            raise OptionError(f"hessarray.{name} takes no '{k}': known are {', '.join(known)}")
    try:
        net: ha.Function = read(options.model, **given)
    except (TypeError, ValueError) as error:
        if isinstance(error, LoadError):
            text = str(error).replace("act='tanh'", "--act tanh")
            raise LoadError(text.replace("architecture=", "--architecture FILE")) from None
        if isinstance(error, ha.HessarrayError):
            raise
        raise LoadError(f"{options.model}: {error}") from error
    return net
