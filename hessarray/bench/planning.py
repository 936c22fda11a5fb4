"""What it takes before the first result: tracing, planning and compiling a Hessian."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import hessarray as ha
from hessarray.bench.cases import mlp
from hessarray.bench.libraries import Library

__all__ = ["NETWORKS", "planning"]

#: Name, network, and the milliseconds that its first plan is to take at most.
NETWORKS: tuple[tuple[str, Callable[[], ha.Network], float], ...] = (
    ("10 layers of 64", lambda: mlp(10, 64, 9, 1), 50.0),
    ("100 layers of 64", lambda: mlp(10, 64, 99, 1), 1000.0),
    ("167 layers of 16: 500 nodes", lambda: mlp(10, 16, 166, 1), 1000.0),
)
_MANY = 100  # samples
_OTHERS = (101, 110, 120, 130, 150)


def planning(make: Callable[[], ha.Network], library: Library, rounds: int) -> dict[str, float]:
    """Milliseconds of a first call above those of the same call again: medians over rounds.

    ``first_ms``: of all; ``another_ms``: with another number of samples, the median of five;
    ``few_ms``: with one sample after many, which has a plan of its own on NumPy.
    """
    found = []
    for _ in range(rounds):
        network = make()
        first, *others, few = (_above(network, library, n) for n in (_MANY, *_OTHERS, 1))
        found.append([first, np.median(others), few])
    first, another, few = np.median(found, axis=0).tolist()
    return {"first_ms": first, "another_ms": another, "few_ms": few}


def _above(network: ha.Network, library: Library, n: int) -> float:
    x: Any = library.array(np.ones((n, network.in_shape[0])))

    def call() -> float:
        start = time.perf_counter()
        library.wait(network.value_gradient_hessian(x))
        return 1e3 * (time.perf_counter() - start)

    return max(call() - min(call() for _ in range(5)), 0.0)
