"""Every array library through one test body; autograd, jit and vmap through torch and JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import EPS, assert_close, jax_truth, normal, randomized

import hessarray as ha
from hessarray.backends import backend_of

DTYPES = ("float64", "float32")
A = normal(1, 3, 4)


def mlp():
    net = ha.Network(
        ha.Dense(3, 6, act="antitanh"),
        ha.Residual(6, h=0.5, act="gelu"),
        ha.Dense(6, 4, act="softplus"),
        ha.Dense(4, 2, act="sin"),
    )
    return randomized(net, seed=2, scale=0.5)


def tiny():
    return randomized(ha.Network(ha.Dense(3, 4, act="tanh"), ha.Dense(4, 2, act="sin")), 6, 0.7)


def tiny_in_jax(p):
    return lambda u: jnp.sin(jnp.tanh(u @ p["0.K"] + p["0.b"]) @ p["1.K"] + p["1.b"])


def icnn():
    return randomized(
        ha.Network(ha.icnn(3, [4, 5], act="softplus"), ha.InputConvexQuadratic(3, 5, 2)), 3, 0.5
    )


def scaled(act, x):
    return act(x @ A) / (1.0 + (x @ x))


def gelu(x):
    return jax.nn.gelu(x, approximate=False)


def mlp_in_jax(p):
    def fn(u):
        z = u @ p["0.K"] + p["0.b"]
        u = jnp.logaddexp(z, -z)
        u = u + 0.5 * gelu(u @ p["1.K"] + p["1.b"])
        u = jax.nn.softplus(u @ p["2.K"] + p["2.b"])
        return jnp.sin(u @ p["3.K"] + p["3.b"])

    return fn


def icnn_in_jax(p):
    def fn(x):
        u = jax.nn.softplus(x @ p["0.0.K"] + p["0.0.b"])
        u = jax.nn.softplus(u @ jax.nn.softplus(p["0.1.L"]) + x @ p["0.1.K"] + p["0.1.b"])
        f = u @ jax.nn.softplus(p["1.w"]) + x @ p["1.v"] + 0.5 * jnp.sum((p["1.A"] @ x) ** 2)
        return f + p["1.mu"]

    return fn


# Code that touches every kind of step: selection, gathering, padding, concatenation, constants.
def mixed(xp, x, p):
    u = xp.where(x > 0.0, x**3, xp.exp(x) - 1.0)
    u = xp.concat([u, x[::-1] * x[1:2], xp.asarray(A[0])], axis=0)
    u = u[np.asarray([0, 3, 3, 5, 7])] * xp.flip(u[2:7], axis=0)
    w = xp.exp(u - xp.max(u))
    w = w / xp.sum(w)
    v = xp.stack([w, xp.maximum(u, 0.1) * p["s"], xp.roll(w, 1)]) @ p["K"]
    return xp.sum(xp.tanh(v) * xp.permute_dims(p["M"], (1, 0)), axis=1) + xp.sqrt(1.0 + x @ x)


MIXED = {"s": normal(4), "K": normal(5, 5, 2), "M": normal(6, 2, 3)}


def mixed_function():
    return ha.Function(
        lambda x, p: mixed(x.__array_namespace__(), x, p), in_shape=(3,), params=MIXED
    )


FUNCTIONS = {
    "mlp": (mlp, lambda p: mlp_in_jax(p)),
    "tiny": (tiny, lambda p: tiny_in_jax(p)),
    "icnn": (icnn, lambda p: icnn_in_jax(p)),
    "mixed": (mixed_function, lambda p: lambda x: mixed(jnp, x, p)),
    "gated": (
        lambda: ha.Function(lambda x: scaled(x.__array_namespace__().tanh, x), in_shape=(3,)),
        lambda p: lambda x: scaled(jnp.tanh, x),
    ),
}
_CACHE: dict = {}


def truth_of(name, dtype, n=4):
    """The function, x, the truth at the very x and parameters of that dtype, and tolerances.

    The tolerance is some ulp of the largest entry, times the measured condition: how much a
    relative change of x of a millionth changes each result.
    """
    key = name, dtype, n
    if key not in _CACHE:
        make, in_jax = FUNCTIONS[name]
        f = make()
        if f.parameters():
            f.load_parameters({k: v.astype(dtype) for k, v in f.parameters().items()})
        x = normal(7, n, 3).astype(dtype)
        params = {k: jnp.asarray(v.astype(np.float64)) for k, v in f.parameters().items()}
        step = 1e-6
        shifted = x * (1.0 + step * normal(8, n, 3))
        both = jax_truth(in_jax(params), np.concatenate([x.astype(np.float64), shifted]))
        truth = type(both)(*(a[:n] for a in both))
        conditions = [np.abs(a[n:] - a[:n]).max() / (np.abs(a[:n]).max() * step) for a in both]
        tolerances = [64 * EPS[dtype] * max(1.0, c) for c in conditions]
        _CACHE[key] = f, x, truth, tolerances
    return _CACHE[key]


def belongs(array, backend, dtype):
    """The array is the backend's, of this dtype, on its device."""
    assert array.dtype == backend.dtype(dtype)
    assert type(array) is type(backend.asarray(np.zeros(1)))
    device = array.device
    assert device == backend.device or str(device) == str(backend.device)


