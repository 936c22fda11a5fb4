"""Random compositions: all modes agree, with one another and with JAX, for any n and layout."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from compare import EPS, errors
from hypothesis import given, note, settings
from hypothesis import strategies as st

import hessarray as ha

WIDTHS = st.sampled_from([1, 1, 2, 3, 5, 8])
SEEDS = st.integers(0, 2**31 - 1)
SAMPLES = st.sampled_from([0, 1, 1, 2, 3, 7])
DTYPES = st.sampled_from(["float64", "float64", "float32"])

# Smooth activations in JAX's words. Kinked ones are left out: two libraries may round z to
# different sides of a kink.
ACTIVATIONS = {
    "identity": lambda z: z,
    "quadratic": lambda z: 0.5 * z * z,
    "tanh": jnp.tanh,
    "antitanh": lambda z: jnp.logaddexp(z, -z),
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "silu": jax.nn.silu,
    "gelu": lambda z: jax.nn.gelu(z, approximate=False),
    "gaussian": lambda z: jnp.exp(-z * z),
    "sin": jnp.sin,
    "arctan": jnp.arctan,
}
NAMES = st.sampled_from(sorted(ACTIVATIONS))


# ---- random networks ---------------------------------------------------------------------------


@st.composite
def networks(draw, depth=4):
    """(network, its layers' code in JAX): dense, residual and nested layers, a quadratic end."""
    d = draw(WIDTHS)
    layers, codes, width = [], [], d
    for _ in range(draw(st.integers(1, depth))):
        kind = draw(st.sampled_from(["dense", "dense", "residual", "nested", "gate"]))
        name, bias = draw(NAMES), draw(st.booleans())
        if kind == "dense":
            out = draw(WIDTHS)
            layers.append(ha.Dense(width, out, act=name, bias=bias))
            codes.append(dense_code(name, bias))
            width = out
        elif kind == "residual":
            h = draw(st.sampled_from([0.25, 1.0, -0.5]))
            layers.append(ha.Residual(width, h=h, act=name, bias=bias))
            codes.append(residual_code(name, bias, h))
        elif kind == "gate":
            layers.append(Gate(width, name))
            codes.append(gate_code(name))
        else:
            out = draw(WIDTHS)
            layers.append(ha.Network(ha.Dense(width, out, act=name, bias=bias)))
            codes.append(nested_code(dense_code(name, bias)))
            width = out
    if draw(st.booleans()):
        rank = draw(st.integers(1, 4))
        layers.append(ha.Quadratic(width, rank))
        codes.append(lambda u, p: jnp.reshape(
            u @ p["v"] + 0.5 * jnp.sum((p["A"] @ u) ** 2), (1,)) + p["mu"])  # fmt: skip
    net = ha.Network(*layers)
    rng = np.random.default_rng(draw(SEEDS))
    net.load_parameters(
        {
            k: rng.standard_normal(v.shape) / math.sqrt(max(v.shape[0], 1))
            for k, v in net.parameters().items()
        }
    )
    return net, codes


class Gate(ha.Layer):
    """u + s(w u) tanh(u): a product of two nodes and a skip."""

    def __init__(self, width, act):
        super().__init__(width, width)
        self.w = np.ones(width)
        self.act = ha.activation(act)

    def __call__(self, u):
        return u + self.act(u * self.w) * u.__array_namespace__().tanh(u)


def gate_code(name):
    return lambda u, p: u + ACTIVATIONS[name](u * p["w"]) * jnp.tanh(u)


def dense_code(name, bias):
    return lambda u, p: ACTIVATIONS[name](u @ p["K"] + (p["b"] if bias else 0.0))


def residual_code(name, bias, h):
    inner = dense_code(name, bias)
    return lambda u, p: u + h * inner(u, p)


def nested_code(code):
    return lambda u, p: code(u, {k.removeprefix("0."): v for k, v in p.items()})


def in_jax(net, codes):
    stored = net.parameters()
    parts = [
        {k.removeprefix(f"{i}."): np.asarray(v, float) for k, v in stored.items()
         if k.startswith(f"{i}.")}
        for i in range(len(codes))
    ]  # fmt: skip

    def fn(u):
        for code, p in zip(codes, parts, strict=True):
            u = code(u, p)
        return u

    return fn


def along(fn, u, p, q):
    """f, df p and p^T d2f q by JAX, op by op: to compile each example anew would take longer."""
    u, p, q = map(jnp.asarray, (u, p, q))

    def slope(a):
        return jax.jvp(fn, (a,), (p,))

    (f, df), (_, d2f) = jax.jvp(slope, (u,), (q,))
    return f, df, d2f


# ---- layouts of x ------------------------------------------------------------------------------


def contiguous(x):
    return x


def strided(x):
    wide = np.full((x.shape[0], 2 * x.shape[1] + 1), np.nan, x.dtype)
    wide[:, 1::2] = x
    return wide[:, 1::2]


def every_third(x):
    long = np.full((3 * x.shape[0], x.shape[1]), np.nan, x.dtype)
    long[::3] = x
    return long[::3]


def fortran(x):
    return np.asfortranarray(x)


def reversed_rows(x):
    return np.ascontiguousarray(x[::-1])[::-1]


def reversed_features(x):
    return np.ascontiguousarray(x[:, ::-1])[:, ::-1]


def transposed(x):
    return np.ascontiguousarray(x.T).T


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def unaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    out = raw[1:].view(x.dtype).reshape(x.shape)
    out[...] = x
    return out


LAYOUTS = [
    contiguous, strided, every_third, fortran, reversed_rows, reversed_features, transposed,
    read_only, unaligned,
]  # fmt: skip


def agree(got, want, tol, what):
    by_norm, by_max = errors(got, want)
    worst = max(by_norm, by_max)
    assert worst < tol, f"{what}: {worst:.3g}"


# ---- properties --------------------------------------------------------------------------------


@given(networks(), SAMPLES, DTYPES, SEEDS)
def test_all_modes_agree(net_and_codes, n, dtype, seed):
    net, _ = net_and_codes
    note(repr(net))
    d, m = net.in_features, net.out_features
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(dtype)
    results = {
        mode: net(x, do_gradient=True, do_Hessian=True, forward_mode=mode)
        for mode in (None, True, False)
    }
    shapes = [(n, m), (n, d, m), (n, d, d, m)]
    tol = 1e-12 if dtype == "float64" else 1e-4
    for got in results.values():
        assert [a.shape for a in got] == shapes
        assert {a.dtype.name for a in got} == {dtype}
        for a, b in zip(got, results[None], strict=True):
            agree(a, b, tol, "modes")
    hessian = results[None].d2f
    agree(hessian, np.swapaxes(hessian, 1, 2), tol, "symmetry")
    scale = max(float(np.abs(hessian).max(initial=0.0)), float(np.finfo(dtype).tiny))
    for mode in (None, True, False):
        laplacian = net.laplacian(x, forward_mode=mode)
        assert laplacian.shape == (n, 1, m)
        trace = np.einsum("naam->nm", hessian)[:, None]
        np.testing.assert_allclose(laplacian, trace, rtol=0, atol=tol * scale * d)
        diagonal = net.hessian_diagonal(x, forward_mode=mode)
        np.testing.assert_allclose(
            diagonal, np.einsum("naam->nam", hessian), rtol=0, atol=tol * scale
        )
    p = np.random.default_rng(seed + 1).standard_normal((n, d)).astype(dtype)
    product = np.einsum("nabm,nb->nam", hessian, p)
    np.testing.assert_allclose(net.hvp(x, p), product, rtol=0, atol=10 * tol * scale * d)
    lam = np.random.default_rng(seed + 2).standard_normal((n, m)).astype(dtype)
    weighted = np.einsum("nabm,nm->nab", hessian, lam)
    np.testing.assert_allclose(
        net.weighted_hessian(x, lam), weighted, rtol=0, atol=10 * tol * scale * m
    )
    v = np.random.default_rng(seed + 3).standard_normal((2, d)).astype(dtype)
    left = net(x, do_Hessian=True, v=v, forward_mode=True).d2f
    both = np.einsum("ka,nabm,lb->nklm", v, hessian, v)
    np.testing.assert_allclose(left, both, rtol=0, atol=30 * tol * scale * d * d)


@settings(max_examples=12)
@given(networks(depth=3), DTYPES, SEEDS)
def test_networks_against_jax(net_and_codes, dtype, seed):
    net, codes = net_and_codes
    net.load_parameters({k: v.astype(dtype) for k, v in net.parameters().items()})
    rng = np.random.default_rng(seed)
    d = net.in_features
    x = rng.standard_normal((3, d)).astype(dtype)
    p, q = rng.standard_normal((2, d))
    f, df, d2f = net(x, do_gradient=True, do_Hessian=True)
    wanted = along(in_jax(net, codes), x[0].astype(float), p, q)
    close_along(f[0], df[0], d2f[0], p, q, wanted, 3e-12 if dtype == "float64" else 1e-4)


def close_along(f, df, d2f, p, q, wanted, tol):
    """The errors are relative to the largest entries, which a contraction may cancel."""
    got = f, np.tensordot(p, df, axes=p.ndim), np.tensordot(
        q, np.tensordot(p, d2f, axes=p.ndim), axes=p.ndim
    )  # fmt: skip
    pq = np.abs(p).sum(), np.abs(p).sum() * np.abs(q).sum()
    scales = np.abs(f).max(), np.abs(df).max() * pq[0], np.abs(d2f).max() * pq[1]
    for a, b, scale in zip(got, wanted, scales, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tol * (scale + 1e-3))


@given(st.sampled_from(LAYOUTS), DTYPES, st.sampled_from([1, 2, 7]), SEEDS)
def test_the_layout_of_x_does_not_matter(layout, dtype, n, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3)).astype(dtype)
    p = rng.standard_normal((n, 3)).astype(dtype)
    lam = rng.standard_normal((n, 2)).astype(dtype)
    u = layout(x)
    np.testing.assert_array_equal(u, x)
    before = u.copy()
    want = NET.value_gradient_hessian(x)
    for a, b in zip(NET.value_gradient_hessian(u), want, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(NET.hvp(u, layout(p)), NET.hvp(x, p))
    np.testing.assert_array_equal(
        NET.weighted_hessian(u, layout(lam)), NET.weighted_hessian(x, lam)
    )
    np.testing.assert_array_equal(u, before)
    whole = layout(np.tile(x, (2, 1))).reshape(2, n, 3)
    np.testing.assert_allclose(
        NET.hessian(whole)[1], want.d2f, rtol=0, atol=64 * EPS[dtype] * np.abs(want.d2f).max()
    )


NET = ha.Network(
    ha.Dense(3, 4, act="tanh", seed=1), ha.Residual(4, act="gelu", seed=2),
    ha.Dense(4, 2, act="sigmoid", seed=3),
)  # fmt: skip


@settings(max_examples=15)
@given(st.sampled_from(LAYOUTS), DTYPES, SEEDS)
def test_the_layout_of_parameters_does_not_matter(layout, dtype, seed):
    net = ha.Network(ha.Dense(3, 4, act="tanh"), ha.Dense(4, 2, act="sin"))
    rng = np.random.default_rng(seed)
    plain = {k: rng.standard_normal(v.shape).astype(dtype) for k, v in net.parameters().items()}
    x = rng.standard_normal((4, 3)).astype(dtype)
    net.load_parameters(plain)
    want = net.hessian(x)
    other = {k: layout(v) if v.ndim == 2 else v for k, v in plain.items()}
    net.load_parameters(other)
    np.testing.assert_array_equal(net.hessian(x), want)
    np.testing.assert_array_equal(net.hessian(x, parameters=other), want)


@given(st.lists(st.integers(0, 3), min_size=0, max_size=3).map(tuple), WIDTHS, DTYPES, SEEDS)
def test_any_batch_shape_is_the_flat_batch(batch, m, dtype, seed):
    rng = np.random.default_rng(seed)
    net = ha.Network(ha.Dense(2, 3, act="softplus", seed=1), ha.Dense(3, m, act="tanh", seed=2))
    x = rng.standard_normal((*batch, 2)).astype(dtype)
    shaped = net.value_gradient_hessian(x)
    flat = net.value_gradient_hessian(x.reshape(-1, 2))
    for a, b in zip(shaped, flat, strict=True):
        assert a.shape == batch + b.shape[1:]
        np.testing.assert_allclose(
            a.reshape(b.shape), b, rtol=0, atol=32 * EPS[dtype] * np.abs(b).max(initial=1.0)
        )


@settings(max_examples=15)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 4), SEEDS)
def test_chunks_and_threads_do_not_matter(n, chunk, threads, seed):
    x = np.random.default_rng(seed).standard_normal((n, 3))
    want = NET.hessian(x)
    plan = NET.plan(n=n, want="hessian")
    limit = 8 * (
        plan.result_entries * n + plan.entries_once + chunk * threads * plan.entries_per_sample
    )
    got = NET.hessian(x, memory_limit=limit, threads=threads)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-14 * np.abs(want).max())


