"""First derivatives of a model's outputs in its parameters, against torch.func."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import hessarray as ha
from hessarray.curvature import model_gradient_dict
from hessarray.errors import MemoryLimitError, ParameterError, ShapeError

torch = pytest.importorskip("torch")


def dense_of(params: dict[str, Any], x: Any) -> Any:
    return torch.tanh(x @ params["0.K"] + params["0.b"]) @ params["1.K"] + params["1.b"]


def composed(x: Any, p: Any) -> Any:
    """A matrix that occurs twice and once within a function, and a scale."""
    xp = x.__array_namespace__()
    return xp.exp(0.1 * (x @ p["A"])) @ p["A"] + (x * p["s"]) @ xp.exp(p["A"])


def by_torch(fn: Any, params: dict[str, Any], x: np.ndarray) -> dict[str, np.ndarray]:
    own = {k: torch.tensor(a) for k, a in params.items()}
    jacobian = torch.func.vmap(torch.func.jacrev(fn), in_dims=(None, 0))
    return {k: a.numpy() for k, a in jacobian(own, torch.tensor(x)).items()}


def test_a_network() -> None:
    rng = np.random.default_rng(0)
    net = ha.Network(ha.Dense(3, 6, act="tanh"), ha.Dense(6, 2), seed=0)
    x = rng.normal(size=(7, 3))
    found, expected = model_gradient_dict(net, x), by_torch(dense_of, net.parameters(), x)
    assert list(found) == list(net.parameters())
    for k, a in expected.items():
        assert found[k].shape == a.shape
        np.testing.assert_allclose(found[k], a, rtol=1e-12, atol=1e-14)
    one = model_gradient_dict(net, x[0], is_batch=False)
    np.testing.assert_allclose(one["0.K"], found["0.K"][0], rtol=1e-12, atol=1e-14)
    some = model_gradient_dict(net, x, params=["1.b", "0.K"], frozen="0.K")
    assert list(some) == ["1.b"]


def test_functions_of_parameters() -> None:
    rng = np.random.default_rng(1)
    params = {"A": rng.normal(size=(3, 3)), "s": rng.normal(size=3), "idle": np.ones(2)}
    x = rng.normal(size=(4, 3))

    def fn(p: Any, u: Any) -> Any:
        return torch.exp(0.1 * (u @ p["A"])) @ p["A"] + (u * p["s"]) @ torch.exp(p["A"])

    model = ha.Function(composed, (3,), params)
    found, expected = model_gradient_dict(model, x), by_torch(fn, params, x)
    for k, a in expected.items():
        np.testing.assert_allclose(found[k], a, rtol=1e-12, atol=1e-13)


def test_on_every_library(backend: Any) -> None:
    net = ha.fully_connected([2, 4, 3], act="softplus", seed=0)
    x = np.random.default_rng(2).normal(size=(5, 2))
    there = backend.xp.asarray(x, device=backend.device)
    for k, a in model_gradient_dict(net, x).items():
        found = model_gradient_dict(net, there)[k]
        assert type(found) is type(there)
        np.testing.assert_allclose(backend.to_numpy(found), a, rtol=1e-10, atol=1e-12)


def test_bad_input_is_one_sentence() -> None:
    net = ha.fully_connected([2, 4, 3], seed=0)
    with pytest.raises(ParameterError, match=r"did you mean 0\.K"):
        model_gradient_dict(net, np.zeros((5, 2)), params=["0.K0"])
    with pytest.raises(ShapeError, match=r"\(..., 2\) is expected"):
        model_gradient_dict(net, np.zeros((5, 3)))
    with pytest.raises(MemoryLimitError):
        model_gradient_dict(net, np.zeros((500, 2)), memory_limit=1000)