def call(backend, fn, *arrays):
    """fn(*arrays); on JAX through jit, as op by op every new shape is compiled on its own."""
    return jax.jit(fn)(*arrays) if backend.xp is jnp else fn(*arrays)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_everything_against_the_reference(backend, name, dtype):
    f, x, truth, (tol, tol1, tol2) = truth_of(name, dtype)
    m = truth.f.shape[1:]
    lam, p = normal(9, *m).astype(dtype), normal(10, *x.shape).astype(dtype)
    left, right = normal(11, 2, 3).astype(dtype), normal(12, *m, 2).astype(dtype)

    def evaluate(u, p, lam, left, right):
        results = {
            "value": f.value(u),
            "gradient": f.gradient(u),
            "diagonal": f.hessian_diagonal(u),
            "Laplacian": f.laplacian(u),
            "hvp": f.hvp(u, p),
            "weighted": f.weighted_hessian(u, lam),
        }
        for mode in (None, True, False):
            both = f.value_gradient_hessian(u, forward_mode=mode)
            results |= {f"{k} {mode}": a for k, a in zip(("f", "df", "d2f"), both, strict=True)}
        options = {"do_gradient": True, "do_Hessian": True}
        one = f.derivatives(u, v=left, forward_mode=True, **options)
        other = f.derivatives(u, v=right, forward_mode=False, **options)
        return results | {
            "v df": one.df, "v d2f v^T": one.d2f, "df v": other.df, "d2f v": other.d2f
        }  # fmt: skip

    arrays = [backend.asarray(a) for a in (x, p, lam, left, right)]
    results = call(backend, evaluate, *arrays)
    p, lam, left, right = (a.astype(np.float64) for a in (p, lam, left, right))
    f0, df, d2f = truth
    wanted = {
        "value": (f0, tol),
        "gradient": (df, tol1),
        "diagonal": (truth.diagonal, tol2),
        "Laplacian": (truth.laplacian, tol2),
        "hvp": (np.einsum("nab...,nb->na...", d2f, p), tol2),
        "weighted": (d2f @ lam, tol2),
        "v df": (left @ df, tol1),
        "v d2f v^T": (np.einsum("ka,nabm,lb->nklm", left, d2f, left), tol2),
        "df v": (df @ right, tol1),
        "d2f v": (d2f @ right, tol2),
    }
    for mode in (None, True, False):
        wanted |= {f"f {mode}": (f0, tol), f"df {mode}": (df, tol1), f"d2f {mode}": (d2f, tol2)}
    assert set(wanted) == set(results)
    for what, (b, t) in wanted.items():
        belongs(results[what], backend, dtype)
        # A contraction of entries of both signs may be smaller than they are.
        t = max(t, t * np.abs(d2f).max() / np.abs(b).max())
        assert_close(backend.to_numpy(results[what]), b, t, f"{what} of {name}", f"jax {dtype}")


def test_parameters_of_the_other_precision_are_cast(backend):
    """Results follow x: float64 parameters with float32 x, and the other way round."""
    f, x, truth, _ = truth_of("tiny", "float32")
    f.load_parameters({k: v.astype(np.float64) for k, v in f.parameters().items()})
    single = f.hessian(backend.asarray(x))
    belongs(single, backend, "float32")
    f.load_parameters({k: v.astype(np.float32) for k, v in f.parameters().items()})
    double = f.hessian(backend.asarray(x, "float64"))
    belongs(double, backend, "float64")
    assert_close(backend.to_numpy(double), truth.d2f, 1e-12, "float64 x", "jax float64")


