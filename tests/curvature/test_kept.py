"""Programs in two parts: what is kept between calls, and what every call adds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hessarray as ha
from hessarray.curvature import (
    _outer_totals,
    curvature_plan,
    gauss_newton_operator,
    loss_hessian_matrix,
    loss_hessian_operator,
)
from hessarray.graph.builder import Builder
from hessarray.plan.split import split

X = np.random.default_rng(0).standard_normal((300, 5))
T = np.random.default_rng(1).standard_normal((300, 2))


def network(act: str = "tanh") -> ha.Network:
    return ha.Network(ha.Dense(5, 8, act=act), ha.Dense(8, 7, act=act), ha.Dense(7, 2), seed=0)


def test_what_does_not_move_is_kept_once() -> None:
    b = Builder()
    x, p = b.seed("x0", (3,), batched=True), b.seed("p", (3,))
    square = b.einsum(["a", "a"], "", [x, x])  # one number for each sample
    moved = b.einsum(["", "a"], "a", [square, p])
    again = b.einsum(["a", "a"], "", [p, x])
    parts = split({"y": moved, "z": again}, ["p"], lambda i: f"x{i + 1}")
    assert list(parts.kept.values()) == [square]
    assert parts.entries == 1


def test_nothing_is_kept_where_everything_moves() -> None:
    b = Builder()
    x, p = b.seed("x0", (3,), batched=True), b.seed("p", (3,))
    parts = split({"y": b.einsum(["a", "a"], "", [x, p])}, ["p"], lambda i: f"x{i + 1}")
    assert not parts.kept


@settings(max_examples=25)
@given(
    act=st.sampled_from(["tanh", "softplus", "silu", "sigmoid"]),
    n=st.integers(1, 40),
    threads=st.sampled_from([1, 2]),
    seed=st.integers(0, 9),
)
def test_kept_and_not_kept_agree(act: str, n: int, threads: int, seed: int) -> None:
    net, v = network(act), np.random.default_rng(seed).standard_normal(127)
    matrix = loss_hessian_matrix(net, "mse", X[:n], T[:n])
    kept = loss_hessian_operator(net, "mse", X[:n], T[:n], threads=threads)
    anew = loss_hessian_operator(net, "mse", X[:n], T[:n], threads=threads, memory_limit=40_000)
    for operator in (kept, anew):
        got = operator @ v[: len(matrix)]
        np.testing.assert_allclose(got, matrix @ v[: len(matrix)], rtol=1e-11, atol=1e-12)


def test_a_small_limit_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    whole = _outer_totals.kept_apart
    monkeypatch.setattr(
        _outer_totals, "kept_apart", lambda *a: found.append(whole(*a)) or found[-1]
    )
    loss_hessian_operator(network(), "mse", X, T)
    loss_hessian_operator(network(), "mse", X, T, memory_limit=40_000)
    assert found[0] is not None
    assert found[0].entries * 8 * len(X) > 20_000
    assert found[1] is None


def test_an_operator_holds_the_parameters_of_its_making() -> None:
    net = network()
    matrix = loss_hessian_matrix(net, "mse", X, T)
    operator = loss_hessian_operator(net, "mse", X, T)
    v = np.random.default_rng(3).standard_normal(len(matrix))
    first = operator @ v
    net.load_parameter_vector(2.0 * net.parameter_vector())
    np.testing.assert_allclose(operator @ v, first, rtol=1e-13)
    np.testing.assert_allclose(first, matrix @ v, rtol=1e-11, atol=1e-12)
    assert not np.allclose(loss_hessian_operator(net, "mse", X, T) @ v, first)


def test_an_operator_holds_the_samples_of_its_making() -> None:
    x, t, net = X.copy(), T.copy(), network()
    operator = loss_hessian_operator(net, "mse", x, t)
    v = np.random.default_rng(3).standard_normal(operator.shape[0])
    first = operator @ v
    x[...], t[...] = 0.0, 1.0
    assert np.array_equal(operator @ v, first)


def _made_of_others(x, p):
    return x.__array_namespace__().tanh(x @ (p["K"] @ p["K"]))


@pytest.mark.parametrize("limit", [None, 40_000])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", [loss_hessian_operator, gauss_newton_operator])
def test_composed_parameters_are_those_of_the_making(kind, first: bool, limit: int | None) -> None:
    K = np.random.default_rng(4).standard_normal((5, 5))
    f, t = ha.Function(_made_of_others, (5,), {"K": K}), np.tanh(X[:, ::-1])
    v = np.random.default_rng(3).standard_normal(25)
    expected = kind(f, "mse", X, t) @ v
    operator = kind(f, "mse", X, t, memory_limit=limit)
    if first:
        operator @ v
    f.load_parameters({"K": 2 * K})
    np.testing.assert_allclose(operator @ v, expected, rtol=1e-11, atol=1e-12)


def test_composed_parameters_under_tape_and_compiler() -> None:
    jax, torch = pytest.importorskip("jax"), pytest.importorskip("torch")
    K = np.random.default_rng(4).standard_normal((5, 5))
    f, t = ha.Function(_made_of_others, (5,), {"K": K}), np.tanh(X[:, ::-1])
    v = np.random.default_rng(3).standard_normal(25)
    expected = loss_hessian_operator(f, "mse", X, t) @ v
    with jax.enable_x64(True):
        operator = loss_hessian_operator(f, "mse", jax.numpy.asarray(X), jax.numpy.asarray(t))
        for call in (jax.jit(operator.matvec), operator.matvec):
            np.testing.assert_allclose(call(jax.numpy.asarray(v)), expected, rtol=1e-10, atol=1e-12)
    pinned = ha.Function(_made_of_others, (5,), {"K": K}).to("torch")
    (own,) = pinned.parameters().values()
    own.requires_grad_(True)
    operator = loss_hessian_operator(pinned, "mse", torch.tensor(X), torch.tensor(t.copy()))
    with torch.no_grad():
        operator @ torch.tensor(v)
    found = []
    for _ in range(2):
        own.grad = None
        (operator @ torch.tensor(v)).sum().backward()
        found.append(own.grad.clone())
    step = 1e-6 * np.random.default_rng(5).standard_normal((5, 5))
    ahead, behind = (
        loss_hessian_operator(ha.Function(_made_of_others, (5,), {"K": K + s * step}), "mse", X, t)
        @ v
        for s in (1, -1)
    )
    slope = (ahead - behind).sum() / 2
    assert torch.equal(found[0], found[1])
    np.testing.assert_allclose(float((found[0] * torch.tensor(step)).sum()), slope, rtol=1e-5)


def test_tensors_changed_in_place() -> None:
    torch = pytest.importorskip("torch")
    x, t, net = torch.tensor(X), torch.tensor(T), network()
    v = torch.tensor(np.random.default_rng(3).standard_normal(127))
    operator = loss_hessian_operator(net, "mse", x, t)
    first = operator @ v
    x.mul_(3)
    assert torch.equal(operator @ v, first)
    pinned = network().to("torch")
    with torch.no_grad():  # nothing watches
        operator = loss_hessian_operator(pinned, "mse", torch.tensor(X), t)
        next(iter(pinned.parameters().values())).mul_(2)
        with pytest.raises(ha.CurvatureError, match=r"changed in place .* make it anew"):
            operator @ v


def test_complex_vectors_are_refused() -> None:
    operator = loss_hessian_operator(network(), "mse", X, T)
    with pytest.raises(ha.DTypeError, match="real and its imaginary part"):
        operator @ (1j * np.ones(127))


@pytest.mark.parametrize("want", ["matrix", "diagonal", "product"])
def test_plans_of_no_samples(want: str) -> None:
    plan = curvature_plan(network(), "mse", X[:0], T[:0], want=want)
    assert plan.kept_bytes == 0


def test_an_activation_that_is_replaced_counts() -> None:
    net = network("tanh")
    loss_hessian_matrix(net, "mse", X, T)
    net.layers[0].act = ha.activation("sigmoid")
    other = ha.Network(ha.Dense(5, 8, act="sigmoid"), *net.layers[1:])
    other.load_parameters(net.parameters())
    expected = loss_hessian_matrix(other, "mse", X, T)
    assert np.array_equal(loss_hessian_matrix(net, "mse", X, T), expected)


def test_the_same_digits_every_time() -> None:
    """Sums are made in the order of the chunks, whichever thread is first."""
    x, t = np.tile(X, (20, 1)), np.tile(T, (20, 1))
    operator = loss_hessian_operator(network(), "mse", x, t, threads=4)
    v = np.random.default_rng(3).standard_normal(operator.shape[0])
    first = operator @ v
    for _ in range(20):
        assert np.array_equal(operator @ v, first)
