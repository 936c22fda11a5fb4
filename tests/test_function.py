"""Functions and networks: batch shapes, derivatives as functions, plans, parameters, threads."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
import threading
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, jax_truth, normal, plain_forward, randomized
from threadpoolctl import threadpool_info, threadpool_limits

import hessarray as ha
from hessarray.backends.protocol import Work


def network(d=3, m=2, seed=0, width=5):
    return randomized(
        ha.Network(ha.Dense(d, width, act="tanh"), ha.Dense(width, m, act="sin")), seed
    )


def in_jax(net):
    p = net.parameters()
    first, second = ((p[f"{i}.K"], p[f"{i}.b"]) for i in (0, 1))
    return lambda u: plain_forward([second], jnp.sin)(plain_forward([first], jnp.tanh)(u))


def cubic(x):
    """A module-level function, so that it can be pickled."""
    return x**3 * x[0]


def with_params(x, p):
    xp = x.__array_namespace__()
    return xp.tanh(x @ p["K"] + p["b"]) * p["scale"]


def parametric(seed=0):
    return ha.Function(
        with_params,
        in_shape=(3,),
        params={"K": normal(seed, 3, 2), "b": normal(seed + 1, 2), "scale": normal(seed + 2)},
    )


# ---- batch shapes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batch", [(), (1,), (7,), (0,), (4, 3), (2, 1, 3), (3, 0), (1, 1, 1, 1)], ids=str
)
def test_everything_before_the_last_axis_is_batch(batch):
    net = network()
    x = normal(1, *batch, 3)
    flat = x.reshape(-1, 3)
    truth = jax_truth(in_jax(net), flat) if len(flat) else None
    p = normal(2, *x.shape)
    lam = normal(3, *batch, 2)
    results = {
        "value": (net.value(x), (2,)),
        "gradient": (net.gradient(x), (3, 2)),
        "hessian": (net.hessian(x), (3, 3, 2)),
        "hessian_diagonal": (net.hessian_diagonal(x), (3, 2)),
        "laplacian": (net.laplacian(x), (1, 2)),
        "hvp": (net.hvp(x, p), (3, 2)),
        "weighted_hessian": (net.weighted_hessian(x, lam), (3, 3)),
    }
    for name, (a, shape) in results.items():
        assert a.shape == batch + shape, name
        assert a.dtype == np.float64
    if truth is not None:
        p, lam = p.reshape(-1, 3), lam.reshape(-1, 2)
        wanted = {
            "value": truth.f,
            "gradient": truth.df,
            "hessian": truth.d2f,
            "hessian_diagonal": truth.diagonal,
            "laplacian": truth.laplacian,
            "hvp": np.einsum("nabm,nb->nam", truth.d2f, p),
            "weighted_hessian": np.einsum("nabm,nm->nab", truth.d2f, lam),
        }
        for name, want in wanted.items():
            a, shape = results[name]
            assert_close(a.reshape(-1, *shape), want, 1e-12, name, "jax float64")


def test_the_shapes_of_an_airfoil_sweep():
    net = network(d=1, m=4)
    x = normal(4, 320, 20, 1)
    f, df, d2f = net(x, do_gradient=True, do_Hessian=True)
    assert (f.shape, df.shape, d2f.shape) == (
        (320, 20, 4),
        (320, 20, 1, 4),
        (320, 20, 1, 1, 4),
    )
    truth = jax_truth(in_jax(net), x.reshape(-1, 1))
    assert_close(d2f.reshape(-1, 1, 1, 4), truth.d2f, 1e-12, "Hessian", "jax float64")


def test_call_returns_a_named_tuple_with_none_where_not_asked():
    net, x = network(), normal(5, 4, 3)
    plain = net(x)
    assert plain.df is None
    assert plain.d2f is None
    assert plain._fields == ("f", "df", "d2f")
    only = net(x, do_Hessian=True)
    assert only.df is None
    assert only.d2f.shape == (4, 3, 3, 2)
    both = net(x, do_Hessian=True, do_Laplacian=True)
    assert both.d2f.shape == (4, 3, 3, 2)
    np.testing.assert_array_equal(both.d2f, only.d2f)
    f = ha.Function(cubic, in_shape=(3,))
    np.testing.assert_array_equal(f(x), f.value(x))


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)], ids=str)
@pytest.mark.parametrize("batch", [(), (3,), (2, 2)], ids=str)
def test_inputs_and_outputs_of_any_rank(batch, shape):
    f = ha.Function(lambda x: x[..., None] ** 2 * np.ones(4) if shape else x**3, in_shape=shape)
    x = normal(6, *batch, *shape)
    out = f.out_shape
    assert f.value(x).shape == batch + out
    assert f.gradient(x).shape == batch + shape + out
    assert f.hessian(x).shape == batch + shape + shape + out
    assert f.laplacian(x).shape == (*batch, 1, *out)
    assert f.hvp(x, x).shape == batch + shape + out
    assert f.weighted_hessian(x, np.ones(out)).shape == batch + shape + shape


def test_samples_do_not_mix():
    net = network()
    x = normal(7, 6, 3)
    whole = net.value_gradient_hessian(x)
    for i in range(6):
        for a, b in zip(whole, net.value_gradient_hessian(x[i]), strict=True):
            assert_close(a[i], b, 1e-14)


def test_inputs_are_never_written_to():
    net = network()
    x, v, lam = normal(8, 5, 3), normal(9, 4, 3), normal(10, 2)
    copies = [a.copy() for a in (x, v, lam)]
    net(x, do_gradient=True, do_Hessian=True)
    net(x, do_Hessian=True, v=v, forward_mode=True)
    net.weighted_hessian(x, lam)
    for a, b in zip((x, v, lam), copies, strict=True):
        np.testing.assert_array_equal(a, b)


def test_results_are_the_callers_own_memory():
    """No result shares memory with another call's, with x, or with a parameter."""
    f = ha.Function(lambda x: x, in_shape=(3,))
    x = normal(11, 4, 3)
    value = f.value(x)
    value[...] = 7.0
    np.testing.assert_array_equal(x, normal(11, 4, 3))
    linear = ha.Function(lambda x: x @ np.ones((3, 2)), in_shape=(3,))
    gradient = linear.gradient(x)
    gradient[...] = 7.0
    np.testing.assert_array_equal(linear.gradient(x), np.ones((4, 3, 2)))
    net = network()
    first = net.value_gradient_hessian(x)
    kept = [a.copy() for a in first]
    net.value_gradient_hessian(x + 1.0)
    for a, b in zip(first, kept, strict=True):
        np.testing.assert_array_equal(a, b)