@pytest.mark.parametrize("batch", [(), (0,), (1,), (2, 3), (2, 0)], ids=str)
def test_batch_shapes(backend, batch):
    f, *_ = truth_of("tiny", "float64")
    x = normal(13, *batch, 3)
    got = f.value_gradient_hessian(backend.asarray(x))
    for a, tail in zip(got, [(2,), (3, 2), (3, 3, 2)], strict=True):
        assert tuple(a.shape) == batch + tail
        belongs(a, backend, "float64")
    want = f.value_gradient_hessian(x)
    for a, b in zip(got, want, strict=True):
        assert_close(backend.to_numpy(a), b, 1e-13)
    assert tuple(f.laplacian(backend.asarray(x)).shape) == (*batch, 1, 2)
    assert tuple(f.hvp(backend.asarray(x), backend.asarray(x)).shape) == (*batch, 3, 2)


def test_the_same_network_serves_all_libraries_in_turn(backend):
    f, x, truth, _ = truth_of("tiny", "float64")
    for u in (x, backend.asarray(x), x):
        assert_close(np.asarray(f.hessian(x)), truth.d2f, 1e-12)
        if u is not x:
            assert_close(backend.to_numpy(f.hessian(u)), truth.d2f, 1e-12)


def test_loading_parameters_of_any_library(backend):
    f, x, truth, _ = truth_of("tiny", "float64")
    net = tiny()
    net.load_parameters({k: backend.asarray(v) for k, v in f.parameters().items()})
    assert all(isinstance(v, np.ndarray) for v in net.parameters().values())
    assert_close(net.hessian(x), truth.d2f, 1e-12, "loaded", "jax float64")
    given = {k: backend.asarray(v) for k, v in f.parameters().items()}
    got = tiny().hessian(backend.asarray(x), parameters=given)
    assert_close(backend.to_numpy(got), truth.d2f, 1e-12, "parameters=", "jax float64")


def test_new_parameters_are_seen(backend):
    net, u = tiny(), backend.asarray(normal(14, 4, 3))
    before = backend.to_numpy(net.hessian(u))
    net.load_parameters({k: 0.5 * v for k, v in net.parameters().items()})
    after = backend.to_numpy(net.hessian(u))
    want = jax_truth(
        tiny_in_jax({k: jnp.asarray(v) for k, v in net.parameters().items()}), normal(14, 4, 3)
    )
    assert_close(after, want.d2f, 1e-12, "after loading", "jax float64")
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.backends("torch", "jax", "strict-device2", "cupy", "torch-cuda", "jax-cuda")
def test_pinned_parameters(backend):
    net, x = tiny(), normal(15, 4, 3)
    want = net.hessian(x)
    name = {"strict": "array_api_strict"}.get(
        backend.name.split("-")[0], backend.name.split("-")[0]
    )
    net.to(name, device=backend.device)
    got = net.hessian(backend.asarray(x))
    belongs(got.detach() if hasattr(got, "detach") else got, backend, "float64")
    assert_close(backend.to_numpy(got), want, 1e-12)
    with pytest.raises(ha.BackendError, match=f"numpy.*{name}"):
        net.hessian(x)


@pytest.mark.backends("strict", "cupy")
def test_a_change_in_place_of_a_pinned_parameter_is_seen(backend):
    net, u = tiny(), backend.asarray(normal(15, 4, 3))
    net.to({"strict": "array_api_strict"}.get(backend.name, backend.name), device=backend.device)
    assert np.abs(backend.to_numpy(net.value(u))).max() > 0.1
    for p in net.parameters().values():
        p[...] = 0.0
    np.testing.assert_array_equal(backend.to_numpy(net.value(u)), np.zeros((4, 2)))


# ---- chunks, memory, progress ------------------------------------------------------------------


def limit_for(backend, f, n, chunk, want, **options):
    """A memory limit that leaves room for ``chunk`` samples at a time in float64."""
    library = backend_of(backend.asarray(normal(0, 1)))
    plan = f._plan(f.plan(n=n, want=want, **options).want, n, library)
    in_place = backend.name == "numpy"
    results = plan.result_entries * n * (1 if in_place else 2)  # functional chunks are joined
    return 8 * (results + plan.entries_once + chunk * plan.intermediates(in_place))


