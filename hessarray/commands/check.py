"""`hessarray check`: Taylor, finite difference and trace tests of a model's derivatives."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import hessarray as ha
from hessarray.commands._model import add_model, read_model
from hessarray.commands._options import length, positive, seed
from hessarray.commands._samples import open_samples

__all__ = ["HELP", "add_options", "run"]

HELP = "are the derivatives right? Taylor and finite differences; exit status 1 where they are not"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``hessarray check``."""
    add_model(parser)
    parser.add_argument(
        "x", nargs="?", type=Path, metavar="X", help="where: .npy, .npz or .csv (default: random)"
    )
    parser.add_argument(
        "--samples",
        type=positive,
        default=20,
        metavar="N",
        help="of X or drawn at random, at most (default: 20)",
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of random samples and directions"
    )
    parser.add_argument(
        "--step", type=length, default=1.0, metavar="H", help="the largest Taylor step (default: 1)"
    )
    parser.add_argument("--table", action="store_true", help="the errors at each Taylor step, too")


def run(options: argparse.Namespace) -> int:
    """All tests of the value, gradient, Hessian and Laplacian; 1 where one of them fails."""
    net = read_model(options)
    x = _points(options, net)
    several = len(net.in_shapes) > 1
    at: Any = x if several else x[0]
    where = options.x or f"standard normal samples of seed {options.seed}"
    print(f"{options.model} at {len(x[0])} samples: {where}")
    passed = []
    tests: list[tuple[str, Callable[[], Any]]] = [
        ("Taylor", lambda: ha.check_derivatives(net, at, seed=options.seed, step=options.step)),
        ("finite differences", lambda: ha.check_finite_differences(net, at)),
    ]
    if not several:
        tests.append(("trace", lambda: ha.check_laplacian(net, at)))
    for name, test in tests:
        found = test()
        lines = str(found).splitlines()
        if name == "Taylor" and not options.table:
            lines = lines[len(found.steps) + 1 :]
        print("\n".join([f"\n{name}", *lines]))
        passed.append(bool(found))
    print(f"\n{'all passed' if all(passed) else 'FAILED'}")
    return 0 if all(passed) else 1


def _points(options: argparse.Namespace, net: ha.Function) -> tuple[Any, ...]:
    """The first samples of X, or random ones; float64, which the tests need."""
    if options.x is None:
        rng = np.random.default_rng(options.seed)
        return tuple(rng.standard_normal((options.samples, *s)) for s in net.in_shapes)
    first = open_samples(options.x, net.in_shapes, getattr(net, "input_names", None))[0]
    block = next(first.blocks(options.samples), None)
    if block is None:
        raise ha.ShapeError(f"{options.x} holds no samples")
    return tuple(a.astype(np.float64) for a in block)