# ---- directions and contractions ---------------------------------------------------------------


def test_directions_against_contracted_hessians():
    net, x = network(), normal(12, 4, 3)
    truth = jax_truth(in_jax(net), x)
    left, right = normal(13, 5, 3), normal(14, 2, 4)
    got = net(x, do_gradient=True, do_Hessian=True, v=left, forward_mode=True)
    assert_close(got.df, np.einsum("ka,nam->nkm", left, truth.df), 1e-12, "left", "jax float64")
    want = np.einsum("ka,nabm,lb->nklm", left, truth.d2f, left)
    assert_close(got.d2f, want, 1e-12, "left", "jax float64")
    got = net(x, do_gradient=True, do_Hessian=True, v=right, forward_mode=False)
    assert_close(got.df, truth.df @ right, 1e-12, "right", "jax float64")
    assert_close(got.d2f, truth.d2f @ right, 1e-12, "right", "jax float64")
    # Where only one side fits, it need not be named.
    assert_close(net(x, do_gradient=True, v=left).df, left @ truth.df, 1e-12)
    assert_close(net(x, do_gradient=True, v=right).df, truth.df @ right, 1e-12)


def test_hvp_takes_one_direction_or_one_per_sample():
    net, x = network(), normal(15, 4, 3)
    hessian = jax_truth(in_jax(net), x).d2f
    one, each = normal(16, 3), normal(17, 4, 3)
    assert_close(net.hvp(x, one), np.einsum("nabm,b->nam", hessian, one), 1e-12, "hvp", "jax")
    assert_close(net.hvp(x, each), np.einsum("nabm,nb->nam", hessian, each), 1e-12, "hvp", "jax")


def test_weighted_hessian_takes_one_weight_vector_or_one_per_sample():
    net, x = network(), normal(18, 4, 3)
    hessian = jax_truth(in_jax(net), x).d2f
    one, each = normal(19, 2), normal(20, 4, 2)
    assert_close(net.weighted_hessian(x, one), hessian @ one, 1e-12, "weighted", "jax")
    want = np.einsum("nabm,nm->nab", hessian, each)
    assert_close(net.weighted_hessian(x, each), want, 1e-12, "weighted", "jax")
    # As many samples as outputs: a vector is one weight per output all the same.
    square = x[:2]
    assert_close(net.weighted_hessian(square, one), hessian[:2] @ one, 1e-12)


# ---- derivatives as functions ------------------------------------------------------------------


def test_derivative_functions_have_the_values_of_the_methods():
    net, x = network(), normal(21, 4, 3)
    for name, function in {
        "gradient": net.gradient_function(),
        "hessian": net.hessian_function(),
        "hessian_diagonal": net.hessian_diagonal_function(),
        "laplacian": net.laplacian_function(),
    }.items():
        want = getattr(net, name)(x)
        assert isinstance(function, ha.Function)
        assert function.out_shape == want.shape[1:], name
        assert_close(function(x), want, 1e-13, name)
        assert_close(function(x[0]), want[0], 1e-13, name)


def test_third_and_fourth_derivatives():
    net, x = network(), normal(22, 3, 3)
    fn = in_jax(net)

    def hessian(u):  # (d, d, m)
        return jnp.moveaxis(jax.hessian(fn)(u), 0, -1)

    truth = jax_truth(hessian, x)
    got = net.hessian_function().value_gradient_hessian(x)
    assert_close(got.df, truth.df, 1e-12, "third derivatives", "jax float64")
    assert_close(got.d2f, truth.d2f, 1e-12, "fourth derivatives", "jax float64")
    twice = net.gradient_function().gradient_function()
    assert_close(twice.gradient(x), truth.df, 1e-12, "third derivatives", "jax float64")
    trace = np.einsum("ncaam->ncm", truth.df)[:, :, None]
    assert_close(net.laplacian_function().gradient(x), trace, 1e-12, "of the Laplacian", "jax")


