"""What may be passed and what comes back: layouts, dtypes, tapes, compilers, no samples."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parameter_models import MODELS, Truth

import hessarray as ha
from hessarray import curvature
from hessarray.errors import DTypeError, OptionError

jax.config.update("jax_enable_x64", True)

RNG = np.random.default_rng(0)
X, T = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 2))


def network() -> ha.Network:
    return ha.Network(
        ha.Dense(3, 5, act="tanh"), ha.Residual(5, act="softplus"), ha.Dense(5, 2), seed=0
    )


def convex() -> ha.Network:
    """Of parameters that enter through functions of themselves."""
    first, second = ha.InputConvex(3, None, 4), ha.InputConvex(3, 4, 3)
    return ha.Network(first, second, ha.InputConvexQuadratic(3, 3, 2), seed=0)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(curvature, name)
    for name in (
        "loss_hessian_matrix loss_hessian_dict loss_hessian_diagonal gauss_newton_matrix "
        "gauss_newton_diagonal empirical_fisher_matrix empirical_fisher_diagonal loss_gradient "
        "loss_value loss_sharpness kfac_factors".split()
    )
}
OPERATORS = (
    curvature.loss_hessian_operator,
    curvature.gauss_newton_operator,
    curvature.empirical_fisher_operator,
)


def leaves(found: Any) -> list[Any]:
    """All arrays of a result, in order."""
    if isinstance(found, dict):
        return [a for part in found.values() for a in leaves(part)]
    return [a for part in found for a in leaves(part)] if isinstance(found, tuple) else [found]


# ---- layouts ---------------------------------------------------------------------------------


def _strided(a: np.ndarray) -> np.ndarray:
    wide = np.full((2 * len(a), 3 * a.shape[1]), np.nan)
    wide[::2, 1::3] = a
    return wide[::2, 1::3]


def _readonly(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = {
    "strided": _strided,
    "Fortran": np.asfortranarray,
    "negative strides": lambda a: np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1],
    "read-only": _readonly,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_layout_gives_the_same(layout: str, name: str) -> None:
    net, call = network(), FUNCTIONS[name]
    want = leaves(call(net, "mse", X, T))
    got = leaves(call(net, "mse", LAYOUTS[layout](X), LAYOUTS[layout](T)))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parameters_and_directions_of_any_layout(layout: str) -> None:
    net, make = network(), LAYOUTS[layout]
    want = curvature.loss_hessian_matrix(net, "mse", X, T)
    v = np.random.default_rng(1).normal(size=(len(want), 2))
    operator = curvature.loss_hessian_operator(net, "mse", X, T)
    np.testing.assert_allclose(operator @ make(v), want @ v, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(operator @ make(v)[:, 0], want @ v[:, 0], rtol=1e-10, atol=1e-12)
    laid = {k: make(a) if a.ndim == 2 else a for k, a in net.parameters().items()}
    got = curvature.loss_hessian_matrix(net.with_parameters(laid), "mse", X, T)
    np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-15)


def test_one_row_for_all_samples() -> None:
    x, t = np.broadcast_to(X[:1], X.shape), np.broadcast_to(T[:1], T.shape)
    net = network()
    want = curvature.loss_hessian_matrix(net, "mse", X[:1], T[:1])
    got = curvature.loss_hessian_matrix(net, "mse", x, t)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


def test_inputs_are_left_as_they_are() -> None:
    net, x, t = network(), X.copy(), T.copy()
    before = {k: a.copy() for k, a in net.parameters().items()}
    for call in FUNCTIONS.values():
        call(net, "mse", x, t)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(t, T)
    for k, a in net.parameters().items():
        np.testing.assert_array_equal(a, before[k])


def test_a_result_is_the_callers_own() -> None:
    net = network()
    first = curvature.loss_hessian_matrix(net, "mse", X, T)
    kept = first.copy()
    first[:] = 7.0
    np.testing.assert_array_equal(curvature.loss_hessian_matrix(net, "mse", X, T), kept)
    gradient = curvature.loss_gradient(net, "mse", X, T)
    kept = gradient["0.K"].copy()
    gradient["0.K"][:] = 7.0
    np.testing.assert_array_equal(curvature.loss_gradient(net, "mse", X, T)["0.K"], kept)


def test_bytes_in_another_order_are_refused() -> None:
    for x, t in ((X.astype(">f8"), T), (X, T.astype(">f8"))):
        with pytest.raises(DTypeError, match=">f8"):
            curvature.loss_hessian_matrix(network(), "mse", x, t)


def test_targets_as_lists_and_of_other_dtypes() -> None:
    net = network()
    want = curvature.loss_hessian_matrix(net, "mse", X, np.round(T))
    for t in (np.round(T).tolist(), np.round(T).astype(int), np.round(T).astype(np.float32)):
        np.testing.assert_array_equal(curvature.loss_hessian_matrix(net, "mse", X, t), want)


# ---- dtypes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [network, convex])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_added_up_in_float64(make: Callable[[], Any], name: str) -> None:
    net, call = make(), FUNCTIONS[name]
    if name == "kfac_factors" and make is convex:
        pytest.skip("no factors for functions of parameters")
    t = T[:, : net.out_shape[0]]
    want = leaves(call(net, "mse", X, t))
    single = net, "mse", X.astype(np.float32), t.astype(np.float32)
    scale = max(float(np.abs(a).max()) for a in want)
    for options, dtype in (({}, "float32"), ({"accumulate": "float64"}, "float64")):
        for a, b in zip(leaves(call(*single, **options)), want, strict=True):
            assert a.dtype == np.dtype(dtype)
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_added_up_in_float64_off_numpy(name: str) -> None:
    net, call = network(), FUNCTIONS[name]
    want = leaves(call(net, "mse", X, T))
    x, t = torch.tensor(X, dtype=torch.float32), torch.tensor(T, dtype=torch.float32)
    for a, b in zip(leaves(call(net, "mse", x, t, accumulate="float64")), want, strict=True):
        assert a.dtype == torch.float64
        np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=2e-5 * np.abs(want[0]).max())


@pytest.mark.parametrize("make", OPERATORS)
def test_products_in_float32(make: Callable[..., Any]) -> None:
    net = network()
    want = make(net, "mse", X, T) @ np.ones(62)
    for options in ({}, {"accumulate": "float64"}):
        operator = make(net, "mse", X.astype(np.float32), T.astype(np.float32), **options)
        got = operator @ np.ones(62, np.float32)
        assert got.dtype == operator.dtype
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())


def test_adding_up_in_float64_is_more_accurate() -> None:
    """Of many pieces, whose last bits a sum in float32 loses."""
    rng = np.random.default_rng(2)
    x, t = rng.normal(size=(20_000, 3)).astype(np.float32), rng.normal(size=(20_000, 2))
    net, options = network(), {"params": ["2.K", "2.b"], "memory_limit": 20_000}
    t = t.astype(np.float32)
    want = curvature.loss_hessian_matrix(
        net, "sum_of_squares", x.astype(float), t.astype(float), **options
    )
    plain = curvature.loss_hessian_matrix(net, "sum_of_squares", x, t, **options)
    better = curvature.loss_hessian_matrix(
        net, "sum_of_squares", x, t, accumulate="float64", **options
    )
    error = [np.abs(a - want).max() / np.abs(want).max() for a in (plain, better)]
    assert error[1] < error[0] / 4


# ---- torch and JAX ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_model_off_numpy(name: str) -> None:
    """Sums that NumPy makes in place are made otherwise on other libraries."""
    model, f = MODELS[name], MODELS[name].function()
    xs, t = model.inputs(), model.targets()
    there = f, "mse", tuple(torch.tensor(x) for x in xs), torch.tensor(t)
    for call in (curvature.loss_hessian_matrix, curvature.gauss_newton_matrix):
        want = call(f, "mse", xs, t)
        scale = float(np.abs(want).max())
        np.testing.assert_allclose(call(*there), want, rtol=0, atol=1e-12 * scale)
        size = f.parameters()[next(reversed(model.params))].size
        last = call(*there, params=next(reversed(model.params)))
        np.testing.assert_allclose(last, want[-size:, -size:], rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("make", OPERATORS)
def test_products_off_numpy(make: Callable[..., Any]) -> None:
    """Of a model that is pinned, and of one whose parameters are still NumPy's."""
    want = make(network(), "mse", X, T) @ np.ones(62)
    x, t, v = (torch.tensor(a) for a in (X, T, np.ones(62)))
    for net in (network(), network().to("torch")):
        got = make(net, "mse", x, t) @ v
        np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-10, atol=1e-12)


