"""Value, gradient and Hessian of the reference MLP, side by side with the peers.

Nothing here asserts a time: the figures go to the report, and from there to docs/performance.md.
"""

from __future__ import annotations

import numpy as np
import peers
import pytest

# What the peers warn about is theirs.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CASE = {"d": 10, "width": 64, "depth": 4, "m": 1}
N = 1000


@pytest.fixture(scope="module")
def problem():
    return peers.mlp(**CASE), np.random.default_rng(0).standard_normal((N, CASE["d"]))


def test_hessarray(benchmark, problem):
    benchmark.group = "tanh MLP d=10, 4x64, m=1, n=1000"
    benchmark(peers.hessarray_call(*problem))


def test_jax(benchmark, problem):
    benchmark.group = "tanh MLP d=10, 4x64, m=1, n=1000"
    benchmark(peers.jax_calls(*problem)["jax forward-over-reverse"])


def test_torch_func(benchmark, problem):
    benchmark.group = "tanh MLP d=10, 4x64, m=1, n=1000"
    benchmark.pedantic(peers.torch_func_call(*problem), rounds=5, warmup_rounds=1)


def test_hessquik(benchmark, problem):
    benchmark.group = "tanh MLP d=10, 4x64, m=1, n=1000"
    benchmark.pedantic(peers.hessquik_call(*problem), rounds=2, warmup_rounds=0)


def test_side_by_side(benchmark, problem, capsys):
    """The peers in turn with hessarray: medians of ratios."""
    calls = {"hessarray": peers.hessarray_call(*problem), **peers.jax_calls(*problem)}
    calls["torch.func"] = peers.torch_func_call(*problem)
    seconds = peers.in_turn(list(calls.values()), rounds=15)
    slow = peers.in_turn([calls["hessarray"], peers.hessquik_call(*problem)], rounds=2)
    found = dict(zip(calls, peers.ratios(seconds), strict=True))
    found["hessQuik"] = peers.ratios(slow)[1]
    benchmark.extra_info.update({k: float(v) for k, v in found.items()})
    with capsys.disabled():
        print("\ntimes that of hessarray: " + ", ".join(f"{k} {v:.2f}" for k, v in found.items()))
    benchmark.pedantic(calls["hessarray"], rounds=3)


def test_results_agree(problem):
    """What is timed is right."""
    net, x = problem
    ours = net.value_gradient_hessian(x[:5])
    theirs = peers.jax_calls(net, x[:5])["jax forward-over-reverse"]()
    np.testing.assert_allclose(
        ours.d2f, np.moveaxis(np.asarray(theirs[2]), 1, -1), rtol=1e-10, atol=1e-13
    )