def test_laplacian_of_the_laplacian():
    net, x = network(), normal(23, 3, 3)
    fn = in_jax(net)
    truth = jax_truth(lambda u: jnp.trace(jax.hessian(fn)(u), axis1=1, axis2=2), x)
    got = net.laplacian_function().laplacian(x)
    assert_close(got[:, :, 0], truth.laplacian, 1e-11, "biharmonic", "jax float64")


def test_functions_compose_with_their_derivatives_inside():
    """The residual of Burgers' equation, u_t + u u_x - nu u_xx, and its own derivatives."""
    net = network(d=2, m=1)

    def residual(x):
        u = net(x)
        du, d2u = net.gradient(x), net.hessian(x)
        return du[1] + u * du[0] - 0.1 * d2u[0, 0]

    fn = in_jax(net)

    def in_jnp(x):
        du, d2u = jax.jacrev(fn)(x), jax.hessian(fn)(x)
        return du[:, 1] + fn(x) * du[:, 0] - 0.1 * d2u[:, 0, 0]

    x = normal(24, 4, 2)
    truth = jax_truth(in_jnp, x)
    f = ha.Function(residual, in_shape=(2,))
    got = f.value_gradient_hessian(x)
    for a, b, what in zip(got, truth, ("value", "gradient", "Hessian"), strict=True):
        assert_close(a, b, 1e-11, what, "jax float64")


def test_functions_of_functions():
    inner = ha.Function(lambda x: x**2 * 3.0, in_shape=(3,))
    outer = ha.Function(lambda x: inner(x.__array_namespace__().sin(x)) @ np.ones(3), in_shape=(3,))
    x = normal(25, 4, 3)
    truth = jax_truth(lambda u: 3.0 * jnp.sum(jnp.sin(u) ** 2), x)
    for a, b in zip(outer.value_gradient_hessian(x), truth, strict=True):
        assert_close(a, b, 1e-12, "composed", "jax float64")


def test_a_derivative_function_follows_its_parents_parameters():
    net, x = network(), normal(26, 4, 3)
    gradient = net.gradient_function()
    before = gradient(x)
    net.load_parameters({k: 2.0 * v for k, v in net.parameters().items()})
    assert_close(gradient(x), net.gradient(x), 1e-13)
    assert np.abs(gradient(x) - before).max() > 0.1


def test_derivative_functions_of_several_inputs():
    f = ha.Function(lambda x, y: x**2 @ np.ones(3) * y, in_shape=((3,), (2,)))
    gradient = f.gradient_function()
    x, y = normal(27, 3), normal(28, 2)
    flat = gradient(x, y)
    dx, dy = f.gradient(x, y)
    assert_close(flat, np.concatenate([dx.ravel(), dy.ravel()]), 1e-13)
    blocks = f.hessian(x, y)
    flat = f.hessian_function()(x, y)
    assert_close(flat, np.concatenate([b.ravel() for row in blocks for b in row]), 1e-13)


def test_functions_of_several_inputs_compose():
    inner = ha.Function(lambda x, y: x**3 @ np.ones(3) * y**2, in_shape=((3,), (2,)))

    def outer(x):
        dx, dy = inner.gradient(x[:3], x[3:])
        return dx[0] * inner(x[:3], x[3:]) + dy[1]

    def in_jnp(x):
        fn = lambda u, w: jnp.sum(u**3) * w**2  # noqa: E731
        dx, dy = jax.jacrev(fn, argnums=(0, 1))(x[:3], x[3:])
        return dx[:, 0] * fn(x[:3], x[3:]) + dy[:, 1]

    x = normal(29, 4, 5)
    f = ha.Function(outer, in_shape=(5,))
    for a, b in zip(f.value_gradient_hessian(x), jax_truth(in_jnp, x), strict=True):
        assert_close(a, b, 1e-12, "composed", "jax float64")


# ---- plans -------------------------------------------------------------------------------------


def test_plan_says_what_will_happen():
    net = network()
    text = str(net.plan(n=1000))
    for word in ("value, gradient, hessian", "sites", "bracket", "flops", "bytes", "1000"):
        assert word in text, word
    plan = net.plan(n=1000, want="laplacian")
    assert "laplacian" in str(plan)
    assert plan.flops > 0
    assert plan.sites == 2
    assert plan.entries_per_sample > 0
    assert plan.result_entries == 2


def test_forward_and_backward_are_brackets_and_the_default_is_not_dearer():
    net = ha.fully_connected([4, 20, 20, 20, 3], act="tanh")
    plans = {mode: net.plan(n=1000, forward_mode=mode) for mode in (None, True, False)}
    assert "forward" in str(plans[True])
    assert "backward" in str(plans[False])
    assert plans[None].flops <= min(plans[True].flops, plans[False].flops)