# ---- tapes and compilers -----------------------------------------------------------------------


def test_autograd_flows_through_what_torch_computes() -> None:
    """The trace of the Hessian, differentiated in pinned parameters and in the inputs."""
    net = network().to("torch")
    x, t = torch.tensor(X, requires_grad=True), torch.tensor(T)
    trace = torch.trace(curvature.loss_hessian_matrix(net, "mse", x, t))
    wanted = [*net.parameters().values(), x]
    found = torch.autograd.grad(trace, wanted)

    def theirs(*values: Any) -> Any:
        p, x = dict(zip(net.parameters(), values, strict=False)), values[-1]

        def loss(vector: Any) -> Any:
            parts = vector.split([a.numel() for a in p.values()])
            q = {k: v.reshape(p[k].shape) for k, v in zip(p, parts, strict=True)}
            u = torch.tanh(x @ q["0.K"] + q["0.b"])
            u = u + torch.nn.functional.softplus(u @ q["1.K"] + q["1.b"], threshold=1e9)
            return ((u @ q["2.K"] + q["2.b"] - t) ** 2).mean()

        flat = torch.cat([a.reshape(-1) for a in p.values()])
        return torch.trace(torch.func.hessian(loss)(flat))

    values = [a.detach() for a in wanted]
    expected = torch.func.grad(theirs, argnums=tuple(range(len(values))))(*values)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_pinned_torch_parameters_give_the_same(name: str) -> None:
    want = leaves(FUNCTIONS[name](network(), "mse", X, T))
    got = leaves(FUNCTIONS[name](network().to("torch"), "mse", torch.tensor(X), torch.tensor(T)))
    for a, b in zip(got, want, strict=True):
        assert isinstance(a, torch.Tensor)
        np.testing.assert_allclose(a.detach().numpy(), b, rtol=1e-10, atol=1e-12)


