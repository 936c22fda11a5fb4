"""`hessarray export`: derivatives as a module of their own."""

from __future__ import annotations

import argparse
from pathlib import Path

import hessarray as ha
from hessarray.commands._model import add_model, read_model
from hessarray.commands._options import check_output, choice, names, positive

__all__ = ["HELP", "add_options", "run"]

HELP = "write the derivatives as a module that needs NumPy, CuPy or torch and not hessarray"
_WANT = (
    "value",
    "gradient",
    "hessian",
    "hessian_diagonal",
    "laplacian",
    "hvp",
    "weighted_hessian",
    "value_gradient_hessian",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``hessarray export``."""
    add_model(parser)
    parser.add_argument("output", type=Path, metavar="OUT.py", help="the module to write")
    parser.add_argument(
        "--want",
        type=names("function", _WANT),
        default=["value", "gradient", "hessian", "value_gradient_hessian"],
        metavar="NAME,...",
        help=f"some of {', '.join(_WANT)} (default: value, gradient, hessian and all three in one)",
    )
    parser.add_argument(
        "--backend", type=choice("library", ("numpy", "cupy", "torch")), default="numpy"
    )
    parser.add_argument(
        "--weights",
        choices=("beside", "inside"),
        default="beside",
        help="in an npz file beside the module, or inside it (default: beside)",
    )
    parser.add_argument(
        "-n", type=positive, default=1000, metavar="N", help="samples to plan for (default: 1000)"
    )
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def run(options: argparse.Namespace) -> int:
    """Write the module, and say which files there are now."""
    beside = options.output.with_name(f"{options.output.stem}_weights.npz")
    files = [options.output, *([beside] if options.weights == "beside" else [])]
    for path in files:
        check_output(path, options.force, options.model)
    ha.export(
        read_model(options),
        options.output,
        options.want,
        backend=options.backend,
        weights=options.weights,
        n=options.n,
        force=True,
    )
    for path in files:
        print(path)
    return 0
