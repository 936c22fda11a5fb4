"""What a solver pays for f, J and H through an adapter, beside the bare evaluation, in turn."""

from __future__ import annotations

import time

import numpy as np

import hessarray as ha


def test_f_gradient_and_hessian_of_one_sample(benchmark, capsys):
    net = ha.fully_connected([10, 64, 64, 64, 1], act="tanh", seed=0)
    f, points = ha.scipy_objective(net), list(np.random.default_rng(0).normal(size=(100, 10)))

    def bare():
        for x in points:
            net.value_gradient_hessian(x)

    def solver():
        for x in points:
            f.fun(x), f.jac(x), f.hess(x)

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
        print(f"\nf, J and H through scipy_objective: {np.median(ratios):.2f} bare evaluations")
    benchmark(solver)
