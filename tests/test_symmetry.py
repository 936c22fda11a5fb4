"""The Hessian from its half: packed pairs and block halves give what the whole sum gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import hessarray as ha
from hessarray.backends import backend_named
from hessarray.backends.numpy_kernels import has_gram
from hessarray.plan import plan as planning
from hessarray.plan.derive import Bracket
from hessarray.plan.symmetry import choose


def dense(d):
    return ha.fully_connected([d, 9, 7, 2], act="tanh", seed=1)


def narrow(d):
    """Narrower than the input."""
    return ha.Network(
        ha.Dense(d, 4, act="tanh"), ha.Residual(4, act="gelu"), ha.Dense(4, 3), seed=2
    )


def gated(d):
    """Product sites stand beside elementwise ones, with two axes each."""

    def f(x):
        xp = x.__array_namespace__()
        u = xp.reshape(xp.concat([xp.sin(x), xp.exp(x)]), (2, d))
        return xp.sum(u * xp.tanh(u * u), axis=1) * x[0]

    return ha.Function(f, in_shape=(d,))


@pytest.mark.parametrize("kind", ["pairs", "halves"])
@pytest.mark.parametrize("d", [3, 4, 7])
@pytest.mark.parametrize("make", [dense, narrow, gated])
def test_half_of_the_hessian_gives_all_of_it(monkeypatch, make, d, kind):
    x = np.random.default_rng(0).standard_normal((6, d))
    monkeypatch.setattr(planning, "_bracket", lambda *_: ("sum over sites", Bracket()))
    monkeypatch.setattr(planning, "choose", lambda *_: "")
    whole = make(d).hessian(x)
    monkeypatch.setattr(planning, "choose", lambda *_: kind)
    f = make(d)
    half = [f.hessian(x) for _ in range(2)][1]
    assert f.plan(6, "hessian").symmetry == (kind,)
    np.testing.assert_allclose(half, whole, rtol=1e-12, atol=1e-13)


def test_the_planner_packs_pairs_for_many_outputs_only(monkeypatch):
    backend = backend_named("numpy")  # without the kernel that does both triangles at once
    monkeypatch.setattr(backend, "costs", replace(backend.costs, gram=False))
    many = ha.fully_connected([25, 64, 64, 32], act="tanh", seed=0)
    one = ha.fully_connected([25, 64, 64, 1], act="tanh", seed=0)
    assert many.plan(100).symmetry == ("pairs",)
    assert one.plan(100).symmetry == ()
    assert "packed pairs" in str(many.plan(100))


def test_the_planner_halves_large_hessians_of_one_output_only():
    """On NumPy the kernel does both triangles at once; torch has none."""
    torch = pytest.importorskip("torch")
    for d, kind in ((32, ()), (256, ("halves",))):
        net = ha.fully_connected([d, 512, 512, 1], act="tanh", seed=0)
        net.hessian(torch.zeros((2, d), dtype=torch.float64))
        (plan,) = net._plans.values()
        assert plan.symmetry == kind
        assert ("block halves" in str(plan)) == bool(kind)
    costs = backend_named("torch").costs
    assert [choose(d, 1, 512, 3, 1000, costs) for d in (63, 64)] == ["", "halves"]


@pytest.mark.skipif(not has_gram(), reason="built without the kernels")
@pytest.mark.parametrize("m", [1, 3])
def test_sites_of_constant_curvature_are_weighed_as_all_others(m):
    """s'' is a number, and so is G of the last hidden layer: w is the same for all samples."""
    acts = ["tanh", "tanh", "quadratic"]
    layers = [ha.Dense(a, 16, act=act) for a, act in zip((5, 16, 16), acts, strict=True)]
    net = ha.Network(*layers, ha.Dense(16, m), seed=0)
    steps = [s for s in net.plan(100, "hessian").program.at(2) if s.op == "gram"]
    assert [s.args[1].rows for s in steps].count(0) == 1  # of the last layer
    x = np.random.default_rng(0).standard_normal((20, 5))
    whole = net.hessian(x, forward_mode=True)
    for _ in range(3):
        np.testing.assert_allclose(net.hessian(x), whole, rtol=1e-12, atol=1e-13)


@pytest.mark.skipif(not has_gram(), reason="built without the kernels")
@pytest.mark.parametrize("n", [1, 100])
def test_a_weight_that_is_a_product_itself(n):
    """Without the gradient, G of the first layer has one use: w is s'' times its product."""
    hidden = (ha.Dense(d, 64, act="silu") for d in (25, 64))
    net = ha.Network(*hidden, ha.Dense(64, 3), seed=0)
    plan = net.plan(n, "hessian", right=0)
    grams = [s for s in plan.program.at(2) if s.op == "gram"]
    assert len(grams) == plan.sites
    assert any(not s.args[0].rows for s in grams)  # J of the first layer is its matrix
    x, lam = np.random.default_rng(0).standard_normal((n, 25)), np.asarray([1.0, -2.0, 0.5])
    whole = net.hessian(x, forward_mode=True) @ lam
    for _ in range(3):
        got = net.weighted_hessian(x, lam)
        np.testing.assert_allclose(got, whole, rtol=1e-12, atol=1e-13)
