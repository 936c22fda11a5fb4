"""`hessarray info`: layers or operators, shapes, parameters and kinks of a model."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

import hessarray as ha
from hessarray.commands._model import add_model, read_model
from hessarray.commands._table import show_table

__all__ = ["HELP", "add_options", "run"]

HELP = "layers, shapes, parameters and kinks of a model"
_MOST_ROWS = 200


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``hessarray info``."""
    add_model(parser)


def run(options: argparse.Namespace) -> int:
    """Print what there is to know about the model."""
    net = read_model(options)
    parameters = net.parameters()
    count = sum(math.prod(a.shape) for a in parameters.values())
    size = sum(a.nbytes for a in parameters.values())
    dtypes = ", ".join(dict.fromkeys(str(a.dtype) for a in parameters.values())) or "none"
    inputs = ", ".join(_samples(s) for s in net.in_shapes)
    print(f"{options.model}  ({options.model.stat().st_size:,} bytes)")
    print(f"input       {inputs}")
    print(f"output      {_samples(net.out_shape)}{_output_names(net)}")
    print(f"parameters  {count:,} of {dtypes}, {size:,} bytes")
    layers = list(_layers(net))
    if layers:
        heads = ["layer", "kind", "in", "out", "activation", "parameters"]
        show_table(heads, layers, "in out parameters")
    else:
        rows = [(k, tuple(a.shape), math.prod(a.shape)) for k, a in parameters.items()]
        if rows:
            show_table(["parameter", "shape", "numbers"], rows[:_MOST_ROWS], "numbers")
        if len(rows) > _MOST_ROWS:
            print(f"... and {len(rows) - _MOST_ROWS} more")
    operators = getattr(net, "operators", None)  # of an ONNX file
    if operators:
        print(f"operators   {', '.join(f'{n} {k}' for k, n in operators.items())}")
    _show_kinks(net)
    return 0


def _samples(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['...', *map(str, shape)])})"


def _output_names(net: Any) -> str:
    names = net.output_names
    return f"  {', '.join(names)}" if names else ""


def _layers(net: Any, prefix: str = "") -> Iterator[tuple[Any, ...]]:
    """A row for each layer; layers of a network inside are rows of their own."""
    for i, layer in enumerate(getattr(net, "layers", ())):
        place = f"{prefix}{i}"
        if isinstance(layer, ha.Network):
            yield from _layers(layer, f"{place}.")
            continue
        act = getattr(layer, "act", None)
        name = "" if act is None else str(getattr(act, "name", "a function"))
        count = sum(math.prod(a.shape) for a in layer.parameters().values())
        yield place, type(layer).__name__, layer.in_features, layer.out_features, name, f"{count:,}"


def _show_kinks(net: ha.Function) -> None:
    """The functions that bend: their second derivatives are zero almost everywhere."""
    found = ha.kinks(net, *(np.zeros((0, *shape)) for shape in net.in_shapes)).names
    counts: dict[str, int] = {}
    for name in found:
        counts[name] = counts.get(name, 0) + 1
    texts = [name if k == 1 else f"{name} ({k} times)" for name, k in counts.items()]
    print(f"kinks       {', '.join(texts) if texts else 'none'}")
    if texts:
        print(
            "            derivatives are one-sided at a kink, and never see the bend: "
            "hessarray.kinks(net, x) says which samples are near one"
        )