def test_a_memory_limit_changes_the_chunks_and_nothing_else(backend):
    f, *_ = truth_of("tiny", "float64")
    n, chunk = 160, 40
    u = backend.asarray(normal(16, n, 3))
    whole = f.value_gradient_hessian(u)
    seen: list[int] = []
    limit = limit_for(backend, f, n, chunk, ("value", "gradient", "hessian"))
    limited = f.value_gradient_hessian(u, memory_limit=limit, threads=1, progress=seen.append)
    assert seen == [40, 80, 120, 160]
    for a, b in zip(limited, whole, strict=True):
        belongs(a, backend, "float64")
        assert_close(backend.to_numpy(a), backend.to_numpy(b), 1e-14, "chunks")


def test_chunks_cut_directions_that_belong_to_samples(backend):
    f, *_ = truth_of("tiny", "float64")
    n = 80
    u, p = (backend.asarray(normal(seed, n, 3)) for seed in (16, 17))
    limit = limit_for(backend, f, n, 40, "hvp")
    limited = f.hvp(u, p, memory_limit=limit, threads=1)
    assert_close(backend.to_numpy(limited), backend.to_numpy(f.hvp(u, p)), 1e-14, "hvp")
    lam = backend.asarray(normal(18, n, 2))
    whole = f.weighted_hessian(u, lam)
    limited = f.weighted_hessian(u, lam, memory_limit=9 * n * 8 + 10_000, threads=1)
    assert_close(backend.to_numpy(limited), backend.to_numpy(whole), 1e-14, "weighted Hessian")


@pytest.mark.backends("numpy", "torch", "strict", "cupy", "torch-cuda")
@pytest.mark.parametrize("extra", [0, 1, 7])
def test_a_remainder_of_any_size(backend, extra):
    f, *_ = truth_of("gated", "float64")
    n = 64 + extra
    u = backend.asarray(normal(19, n, 3))
    want = backend.to_numpy(f.hessian(u))
    limit = limit_for(backend, f, n, 8, "hessian")
    got = f.hessian(u, memory_limit=limit, threads=1)
    assert_close(backend.to_numpy(got), want, 1e-14, "chunks of 8")


def test_progress_ends_at_the_number_of_samples(backend):
    f, *_ = truth_of("tiny", "float64")
    seen: list[int] = []
    f.hessian(backend.asarray(normal(20, 50, 3)), progress=seen.append)
    assert seen
    assert seen[-1] == 50


def test_too_little_memory(backend):
    f, *_ = truth_of("tiny", "float64")
    with pytest.raises(ha.MemoryLimitError, match=r"hessian of 1000 samples.*bytes.*1,000.*hvp"):
        f.hessian(backend.asarray(normal(21, 1000, 3)), memory_limit=1000)


# ---- devices of array-api-strict ---------------------------------------------------------------