UNDER_JIT = [k for k in FUNCTIONS if k not in ("loss_hessian_dict", "loss_sharpness")]


@pytest.mark.parametrize("name", UNDER_JIT)
def test_jax_under_jit(name: str) -> None:
    net, call = network(), FUNCTIONS[name]
    want = leaves(call(net, "mse", X, T))
    compiled = jax.jit(lambda x, t: leaves(call(net, "mse", x, t)))
    for a, b in zip(compiled(jnp.asarray(X), jnp.asarray(T)), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", OPERATORS)
def test_products_under_jit(make: Callable[..., Any]) -> None:
    net = network()
    operator = make(net, "mse", X, T)
    v = np.random.default_rng(0).normal(size=operator.shape[0])
    compiled = jax.jit(lambda x, t, v: make(net, "mse", x, t) @ v)
    got = compiled(jnp.asarray(X), jnp.asarray(T), jnp.asarray(v))
    np.testing.assert_allclose(got, operator @ v, rtol=1e-10, atol=1e-12)


def test_models_under_jit_and_jax_grad() -> None:
    net, x = network(), jnp.asarray(X)
    for call in (curvature.model_hessian_matrix, curvature.mixed_hessian_dict):
        want = leaves(call(net, X))
        for a, b in zip(jax.jit(lambda x, call=call: leaves(call(net, x)))(x), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)

    def curved(x: Any) -> Any:
        found = curvature.loss_hessian_diagonal(net, "mse", x, jnp.asarray(T))
        return sum(jnp.sum(a) for a in found.values())

    slope, step = jax.grad(curved)(x), 1e-6 * np.random.default_rng(0).normal(size=X.shape)
    difference = (float(curved(x + step)) - float(curved(x - step))) / 2
    assert float(jnp.sum(slope * step)) == pytest.approx(difference, rel=1e-6)


def test_a_loss_of_ones_own_under_jit_says_how_it_adds_up() -> None:
    """Inside a compiler there is no value to see it from."""

    def own(f: Any, t: Any) -> Any:
        return f.__array_namespace__().mean((f - t) ** 2)

    net, there = network(), (jnp.asarray(X), jnp.asarray(T))
    with pytest.raises(OptionError, match="reduction='mean' or 'sum'") as caught:
        jax.jit(lambda x, t: curvature.loss_hessian_diagonal(net, own, x, t))(*there)
    assert "\n" not in str(caught.value)
    loss = curvature.Loss(own, "mean")
    got = jax.jit(lambda x, t: curvature.loss_hessian_diagonal(net, loss, x, t))(*there)
    for k, a in curvature.loss_hessian_diagonal(net, "mse", X, T).items():
        np.testing.assert_allclose(got[k], a, rtol=1e-10, atol=1e-12)


# ---- no samples, progress, memory ---------------------------------------------------------------


@pytest.mark.parametrize("make", [network, convex])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_sample_gives_zeros(make: Callable[[], Any], name: str) -> None:
    net = make()
    if name == "kfac_factors" and make is convex:
        pytest.skip("no factors for functions of parameters")
    x, t = np.zeros((0, 3)), np.zeros((0, *net.out_shape))
    found = leaves(FUNCTIONS[name](net, "mse", x, t))
    some = leaves(FUNCTIONS[name](net, "mse", X, T[:, : net.out_shape[0]]))
    assert [np.shape(a) for a in found] == [np.shape(a) for a in some]
    assert not any(np.any(a) for a in found)


@pytest.mark.parametrize("make", OPERATORS)
def test_products_of_no_sample_are_zero(make: Callable[..., Any]) -> None:
    operator = make(network(), "mse", np.zeros((0, 3)), np.zeros((0, 2)))
    assert not (operator @ np.ones(operator.shape[0])).any()


@pytest.mark.parametrize("make", [network, convex])
@pytest.mark.parametrize(
    "name",
    "loss_hessian_matrix loss_hessian_diagonal loss_gradient gauss_newton_matrix".split(),
)
def test_progress_rises_to_the_number_of_samples(make: Callable[[], Any], name: str) -> None:
    net, n = make(), 500
    rng = np.random.default_rng(3)
    x, t = rng.normal(size=(n, 3)), rng.normal(size=(n, *net.out_shape))
    seen: list[int] = []
    limit = 8 * net.parameter_vector().size ** 2 + 100_000
    FUNCTIONS[name](net, "mse", x, t, progress=seen.append, memory_limit=limit, threads=1)
    assert len(seen) > 1
    assert seen == sorted(set(seen))
    assert seen[-1] == n


def test_progress_of_a_model() -> None:
    for net in (network(), convex()):
        seen: list[int] = []
        curvature.model_hessian_matrix(net, X, progress=seen.append)
        assert seen == sorted(set(seen))
        assert seen[-1] == len(X)


MEASURED = """
import resource, sys
import numpy as np
import hessarray as ha
from hessarray import curvature

net = ha.fully_connected([10, 32, 32, 1], act="tanh", seed=0)
rng = np.random.default_rng(0)
x, t = rng.normal(size=(1000, 10)), rng.normal(size=(1000, 1))
np.linalg.eigvalsh(x.T @ x)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
H = curvature.loss_hessian_matrix(net, "mse", x, t)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * (1 if sys.platform == "darwin" else 1024), H.nbytes)
"""


def test_peak_memory_of_a_thousand_samples() -> None:
    """A Hessian of each sample would be 16 GB; the result is 17 MB."""
    out = subprocess.run(
        [sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True
    ).stdout
    peak, result = map(int, out.split())
    assert result == 1441**2 * 8
    assert peak < 200 * 2**20


def test_a_small_limit_for_a_model_in_pieces() -> None:
    """All of a model's blocks are the result; what is held besides is bounded."""
    model = MODELS["mlp"]
    xs = model.inputs(40)
    f = model.function()
    whole = curvature.model_hessian_matrix(f, xs)
    got = curvature.model_hessian_matrix(f, xs, memory_limit=4 * whole.nbytes, threads=1)
    np.testing.assert_allclose(got, whole, rtol=1e-12, atol=1e-14)
    want = Truth.of(model, xs).model_hessian()["0.K"]["1.K"]
    np.testing.assert_allclose(
        curvature.model_hessian_dict(f, xs, threads=2)["0.K"]["1.K"], want, rtol=1e-9, atol=1e-11
    )
