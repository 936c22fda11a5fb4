"""`hessarray demo`: what it is for, in a few seconds."""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np

import hessarray as ha
from hessarray.commands._options import positive
from hessarray.commands._table import show_table

__all__ = ["HELP", "add_options", "run"]

HELP = "exact derivatives of NeuralFoil's airfoil network, or of a small one where it is missing"
_SIZE = "medium"
_OUTPUTS = ("confidence", "CL", "ln CD", "CM", "top transition", "bottom transition")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``hessarray demo``."""
    parser.add_argument(
        "-n", type=positive, default=1000, metavar="N", help="number of samples (default: 1000)"
    )


def run(options: argparse.Namespace) -> int:
    """Evaluate value, gradient and Hessian of many samples, and check them."""
    net, title, names, center = _network()
    print(title)
    x = center + 0.1 * np.random.default_rng(0).standard_normal((options.n, *net.in_shape))
    rows: list[tuple[Any, ...]] = []
    for name, call in (
        ("value", net.value),
        ("gradient", net.gradient),
        ("Laplacian", net.laplacian),
        ("Hessian", net.hessian),
    ):
        call(x)  # plans, and records what it does
        start = time.perf_counter()
        found = call(x)
        rows.append((name, found.shape, f"{(time.perf_counter() - start) * 1e3:.2f} ms"))
    show_table(["what", "shape", "time"], rows, "time")

    print("\nThe first sample: each output's value, length of its gradient, and extreme curvatures")
    f, df, d2f = net.value_gradient_hessian(x[0])
    rows = []
    for m in range(len(names)):
        curvatures = np.linalg.eigvalsh(d2f[..., m])
        numbers = (f[m], np.linalg.norm(df[:, m]), curvatures[0], curvatures[-1])
        rows.append((names[m], *(f"{v:.6g}" for v in numbers)))
    show_table(["output", "value", "slope", "least", "largest"], rows, "value slope least largest")

    found = ha.check_derivatives(net, x[:5])
    print(f"\nTaylor test of gradient and Hessian: {'passed' if found else 'FAILED'}")
    return 0 if found else 1


def _network() -> tuple[Any, str, tuple[str, ...], Any]:
    """A network, what it is, the names of its outputs, and the middle of its inputs."""
    spec = importlib.util.find_spec("neuralfoil")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    if places:  # the weights lie there as files: the package itself is not imported
        folder = Path(places[0], "nn_weights_and_biases")
        with np.load(folder / "scaled_input_distribution.npz", allow_pickle=False) as file:
            center = file["mean_inputs_scaled"]
        whole = ha.load(folder / f"nn-{_SIZE}.npz", act="silu")
        last, m = whole[-1], len(_OUTPUTS)  # the others describe the boundary layer
        head = ha.Dense(last.in_features, m, act="identity", seed=0)
        head.K, head.b = last.K[:, :m], last.b[:m]
        net = ha.Network(*whole[:-1], head)
        return net, f"The network of NeuralFoil ({_SIZE}): {net}", _OUTPUTS, center
    net = ha.fully_connected([10, 64, 64, 3], act="tanh", seed=0)
    title = f"{net} with random weights; pip install --no-deps neuralfoil for an airfoil model"
    return net, title, ("f0", "f1", "f2"), 0.0