# ---- random array API code ---------------------------------------------------------------------

# Steps on a (3, 4) array; every one gives a (3, 4) array again, of moderate size.
ROWS, COLUMNS = np.cos(np.arange(9.0)).reshape(3, 3), np.sin(np.arange(16.0)).reshape(4, 4)
STEPS = {
    "sin": lambda xp, u, w: xp.sin(u),
    "tanh": lambda xp, u, w: xp.tanh(u),
    "square": lambda xp, u, w: 0.3 * u**2,
    "softplus": lambda xp, u, w: xp.log1p(xp.exp(-xp.square(u))) + u,
    "rational": lambda xp, u, w: u / (1.0 + w * w),
    "sqrt": lambda xp, u, w: xp.sqrt(1.0 + u * u),
    "cube root": lambda xp, u, w: (2.0 + u * u) ** 0.3,
    "add": lambda xp, u, w: u + 0.5 * w,
    "subtract": lambda xp, u, w: w - u,
    "multiply": lambda xp, u, w: xp.tanh(u) * w,
    "rows": lambda xp, u, w: ROWS @ u,
    "columns": lambda xp, u, w: u @ COLUMNS,
    "both": lambda xp, u, w: 0.2 * (u @ xp.matrix_transpose(xp.tanh(w))) @ u,
    "softmax": lambda xp, u, w: (lambda e: w * e / xp.sum(e, axis=-1, keepdims=True))(
        xp.exp(xp.sin(u))
    ),
    "centre": lambda xp, u, w: u - xp.mean(u, axis=0, keepdims=True),
    "normalise": lambda xp, u, w: u / xp.sqrt(0.5 + xp.var(u, axis=-1, keepdims=True)),
    "flip": lambda xp, u, w: xp.flip(u, axis=1) + w,
    "roll": lambda xp, u, w: xp.roll(u, 1, axis=0) * xp.cos(w),
    "concat": lambda xp, u, w: xp.concat([u[1:], xp.sin(w[:1])], axis=0),
    "stack": lambda xp, u, w: xp.stack([u[0], w[1], u[2] * w[2]]),
    "slices": lambda xp, u, w: xp.concat([u[:, ::2], w[:, 3:0:-2]], axis=1),
    "take": lambda xp, u, w: xp.take(u, np.asarray([2, 0, 0]), axis=0) * xp.sin(w),
    "gather": lambda xp, u, w: u[:, np.asarray([3, 3, 1, 0])] + w,
    "permute": lambda xp, u, w: xp.reshape(xp.permute_dims(u, (1, 0)), (3, 4)) + w,
    "outer": lambda xp, u, w: xp.sin(u[:, :1] * w[:1, :]),
    "einsum": lambda xp, u, w: 0.3 * xp.einsum("ij,kj,kl->il", u, xp.sin(w), u),
    "broadcast": lambda xp, u, w: xp.broadcast_to(u[1, None, :], (3, 4)) * xp.tanh(w),
    "norm": lambda xp, u, w: u / xp.sqrt(1.0 + xp.sum(u * u)),
    "where": lambda xp, u, w: xp.where(np.tri(3, 4) > 0.0, u, xp.sin(w)),
    "stays": lambda xp, u, w: u,
}


