"""The pitfalls that other libraries ran into, through whole networks; bad samples stay alone."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from compare import normal, randomized
from mpmath import mp, mpf

import hessarray as ha

DTYPES = (np.float32, np.float64)
BY_NAME = {"argvalues": DTYPES, "ids": lambda d: d.__name__}


def one(act, slope=2.0, dtype=np.float64, **params):
    """x -> s(slope x): s' and s'' at z arrive as slope s' and slope^2 s''."""
    net = ha.Network(ha.Dense(1, 1, act=ha.activation(act, **params) if params else act))
    net.load_parameters({"0.K": np.full((1, 1), slope, dtype), "0.b": np.zeros(1, dtype)})
    return net


def jet(act, z, dtype, slope=2.0, mode=None, **params):
    """(s, s', s'') at z of one unit of a network, z exact in the dtype."""
    x = np.asarray([[z / slope]], dtype=dtype)
    assert float(x[0, 0]) * slope == z
    net = one(act, slope, dtype, **params)
    got = net(x, do_gradient=True, do_Hessian=True, forward_mode=mode)
    f, df, d2f = (float(a.reshape(())) for a in got)
    return f, df / slope, d2f / slope**2


@cache
def truth(s, z, order):
    with mp.workdps(60 + int(z * z / 2)):  # GELU's tail is erfc's, with z^2 / 4.6 zeros
        value = mp.diff(s, mpf(z), order) if order else s(mpf(z))
    return 0.0 if z == 0.0 and abs(value) < 1e-15 else float(value)  # by symmetry


def softplus(z):
    return mp.log1p(mp.exp(z))


def near(got, want, dtype, ulps=32):
    assert math.isfinite(got)
    assert abs(got - want) <= ulps * float(np.finfo(dtype).eps) * abs(want), (got, want)


# ---- curvature in the tails --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", **BY_NAME)
@pytest.mark.parametrize("z", [-40.0, -17.0, -10.0, -0.5, 0.0, 0.25, 9.0, 10.0, 17.0, 37.0, 40.0])
@pytest.mark.parametrize(
    ("act", "s"),
    [
        ("tanh", mp.tanh),
        ("sigmoid", lambda z: 1 / (1 + mp.exp(-z))),
        ("softplus", softplus),
        ("log_sigmoid", lambda z: -softplus(-z)),
        ("antitanh", lambda z: mp.log(mp.cosh(z)) + mp.log(2)),
        ("silu", lambda z: z / (1 + mp.exp(-z))),
        ("mish", lambda z: z * mp.tanh(softplus(z))),
        ("gelu", lambda z: z * mp.erfc(-z / mp.sqrt(2)) / 2),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_saturated_units_keep_their_derivatives(act, s, z, dtype):
    """s'' of tanh at 10 in float32, of softplus at 37 in float64, of GELU at -10 and so on."""
    for mode in (None, True, False):
        for order, got in enumerate(jet(act, z, dtype, mode=mode)):
            want = truth(s, z, order)
            if abs(want) < float(np.finfo(dtype).smallest_normal) * 1e3:
                assert abs(got - want) <= float(np.finfo(dtype).smallest_normal) * 1e3
            else:
                near(got, want, dtype, 64 if act != "gelu" else 64 + 4 * z * z)


@pytest.mark.parametrize("dtype", **BY_NAME)
def test_a_deep_saturated_network_keeps_its_curvature(dtype):
    """tanh(tanh(x) + 8) by two layers: every factor 1 - tanh^2 is tiny, none is zero."""
    net = ha.Network(ha.Dense(1, 1, act="tanh"), ha.Dense(1, 1, act="tanh"))
    net.load_parameters(
        {
            "0.K": np.ones((1, 1), dtype), "0.b": np.zeros(1, dtype),
            "1.K": np.ones((1, 1), dtype), "1.b": np.full(1, 8.0, dtype),
        }
    )  # fmt: skip
    x = 6.0
    got = net(np.asarray([[x]], dtype), do_gradient=True, do_Hessian=True)
    for order, a in enumerate(got):
        # tanh(6) + 8 is rounded once: its error moves e^(-2z) by 2 (z ulp).
        near(float(a.reshape(())), truth(lambda t: mp.tanh(mp.tanh(t) + 8), x, order), dtype, 64)


@pytest.mark.parametrize("dtype", **BY_NAME)
def test_softplus_threshold_only_where_asked(dtype):
    exact = jet("softplus", 24.0, dtype)
    cut = jet("softplus", 24.0, dtype, threshold=20.0)
    near(exact[2], truth(softplus, 24.0, 2), dtype)
    assert cut == (24.0, 1.0, 0.0)


@pytest.mark.parametrize("dtype", **BY_NAME)
@pytest.mark.parametrize("act", sorted(ha.ACTIVATIONS))
def test_no_activation_of_the_table_overflows_to_nan(act, dtype):
    """Finite input, never NaN, from subnormals to the largest number."""
    info = np.finfo(dtype)
    sizes = [0.0, float(info.smallest_subnormal), float(info.tiny), 1e-3, 1.0, 30.0, 90.0, 800.0]
    sizes += [1e4, 1e18, 1e30, float(info.max) / 4]
    x = np.asarray([*sizes, *(-s for s in sizes)], dtype)[:, None]
    got = one(act, 2.0, dtype)(x, do_gradient=True, do_Hessian=True)
    grows = act in ("quadratic", "exp", "squared_relu", "hard_swish")
    for what, a in zip(("s", "s'", "s''"), got, strict=True):
        assert not np.isnan(a).any(), f"{what} of {act} at {x[np.isnan(a).ravel()].ravel()}"
        if not grows:
            assert np.isfinite(a).all(), f"{what} of {act}"


@pytest.mark.parametrize("act", ["relu", "leaky_relu", "relu6", "hardtanh", "hard_sigmoid"])
def test_kinks_are_one_sided_and_without_curvature(act):
    kinks = ha.activation(act).kinks
    for kink in kinks:
        _, slope, curvature = jet(act, kink, np.float64)
        h = 1e-6
        sides = {round(jet(act, kink + s * h, np.float64, slope=1.0)[1], 9) for s in (-1, 1)}
        assert round(slope, 9) in sides, f"the slope of {act} at {kink} is of neither side"
        assert curvature == 0.0


def test_maximum_and_minimum_take_the_first_at_a_tie():
    f = ha.Function(lambda x: x.__array_namespace__().maximum(2.0 * x[0], x[1] ** 2), in_shape=(2,))
    x = np.asarray([2.0, 2.0])
    np.testing.assert_array_equal(f.gradient(x), [2.0, 0.0])
    np.testing.assert_array_equal(f.hessian(x), np.zeros((2, 2)))


def test_where_guards_what_would_be_infinite():
    """A double where: sqrt at 0 behind a guard has finite derivatives, on the safe side."""

    def norm(x):
        xp = x.__array_namespace__()
        s = x @ x
        safe = xp.where(s > 0.0, s, 1.0)
        return xp.where(s > 0.0, xp.sqrt(safe), 0.0)

    f = ha.Function(norm, in_shape=(2,))
    for a in f.value_gradient_hessian(np.zeros((1, 2))):
        np.testing.assert_array_equal(a, np.zeros_like(a))
    x = np.asarray([[3.0, 4.0]])
    got = f.value_gradient_hessian(x)
    np.testing.assert_allclose(got.df, x / 5.0, rtol=1e-15)
    np.testing.assert_allclose(got.d2f[0], (np.eye(2) - x.T @ x / 25.0) / 5.0, atol=1e-16)


def test_zero_factors_keep_their_signs():
    def f(x):
        xp = x.__array_namespace__()
        up, down = 0.0 * x, -0.0 * x
        return xp.stack([up, down, x - up, down - up, 0.0 * x - 0.0 * x[::-1], -(-0.0 * x)], axis=0)

    x = np.asarray([[1.5, 2.0], [-3.0, 0.5]])
    got = ha.Function(f, in_shape=(2,))(x)
    for row, sample in zip(got, x, strict=True):
        np.testing.assert_array_equal(row, f(sample))
        np.testing.assert_array_equal(np.signbit(row), np.signbit(f(sample)))


@pytest.mark.parametrize("dtype", **BY_NAME)
def test_factors_stay_in_the_range_that_the_code_keeps_to(dtype):
    """The product of two factors may underflow where one after the other does not."""
    tiny, huge = (1e-30, 1e30) if dtype is np.float32 else (1e-200, 1e200)

    def f(x):
        xp = x.__array_namespace__()
        y = tiny * (huge * (tiny * x)) - tiny * (tiny * x + 1.0)
        return xp.concat(
            [tiny * (tiny * x), huge * (tiny * (tiny * x)), tiny * x * tiny, y], axis=0
        )

    x = np.asarray([[huge, -3.0 * huge]], dtype)
    F = ha.Function(f, in_shape=(2,))
    np.testing.assert_allclose(F(x)[0], f(x[0]), rtol=1e-6)
    assert np.all(F(x)[0][[0, 1]] != 0.0)


@pytest.mark.parametrize("dtype", **BY_NAME)
@pytest.mark.parametrize("name", ["after", "before", "inside", "large"])
def test_factors_are_not_moved_out_of_the_range(name, dtype):
    """Not to the matrix, say, where the result is in the range and c K would not be."""
    tiny, huge, k = (1e-30, 1e30, 1e-20) if dtype is np.float32 else (1e-200, 1e200, 1e-150)
    K, L = np.full((3, 2), k, dtype), np.full((3, 2), 1.0 / k, dtype)
    f, x = {
        "after": (lambda x: tiny * (x @ K), np.full((4, 3), 1.0 / k)),
        "before": (lambda x: (tiny * x) @ K, np.full((4, 3), huge)),
        "inside": (lambda x: x[2:] * (tiny * x[:2]), np.asarray([[huge, huge, k, k]])),
        "large": (lambda x: (huge * x) @ L, np.full((4, 3), tiny)),
    }[name]
    x = x.astype(dtype)
    with np.errstate(all="ignore"):
        want = np.stack([f(a) for a in x])
    got = ha.Function(f, in_shape=x.shape[1:])(x)
    assert np.all(np.isfinite(want))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_squares_at_zero_have_their_curvature():
    f = ha.Function(lambda x: x**2 + (x @ x), in_shape=(3,))
    hessian = f.hessian(np.zeros(3))
    want = np.einsum("ab,m->abm", 2.0 * np.eye(3), np.ones(3))
    want[range(3), range(3), range(3)] += 2.0
    np.testing.assert_array_equal(hessian, want)


@pytest.mark.parametrize("dtype", **BY_NAME)
def test_logaddexp_and_softmax_far_apart(dtype):
    f = ha.Function(lambda x: x.__array_namespace__().logaddexp(x[0], x[1]), in_shape=(2,))
    for a, b in [(1000.0, -1000.0), (-1000.0, 1000.0), (1000.0, 1000.0), (0.0, 37.0), (30.0, 0.0)]:
        x = np.asarray([a, b], dtype)
        value, gradient, hessian = f.value_gradient_hessian(x)
        d = a - b
        sigma = [1.0 / (1.0 + math.exp(-t)) if t > -700 else 0.0 for t in (d, -d)]
        assert float(value) == pytest.approx(max(a, b) + math.log1p(math.exp(-abs(d))), rel=1e-6)
        np.testing.assert_allclose(gradient, sigma, rtol=1e-5)
        s2 = sigma[0] * sigma[1]
        np.testing.assert_allclose(hessian, s2 * np.asarray([[1, -1], [-1, 1]]), rtol=1e-5)


def test_softmax_of_large_logits():
    def softmax(x):
        xp = x.__array_namespace__()
        e = xp.exp(x - xp.max(x))
        return e / xp.sum(e)

    f = ha.Function(softmax, in_shape=(3,))
    value, gradient, hessian = f.value_gradient_hessian(np.asarray([1000.0, 1001.0, -1000.0]))
    p = np.asarray([1.0, math.e, 0.0]) / (1.0 + math.e)
    np.testing.assert_allclose(value, p, rtol=1e-14, atol=1e-300)
    np.testing.assert_allclose(gradient, np.diag(p) - np.outer(p, p), atol=1e-15)
    eye = np.eye(3)
    want = np.einsum(
        "m,am,bm->abm", p, eye - p[:, None], eye - p[:, None]
    ) - np.einsum("m,ab->abm", p, np.diag(p) - np.outer(p, p))  # fmt: skip
    np.testing.assert_allclose(hessian, want, atol=1e-15)


def test_hypot_and_atan2_at_the_ends_of_the_range():
    hypot = ha.Function(lambda x: x.__array_namespace__().hypot(x[0], x[1]), in_shape=(2,))
    for scale in (1e-200, 1.0, 1e200):
        value, gradient, _ = hypot.value_gradient_hessian(scale * np.asarray([3.0, -4.0]))
        assert float(value) == pytest.approx(5.0 * scale, rel=1e-15)
        np.testing.assert_allclose(gradient, [0.6, -0.8], rtol=1e-15)
    angle = ha.Function(lambda x: x.__array_namespace__().atan2(x[0], x[1]), in_shape=(2,))
    for y, x in [(0.0, 1.0), (1.0, 0.0), (-1.0, 0.0), (0.0, -1.0), (1e-30, -1.0), (-1.0, 1e-30)]:
        value, gradient, _ = angle.value_gradient_hessian(np.asarray([y, x]))
        assert float(value) == pytest.approx(math.atan2(y, x), rel=1e-15, abs=1e-300)
        r2 = x * x + y * y
        np.testing.assert_allclose(gradient, [x / r2, -y / r2], rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize("dtype", **BY_NAME)
def test_floors_of_whole_quotients(dtype):
    """n / n is 1 and 3 n / n is 3: one ulp below, floor and remainder would jump."""
    n = np.arange(1.0, 2000.0, dtype=dtype)
    f = ha.Function(lambda x: x[0] // x[1], in_shape=(2,))
    r = ha.Function(lambda x: x[0] % x[1], in_shape=(2,))
    for k in (1, 3, 7):
        x = np.stack([k * n, n], axis=1)
        np.testing.assert_array_equal(f(x), np.full_like(n, k))
        np.testing.assert_array_equal(r(x), np.zeros_like(n))
    for c in (3.0, 49.0, 98.0, 103.0):
        by = ha.Function(lambda x, c=c: x.__array_namespace__().floor(x / c), in_shape=(1,))
        np.testing.assert_array_equal(by(c * n[:50, None]), n[:50, None])


# ---- results of float32 are as good as float32 allows ------------------------------------------


def test_float32_networks_are_accurate():
    net = randomized(
        ha.fully_connected([5, 32, 32, 32, 2], act="tanh"), seed=3, scale=0.3
    )  # fmt: skip
    net.load_parameters({k: v.astype(np.float32) for k, v in net.parameters().items()})
    x = normal(4, 50, 5).astype(np.float32)
    for mode in (None, True, False):
        exact = net(x.astype(np.float64), do_gradient=True, do_Hessian=True, forward_mode=mode)
        got = net(x, do_gradient=True, do_Hessian=True, forward_mode=mode)
        for a, b in zip(got, exact, strict=True):
            assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


def test_a_cancelling_laplacian_is_accurate_in_float64():
    """A harmonic function: the diagonal entries cancel to rounding."""
    f = ha.Function(
        lambda x: x.__array_namespace__().exp(3.0 * x[0]) * x.__array_namespace__().sin(3.0 * x[1]),
        in_shape=(2,),
    )
    x = normal(5, 20, 2)
    size = np.abs(f.hessian(x)).max(axis=(1, 2))
    assert (np.abs(f.laplacian(x)[:, 0]) <= 8 * np.finfo(float).eps * size).all()


# ---- NaN and infinity stay in their own sample -------------------------------------------------


def bystanders():
    return {
        "mlp": ha.fully_connected([3, 8, 8, 2], act="tanh", seed=1),
        "resnet": ha.resnet(3, 3, h=0.5, act="softplus", seed=2),
        "icnn": ha.Network(ha.icnn(3, [4, 4]), ha.InputConvexQuadratic(3, 4, 2), seed=3),
        "relu": ha.fully_connected([3, 8, 2], act="relu", seed=4),
        "attention": ha.Function(attention, in_shape=(3,)),
        "selection": ha.Function(selection, in_shape=(3,)),
    }


def attention(x):
    xp = x.__array_namespace__()
    scores = xp.exp(x[:, None] * x[None, :] - xp.max(x))
    return (scores / xp.sum(scores, axis=1, keepdims=True)) @ x


def selection(x):
    xp = x.__array_namespace__()
    u = xp.concat([xp.maximum(x, 0.1), x[::-1] ** 3, xp.clip(x, -1.0, 1.0)], axis=0)
    return xp.where(u > 0.0, u * u, xp.sin(u))[np.asarray([0, 4, 8, 3])]


@pytest.mark.parametrize("backend_name", ["numpy", "torch"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", bystanders())
def test_a_bad_sample_spoils_nothing_else(name, bad, backend_name):
    f = bystanders()[name]
    clean = normal(6, 40, 3)
    dirty = clean.copy()
    spoilt = [3, 17, 39]
    dirty[spoilt, [0, 1, 2]] = bad
    good = [i for i in range(40) if i not in spoilt]
    p, lam = normal(7, 40, 3), normal(8, *f.out_shape)
    if backend_name == "torch":
        torch = pytest.importorskip("torch")
        make, back = torch.asarray, lambda a: a.numpy()
    else:
        make, back = np.asarray, np.asarray
    for mode in (None, True, False):
        results = [
            [
                *f.value_gradient_hessian(make(x), forward_mode=mode),
                f.laplacian(make(x), forward_mode=mode),
                f.hvp(make(x), make(p)),
                f.weighted_hessian(make(x), make(lam)),
                f.hessian_diagonal(make(x), forward_mode=mode),
            ]
            for x in (clean, dirty)
        ]
        for want, got in zip(*results, strict=True):
            np.testing.assert_array_equal(back(got)[good], back(want)[good])
            assert np.isfinite(back(want)).all()


@pytest.mark.parametrize("name", ["mlp", "resnet", "icnn"])
def test_nan_in_gives_nan_out(name):
    f = bystanders()[name]
    x = normal(9, 4, 3)
    x[2, 1] = np.nan
    for a in f.value_gradient_hessian(x):
        assert np.isnan(a[2]).any()


@pytest.mark.parametrize("n", [4, 4000])
def test_no_floating_point_warning_escapes(n):
    """Infinities in x are the caller's: no warning, even where NumPy's are made errors."""
    net = ha.fully_connected([3, 8, 2], act="softplus", seed=5)
    x = normal(10, n, 3)
    x[0] = [np.inf, -np.inf, np.nan]
    x[1] = 1e308
    x[2] = -800.0
    with np.errstate(all="raise"):
        net.value_gradient_hessian(x)
        net.hvp(x, x)
        net.laplacian(x[2:].astype(np.float32))


def test_poison_in_unused_features_does_not_spread():
    """The second half of x has no part in f: its derivatives are zero, not NaN times zero."""
    f = ha.Function(lambda x: x.__array_namespace__().tanh(x[:2]), in_shape=(4,))
    x = np.asarray([[0.5, -0.5, np.inf, 1e300]])
    f0, df, d2f = f.value_gradient_hessian(x)
    assert np.isfinite(f0).all()
    np.testing.assert_array_equal(df[:, 2:], 0.0)
    np.testing.assert_array_equal(d2f[:, 2:], 0.0)
    assert np.isfinite(d2f).all()