@pytest.mark.parametrize("device", ["no_float64", "no_x64", "device1"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_devices_without_wide_types(name, device):
    xp = pytest.importorskip("array_api_strict")
    device = xp.Device(device)
    f, x, truth, (tol, tol1, tol2) = truth_of(name, "float32")
    u = xp.asarray(x, dtype=xp.float32, device=device)
    got = f.value_gradient_hessian(u)
    cpu = xp.Device("CPU_DEVICE")
    for a, b, t in zip(got, truth, (tol, tol1, tol2), strict=True):
        assert a.device == device
        assert a.dtype == xp.float32
        assert_close(np.asarray(a.to_device(cpu)), b, t, name, "jax float32")


# ---- torch: layouts ----------------------------------------------------------------------------


def test_torch_multiplies_what_blas_can_read(monkeypatch):
    torch = pytest.importorskip("torch")
    product, seen, mended = torch.matmul, [], []
    contiguous = torch.Tensor.contiguous

    def watched(a, b):
        seen.extend((a, b))
        return product(a, b)

    def copied(a):
        mended.append(a)
        return contiguous(a)

    monkeypatch.setattr(torch, "matmul", watched)
    monkeypatch.setattr(torch.Tensor, "contiguous", copied)
    residual = (ha.Residual(8, act="tanh") for _ in range(2))
    net = ha.Network(ha.Dense(16, 8, act="tanh"), *residual, ha.Dense(8, 8, act="tanh"), seed=0)
    x = normal(31, 10, 16)
    got = net.value_gradient_hessian(torch.asarray(x))
    assert all(1 in a.stride()[-2:] for a in seen)
    assert any(a.ndim > 2 and 1 not in a.stride()[-2:] for a in mended)  # one needed it
    for a, b in zip(got, net.value_gradient_hessian(x), strict=True):
        assert_close(a.numpy(), b, 1e-12, "layouts", "the same on NumPy")


def test_names_of_parameters_are_no_code():
    torch = pytest.importorskip("torch")
    f = ha.Function(lambda x, p: x @ p["w @ k"], in_shape=(3,), params={"w @ k": np.ones((3, 2))})
    np.testing.assert_array_equal(f(torch.ones((2, 3))).numpy(), np.full((2, 2), 3.0))


# ---- torch: autograd, compile, vmap ------------------------------------------------------------


def torch_functional(p):
    """The mlp in plain torch, for a dict of tensors."""
    import torch

    F = torch.nn.functional

    def fn(u):
        z = u @ p["0.K"] + p["0.b"]
        u = torch.logaddexp(z, -z)
        u = u + 0.5 * F.gelu(u @ p["1.K"] + p["1.b"])
        u = F.softplus(u @ p["2.K"] + p["2.b"], threshold=1e9)
        return torch.sin(u @ p["3.K"] + p["3.b"])

    return fn


def torch_loss(f, df, d2f):
    return (f**2).sum() + (df**3).sum() + (d2f**2).sum()


def torch_reference_loss(p, x):
    import torch

    fn = torch_functional(p)
    gradient = torch.func.jacrev(fn)
    hessian = torch.func.jacrev(gradient)
    f, df, d2f = (torch.func.vmap(g)(x) for g in (fn, gradient, hessian))
    return torch_loss(f, df.permute(0, 2, 1), d2f.permute(0, 2, 3, 1))


@pytest.mark.parametrize("mode", [None, True, False])
def test_torch_autograd_through_parameters_and_inputs(mode):
    torch = pytest.importorskip("torch")
    net = mlp()
    x = torch.asarray(normal(22, 4, 3)).requires_grad_(True)
    p = {k: torch.asarray(v.copy()).requires_grad_(True) for k, v in net.parameters().items()}
    wanted = torch.autograd.grad(torch_reference_loss(p, x), [x, *p.values()])
    found = net.value_gradient_hessian(x, parameters=p, forward_mode=mode)
    got = torch.autograd.grad(torch_loss(*found), [x, *p.values()])
    for name, a, b in zip(["x", *p], got, wanted, strict=True):
        assert_close(a.numpy(), b.numpy(), 1e-11, f"d loss / d {name}", "torch.func float64")


def test_torch_autograd_through_a_pinned_network():
    torch = pytest.importorskip("torch")
    net = mlp().to("torch")
    x = torch.asarray(normal(23, 4, 3))
    p = {k: v.detach().clone().requires_grad_(True) for k, v in net.parameters().items()}
    torch_reference_loss(p, x).backward()
    for _ in range(2):  # the second call must not meet a freed graph
        for q in net.parameters().values():
            q.grad = None
        torch_loss(*net.value_gradient_hessian(x)).backward()
        for k, q in net.parameters().items():
            assert_close(q.grad.numpy(), p[k].grad.numpy(), 1e-11, k, "torch.func float64")
    with torch.no_grad():  # an optimiser's step in place is seen by the next call
        for q in net.parameters().values():
            q.mul_(0.5)
    halved = {k: v.detach() for k, v in net.parameters().items()}
    want = torch.func.vmap(torch_functional(halved))(x)
    assert_close(net.value(x).detach().numpy(), want.numpy(), 1e-12, "after a step")
    with torch.no_grad():
        assert_close(net.value(x).numpy(), want.numpy(), 1e-12, "without a tape")
        assert not net.value(x).requires_grad


@pytest.mark.parametrize("what", ["laplacian", "hvp", "weighted_hessian", "hessian_diagonal"])
def test_torch_autograd_through_the_other_results(what):
    torch = pytest.importorskip("torch")
    net = mlp()
    p = {k: torch.asarray(v.copy()).requires_grad_(True) for k, v in net.parameters().items()}
    x = torch.asarray(normal(24, 3, 3)).requires_grad_(True)
    extra = {"hvp": [normal(25, 3, 3)], "weighted_hessian": [normal(26, 2)]}.get(what, [])
    extra = [torch.asarray(a).requires_grad_(True) for a in extra]
    got = torch.autograd.grad(
        (getattr(net, what)(x, *extra, parameters=p) ** 2).sum(), [x, *extra, *p.values()]
    )
    hessian = torch.func.vmap(torch.func.jacrev(torch.func.jacrev(torch_functional(p))))(x)
    reference = {
        "laplacian": lambda h: torch.einsum("nmaa->nm", h),
        "hessian_diagonal": lambda h: torch.einsum("nmaa->nam", h),
        "hvp": lambda h: torch.einsum("nmab,nb->nam", h, *extra),
        "weighted_hessian": lambda h: torch.einsum("nmab,m->nab", h, *extra),
    }[what](hessian)
    wanted = torch.autograd.grad((reference**2).sum(), [x, *extra, *p.values()])
    for a, b in zip(got, wanted, strict=True):
        assert_close(a.numpy(), b.numpy(), 1e-11, what, "torch.func float64")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("compiler", ["eager", "aot_eager", "inductor"])
def test_torch_compile(compiler):
    torch = pytest.importorskip("torch")
    torch._dynamo.reset()
    net = mlp()
    x = torch.asarray(normal(27, 5, 3))

    @torch.compile(backend=compiler)
    def compiled(u):
        f, df, d2f = net(u * 1.0, do_gradient=True, do_Hessian=True)
        return f, 2.0 * df, d2f

    want = net(x, do_gradient=True, do_Hessian=True)
    got = compiled(x)
    for a, b, c in zip(got, want, (1.0, 2.0, 1.0), strict=True):
        assert_close(a.numpy(), c * b.numpy(), 1e-13, f"torch.compile {compiler}")


# The compiler looks at .grad of what crosses a graph break.
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_compile_of_a_training_step():
    torch = pytest.importorskip("torch")
    torch._dynamo.reset()
    net = mlp()
    x = torch.asarray(normal(28, 4, 3))
    p = {k: torch.asarray(v.copy()).requires_grad_(True) for k, v in net.parameters().items()}

    @torch.compile(backend="aot_eager")
    def loss(u, q):
        return torch_loss(*net.value_gradient_hessian(u, parameters=q))

    got = torch.autograd.grad(loss(x, p), list(p.values()))
    wanted = torch.autograd.grad(torch_reference_loss(p, x), list(p.values()))
    for name, a, b in zip(p, got, wanted, strict=True):
        assert_close(a.numpy(), b.numpy(), 1e-11, name, "torch.func float64")


def test_torch_func_transforms():
    torch = pytest.importorskip("torch")
    net = mlp()
    x = torch.asarray(normal(29, 4, 3))
    want = net.hessian(x)
    assert_close(torch.func.vmap(net.hessian)(x).numpy(), want.numpy(), 1e-13, "vmap")
    jacobian = torch.func.vmap(torch.func.jacrev(net.value))(x)
    assert_close(jacobian.permute(0, 2, 1).numpy(), net.gradient(x).numpy(), 1e-12, "jacrev")
    second = torch.func.vmap(torch.func.jacrev(net.gradient))(x)
    assert_close(second.permute(0, 3, 1, 2).numpy(), want.numpy(), 1e-12, "jacrev of gradient")
    p = {k: torch.asarray(v.copy()) for k, v in net.parameters().items()}
    by_parameters = torch.func.grad(lambda q: net.hessian(x, parameters=q).sum())(p)
    q = {k: v.clone().requires_grad_(True) for k, v in p.items()}
    net.hessian(x, parameters=q).sum().backward()
    for k, g in by_parameters.items():
        assert_close(g.numpy(), q[k].grad.numpy(), 1e-12, k, "torch.autograd")


def test_torch_inference_mode_and_no_grad():
    torch = pytest.importorskip("torch")
    net = mlp()
    x = torch.asarray(normal(30, 4, 3))
    want = net.hessian(x).numpy()
    with torch.inference_mode():
        assert_close(net.hessian(x).numpy(), want, 1e-14)
    assert_close(net.hessian(x).numpy(), want, 1e-14)
    taped = x.clone().requires_grad_(True)
    with torch.no_grad():
        assert not net.hessian(taped).requires_grad
    assert net.hessian(taped).requires_grad


def test_torch_default_device_and_dtype_do_not_leak():
    torch = pytest.importorskip("torch")
    net, x = mlp(), normal(31, 4, 3)
    want = net.hessian(x)
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)
        assert_close(net.hessian(torch.asarray(x)).numpy(), want, 1e-13)
        torch.set_default_dtype(torch.float64)
        single = net.hessian(torch.asarray(x, dtype=torch.float32))
        assert single.dtype == torch.float32
    finally:
        torch.set_default_dtype(default)


# ---- JAX: grad, jit, vmap ----------------------------------------------------------------------


def jax_loss(f, df, d2f):
    return (f**2).sum() + (df**3).sum() + (d2f**2).sum()


def jax_reference_loss(p, x):
    fn = mlp_in_jax(p)
    f, df, d2f = (jax.vmap(g)(x) for g in (fn, jax.jacrev(fn), jax.hessian(fn)))
    return jax_loss(f, df, d2f)


def test_jax_grad_through_parameters_and_inputs():
    net, x = mlp(), jnp.asarray(normal(32, 4, 3))
    p = {k: jnp.asarray(v) for k, v in net.parameters().items()}
    wanted = jax.jit(jax.grad(jax_reference_loss, argnums=(0, 1)))(p, x)

    def loss(q, u):
        return jax_loss(*net.value_gradient_hessian(u, parameters=q))

    found = jax.jit(jax.grad(loss, argnums=(0, 1)))(p, x)
    assert_close(found[1], wanted[1], 1e-11, "d loss / d x", "jax.grad float64")
    for k in p:
        assert_close(found[0][k], wanted[0][k], 1e-11, f"d loss / d {k}", "jax.grad float64")


def test_jax_grad_without_jit():
    net, x = tiny(), jnp.asarray(normal(37, 4, 3))
    p = {k: jnp.asarray(v) for k, v in net.parameters().items()}
    wanted = jax.grad(lambda q: jnp.sum(jax.vmap(jax.jacrev(tiny_in_jax(q)))(x) ** 2))(p)
    found = jax.grad(lambda q: jnp.sum(net.gradient(x, parameters=q) ** 2))(p)
    for k in p:
        assert_close(found[k], wanted[k], 1e-12, f"d loss / d {k}", "jax.grad float64")


def test_jax_jit_and_vmap():
    net, x = mlp(), jnp.asarray(normal(33, 4, 3))
    want = net(np.asarray(x), do_gradient=True, do_Hessian=True)

    def all_three(u):
        return tuple(net(u, do_gradient=True, do_Hessian=True))

    for a, b, c in zip(jax.jit(all_three)(x), jax.vmap(all_three)(x), want, strict=True):
        assert_close(a, c, 1e-13, "jax.jit")
        assert_close(b, c, 1e-13, "jax.vmap")
    assert_close(jax.jit(jax.vmap(net.hessian))(x), want.d2f, 1e-13, "jit of vmap")
    jacobian = jax.vmap(jax.jacfwd(net.value))(x)
    assert_close(np.moveaxis(np.asarray(jacobian), 1, 2), want.df, 1e-12, "jacfwd")
    p = normal(34, 4, 3)
    both = jax.jit(lambda u, p: (net.laplacian(u), net.hvp(u, p)))(x, p)
    assert_close(both[0], net.laplacian(np.asarray(x)), 1e-13, "laplacian")
    assert_close(both[1], net.hvp(np.asarray(x), p), 1e-13, "hvp")


def test_nothing_of_a_jax_trace_is_kept():
    """A bound program of tracers must not be met by the next call."""
    net, x = tiny(), jnp.asarray(normal(35, 4, 3))
    p = {k: jnp.asarray(v) for k, v in net.parameters().items()}
    jax.jit(lambda u, q: net.hessian(u, parameters=q))(x, p)
    net.to("jax")
    jax.jit(net.hessian)(x)
    assert_close(net.hessian(x), jax.jit(net.hessian)(x), 1e-13, "after a trace")
    jax.jit(net.hessian)(x[:2])


@pytest.mark.parametrize("name", ["tiny", "mixed"])
def test_jax_without_x64(name):
    f, x = FUNCTIONS[name][0](), normal(36, 4, 3)
    want = f.hessian(x)
    jax.config.update("jax_enable_x64", False)
    try:
        got = jax.jit(f.hessian)(jnp.asarray(x, dtype=jnp.float32))
        assert got.dtype == jnp.float32
        assert_close(np.asarray(got), want, 1e-5, "without x64")
    finally:
        jax.config.update("jax_enable_x64", True)
