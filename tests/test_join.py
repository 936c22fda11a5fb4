"""Joined operations: programs with and without them give the same, whatever follows whatever."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hessarray as ha
from hessarray.backends import backend_named, numpy_kernels

pytestmark = pytest.mark.skipif(
    not numpy_kernels.has_products(), reason="no compiled kernel for this processor's vectors"
)

WIDTHS = (1, 3, 7, 8, 16, 24, 25, 40)
STEPS = "dense residual gate skip norm same square scaled joined".split()


def drawn(seed):
    """A function of d inputs whose values are used once, twice, together and apart."""
    choose, rng = random.Random(seed), np.random.default_rng(seed)
    d = width = choose.choice(WIDTHS)

    def matrix(a, b):
        return rng.standard_normal((a, b)) / np.sqrt(a)

    steps = []
    for _ in range(choose.randint(1, 4)):
        kind, new = choose.choice(STEPS), choose.choice(WIDTHS)
        new = new if kind in ("dense", "gate", "square") else width
        bend = choose.choice(("tanh", "sin", "exp", "silu", "sigmoid", "softplus", "antitanh"))
        steps.append((kind, bend, matrix(width, new), matrix(width, new), rng.standard_normal(new)))
        width = new
    last = matrix(width, choose.choice((1, 2, 8)))

    def f(x):
        xp, u = x.__array_namespace__(), x
        for kind, bend, k, other, b in steps:
            act = ha.activation(bend)
            match kind:
                case "dense":
                    u = act(u @ k + b)
                case "residual":
                    u = u + 0.5 * act(u @ k + b)
                case "gate":
                    u = xp.tanh(u @ k) * (u @ other)
                case "skip":
                    u = xp.tanh(u @ k) + u @ other + u
                case "norm":
                    u = u / xp.sqrt(xp.sum(u * u) + 1.0)
                case "same":  # what is multiplied is also added
                    z = xp.tanh(u @ k)
                    u = z @ other + z
                case "square":
                    u = (u @ k) ** 2
                case "scaled":
                    u = xp.tanh(u) * b
                case "joined":
                    half = len(b) // 2
                    u = xp.concat([xp.tanh(u[half:]), u[:half]])
        return u @ last

    return f, d


def everything(f, d, x, p):
    function = ha.Function(f, in_shape=(d,))
    for _ in range(3):  # call by call, recorded, repeated
        found = [
            *function.value_gradient_hessian(x),
            function.laplacian(x),
            function.hvp(x, p),
            function.hessian(x, forward_mode=True),
        ]
    return found


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), n=st.sampled_from([1, 2, 10, 60]), dtype=st.sampled_from("fd"))
def test_joined_programs_give_what_plain_ones_give(seed, n, dtype):
    f, d = drawn(seed)
    x, p = np.random.default_rng(seed).uniform(-1.0, 1.0, (2, n, d)).astype(dtype)
    backend = backend_named("numpy")
    joined = everything(f, d, x, p)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "costs", replace(backend.costs, joins=False))
        plain = everything(f, d, x, p)
    for a, b in zip(joined, plain, strict=True):
        size = np.max(np.abs(b)) + np.finfo(dtype).tiny
        assert np.max(np.abs(a - b)) <= 1e4 * np.finfo(dtype).eps * size


def test_what_is_multiplied_and_added_is_not_overwritten():
    """The sum must not be written over the rows that later columns still need."""
    k = np.random.default_rng(0).standard_normal((40, 40))

    def code(x):
        u = x.__array_namespace__().sin(x)
        return (u @ k + u) @ k

    f = ha.Function(code, in_shape=(40,))
    x = np.random.default_rng(1).standard_normal((30, 40))
    for _ in range(3):
        np.testing.assert_allclose(f.value(x), code(x), rtol=1e-12, atol=1e-11)
