"""What a solver pays for f, J and H through an adapter, beside the bare evaluation, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import hessarray as ha


def scipys(net: Any) -> Callable[[Any], Any]:
    f = ha.scipy_objective(net, 0)
    return lambda x: (f.fun(x), f.jac(x), f.hess(x))


def ipopts(net: Any) -> Callable[[Any], Any]:
    m = net.out_features
    p, lam = ha.ipopt_problem(net, 0, constraints=range(1, m)), np.ones(m - 1)
    return lambda x: (
        p.objective(x),
        p.gradient(x),
        p.constraints(x),
        p.jacobian(x),
        p.hessian(x, lam, 1.0),
    )


@pytest.mark.parametrize(("adapter", "m"), [(scipys, 1), (ipopts, 1), (ipopts, 4), (ipopts, 8)])
def test_derivatives_of_one_sample(benchmark, capsys, adapter, m):
    net = ha.fully_connected([10, 64, 64, 64, m], act="tanh", seed=0)
    points, asked = list(np.random.default_rng(0).normal(size=(100, 10))), adapter(net)

    def bare():
        for x in points:
            net.value_gradient_hessian(x)

    def solver():
        for x in points:
            asked(x)

    ratios = []
    for _ in range(200):
        seconds = []
        for run in (bare, solver):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[1] / seconds[0])
    benchmark.extra_info["ratio"] = float(np.median(ratios))
    with capsys.disabled():
        print(f"\n{adapter.__name__}, {m} outputs: {np.median(ratios):.2f} bare evaluations")
    benchmark(solver)