def compose(xp, x, steps):
    u, w = x, xp.sin(x)
    for name, swap in steps:
        new = STEPS[name](xp, u, w)
        u, w = (new, u) if swap else (new, w)
    return u


PROGRAMS = st.lists(
    st.tuples(st.sampled_from(sorted(STEPS)), st.booleans()), min_size=1, max_size=7
)


@settings(max_examples=12)
@given(PROGRAMS, SEEDS)
def test_random_code_against_jax(steps, seed):
    rng = np.random.default_rng(seed)
    x = 0.7 * rng.standard_normal((1, 3, 4))
    out = rng.standard_normal((3, 4, 2))

    def fn(xp, u):
        return xp.tensordot(compose(xp, u, steps), out, axes=2)

    f = ha.Function(lambda u: fn(u.__array_namespace__(), u), in_shape=(3, 4))
    got = f.value_gradient_hessian(x)
    p = rng.standard_normal((1, 3, 4))
    q = rng.standard_normal((3, 4))
    wanted = along(lambda a: fn(jnp, a), x[0], p[0], q)
    close_along(got.f[0], got.df[0], got.d2f[0], p[0], q, wanted, 1e-12)


@given(PROGRAMS, st.sampled_from([1, 2, 5]), DTYPES, SEEDS)
def test_random_code_in_all_modes(steps, n, dtype, seed):
    rng = np.random.default_rng(seed)
    x = (0.7 * rng.standard_normal((n, 3, 4))).astype(dtype)
    out = rng.standard_normal((3, 4, 2))

    def fn(u):
        xp = u.__array_namespace__()
        return xp.tensordot(compose(xp, u, steps), out, axes=2)

    f = ha.Function(fn, in_shape=(3, 4))
    tol = 1e-11 if dtype == "float64" else 1e-3
    hessian = f.hessian(x)
    scale = tol * (np.abs(hessian).max() + 1e-3)

    def near(a, b, factor=1.0):
        np.testing.assert_allclose(a, b, rtol=0, atol=factor * scale)

    for mode in (True, False):
        near(f.hessian(x, forward_mode=mode), hessian)
    near(np.moveaxis(hessian, (1, 2, 3, 4), (3, 4, 1, 2)), hessian)
    flat = hessian.reshape(n, 12, 12, 2)
    near(f.laplacian(x)[:, 0], np.einsum("naam->nm", flat), 12)
    near(f.hessian_diagonal(x).reshape(n, 12, 2), np.einsum("naam->nam", flat))
    p = rng.standard_normal(x.shape).astype(dtype)
    product = np.einsum("nabm,nb->nam", flat, p.reshape(n, 12))
    near(f.hvp(x, p).reshape(n, 12, 2), product, 40)
    lam = rng.standard_normal(2).astype(dtype)
    near(f.weighted_hessian(x, lam).reshape(n, 12, 12), flat @ lam, 10)
