"""`hessarray plan`: what an evaluation will do and cost."""

from __future__ import annotations

import argparse

from hessarray.commands._model import add_model, read_model
from hessarray.commands._options import names, positive

__all__ = ["HELP", "add_options", "run"]

HELP = "what an evaluation will do and cost: bracket, paths, flops, bytes"
_WANT = ("value", "gradient", "hessian", "hessian_diagonal", "laplacian", "hvp")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``hessarray plan``."""
    add_model(parser)
    parser.add_argument(
        "-n", type=positive, default=1000, metavar="N", help="number of samples (default: 1000)"
    )
    parser.add_argument(
        "--want",
        type=names("result", _WANT),
        default=["value", "gradient", "hessian"],
        metavar="NAME,...",
        help=f"some of {', '.join(_WANT)} (default: value,gradient,hessian)",
    )
    parser.add_argument(
        "--mode",
        choices=("forward", "backward"),
        help="all from the left or all from the right, instead of the cheapest bracket",
    )
    parser.add_argument("--source", action="store_true", help="the program, too, as Python")


def run(options: argparse.Namespace) -> int:
    """Print the plan."""
    mode = None if options.mode is None else options.mode == "forward"
    plan = read_model(options).plan(options.n, options.want, forward_mode=mode)
    print(plan)
    if options.source:
        print(f"\n{plan.source}", end="")
    return 0