def test_plans_are_immutable_and_cached():
    net = network()
    plan = net.plan(n=100)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.n = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.program.steps = ()
    assert net.plan(n=100).program is plan.program
    net.load_parameters({k: 2.0 * v for k, v in net.parameters().items()})
    assert net.plan(n=100).program is plan.program
    text = str(plan)
    net.hessian(normal(29, 10, 3))
    assert str(plan) == text


def test_plan_source_is_the_program():
    net, x = network(), normal(30, 6, 3)
    plan = net.plan(n=6)
    scope: dict = {}
    exec(plan.source, scope)
    bound = scope["seed"](np, scope["bind"](np, net.parameters(), plan.functional.constants), {})
    results = scope["run"](np, bound, 6, {"x0": x}, {})
    for a, b in zip(results, net.value_gradient_hessian(x), strict=True):
        assert_close(np.reshape(a, b.shape), b, 1e-14)


@pytest.mark.parametrize("n", [1, 100])
def test_plans_for_any_number_of_samples_give_the_same(n):
    """The plan for n samples, carried out on a few."""
    net, x = network(), normal(31, 5, 3)
    plan = net.plan(n=n)
    scope: dict = {}
    exec(plan.source, scope)
    bound = scope["seed"](np, scope["bind"](np, net.parameters(), plan.functional.constants), {})
    truth = jax_truth(in_jax(net), x)
    for a, b in zip(scope["run"](np, bound, 5, {"x0": x}, {}), truth, strict=True):
        assert_close(np.reshape(a, b.shape), b, 1e-12, f"plan for {n}", "jax float64")


# ---- threads -----------------------------------------------------------------------------------


