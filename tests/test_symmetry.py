"""The Hessian from its half: packed pairs and block halves give what the whole sum gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import hessarray as ha
from hessarray.backends import backend_named
from hessarray.plan import plan as planning
from hessarray.plan.derive import Bracket


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
