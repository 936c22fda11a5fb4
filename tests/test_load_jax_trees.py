"""Parameter trees of flax and equinox: equal to what JAX computes; or refused.

flax itself brings orbax and tensorstore, a hundred megabytes: its trees are built by hand here,
with the names and shapes that linen and nnx give them.
"""

from __future__ import annotations

import warnings
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, jax_truth, normal

import hessarray as ha
from hessarray.errors import LoadError
from hessarray.load.jax_trees import _FUNCTIONS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import equinox as eqx


def kernels(*widths: int) -> list[dict[str, Any]]:
    pairs = pairwise(widths)
    return [
        {"kernel": jnp.asarray(normal(i, a, b)), "bias": jnp.asarray(normal(i + 9, b))}
        for i, (a, b) in enumerate(pairs)
    ]


def forward(layers: list[dict[str, Any]], act: Any) -> Any:
    def fn(u: Any) -> Any:
        for i, p in enumerate(layers):
            u = u @ p["kernel"] + p.get("bias", 0.0)
            u = act(u) if i < len(layers) - 1 else u
        return u

    return fn


LAYERS = kernels(3, 5, 4, 2)
FEW = kernels(3, *[2] * 12)


class Variable:
    """What nnx.state holds at its leaves."""

    def __init__(self, value: Any) -> None:
        self.value = value


TREES: dict[str, Any] = {
    "linen": {"params": {f"Dense_{i}": p for i, p in enumerate(LAYERS)}},
    "without params": {f"Dense_{i}": p for i, p in enumerate(LAYERS)},
    "nested": {"params": {"MLP_0": {f"layers_{i}": p for i, p in enumerate(LAYERS)}}},
    "nnx list": {"layers": dict(enumerate(LAYERS))},
    "nnx attributes": {f"linear{i + 1}": p for i, p in enumerate(LAYERS)},
    "nnx variables": {
        f"linear{i}": {k: Variable(v) for k, v in p.items()} for i, p in enumerate(LAYERS)
    },
}


@pytest.mark.parametrize("name", TREES)
def test_flax(name: str) -> None:
    net = ha.from_flax(TREES[name], act="tanh")
    assert repr(net) == "Network(Dense(3, 5), Dense(5, 4), Dense(4, 2))"
    x = normal(1, 6, 3)
    truth = jax_truth(forward(LAYERS, jnp.tanh), x)
    f, df, d2f = net(x, do_gradient=True, do_Hessian=True)
    assert_close(f, truth.f, 1e-14)
    assert_close(df, truth.df, 1e-12)
    assert_close(d2f, truth.d2f, 1e-12)


def test_flax_sorts_by_number_and_leaves_out_biases() -> None:
    tree = {f"Dense_{i}": {"kernel": p["kernel"]} for i, p in reversed([*enumerate(FEW)])}
    x = normal(1, 4, 3)
    want = forward([{"kernel": p["kernel"]} for p in FEW], jnp.sin)(x)
    assert_close(ha.from_flax(tree, act="sin").value(x), want, 1e-13)


def test_flax_with_an_architecture() -> None:
    tree = {f"Dense_{i}": p for i, p in enumerate(kernels(3, 3, 2))}
    template = ha.Network(ha.Residual(3, h=0.5, act="tanh"), ha.Dense(3, 2), seed=0)
    net = ha.from_flax({"params": tree}, architecture=template)
    x = normal(2, 4, 3)
    u = x + 0.5 * np.tanh(x @ tree["Dense_0"]["kernel"] + tree["Dense_0"]["bias"])
    want = u @ tree["Dense_1"]["kernel"] + tree["Dense_1"]["bias"]
    assert_close(net.value(x), want, 1e-14)
    assert not np.array_equal(template[0].K, net[0].K)


