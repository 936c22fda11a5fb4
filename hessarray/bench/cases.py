"""What is measured: networks, numbers of samples, and what is asked of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

import hessarray as ha
from hessarray.timing import setup_resnet

__all__ = [
    "Case",
    "GROUPS",
    "MEANS",
    "PIECE",
    "TARGETS",
    "WANTS",
    "cases",
    "mlp",
    "model_case",
    "paper_grid",
]

PIECE = 1000  # samples of a call, next to which growth is measured

#: What may be asked, and in words.
WANTS = {
    "hessian": "value, gradient and Hessian",
    "laplacian": "Laplacian",
    "hvp": "Hessian-vector product",
    "weighted": "weighted Hessian of one output",
    "loss_hessian": "Hessian of the mean squared error in the parameters",
    "loss_hvp": "that Hessian times a vector",
}

#: Groups of cases, in the order of the report.
GROUPS = {
    "paper": "ResNet of the hessQuik paper: width 16, depth 4, n = 10",
    "mlp": "MLPs with tanh: value, gradient and Hessian",
    "neuralfoil": "NeuralFoil's network: weighted Hessian of one output",
    "one-sample": "One sample, a fresh one for each call: value, gradient and Hessian",
    "laplacian": "Laplacian",
    "hvp": "Hessian-vector product",
    "curvature": "Parameters: Hessian of the mean squared error",
    "curvature-hvp": "Parameters: Hessian-vector product of the mean squared error",
    "growth": "Growth with the number of samples",
    "threads": "Two threads against one",
    "memory": "Peak memory above the result, in a process of its own",
    "planning": "Before the first result: value, gradient and Hessian are traced and planned",
    "model": "Your model",
}

#: The times that a peer is to take in units of hessarray's, in every case of a group; and MiB above
#: the result at most.
TARGETS: Mapping[str, Mapping[str, float]] = {
    "paper": {"hessquik": 5.0, "jax": 1.0},
    "mlp": {"jax": 2.0},
    "neuralfoil": {"jax": 2.0},
    "one-sample": {"jax": 2.0},
    "growth": {"pieces": 0.95},
    "threads": {"one-thread": 1.8},
    "memory": {"above_MiB": 96.0},
}

#: The same for the geometric mean over a group.
MEANS: Mapping[str, Mapping[str, float]] = {
    "paper": {"jax": 4.0},
    "mlp": {"jax": 3.0},
    "laplacian": {"folx": 2.0},
    "hvp": {"jax": 1.5},
    "curvature": {"jax": 8.0, "torch": 30.0},
    "curvature-hvp": {"jax": 1.5},
}


@dataclass(frozen=True)
class Case:
    """One line of a report.

    Attributes
    ----------
    group, name : str
        Of the report's table and line.
    network : callable
        Makes the network; none is made before it is needed.
    n : int
        Samples; 1 is one sample without a batch axis.
    want : str
        A key of `WANTS`.
    peers : tuple of str, optional
        Only these peers; None: all that know what is wanted.
    only_on : str, optional
        The one library of ours that the case makes sense on.
    """

    group: str
    name: str
    network: Callable[[], ha.Network] = field(repr=False)
    n: int
    want: str = "hessian"
    peers: tuple[str, ...] | None = None
    only_on: str | None = None


def mlp(d: int, width: int, depth: int, m: int) -> ha.Network:
    """Hidden tanh layers of one width, and a linear last layer."""
    return tanh_network(d, *[width] * depth, m)


def tanh_network(*widths: int) -> ha.Network:
    """Layers of these widths, all but the last one with tanh."""
    inner = [ha.Dense(a, b, act="tanh") for a, b in pairwise(widths[:-1])]
    return ha.Network(*inner, ha.Dense(widths[-2], widths[-1]), seed=0)


def _mlp_case(
    group: str, d: int, width: int, depth: int, n: int, m: int = 1, want: str = "hessian"
) -> Case:
    name = f"d={d}, {depth}x{width}, m={m}"
    return Case(group, name, partial(mlp, d, width, depth, m), n, want)


def paper_grid(inputs: tuple[int, ...], outputs: tuple[int, ...], n: int = 10) -> list[Case]:
    """The ResNet of figures 2 and 3 of the paper, for all numbers of inputs and outputs."""
    return [
        Case("paper", f"d={d}, m={m}", partial(setup_resnet, d, m), n)
        for m, d in product(outputs, inputs)
    ]


def _neuralfoil(size: str) -> ha.Network:
    spec = importlib.util.find_spec("neuralfoil")
    if spec is None or not spec.submodule_search_locations:
        raise ha.LoadError("NeuralFoil's weights are missing: pip install --no-deps neuralfoil")
    folder = Path(spec.submodule_search_locations[0], "nn_weights_and_biases")
    network: ha.Network = ha.load(folder / f"nn-{size}.npz", act="silu")
    return network


def model_case(path: Path, act: str | None, n: int, want: str) -> Case:
    """The network in a file that ``hessarray.load`` reads, and now: what is wrong is said first."""
    network = ha.load(path, act=act)
    return Case("model", path.name, lambda: network, n, want)


class _Sizes(NamedTuple):
    """Numbers of the cases: d inputs, w width, L hidden layers, n samples, m outputs."""

    grid: tuple[tuple[int, ...], tuple[int, ...]]  # d, m
    full_grid: tuple[tuple[int, ...], tuple[int, ...]]
    mlps: tuple[tuple[int, int, int, int, int], ...]  # d, w, L, n, m
    foils: tuple[str, ...]
    foil_samples: tuple[int, ...]
    single: tuple[tuple[int, int, int], ...]  # d, w, L
    derived: tuple[tuple[int, int, int, int], ...]  # d, w, L, n
    weights: tuple[tuple[tuple[int, ...], int], ...]  # widths, n: Hessian in the parameters
    products: tuple[tuple[tuple[int, ...], int], ...]  # the same: its products
    reference: tuple[int, int, int]  # d, w, L
    growth: tuple[int, ...]


_POWERS = tuple(2**k for k in range(11))
_FULL = _Sizes(
    grid=((1, 4, 16, 64, 256, 1024), (1, 8)),
    full_grid=(_POWERS, _POWERS[:7]),
    mlps=(
        (10, 64, 4, 1000, 1),
        (3, 64, 4, 10_000, 1),
        (25, 128, 4, 500, 1),
        (64, 256, 4, 200, 1),
        (25, 64, 3, 200, 32),
    ),
    foils=("xlarge", "xxxlarge"),
    foil_samples=(1, 100),
    single=((10, 64, 3), (4, 32, 2), (25, 128, 4)),
    derived=((3, 64, 4, 10_000), (30, 128, 4, 1000), (100, 256, 3, 100)),
    weights=(((10, 32, 32, 1), 200), ((25, 48, 48, 8), 50)),
    products=(((25, 128, 128, 128, 8), 2000),),
    reference=(10, 64, 4),
    growth=(10**3, 10**4, 10**5, 10**6),
)
_QUICK = _Sizes(
    grid=((2,), (1, 2)),
    full_grid=((1, 4), (1, 2)),
    mlps=((3, 8, 2, 20, 1), (2, 8, 2, 5, 3)),
    foils=("xxsmall",),
    foil_samples=(1, 3),
    single=((3, 8, 2),),
    derived=((3, 8, 2, 20),),
    weights=(((3, 4, 2), 5),),
    products=(((3, 4, 2), 5),),
    reference=(3, 8, 2),
    growth=(10, 1000, 2000),
)


def cases(*, full_grid: bool = False, quick: bool = False) -> list[Case]:
    """All of the project's own cases; small ones, of the same kinds, where ``quick``."""
    s = _QUICK if quick else _FULL
    found = paper_grid(*(s.full_grid if full_grid else s.grid))
    found += [_mlp_case("mlp", *shape) for shape in s.mlps]
    found += [
        Case("neuralfoil", size, partial(_neuralfoil, size), n, "weighted")
        for size, n in product(s.foils, s.foil_samples)
    ]
    found += [_mlp_case("one-sample", *shape, 1) for shape in s.single]
    for want in ("laplacian", "hvp"):
        found += [_mlp_case(want, *shape, want=want) for shape in s.derived]
    for group, want, shapes in (
        ("curvature", "loss_hessian", s.weights),
        ("curvature-hvp", "loss_hvp", s.products),
    ):
        for widths, n in shapes:
            name = "-".join(map(str, widths))
            found.append(Case(group, name, partial(tanh_network, *widths), n, want))
    reference = [_mlp_case("growth", *s.reference, n) for n in s.growth]
    found += [replace(case, peers=("pieces",) if case.n > PIECE else ()) for case in reference]
    one = replace(reference[-2], group="threads", peers=("one-thread",), only_on="numpy")
    return [*found, one]