@pytest.fixture
def restless():
    """Threads give way to one another every few bytecodes."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def everything(net, x):
    return (
        *net.value_gradient_hessian(x),
        net.laplacian(x),
        net.hvp(x, x),
        net.weighted_hessian(x, np.ones(2)),
    )


@pytest.mark.usefixtures("restless")
def test_many_threads_may_share_one_network():
    net = network(width=16)
    sizes = [1, 1, 2, 5, 8, 8, 40, 40, 300, 1000]
    xs = [normal(40 + i, n, 3) for i, n in enumerate(sizes)]
    single = copy.deepcopy(net)
    wanted = [everything(single, x) for x in xs]
    order = np.random.default_rng(41).integers(0, len(sizes), 200)
    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(lambda i: everything(net, xs[i]), order.tolist()))
    for i, got in zip(order, results, strict=True):
        for a, b in zip(got, wanted[i], strict=True):
            assert_close(a, b, 1e-12, f"n = {sizes[i]}")


def test_blas_keeps_its_threads():
    """Two evaluations overlap, the first to begin ends first: the limit on BLAS is lifted."""

    def blas():
        return [m["num_threads"] for m in threadpool_info() if m["user_api"] == "blas"]

    net, x = network(), normal(42, 400, 3)
    plan = net.plan(n=400, want="hessian")
    limit = 8 * (plan.result_entries * 400 + plan.entries_once + 100 * plan.entries_per_sample)
    first_began, second_began, first_ended = (threading.Event() for _ in range(3))

    def first():
        def progress(done):
            first_began.set()
            assert second_began.wait(20)

        net.hessian(x, memory_limit=limit, progress=progress)
        first_ended.set()

    def second():
        def progress(done):
            second_began.set()
            assert first_ended.wait(20)

        assert first_began.wait(20)
        net.hessian(x, memory_limit=limit, progress=progress)

    # threadpoolctl lets only one thread set OpenBLAS's threads, until that thread has ended.
    original = blas()
    in_a_thread(lambda: threadpool_limits(2, user_api="blas"))
    before = blas()
    try:
        with ThreadPoolExecutor(2) as pool:
            for run in [pool.submit(first), pool.submit(second)]:
                run.result()
        after = blas()
    finally:
        in_a_thread(lambda: threadpool_limits(min(original), user_api="blas"))
    assert after == before


def in_a_thread(call):
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def test_large_work_buffers_are_given_back():
    net = ha.fully_connected([215, 200, 200, 200], act="tanh", seed=0)
    x = normal(43, 2, 215)
    work = 8 * net.plan(n=2, want="hessian").entries_per_sample
    assert work > 64 << 20
    tracemalloc.start()
    try:
        shape = net.hessian(x, threads=1).shape
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert shape == (2, 215, 215, 200)
    assert peak > work
    assert kept < 10e6


def test_threads_that_trace_for_the_first_time_together():
    for _ in range(5):
        net, x = network(), normal(42, 4, 3)
        want = copy.deepcopy(net).hessian(x)
        with ThreadPoolExecutor(8) as pool:
            for got in pool.map(net.hessian, [x] * 16):
                assert_close(got, want, 1e-14)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_worker_threads_do_not_change_the_result(threads):
    net = network(width=32)
    x = normal(43, 5000, 3)
    assert_close(net.hessian(x, threads=threads), net.hessian(x, threads=1), 1e-13)


# ---- parameters --------------------------------------------------------------------------------


def test_parameters_are_read_only_and_replaced_as_a_whole():
    net, x = network(), normal(44, 4, 3)
    names = set(net.parameters())
    assert names == {"0.K", "0.b", "1.K", "1.b"}
    with pytest.raises(ValueError, match="read-only"):
        net.parameters()["0.K"][0, 0] = 1.0
    new = {k: 0.5 * v for k, v in net.parameters().items()}
    net.load_parameters(new)
    assert_close(net.hessian(x), jax_truth(in_jax(net), x).d2f, 1e-12, "after loading", "jax")
    new["0.K"][...] = 0.0  # the caller's array is the caller's
    assert_close(net.hessian(x), jax_truth(in_jax(net), x).d2f, 1e-12, "after loading", "jax")


def test_parameters_option_leaves_the_stored_ones_alone():
    net, x = network(), normal(45, 4, 3)
    before = net.hessian(x)
    other = randomized(network(), seed=46)
    got = net.hessian(x, parameters=other.parameters())
    assert_close(got, jax_truth(in_jax(other), x).d2f, 1e-12, "parameters=", "jax float64")
    np.testing.assert_array_equal(net.hessian(x), before)
    changing = {k: v.copy() for k, v in other.parameters().items()}
    first = net.value(x, parameters=changing)
    changing["1.b"] += 1.0
    assert np.abs(net.value(x, parameters=changing) - first).max() > 1e-3


def test_parameters_of_a_plain_function():
    f = parametric()
    x = normal(47, 4, 3)
    p = {k: jnp.asarray(v) for k, v in f.parameters().items()}
    truth = jax_truth(lambda u: jnp.tanh(u @ p["K"] + p["b"]) * p["scale"], x)
    for a, b in zip(f.value_gradient_hessian(x), truth, strict=True):
        assert_close(a, b, 1e-12, "with params", "jax float64")
    f.load_parameters({"K": np.zeros((3, 2)), "b": np.zeros(2), "scale": np.asarray(1.0)})
    np.testing.assert_array_equal(f(x), np.zeros((4, 2)))


def test_parameters_of_another_shape_replan():
    """A network may be reloaded with other parameters; equal shapes are required."""
    f = parametric()
    with pytest.raises(ha.ParameterError, match=r"'K'.*\(3, 5\).*\(3, 2\)"):
        f.load_parameters({"K": np.zeros((3, 5)), "b": np.zeros(2), "scale": np.asarray(1.0)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: {**p, "0.k": p["0.K"]}, ["'0.k'", "unknown", "did you mean", "0.K"]),
        (lambda p: {**p, "0.Kernel": p["0.K"]}, ["'0.Kernel'", "0.K"]),
        (lambda p: {"zzz": p["0.K"]}, ["'zzz'", "unknown", "1.b"]),
        (lambda p: {k: v for k, v in p.items() if k != "1.b"}, ["missing", "1.b"]),
        (lambda p: {**p, "0.K": p["0.K"].T}, ["'0.K'", "(5, 3)", "(3, 5)"]),
        (lambda p: {**p, "1.b": np.zeros(3)}, ["'1.b'", "(3,)", "(2,)"]),
    ],
)
def test_load_parameters_names_what_is_wrong_and_changes_nothing(change, words):
    net, x = network(), normal(48, 4, 3)
    before = net.hessian(x)
    with pytest.raises(ha.ParameterError) as caught:
        net.load_parameters(change(net.parameters()))
    assert isinstance(caught.value, KeyError)
    for word in words:
        assert word in str(caught.value)
    np.testing.assert_array_equal(net.hessian(x), before)


@pytest.mark.parametrize("bad", [np.zeros((3, 5), dtype=complex), np.zeros((3, 5), dtype=object)])
def test_parameters_of_a_wrong_dtype(bad):
    net = network()
    with pytest.raises(ha.DTypeError, match=r"K.*(complex128|object).*float"):
        net.load_parameters({**net.parameters(), "0.K": bad})


def test_parameter_vector_round_trip():
    net, x = network(), normal(49, 4, 3)
    theta = net.parameter_vector()
    assert theta.shape == (sum(v.size for v in net.parameters().values()),)
    assert_close(theta, np.concatenate([v.ravel() for v in net.parameters().values()]), 1e-15)
    before = net.hessian(x)
    net.load_parameter_vector(np.zeros_like(theta))
    assert np.abs(net.value(x)).max() == 0.0
    net.load_parameter_vector(theta)
    np.testing.assert_array_equal(net.hessian(x), before)
    with pytest.raises(ha.ParameterError, match=rf"\({theta.size - 1},\).*\({theta.size},\)"):
        net.load_parameter_vector(theta[1:])


def test_a_function_without_parameters():
    f, x = ha.Function(cubic, in_shape=(3,)), normal(49, 4, 3)
    assert f.parameters() == {}
    assert f.parameter_vector().shape == (0,)
    want = f.hessian(x)
    f.load_parameters({})
    f.load_parameter_vector(np.zeros(0))
    f.to("numpy")
    np.testing.assert_array_equal(f.hessian(x), want)
    with pytest.raises(ha.BackendError, match="jax"):
        f.hessian(jnp.asarray(x))


def test_seed_and_dtype_of_a_network():
    def make(**options):
        return ha.Network(ha.Dense(3, 4, act="tanh"), ha.Dense(4, 1), **options)

    a, b, c = make(seed=1), make(seed=1), make(seed=2)
    np.testing.assert_array_equal(a.parameter_vector(), b.parameter_vector())
    assert (a.parameter_vector() != c.parameter_vector()).all()
    single = make(seed=1, dtype="float32")
    assert {v.dtype.name for v in single.parameters().values()} == {"float32"}
    x = normal(50, 3, 3)
    assert single.value(x).dtype == np.float64  # results are in the dtype of x
    assert single.value(x.astype(np.float32)).dtype == np.float32


def test_to_pins_the_library_and_dtype():
    net, x = network(), normal(51, 4, 3)
    want = net.hessian(x)
    assert net.to("numpy", dtype="float32") is net
    assert {v.dtype.name for v in net.parameters().values()} == {"float32"}
    assert_close(net.hessian(x), want, 1e-5)
    assert net.hessian(x).dtype == np.float64
    with pytest.raises(ha.BackendError, match=r"jax.*numpy"):
        net.hessian(jnp.asarray(x))
    net.to("jax")
    assert all(isinstance(v, jax.Array) for v in net.parameters().values())
    assert_close(np.asarray(net.hessian(jnp.asarray(x))), want, 1e-5)
    with pytest.raises(ha.BackendError, match=r"numpy.*jax"):
        net.hessian(x)
    net.to("numpy", dtype="float64")
    assert_close(net.hessian(x), want, 1e-5)


def test_to_torch_makes_leaves_for_an_optimiser():
    torch = pytest.importorskip("torch")
    net, x = network(), torch.asarray(normal(52, 4, 3))
    want = net.hessian(x)
    net.to("torch")
    for p in net.parameters().values():
        assert isinstance(p, torch.Tensor)
        assert p.is_leaf
        assert p.requires_grad
    optimiser = torch.optim.SGD(list(net.parameters().values()), lr=1e-3)
    loss = (net.hessian(x) ** 2).sum()
    loss.backward()
    assert_close(net.hessian(x).detach().numpy(), want.numpy(), 1e-12)
    optimiser.step()
    assert (net.hessian(x) ** 2).sum().item() < loss.item()
    net.to("numpy")
    assert all(isinstance(v, np.ndarray) for v in net.parameters().values())
    assert net.hessian(x.numpy()).shape == (4, 3, 3, 2)


# ---- pickling and copying ----------------------------------------------------------------------


def nets():
    return {
        "network": network(),
        "nested": ha.Network(network(), ha.Residual(2, h=0.5, act="gelu"), ha.Quadratic(2, 1)),
        "icnn": ha.Network(ha.icnn(3, [4, 2]), ha.InputConvexQuadratic(3, 2, 2)),
        "activations": ha.Network(
            ha.Dense(3, 3, act=ha.activation("softplus", beta=2.0, threshold=20.0)),
            ha.Dense(3, 3, act="elu"),
            ha.Dense(3, 1, act=ha.activation("leaky_relu", negative_slope=0.1)),
        ),
        "function": ha.Function(cubic, in_shape=(3,)),
        "parametric": parametric(),
    }


@pytest.mark.parametrize("how", ["pickle", "copy", "deepcopy"])
@pytest.mark.parametrize("name", nets())
def test_copies_evaluate_alike(name, how):
    f, x = nets()[name], normal(53, 4, 3)
    want = f.hessian(x)
    make = {
        "pickle": lambda a: pickle.loads(pickle.dumps(a)),
        "copy": copy.copy,
        "deepcopy": copy.deepcopy,
    }
    twin = make[how](f)
    np.testing.assert_array_equal(twin.hessian(x), want)
    assert list(twin.parameters()) == list(f.parameters())


@pytest.mark.parametrize("how", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copies_are_independent(how):
    net, x = network(), normal(54, 4, 3)
    want = net.hessian(x)
    twin = how(net)
    twin.load_parameters({k: 0.0 * v for k, v in twin.parameters().items()})
    np.testing.assert_array_equal(net.hessian(x), want)
    assert np.abs(twin.hessian(x)).max() == 0.0


def test_with_parameters_is_a_copy():
    net, x = network(), normal(55, 4, 3)
    want = net.hessian(x)
    other = randomized(network(), seed=56)
    twin = net.with_parameters(other.parameters())
    np.testing.assert_array_equal(net.hessian(x), want)
    assert_close(twin.hessian(x), other.hessian(x), 1e-14)


def test_layers_of_your_own():
    class Gate(ha.Layer):
        def __init__(self, n, m, seed=0):
            super().__init__(n, m)
            self.parts = [ha.Dense(n, m, act="sigmoid"), ha.Dense(n, m)]
            self.scale = normal(seed, m)

        def __call__(self, u):
            return self.parts[0](u) * self.parts[1](u) * self.scale

    net = randomized(ha.Network(Gate(3, 4), ha.Dense(4, 2, act="tanh")), seed=57)
    p = net.parameters()
    assert set(p) == {
        "0.parts.0.K", "0.parts.0.b", "0.parts.1.K", "0.parts.1.b", "0.scale", "1.K", "1.b",
    }  # fmt: skip

    def fn(u):
        gate = jax.nn.sigmoid(u @ p["0.parts.0.K"] + p["0.parts.0.b"])
        u = gate * (u @ p["0.parts.1.K"] + p["0.parts.1.b"]) * p["0.scale"]
        return jnp.tanh(u @ p["1.K"] + p["1.b"])

    x = normal(58, 4, 3)
    for a, b in zip(net.value_gradient_hessian(x), jax_truth(fn, x), strict=True):
        assert_close(a, b, 1e-12, "own layer", "jax float64")


def test_concatenated_conditions_stay_conditions():
    f = ha.Function(
        lambda x: np.where(np.concatenate([x[:1] > 0.0, x[1:] < 0.0]), x * x, -x), in_shape=(3,)
    )
    x = np.asarray([[1.0, 2.0, -3.0], [-1.0, -2.0, 3.0]])
    for _ in range(3):  # call by call, then recorded
        np.testing.assert_array_equal(f.value(x), [[1.0, -2.0, 9.0], [1.0, 4.0, -3.0]])


def test_functions_and_layers_say_what_they_are() -> None:
    f = ha.Function(lambda x, p: p["a"] * x, in_shape=(2,), params={"a": np.ones(2)})
    assert repr(f) == "Function(in_shape=(2,), 2 parameters)"
    assert repr(f.gradient_function()) == f"{f!r}.gradient_function()"
    two = ha.Function(lambda x, y: x[0] * y, in_shape=((2,), (3,)))
    assert repr(two) == "Function(in_shape=((2,), (3,)), 0 parameters)"
    assert repr([ha.Dense(2, 3), ha.Scale([1.0], [2.0])]) == "[Dense(2, 3), Scale(1, 1)]"
    assert repr(ha.Layer.__new__(ha.Layer)) == "Layer(?, ?)"


# ---- what a layer computes may change ------------------------------------------------------------


CHANGES = {
    "activation": lambda net: setattr(net[0], "act", ha.activations.activation("softplus")),
    "step": lambda net: setattr(net[1], "h", 0.3),
    "bias": lambda net: setattr(net[0], "b", None),
    "bias again": lambda net: [setattr(net[0], "b", b) for b in (None, np.ones(4))],
    "a layer inside": lambda net: setattr(net[2], "inner", ha.Dense(4, 2, act="gelu", seed=5)),
}


class Wrapped(ha.Layer):
    def __init__(self):
        super().__init__(4, 2)
        self.inner = ha.Dense(4, 2, act="tanh", seed=3)

    def __call__(self, u):
        return self.inner(u)


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_what_a_layer_computes_are_seen(change):
    net = ha.Network(ha.Dense(3, 4, act="tanh"), ha.Residual(4, act="tanh"), Wrapped(), seed=0)
    whole, slope = ha.Network(net), net.gradient_function()
    solver, x = ha.scipy_objective(net, 1), np.asarray([0.3, -0.2, 0.5])
    asked = [net.value, net.hessian, whole.value, slope.value, solver.fun, solver.hess]
    for ask in asked * 2:
        ask(x)
    CHANGES[change](net)
    other = ha.Network(*net.layers)
    f, df, d2f = other.value_gradient_hessian(x)
    for ask, want in zip(asked, [f, d2f, f, df, f[1], d2f[..., 1]], strict=True):
        np.testing.assert_allclose(ask(x), want, rtol=1e-13)


def test_a_layer_that_is_made_changes_no_other():
    net = ha.fully_connected([3, 4, 1], act="tanh", seed=0)
    graph = net.graph()
    ha.Network(ha.Dense(3, 4), ha.Residual(4), Wrapped(), ha.Quadratic(2, 2), seed=1)
    ha.icnn(3, [4, 1], seed=1), ha.InputConvexQuadratic(3, 4, 2)
    net.load_parameters(net.parameters())
    net[0].K = np.ones((3, 4))
    assert net.graph() is graph


# ---- a bare call for solvers ---------------------------------------------------------------------


def repeated(net, x):
    """The call that repeats net's evaluation at arrays like x; it is there after a few of them."""
    for _ in range(3):
        net.value_gradient_hessian(x)
    call = net._repeated(x, True, True)
    if call is None:
        pytest.skip("without compiled loops no evaluation is repeated")
    return call