REFUSED: dict[str, tuple[Any, str]] = {
    "no mapping": ([1], r"^params is a list, a nested dict of arrays is expected"),
    "empty": ({}, "^flax parameters: there is no weight matrix"),
    "no act": ({"params": TREES["linen"]["params"], "act": None}, "is a NoneType, no array"),
    "a text": ({"Dense_0": {"kernel": "x"}}, "^parameter 'Dense_0/kernel' is a str, no array"),
    "objects": ({"Dense_0": {"kernel": np.empty(3, object)}}, "is a ndarray, no array of numbers"),
    "convolution": (
        {"Conv_0": {"kernel": np.ones((3, 3, 1, 2))}},
        r"^flax parameters: tensor 'Conv_0/kernel' of shape \(3, 3, 1, 2\) is no matrix",
    ),
    "half": ({"Dense_0": {"kernel": np.ones((3, 2), "f2")}}, "has dtype float16, float32 or flo"),
    "no order": ({"a": LAYERS[0], "b": LAYERS[1]}, "'a/kernel' and 'b/kernel' tell no order"),
    "widths": (
        {"Dense_0": LAYERS[0], "Dense_1": LAYERS[2]},
        "'Dense_1/kernel' takes 4 features, the layer before gives 5",
    ),
    "norm": (
        {"Dense_0": LAYERS[0], "LayerNorm_0": {"scale": np.ones(5), "bias": np.ones(5)}},
        "tell no order|is the bias of no weight matrix",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_trees(name: str) -> None:
    tree, message = REFUSED[name]
    with pytest.raises(LoadError, match=message):
        ha.from_flax(tree, act="tanh")


def test_refused_depth() -> None:
    tree: dict[str, Any] = {}
    tree["a"] = tree
    with pytest.raises(LoadError, match="nested more than 20 deep"):
        ha.from_flax(tree, act="tanh")
    with pytest.raises(LoadError, match="holds no architecture: say which activation"):
        ha.from_flax(TREES["linen"])


# ---- equinox -------------------------------------------------------------------------------------


def functions() -> list[str]:
    return [k for k in _FUNCTIONS if hasattr(jax.nn, k) or hasattr(jnp, k)]


@pytest.mark.parametrize("name", functions())
def test_equinox(name: str) -> None:
    act = getattr(jax.nn, name, None) or getattr(jnp, name)
    mlp = eqx.nn.MLP(3, 2, 5, 2, activation=act, key=jax.random.key(0))
    net = ha.from_equinox(mlp)
    x = 2.0 * normal(1, 7, 3)
    truth = jax_truth(mlp, x)
    f, df, d2f = net(x, do_gradient=True, do_Hessian=True)
    assert_close(f, truth.f, 1e-13, "value", "equinox")
    assert_close(df, truth.df, 1e-11, "gradient", "equinox")
    assert_close(d2f, truth.d2f, 1e-10, "Hessian", "equinox")


def test_equinox_options() -> None:
    mlp = eqx.nn.MLP(
        "scalar", "scalar", 4, 1, use_bias=False, use_final_bias=True,
        activation=lambda z: z**3, final_activation=jnp.tanh, key=jax.random.key(1),
    )  # fmt: skip
    net = ha.from_equinox(mlp, act=lambda z: z * z * z)
    x = normal(3, 5, 1)
    assert_close(net.value(x)[:, 0], jax.vmap(mlp)(x[:, 0]), 1e-14)


def test_refused_equinox() -> None:
    mlp = eqx.nn.MLP(3, 2, 5, 2, activation=lambda z: z**3, key=jax.random.key(0))
    with pytest.raises(LoadError, match=r"^MLP: activation '<lambda>' is none .* act='tanh'"):
        ha.from_equinox(mlp)
    mlp = eqx.nn.MLP(3, 2, 5, 2, final_activation=jnp.cumsum, key=jax.random.key(0))
    with pytest.raises(LoadError, match=r"^MLP: final_activation 'cumsum' is none .* final_act="):
        ha.from_equinox(mlp)
    with pytest.raises(LoadError, match=r"^NoneType is no equinox"):
        ha.from_equinox(None)
    odd = SimpleNamespace(
        layers=(SimpleNamespace(),), activation=jnp.tanh, final_activation=jnp.tanh
    )
    with pytest.raises(LoadError, match=r"^layer 0 \(SimpleNamespace\) has no weight matrix"):
        ha.from_equinox(odd)
