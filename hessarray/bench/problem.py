"""A case made concrete: its network and its inputs, and hessarray's own call on them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import hessarray as ha
from hessarray.bench.cases import Case
from hessarray.bench.libraries import Library
from hessarray.curvature import curvature_plan, loss_hessian_matrix, loss_hessian_operator

__all__ = ["Call", "Problem", "costs", "ours", "problem"]

Arguments = tuple[Any, ...]
_FRESH = 64  # samples that calls on one sample take in turn
_PLANS: dict[str, dict[str, Any]] = {
    "hessian": {"want": ("value", "gradient", "hessian")},
    "laplacian": {"want": "laplacian"},
    "hvp": {"want": "hvp"},
    "weighted": {"want": "hessian", "right": 0},
}
_CURVATURE = {"loss_hessian": "matrix", "loss_hvp": "product"}


@dataclass(frozen=True)
class Problem:
    """A network, what is wanted of it, and the arguments of one or of several calls."""

    network: ha.Network
    want: str
    n: int
    inputs: list[Arguments]

    @property
    def single(self) -> bool:
        """Whether x is one sample, without a batch axis."""
        return self.n == 1


@dataclass(frozen=True)
class Call:
    """A computation that returns when its results are there.

    Attributes
    ----------
    run : callable
        Of the arguments.
    inputs : list of tuple
        Arguments of calls in turn.
    results : callable
        What ``run`` returned, as NumPy arrays in hessarray's order of axes.
    """

    run: Callable[..., Any]
    inputs: list[Arguments]
    results: Callable[[Any], tuple[Any, ...]]


def problem(case: Case, seed: int = 0) -> Problem:
    """The network of a case, and standard normal inputs."""
    network = case.network()
    d, m = network.in_features, network.out_features
    rng = np.random.default_rng(seed)
    lam = np.zeros(m)
    lam[min(1, m - 1)] = 1.0  # of NeuralFoil's outputs the lift

    def arguments(shape: tuple[int, ...]) -> Arguments:
        x = rng.standard_normal(shape)
        if case.want in _CURVATURE:
            found = x, rng.standard_normal((*shape[:-1], m))
            vector = rng.standard_normal(network.parameter_vector().size)
            return (*found, vector) if case.want == "loss_hvp" else found
        if case.want == "hvp":
            return x, rng.standard_normal(shape)
        return (x, lam) if case.want == "weighted" else (x,)

    one = case.n == 1
    inputs = [arguments((d,) if one else (case.n, d)) for _ in range(_FRESH if one else 1)]
    return Problem(network, case.want, case.n, inputs)


def ours(problem: Problem, library: Library, **options: Any) -> Call:
    """hessarray on arrays of this library."""
    inputs = [tuple(map(library.array, arguments)) for arguments in problem.inputs]
    net = problem.network
    if problem.want == "loss_hvp":  # an operator is made once, as its users do
        x, t, v = inputs[0]
        batch = not problem.single
        evaluate = loss_hessian_operator(net, "mse", x, t, is_batch=batch, **options).matvec
        inputs, options = [(v,)], {}
    elif problem.want == "loss_hessian":
        evaluate = partial(loss_hessian_matrix, net, "mse", is_batch=not problem.single)
    else:
        evaluate = _evaluation(net, problem.want)

    def run(*arguments: Any) -> Any:
        found = evaluate(*arguments, **options)
        library.wait(found)
        return found

    def results(found: Any) -> tuple[Any, ...]:
        return tuple(map(library.numpy, found if problem.want == "hessian" else (found,)))

    return Call(run, inputs, results)


def _evaluation(net: ha.Network, want: str) -> Callable[..., Any]:
    return {
        "hessian": net.value_gradient_hessian,
        "laplacian": net.laplacian,
        "hvp": net.hvp,
        "weighted": net.weighted_hessian,
    }[want]


def costs(problem: Problem, library: Library) -> tuple[int, int]:
    """(flops, bytes) of the plan on this library: bytes of inputs and results, in float64."""
    network = problem.network
    if library.name != "numpy":  # a plan is the library's that the network is pinned to
        network = copy.deepcopy(network).to(library.name)
    if problem.want in _CURVATURE:
        x, t = map(library.array, problem.inputs[0][:2])
        made = curvature_plan(
            network, "mse", x, t, want=_CURVATURE[problem.want], is_batch=not problem.single
        )
        return made.flops, made.result_bytes + made.kept_bytes + x.nbytes + t.nbytes
    plan = network.plan(problem.n, **_PLANS[problem.want])
    entries = problem.n * plan.result_entries + sum(a.size for a in problem.inputs[0])
    return plan.flops, 8 * entries
