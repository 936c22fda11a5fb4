"""`hessarray eval`: values and derivatives of the samples in a file, block by block."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

import hessarray as ha
from hessarray.bench.host import cores
from hessarray.bench.libraries import DEVICES, LIBRARIES, library
from hessarray.commands._job import RESULTS, Job, tails
from hessarray.commands._model import add_model, read_model
from hessarray.commands._options import check_output, choice, positive, size
from hessarray.commands._progress import bar
from hessarray.commands._results import check_format, output_to
from hessarray.commands._samples import open_samples
from hessarray.errors import OptionError, ShapeError

__all__ = ["HELP", "add_options", "run"]

HELP = "values and derivatives of the samples in a file, however large it is"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``hessarray eval``."""
    add_model(parser)
    parser.add_argument("x", type=Path, metavar="X", help="samples: .npy, .npz or .csv")
    what = parser.add_argument_group("what", "those named here alone; the value where none is")
    for name, meaning in RESULTS.items():
        what.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=meaning)
    what.add_argument(
        "--weights",
        metavar="LAM",
        help="sum_m lam_m d2f_m/dx2 for these weights: numbers with commas, or a file of them",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--backend", type=choice("backend", tuple(LIBRARIES)), default="numpy")
    how.add_argument("--device", choices=DEVICES, help="default: cuda for cupy, else cpu")
    how.add_argument("--dtype", choices=("float32", "float64"), help="default: that of X")
    how.add_argument("--memory-limit", type=size, metavar="BYTES", help="such as 500MB or 2GiB")
    how.add_argument("--threads", type=positive, metavar="N", help="on NumPy (default: all cores)")
    how.add_argument("--progress", action="store_true", help="a bar on stderr")
    where = parser.add_argument_group("where to")
    where.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help=".npy for one result, .npz or .csv for any; left out: a table on stdout",
    )
    where.add_argument("--force", action="store_true", help="replace OUT where it exists")


def run(options: argparse.Namespace) -> int:
    """Evaluate and write; OUT appears when it is complete."""
    if options.output is not None:
        check_output(options.output, options.force, options.model, options.x)
    net = read_model(options)
    wanted = [name for name in RESULTS if getattr(options, name)]
    lam = None if options.weights is None else _weights(options.weights, net)
    if lam is not None:
        wanted.append("weighted_hessian")
    wanted = wanted or ["value"]
    members = open_samples(options.x, net.in_shapes, getattr(net, "input_names", None))
    check_format(options.output, len(tails(net, wanted)), len(members))
    device = options.device or ("cuda" if options.backend == "cupy" else "cpu")
    job = Job(
        net,
        wanted,
        lam,
        library(options.backend, device, options.threads or cores()),
        options.dtype,
        options.memory_limit,
        options.threads,
    )
    with output_to(options.output) as output:
        for samples in members:
            with bar(options.progress, samples.count) as advance:
                job.evaluate(samples, output, advance)
    return 0


def _weights(text: str, net: ha.Function) -> Any:
    """Weights of the outputs, from numbers with commas or from a file."""
    size = math.prod(net.out_shape)
    path = Path(text)
    if path.suffix in (".npy", ".csv"):
        found = open_samples(path, (net.out_shape,))[0]
        blocks = list(found.blocks(2))
        lam = blocks[0][0][0] if len(blocks) == 1 and len(blocks[0][0]) == 1 else None
    else:
        try:
            lam = np.array([float(part) for part in text.split(",")])
        except ValueError:
            raise OptionError(
                f"--weights {text}: expected {size} numbers with commas, or a .npy or .csv file"
            ) from None
        lam = lam.reshape(net.out_shape) if lam.size == size else None
    if lam is None:
        raise ShapeError(f"--weights {text}: expected {size} numbers, one for each output")
    return lam