def test_repeated_evaluations_look_at_the_values_of_each_call():
    net, x = ha.fully_connected([4, 8, 2], act="tanh", seed=0), normal(1, 4)
    call, table = repeated(net, x), normal(2, 8, 8)
    first = call(x)
    kept, before = [a.copy() for a in first], x.copy()
    x += 1.0  # in place: neither the array nor its memory is another
    read_only = before.copy()
    read_only.setflags(write=False)
    unaligned = np.frombuffer(b"0" + before.tobytes(), np.uint8)[1:].view(np.float64)
    for y in (x, table[::2, 3], table[3, ::-2], before, read_only, unaligned):
        for a, b in zip(call(y), net.value_gradient_hessian(np.array(y)), strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(first, kept, strict=True):  # results are the caller's own
        np.testing.assert_array_equal(a, b)
        a[...] = np.nan
    np.testing.assert_array_equal(call(before)[0], kept[0])


def test_repeated_evaluations_are_of_one_dtype_shape_want_and_version():
    net, x = ha.fully_connected([4, 8, 2], act="tanh", seed=0), normal(1, 4)
    assert net._repeated(x, True, True) is None
    assert repeated(net, x) is not None
    for other in (x.astype(np.float32), x[None], x.reshape(2, 2)):
        assert net._repeated(other, True, True) is None
    assert net._repeated(x, True, False) is None
    net[0].b = np.zeros(8)
    assert net._repeated(x, True, True) is None
    repeated(net, x)
    net.to("numpy", dtype="float32")
    assert net._repeated(x, True, True) is None
    assert copy.deepcopy(net)._repeated(x, True, True) is None


def test_repeated_evaluations_in_threads_do_not_share_work_buffers():
    net = ha.fully_connected([4, 32, 2], act="tanh", seed=0)
    call, xs = repeated(net, normal(1, 4)), normal(3, 200, 4)
    want = [net.value_gradient_hessian(x) for x in xs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for found, expected in zip(pool.map(call, xs), want, strict=True):
                for a, b in zip(found, expected, strict=True):
                    np.testing.assert_array_equal(a, b)


# ---- evaluations in the middle of others ---------------------------------------------------------


@pytest.mark.parametrize("what", ["hessian", "value"])
def test_an_evaluation_inside_another_one_has_its_own_buffer(what):
    """Signals and finalizers may evaluate between any two lines of a program."""
    x, entered = normal(50, 6, 3), []
    want = getattr(network(seed=7), what)(x)

    def trace(frame, event, arg):
        if event == "line" and not entered:
            entered.append(frame)
            getattr(network(seed=8), what)(x)  # a new one is performed call by call
            entered.clear()
            lines.append(frame.f_lineno)
        program = frame.f_code.co_filename.startswith("<hessarray program")
        return trace if program and frame.f_code.co_name == "run" else None

    lines = []
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        found = getattr(network(seed=7), what)(x)
    finally:
        sys.settrace(before)
    assert len(lines) > 3
    np.testing.assert_array_equal(found, want)


def test_an_output_that_is_one_of_the_inputs():
    x, y = normal(51, 2, 3), normal(52, 2, 3)
    for code in (lambda a, b: b, lambda a, b: b[0:3], lambda a, b: a):
        f = ha.Function(code, ((3,), (3,)))
        for mode in (None, True, False):
            assert not np.any(f.hessian(x, y, forward_mode=mode))
            assert not np.any(f.hessian_diagonal(x, y, forward_mode=mode))
            assert not f.laplacian(x, y, forward_mode=mode).any()


@pytest.mark.parametrize("mode", [None, True, False])
def test_outputs_without_entries(mode):
    f = ha.Function(lambda x: x.__array_namespace__().sin(x)[:0], (3,))
    x = normal(53, 2, 3)
    assert f.value(x).shape == (2, 0)
    assert f.gradient(x, forward_mode=mode).shape == (2, 3, 0)
    assert f.hessian(x, forward_mode=mode).shape == (2, 3, 3, 0)
    assert f.laplacian(x, forward_mode=mode).shape == (2, 1, 0)


class Subclass(np.ndarray):
    pass


def test_results_of_no_samples_are_arrays_of_their_own():
    x = np.zeros((0, 3))
    x.flags.writeable = False
    found = network().hessian(x)
    assert found.flags.writeable
    assert found.shape == (0, 3, 3, 2)
    assert type(network().hessian(np.zeros((0, 3)).view(Subclass))) is np.ndarray


def test_directions_that_overflow_warn_no_more_than_weights_do():
    v = np.full((2, 3), 1.7e308)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = {"do_gradient": True, "do_Hessian": True, "forward_mode": True}
        network().derivatives(normal(54, 4, 3), v=v, **options)


def test_a_memory_limit_is_for_all_threads():
    """Each holds a sample at least: where there is no room for another thread, there is none."""
    net = network(d=20, width=300)
    x = normal(55, 64, 20)
    plan = net.plan(64, "hessian")
    once, each = 8 * plan.entries_once, 8 * plan.entries_per_sample
    backend = ha.backends.backend_named("numpy")
    for room in (1, 2, 5):
        work = Work(64, each, plan.program.flops[1], room * each + each // 2, 7)
        chunk, threads = backend.schedule(work)
        assert chunk * threads <= room
    out = np.empty((64, 20, 20, 2))
    for limit in (np.float32(2 * (once + each)), 2 * (once + each)):
        net.hessian(x, memory_limit=limit, threads=7, out=out)
    assert_close(out, net.hessian(x), 1e-13, "hessian")
