"""Recorded programs: NumPy's own loops in a row give what NumPy's calls give, bit for bit."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threads import run_all

import hessarray as ha
from hessarray.backends import backend_named, numpy_backend, numpy_kernels, numpy_loops
from hessarray.backends.numpy_parts import Operation
from hessarray.backends.numpy_sizes import Sizes

kernel = SimpleNamespace(**numpy_loops.specials())
needs_loops = pytest.mark.skipif(not numpy_loops.available(), reason="built without a C compiler")

WIDTHS = st.sampled_from([1, 2, 3, 5, 8, 17])
NAMES = st.sampled_from(
    "identity quadratic tanh antitanh sigmoid softplus silu gaussian sin arctan relu".split()
)
WANTS = ("value", "gradient", "hessian", "hessian_diagonal", "laplacian", "value_gradient_hessian")


@st.composite
def networks(draw):
    """Layers in any order, with parameters of their own; the same draw gives the same network."""
    d = width = draw(WIDTHS)
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        act = draw(NAMES)
        if draw(st.booleans()):
            new = draw(WIDTHS)
            parts.append((ha.Dense, width, new, {"act": act, "bias": draw(st.booleans())}))
            width = new
        else:
            parts.append((ha.Residual, width, {"act": act, "h": draw(st.sampled_from([1.0, 0.5]))}))
    if draw(st.booleans()):
        parts.append((ha.Quadratic, width, 2, {}))
    seed = draw(st.integers(0, 1000))
    return d, lambda: ha.Network(*(kind(*a, **k) for kind, *a, k in parts), seed=seed)


def samples(n, d, dtype, layout="plain", seed=0):
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(dtype)
    if layout == "strided":
        wide = np.zeros((2 * n, 3 * d), dtype)
        wide[::2, 1::3] = x
        x = wide[::2, 1::3]
    elif layout == "reversed":
        x = np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]
    elif layout == "readonly":
        x.flags.writeable = False
    elif layout == "unaligned":
        raw = np.zeros(x.nbytes + 1, np.uint8)
        raw[1:] = np.frombuffer(x.tobytes(), np.uint8)
        x = raw[1:].view(dtype).reshape(x.shape)
        assert not x.flags.aligned
    return x


def evaluate(f, want, *x):
    found = getattr(f, want)(*x)
    return [np.array(a) for a in (found if isinstance(found, tuple) else (found,))]


def call_by_call(f, want, *x):
    """The same on a function that has recorded nothing yet, from the interpreter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numpy_backend, "record", lambda *arguments: None)
        found = evaluate(f, want, *x)
    assert not any(recordings(f))
    return found


def recordings(f):
    """Of each piece that ran so far: was it recorded?"""
    runs = [run for plan in f._plans.values() for run in plan._compiled.values()]
    return [kept is not None for run in runs for kept in run._recordings.values()]


def same_bits(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


# ---- the numbers -------------------------------------------------------------------------------


@needs_loops
@given(
    net=networks(),
    n=st.integers(1, 40),
    dtype=st.sampled_from(["float64", "float32"]),
    layout=st.sampled_from(["plain", "strided", "reversed", "readonly", "unaligned"]),
    want=st.sampled_from(WANTS),
)
def test_recorded_loops_give_what_the_calls_give(net, n, dtype, layout, want):
    d, make = net
    x = samples(n, d, dtype, layout)
    f = make()
    first, again, ready = (evaluate(f, want, x) for _ in range(3))
    assert recordings(f)
    assert all(recordings(f))
    same_bits(first, call_by_call(make(), want, x))
    same_bits(again, first)
    same_bits(ready, first)


def gathers(x):
    return np.concatenate([np.take(x, np.asarray([2, 0, 0]), axis=0), np.flip(x, axis=0)]) * x[1]


def chooses(x):
    return np.where((x > 0.0) & (x < 1.0), np.sin(x), np.maximum(x * x, 0.25 * x))


def attends(x):
    a = np.reshape(x, (2, 2))
    e = np.exp(a @ np.permute_dims(a, (1, 0)))
    return (e / np.sum(e, axis=1, keepdims=True)) @ a


def sums(x):
    a = np.reshape(np.tanh(x), (2, 2))
    return np.sum(a * a, axis=0) + np.sum(a, axis=1) * np.sum(np.exp(a))


@needs_loops
@pytest.mark.parametrize("want", WANTS)
@pytest.mark.parametrize("code", [gathers, chooses, attends, sums])
@pytest.mark.parametrize("n", [1, 3, 40])
def test_all_kinds_of_operations_are_recorded(code, want, n):
    x = samples(n, 4, "float64")
    f = ha.Function(code, in_shape=(4,))
    first, again = evaluate(f, want, x), evaluate(f, want, x)
    assert recordings(f)
    assert all(recordings(f))
    same_bits(again, first)
    same_bits(again, call_by_call(ha.Function(code, (4,)), want, x))


@needs_loops
@pytest.mark.parametrize("axes", [None, 0, 1, 2, (0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("n", [1, 3])
def test_sums_are_added_in_numpys_order(axes, order, dtype, n):
    x = samples(n, 480, dtype)
    make = lambda: ha.Function(  # noqa: E731
        lambda x: np.sum(
            np.permute_dims(np.reshape(np.exp(x), (4, 6, 20)), order) * 3.0, axis=axes
        ),
        in_shape=(480,),
    )
    f = make()
    first, again = evaluate(f, "value", x), evaluate(f, "value", x)
    assert all(recordings(f))
    same_bits(again, first)
    same_bits(again, call_by_call(make(), "value", x))


def long_gather(x):
    """A copy for each of more entries than a program takes."""
    xp = x.__array_namespace__()
    return xp.sum(xp.take(xp.sin(x), np.array([0, 2] * 2100)))


@pytest.mark.parametrize("n", [1, 7])
def test_what_cannot_be_recorded_runs_call_by_call(n):
    f = ha.Function(long_gather, in_shape=(3,))
    x = samples(n, 3, "float64")
    for _ in range(3):
        value = f.value(x)
    assert not any(recordings(f))
    np.testing.assert_allclose(value, 2100 * (np.sin(x[:, 0]) + np.sin(x[:, 2])), rtol=1e-12)


@pytest.mark.parametrize("act", ["gelu", "erf"])
def test_the_error_function_is_recorded(act):
    net = ha.fully_connected([3, 9, 2], act=act, seed=0)
    x = samples(7, 3, "float64")
    for want in (*WANTS, *WANTS):
        evaluate(net, want, x)
    assert any(recordings(net)) == numpy_loops.available()
    assert ha.check_derivatives(net, x)


@pytest.mark.parametrize("n", [1, 40])
def test_without_the_compiled_part_the_numbers_are_the_same(n, monkeypatch):
    x = samples(n, 4, "float64")
    make = lambda: ha.fully_connected([4, 16, 16, 2], act="softplus", seed=3)  # noqa: E731
    net = make()
    ours = [evaluate(net, "value_gradient_hessian", x) for _ in range(2)][1]
    for module in (numpy_loops, numpy_kernels):
        monkeypatch.setattr(module, "_loops", None)
    monkeypatch.setattr(backend_named("numpy"), "costs", numpy_backend.NumpyBackend().costs)
    assert not numpy_loops.available()
    assert not backend_named("numpy").costs.joins
    for a, b in zip(ours, evaluate(make(), "value_gradient_hessian", x), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-15 * max(1.0, abs(b).max()))


@needs_loops
def test_numbers_too_large_for_float32_are_infinite_and_say_nothing():
    f = ha.Function(lambda x: x * 1e300, in_shape=(1,))
    for _ in range(3):
        assert f.value(np.ones((2, 1), np.float32)).tolist() == [[math.inf]] * 2


@needs_loops
def test_what_overflows_on_the_way_raises_nothing():
    net = ha.fully_connected([2, 4, 1], act="tanh", seed=0)
    x = np.full((1, 2), 1e6)
    with np.errstate(all="raise"):
        for _ in range(3):
            assert np.all(np.isfinite(net.hessian(x)))
        np.asarray([1.0]) + 1.0  # no flag is left for NumPy to find


# ---- arguments that share memory ---------------------------------------------------------------


def test_a_direction_that_was_the_point_itself_may_be_another_next_time():
    make = lambda: ha.fully_connected([3, 4, 1], act="tanh", seed=0)  # noqa: E731
    x, p = samples(2, 3, "float64"), samples(2, 3, "float64", seed=1)
    net = make()
    net.hvp(x, x)
    net.hvp(x, x)  # recorded
    np.testing.assert_array_equal(net.hvp(x, p), make().hvp(x, p))


@pytest.mark.parametrize("start", [0, 2])
def test_inputs_that_overlapped_may_lie_apart_next_time(start):
    make = lambda: ha.Function(lambda x, y: x * y * y, in_shape=((3,), (3,)))  # noqa: E731
    line = samples(1, 5, "float64")[0]
    x, y = samples(1, 3, "float64", seed=1)[0], samples(1, 3, "float64", seed=2)[0]
    f = make()
    f.value(line[:3], line[start : start + 3])
    f.value(line[:3], line[start : start + 3])  # recorded
    np.testing.assert_array_equal(f.value(x, y), x * y * y)


def test_parameters_that_were_one_array_may_differ_next_time():
    make = lambda: ha.Network(  # noqa: E731
        ha.Residual(4, act="tanh"), ha.Residual(4, act="tanh"), seed=0
    )
    net, x = make(), samples(2, 4, "float64")
    tied = {k: np.ones((4, 4) if k.endswith("K") else 4) for k in net.parameters()}
    tied["1.K"], tied["1.b"] = tied["0.K"], tied["0.b"]
    net.hessian(x, parameters=tied)
    net.hessian(x, parameters=tied)  # recorded
    np.testing.assert_array_equal(net.hessian(x), make().hessian(x))


@pytest.mark.parametrize("want", WANTS)
def test_results_share_no_memory_and_are_writable(want):
    f = ha.fully_connected([3, 4, 3], act="tanh", seed=0)
    x = samples(1, 3, "float64")
    found = [getattr(f, want)(x) for _ in range(4)]
    arrays = [x, *(a for r in found for a in (r if isinstance(r, tuple) else (r,)))]
    for i, a in enumerate(arrays):
        assert a.flags.writeable
        assert not any(np.shares_memory(a, b) for b in arrays[:i])
    kept = [np.array(a) for a in arrays[1:]]
    x += 1.0
    getattr(f, want)(x)
    for a, b in zip(arrays[1:], kept, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_identity_gives_a_copy():
    f = ha.Function(lambda x: x, in_shape=(3,))
    x = samples(1, 3, "float64")
    for _ in range(3):
        assert not np.shares_memory(f.value(x), x)


def test_without_the_compiled_part_programs_run_call_by_call():
    code = """
    import sys
    sys.modules["hessarray.backends._loops"] = None  # as where no C compiler was at hand
    import numpy as np, hessarray as ha
    from hessarray.backends import numpy_loops
    assert not numpy_loops.available()
    def network(act):
        return ha.fully_connected([4, 16, 2], act=act, seed=0)
    for act in ("tanh", "gelu", "silu"):
        for n in (1, 300):
            x = np.random.default_rng(0).normal(size=(n, 4))
            for want in ("value", "gradient", "hessian", "laplacian"):
                net = network(act)
                first = getattr(net, want)(x)
                for _ in range(3):
                    assert np.array_equal(getattr(net, want)(x), first)
                assert np.array_equal(getattr(net, want)(x, threads=1), first) or n > 1
    step = 1e-4 * np.eye(4)
    numeric = (net.gradient(x[:1] + step) - net.gradient(x[:1] - step)) / 2e-4
    assert np.allclose(numeric, network(act).hessian(x[:1])[0], atol=1e-7)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120)


# ---- threads -----------------------------------------------------------------------------------


def test_threads_share_one_recorded_program():
    net = ha.fully_connected([4, 16, 16, 1], act="tanh", seed=0)
    xs = [samples(n, 4, "float64", seed=n) for n in (1, 2, 7)]
    expected = [evaluate(net, "value_gradient_hessian", x) for x in xs]
    wrong, start = [], threading.Barrier(6)

    def work(k):
        start.wait()
        for i in range(150):
            j = (i + k) % len(xs)
            found = evaluate(net, "value_gradient_hessian", xs[j])
            if not all(np.array_equal(a, b) for a, b in zip(found, expected[j], strict=True)):
                wrong.append((k, i))

    run_all(work, 6)
    assert not wrong


def test_threads_may_record_at_the_same_time():
    x = samples(3, 4, "float64")
    make = lambda: ha.fully_connected([4, 8, 1], act="tanh", seed=0)  # noqa: E731
    expected = make().hessian(x)
    for _ in range(5):
        net, found, start = make(), [], threading.Barrier(4)

        def work(k, net=net, found=found, start=start):
            start.wait()
            found.extend(net.hessian(x) for _ in range(3))

        run_all(work, 4)
        for h in found:
            np.testing.assert_array_equal(h, expected)


# ---- the ready path ----------------------------------------------------------------------------


def ready(act="tanh", n=1):
    """A network whose Hessian, Hessian-vector product and weighted Hessian were asked before."""
    net, x = ha.fully_connected([3, 4, 2], act=act, seed=0), samples(n, 3, "float64")
    for _ in range(3):
        net.hessian(x)
        net.hvp(x, x + 1.0)
    assert bool(net._ready) == (numpy_loops.available() and act == "tanh")
    return net, x


def fresh(net):
    """Another network with these parameters, that has never been evaluated."""
    twin = ha.fully_connected([3, 4, 2], act="tanh", seed=1)
    twin.load_parameters({k: np.asarray(v) for k, v in net.parameters().items()})
    return twin


def doubled(net):
    return {k: np.asarray(v) * 2.0 for k, v in net.parameters().items()}


def load(net):
    net.load_parameters(doubled(net))


def load_vector(net):
    net.load_parameter_vector(np.asarray(net.parameter_vector()) * 2.0)


def assign(net):
    net[0].K = net[0].K * 2.0


def draw_again(net):
    net.initialize(np.random.default_rng(5))


def move(net):
    net.to("numpy", dtype="float32")


@pytest.mark.parametrize("change", [load, load_vector, assign, draw_again, move])
def test_replaced_parameters_are_seen_by_the_next_call(change):
    net, x = ready()
    before = net.hessian(x)
    change(net)
    after = net.hessian(x)
    np.testing.assert_array_equal(after, fresh(net).hessian(x))
    assert not np.array_equal(before, after)


def test_parameters_replaced_while_a_call_computes_are_seen_by_the_next(monkeypatch):
    from hessarray.backends.numpy_backend import _NumpyExecutable

    net, x = ha.fully_connected([3, 4, 2], act="tanh", seed=0), samples(1, 3, "float64")
    net.hessian(x)
    unpatched = _NumpyExecutable.run

    def interrupted(self, *arguments, **options):
        found = unpatched(self, *arguments, **options)
        load(net)  # as another thread might, before the call returns
        return found

    monkeypatch.setattr(_NumpyExecutable, "run", interrupted)
    net.hessian(x)
    monkeypatch.setattr(_NumpyExecutable, "run", unpatched)
    after = net.hessian(x)
    np.testing.assert_array_equal(after, fresh(net).hessian(x))


def test_parameters_of_one_call_are_used_in_that_call_only():
    net, x = ready()
    before = net.hessian(x)
    other = doubled(net)
    given_once = net.hessian(x, parameters=other)
    net.load_parameters(other)
    np.testing.assert_array_equal(given_once, net.hessian(x))
    assert not np.array_equal(before, given_once)


def test_a_derivative_as_a_function_sees_them_too():
    net, x = ready()
    g = net.gradient_function()
    for _ in range(3):
        g.gradient(x)
    load(net)
    np.testing.assert_array_equal(g.gradient(x), fresh(net).gradient_function().gradient(x))


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1, 1, 3)])
def test_directions_of_other_dtypes_and_shapes_are_converted_as_ever(shape):
    net, x = ready()
    expected = net.hvp(x, np.ones((1, 3)))
    for dtype in ("float64", "float32", "int64", ">f8", "bool"):
        if shape in ((3,), (1, 3)):
            np.testing.assert_array_equal(net.hvp(x, np.ones(shape, dtype)), expected)
        else:
            with pytest.raises(ha.ShapeError, match="p has shape"):
                net.hvp(x, np.ones(shape, dtype))
    np.testing.assert_array_equal(net.hvp(x, np.ones((1, 3))), expected)


@pytest.mark.parametrize("x_shape", [(3,), (1, 3), (4, 3)])
def test_weights_of_every_shape_are_checked_each_time(x_shape):
    net = ha.fully_connected([3, 4, 2], act="tanh", seed=0)
    x = samples(math.prod(x_shape[:-1]), 3, "float64").reshape(x_shape)
    lam = np.asarray([2.0, -1.0])
    h = net.hessian(x)
    for _ in range(3):
        np.testing.assert_allclose(net.weighted_hessian(x, lam), h @ lam, rtol=1e-12)
        batched = np.broadcast_to(lam, (*x_shape[:-1], 2))
        np.testing.assert_allclose(net.weighted_hessian(x, batched), h @ lam, rtol=1e-12)
        np.testing.assert_allclose(net.weighted_hessian(x, lam.astype(int)), h @ lam, rtol=1e-12)
        for bad in (np.ones(3), np.ones((5, 2)), np.ones((2, 1))):
            with pytest.raises(ha.ShapeError, match="lam has shape"):
                net.weighted_hessian(x, bad)


class Labelled(np.ndarray):
    """A subclass as users have them."""


def test_other_arrays_go_through_all_checks():
    net, x = ready()
    p = x + 1.0
    with pytest.raises(ha.DTypeError, match="x has dtype int64"):
        net.hessian(x.astype(int))
    with pytest.raises(ha.DTypeError, match="x has dtype >f8"):
        net.hessian(x.astype(">f8"))
    with pytest.raises(ha.DTypeError, match="complex"):
        net.hvp(x, p * 1j)
    with pytest.raises(ha.ShapeError, match="x has shape"):
        net.hessian(np.zeros((1, 4)))
    with pytest.raises(ha.HessarrayError, match="mask"):
        net.hessian(np.ma.masked_array(x, mask=x > 0.0))
    with pytest.raises(ha.HessarrayError, match="mask"):
        net.hvp(x, np.ma.masked_array(p, mask=p > 0.0))
    with pytest.raises(ha.BackendError, match="list"):
        net.hessian(x.tolist())
    np.testing.assert_array_equal(net.hessian(x.view(Labelled)), net.hessian(x))
    np.testing.assert_array_equal(net.hvp(x, p.view(Labelled)), net.hvp(x, p))
    assert net.hessian(x.astype("float32")).dtype == np.float32
    assert net.hessian(samples(5, 3, "float64")).shape == (5, 3, 3, 2)
    assert net.hessian(x[0]).shape == (3, 3, 2)
    assert net.hessian(np.zeros((0, 3))).shape == (0, 3, 3, 2)


def test_options_are_checked_although_the_call_is_known():
    net, x = ready()
    with pytest.raises(TypeError, match="unknown"):
        net.hessian(x, unknown=1)
    with pytest.raises(ha.MemoryLimitError):
        net.hessian(x, memory_limit=1)


def test_a_mode_that_equals_true_is_still_refused():
    net, x = ready()
    for mode in (True, False) * 3:
        net.hessian(x, forward_mode=mode)
    for mode in (1, 0):
        with pytest.raises(ha.HessarrayError, match="forward_mode"):
            net.hessian(x, forward_mode=mode)


@pytest.mark.parametrize("make", [lambda: ready()[0], lambda: ha.Function(np.tanh, in_shape=(3,))])
def test_a_pinned_function_refuses_numpy_although_the_call_is_known(make):
    f, x = make(), samples(1, 3, "float64")
    for _ in range(3):
        f.hessian(x)
    f.to("array_api_strict")
    with pytest.raises(ha.BackendError, match="pinned"):
        f.hessian(x)


@pytest.mark.parametrize("layout", ["strided", "reversed", "readonly", "unaligned"])
def test_the_ready_path_takes_any_layout(layout):
    net, x = ready(n=4)
    expected = net.hessian(x)
    np.testing.assert_array_equal(net.hessian(samples(4, 3, "float64", layout)), expected)


@pytest.mark.parametrize(
    "twin", [copy.copy, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))]
)
def test_copies_of_a_network_that_ran(twin):
    net, x = ready()
    other = twin(net)
    np.testing.assert_array_equal(other.hessian(x), net.hessian(x))
    before = net.hessian(x)
    other.load_parameters(doubled(net))
    np.testing.assert_array_equal(other.hessian(x), fresh(other).hessian(x))
    if twin is not copy.copy:  # a shallow copy shares its layers
        np.testing.assert_array_equal(net.hessian(x), before)


def test_many_shapes_do_not_pile_up():
    net = ha.fully_connected([2, 3, 1], act="tanh", seed=0)
    for n in range(1, 150):
        for _ in range(3):
            net.value(np.zeros((n, 2)))
    assert recordings(net) or not numpy_loops.available()
    assert len(net._ready) <= 64
    assert len(recordings(net)) <= 3 * 64


# ---- J diag(w) J^T, and products of tall matrices ----------------------------------------------


def laid_out(rng, shape, dtype, layout):
    """Random numbers of this shape with one of several strides."""
    a = rng.standard_normal(shape).astype(dtype)
    if layout == "transposed":
        return np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2)
    if layout == "strided":
        wide = np.zeros((*shape[:-1], 2 * shape[-1] + 1), dtype)
        wide[..., 1::2] = a
        return wide[..., 1::2]
    return a[..., ::-1] if layout == "backwards" else a


@needs_loops
@given(
    n=st.integers(0, 4),
    d=st.integers(0, 27),
    width=st.integers(0, 35),
    dtype=st.sampled_from(["float64", "float32"]),
    layout=st.sampled_from(["plain", "transposed", "strided", "backwards"]),
    constant=st.booleans(),
)
def test_gram_is_the_weighted_product(n, d, width, dtype, layout, constant):
    rng = np.random.default_rng(d)
    j = laid_out(rng, (d, width) if constant else (n, d, width), dtype, layout)
    w = laid_out(rng, (n, width), dtype, layout if layout != "transposed" else "plain")
    found = numpy_loops._loops.gram(j, w)
    assert found.dtype == dtype
    expected = np.einsum("...ai,...bi,...i->...ab", *(v.astype("float64") for v in (j, j, w)))
    bound = np.einsum("...ai,...bi,...i->...ab", *(abs(v.astype("float64")) for v in (j, j, w)))
    assert np.all(abs(found - expected) <= (width + 3) * np.finfo(dtype).eps * bound)
    np.testing.assert_array_equal(found, found.swapaxes(-1, -2))


@needs_loops
@given(
    n=st.integers(0, 3),
    d=st.one_of(st.integers(0, 12), st.sampled_from([13, 25, 26, 27, 40])),
    width=st.one_of(st.integers(0, 35), st.sampled_from([256, 257, 600])),
    m=st.integers(0, 60),
    dtype=st.sampled_from(["float64", "float32"]),
    layout=st.sampled_from(["plain", "transposed", "strided", "backwards"]),
    constant=st.booleans(),
    into=st.sampled_from([None, "plain", "transposed", "strided", "backwards"]),
)
def test_grams_are_the_weighted_products(n, d, width, m, dtype, layout, constant, into):
    rng = np.random.default_rng(d)
    j = laid_out(rng, (d, width) if constant else (n, d, width), dtype, layout)
    w = laid_out(rng, (n, m, width), dtype, layout)
    out = None if into is None else laid_out(rng, (n, d, d, m), dtype, into)
    found = numpy_loops._loops.grams(j, w, out=out)
    assert found.dtype == dtype
    assert out is None or found is out
    operands = [v.astype("float64") for v in (j, j, w)]
    expected = np.einsum("...ai,...bi,...mi->...abm", *operands)
    bound = np.einsum("...ai,...bi,...mi->...abm", *map(abs, operands))
    assert np.all(abs(found - expected) <= (width + 3) * np.finfo(dtype).eps * bound)
    np.testing.assert_array_equal(found, found.swapaxes(1, 2))


@needs_loops
@pytest.mark.parametrize("m", [7, 21])
@pytest.mark.parametrize("d", [127, 128, 129, 130])
def test_grams_of_many_directions(d, m):
    rng = np.random.default_rng(d)
    j, w = rng.standard_normal((2, d, 9)), rng.standard_normal((2, m, 9))
    found = numpy_loops._loops.grams(j, w)
    np.testing.assert_allclose(found, np.einsum("...ai,...bi,...mi->...abm", j, j, w), atol=1e-12)
    np.testing.assert_array_equal(found, found.swapaxes(1, 2))


@needs_loops
def test_gram_keeps_what_is_no_number():
    j = np.ones((2, 5, 9))
    j[1, 2, 3] = np.nan
    found = numpy_loops._loops.gram(j, np.ones((2, 9)))
    assert np.isnan(found[1]).sum() == 9  # row and column 2
    np.testing.assert_array_equal(found[0], np.full((5, 5), 9.0))


@needs_loops
@pytest.mark.parametrize("m", [7, 12, 21])
def test_grams_keep_what_is_no_number_apart(m):
    j, w = np.ones((2, 5, 9)), np.ones((2, m, 9))
    w[0, 3, 4] = np.nan
    j[1, 2, 3] = np.nan
    found = numpy_loops._loops.grams(j, w)
    assert np.isnan(found[0, ..., 3]).all()
    np.testing.assert_array_equal(np.delete(found[0], 3, axis=-1), np.full((5, 5, m - 1), 9.0))
    assert np.isnan(found[1]).sum() == 9 * m  # row and column 2


@needs_loops
@pytest.mark.parametrize("act", ["tanh", "softplus", "silu"])
def test_sites_of_one_output_are_grams_and_exactly_symmetric(act):
    net = ha.Network(ha.Dense(9, 64, act=act), ha.Dense(64, 40, act=act), ha.Dense(40, 1), seed=0)
    plan = net.plan(500)
    assert any(s.op == "gram" for s in plan.program.steps)
    x = samples(500, 9, "float64")
    h = net.hessian(x)[..., 0]
    np.testing.assert_array_equal(h, h.swapaxes(1, 2))
    whole = net.hessian(x, forward_mode=True)[..., 0]  # carried forward: no gram
    np.testing.assert_allclose(h, whole, rtol=0, atol=1e-13 * abs(whole).max())


@needs_loops
@pytest.mark.parametrize("n", [1, 300])
def test_sites_of_several_outputs_are_grams_of_one_jacobian(n):
    net = ha.Network(
        ha.resnet(16, 3, h=0.5, act="tanh", seed=0), ha.Dense(16, 8, act="tanh"), seed=1
    )
    steps = net.plan(n).program.steps
    assert any(s.op == "gram" and s.out.shape == (16, 16, 8) for s in steps)
    x = samples(n, 16, "float64")
    h = net.hessian(x)
    again = net.hessian(x)  # recorded
    same_bits([h], [again])
    assert all(recordings(net))
    for k in range(8):
        one = net.weighted_hessian(x, np.eye(8)[k])
        np.testing.assert_allclose(h[..., k], one, rtol=0, atol=1e-14 * abs(one).max())
    whole = net.hessian(x, forward_mode=True)  # carried forward: no gram
    np.testing.assert_allclose(h, whole, rtol=0, atol=1e-13 * abs(whole).max())


# ---- numbers of samples that were not recorded -------------------------------------------------


def recorded_again(*arguments):
    raise AssertionError("a number of samples was recorded again")


@needs_loops
@given(
    net=networks(),
    counts=st.lists(st.integers(40, 300), min_size=5, max_size=5, unique=True),
    dtype=st.sampled_from(["float64", "float32"]),
    want=st.sampled_from(WANTS),
)
def test_after_three_numbers_of_samples_no_other_is_recorded(net, counts, dtype, want):
    d, make = net
    f = make()
    for n in counts[:3]:
        for _ in range(2):
            evaluate(f, want, samples(n, d, dtype))
    for n in counts[3:]:
        x = samples(n, d, dtype)
        expected = call_by_call(make(), want, x)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(numpy_backend, "record", recorded_again)
            same_bits(evaluate(f, want, x), expected)
            same_bits(evaluate(f, want, x), expected)
        assert all(recordings(f))


def growing(n, *, more=0, ufunc=np.add):
    """One of a program for n samples; with ``more`` its lengths are not linear in n."""
    shape, strides = (n, 3 + more), ((24, 8), (24 * n, 8), (24, 8))
    return Operation(0, ufunc, "ddd", (0, 1, 2), (0, 24 * n, 0), shape, strides)


LITERALS = np.array([0.5, 0.0])


def test_lengths_strides_and_offsets_grow_with_the_samples():
    sizes = Sizes()
    for n in (1, 4, 9, 6):
        assert sizes.at(7) is None
        sizes.learn(n, [growing(n)], (3, LITERALS))
    assert [sizes.at(n) for n in (2, 7, 900)] == [[growing(n)] for n in (2, 7, 900)]
    assert sizes.at(1) is None  # axes of one entry have any strides
    assert sizes.shared == (3, LITERALS)


@pytest.mark.parametrize(
    ("last", "shared"),
    [
        ([growing(6, more=1)], (3, LITERALS)),
        ([growing(6, ufunc=np.multiply)], (3, LITERALS)),
        ([growing(6)] * 2, (3, LITERALS)),
        ([growing(6)], (4, LITERALS)),
        ([growing(6)], (3, -LITERALS)),
        ([growing(6)._replace(shape=(6,))], (3, LITERALS)),
    ],
)
def test_what_is_not_as_expected_is_recorded_each_time(last, shared):
    sizes = Sizes()
    for n, operations, common in (
        (4, [growing(4)], (3, LITERALS)),
        (9, [growing(9)], (3, LITERALS)),
        (6, last, shared),
        (8, [growing(8)], (3, LITERALS)),
    ):
        sizes.learn(n, operations, common)
    assert sizes.at(7) is None


@pytest.mark.parametrize("second", [(9, 4), (9,)])
def test_what_is_not_a_multiple_is_recorded_each_time(second):
    """Another axis, or one that grows by a fifth of an entry for each sample."""
    sizes = Sizes()
    for n, shape in ((4, (4, 3)), (9, second), (6, second), (8, (8, 3))):
        sizes.learn(n, [growing(n)._replace(shape=shape)], (3, LITERALS))
    assert sizes.at(7) is None


# ---- kernels that join operations ----------------------------------------------------------------

needs_packed = pytest.mark.skipif(
    not numpy_kernels.has_products(), reason="no compiled kernel for this processor's vectors"
)


@needs_packed
@settings(max_examples=200)
@given(
    n=st.integers(0, 3),
    m=st.sampled_from([1, 2, 3, 7, 8, 13, 40, 97]),
    k=st.sampled_from([1, 5, 16, 64, 255, 256, 257, 600]),
    p=st.sampled_from([1, 7, 8, 10, 24, 25, 48, 65, 270, 540]),
    dtype=st.sampled_from(["float64", "float32"]),
    layout=st.sampled_from(["plain", "transposed", "strided"]),
    scale=st.sampled_from(["none", "entries", "samples", "rows"]),
    plus=st.sampled_from(["none", "entries", "bias", "in place"]),
    turned=st.booleans(),
)
def test_products_with_packed_constants(n, m, k, p, dtype, layout, scale, plus, turned):
    rng = np.random.default_rng(m + k)
    a, b = laid_out(rng, (n, m, k), dtype, layout), laid_out(rng, (k, p), dtype, layout)
    shape = {"none": (), "entries": (n, m, k), "samples": (m, k), "rows": (n, 1, k)}[scale]
    s = laid_out(rng, shape, dtype, layout) if shape else None
    of_t = ((p,), "plain") if plus == "bias" else ((n, m, p), layout)
    t = laid_out(rng, of_t[0], dtype, of_t[1])
    t = None if plus == "none" else t
    found = t if plus == "in place" else np.full((n, m, p), np.nan, dtype)
    left, first = a if s is None else a * s, np.zeros(p) if t is None else t.copy()
    if turned:  # the transpose is what is packed
        kernel.row_dots(a, numpy_kernels.pack(b.T), found, scale=s, plus=t)
    else:
        kernel.packed_matmul(a, numpy_kernels.pack(b), found, scale=s, plus=t)
    exact = first + left.astype("float64") @ b.astype("float64")
    bound = abs(first) + abs(left).astype("float64") @ abs(b).astype("float64")
    assert np.all(abs(found - exact) <= (k + 2) * np.finfo(dtype).eps * bound)


@needs_packed
@pytest.mark.parametrize("name", ["packed_matmul", "row_dots"])
def test_what_lies_beyond_a_row_is_not_read(name):
    """The kernels' own memory, which is used again, may hold anything."""
    multiply, b = getattr(kernel, name), np.ones((48, 48))
    for columns in (48, 41):
        right = b[:, :columns] if name == "row_dots" else b[:columns]
        a = np.full((3, columns), np.nan if columns == 48 else 1.0)
        out = np.empty((3, 48))
        multiply(a, numpy_kernels.pack(right), out, scale=np.ones(columns))
    np.testing.assert_array_equal(out, 41.0)


@needs_packed
def test_products_do_not_depend_on_the_cut():
    rng = np.random.default_rng(0)
    a, s, b = (rng.standard_normal(shape) for shape in ((99, 70), (99, 70), (70, 45)))
    ready, whole = numpy_kernels.pack(b), np.empty((99, 45))
    kernel.packed_matmul(a, ready, whole, scale=s)
    for rows in (1, 2, 3, 5, 11):
        parts = np.empty_like(whole)
        for i in range(0, 99, rows):
            kernel.packed_matmul(a[i : i + rows] * s[i : i + rows], ready, parts[i : i + rows])
        np.testing.assert_array_equal(parts, whole)


@needs_packed
def test_a_matrix_that_is_not_packed_for_the_product():
    a, b = np.ones((4, 16)), numpy_kernels.pack(np.ones((16, 24)))
    with pytest.raises(ValueError, match="not packed"):
        kernel.packed_matmul(a, b, np.empty((4, 40)))
    with pytest.raises(ValueError, match="not packed"):
        kernel.packed_matmul(a, b[::2], np.empty((4, 8)))
    with pytest.raises(ValueError, match="not packed"):
        kernel.row_dots(a, b, np.empty((4, 40)))


@needs_packed
def test_one_sample_packs_a_matrix_once_for_both_directions():
    def packed(n):
        steps = net.plan(n).in_place.steps
        return Counter(s.op for s in steps if s.op in ("pack", "row_dots"))

    net = ha.Network(ha.Dense(9, 40, act="silu"), ha.Dense(40, 30, act="silu"), seed=0)
    net = ha.Network(net, ha.Dense(30, 1), seed=0)
    assert packed(1)["row_dots"] > 0
    assert packed(10)["row_dots"] == 0
    assert packed(1)["pack"] < packed(10)["pack"]
    x = samples(10, 9, "float64")
    for whole, one in zip(
        net.value_gradient_hessian(x), net.value_gradient_hessian(x[3]), strict=True
    ):
        np.testing.assert_allclose(one, whole[3], rtol=1e-13, atol=1e-15)


@needs_loops
@given(
    n=st.integers(1, 3),
    d=st.integers(1, 27),
    width=st.integers(1, 35),
    dtype=st.sampled_from(["float64", "float32"]),
    layout=st.sampled_from(["plain", "transposed", "strided"]),
    in_place=st.booleans(),
)
def test_gram_plus_adds_to_what_need_not_be_symmetric(n, d, width, dtype, layout, in_place):
    rng = np.random.default_rng(d)
    j, w = laid_out(rng, (n, d, width), dtype, layout), laid_out(rng, (n, width), dtype, "plain")
    t = laid_out(rng, (n, d, d), dtype, layout)
    expected = t + numpy_loops._loops.gram(j, w)
    out = t if in_place else np.full((n, d, d), np.nan, dtype)
    numpy_loops._loops.gram_plus(j, w, t, out)
    np.testing.assert_array_equal(out, expected)


@needs_loops
@given(
    shape=st.sampled_from([(0,), (3,), (8, 17), (4, 5, 33)]),
    dtype=st.sampled_from(["float64", "float32"]),
    layout=st.sampled_from(["plain", "strided"]),
    factor=st.sampled_from(["entries", "rows", "number"]),
    in_place=st.booleans(),
)
def test_multiply_add(shape, dtype, layout, factor, in_place):
    rng = np.random.default_rng(0)
    a, c = (laid_out(rng, shape, dtype, layout) for _ in range(2))
    b = {"entries": a[::-1], "rows": a[..., :1], "number": -0.5}[factor]
    expected = c.astype("float64") + a.astype("float64") * np.asarray(b, "float64")
    size = abs(c) + abs(a * b)
    out = c if in_place else np.full(shape, np.nan, dtype)
    numpy_loops._loops.multiply_add(a, b, c, out)
    assert np.all(abs(out - expected) <= np.finfo(dtype).eps * size)


@needs_loops
@given(
    n=st.integers(1, 3),
    rows=st.integers(1, 5),
    width=st.sampled_from([1, 7, 8, 40, 129]),
    axis=st.integers(0, 1),
    dtype=st.sampled_from(["float64", "float32"]),
    layout=st.sampled_from(["plain", "strided"]),
    shared=st.booleans(),
)
def test_product_sum(n, rows, width, axis, dtype, layout, shared):
    rng = np.random.default_rng(0)
    x = laid_out(rng, (n, rows, width), dtype, layout)
    y = x if shared else laid_out(rng, (rows, width), dtype, layout)
    out = np.full(x.shape[:axis] + x.shape[axis + 1 :], np.nan, dtype)
    kernel.product_sum(x, y, axis, out)
    exact = np.sum(x.astype("float64") * y, axis=axis)
    size = np.sum(abs(x * y), axis=axis)
    assert np.all(abs(out - exact) <= (x.shape[axis] + 1) * np.finfo(dtype).eps * size)


def slopes_of(name, z):
    """s, s' and s'' with the largest term of each."""
    z = mpmath.mpf(float(z))
    if name == "tanh":
        t, slope = mpmath.tanh(z), mpmath.sech(z) ** 2
        return [(v, 0) for v in (t, slope, -2 * t * slope)]
    e = mpmath.exp(-abs(z))
    q = 1 / (1 + e)
    sigma, slope, t = (q if z >= 0 else e * q), e * q * q, mpmath.tanh(z / 2)
    if name == "sigmoid":
        return [(v, 0) for v in (sigma, slope, -t * slope)]
    return [(z * sigma, 0), (sigma + z * slope, sigma), (slope * (2 - z * t), 2 * slope)]


@needs_loops
@given(
    name=st.sampled_from(["tanh", "sigmoid", "silu"]),
    orders=st.sampled_from(["0", "1", "01", "2", "02", "12", "012"]),
    n=st.sampled_from([0, 1, 7, 32, 100]),
    dtype=st.sampled_from(["float64", "float32"]),
    layout=st.sampled_from(["plain", "strided"]),
    size=st.sampled_from([1e-30, 1e-3, 1.0, 3.0, 20.0, 90.0, 400.0]),
    in_place=st.booleans(),
)
def test_activations_with_their_slopes(name, orders, n, dtype, layout, size, in_place):
    z = laid_out(np.random.default_rng(0), (n,), dtype, layout)
    z *= z.dtype.type(size)
    with mpmath.workprec(160):
        exact = [slopes_of(name, v) for v in z]
    found = [np.full_like(z, np.nan) for _ in orders]
    if in_place:
        found[0] = z
    getattr(numpy_loops._loops, f"{name}_{orders}")(z, *found)
    eps, tiny = float(np.finfo(dtype).eps), float(np.finfo(dtype).smallest_subnormal)
    for order, values in zip(map(int, orders), found, strict=True):
        for v, slopes in zip(values, exact, strict=True):
            right, term = slopes[order]
            # At a zero of the slope its terms cancel.
            bound = 4 * max(eps * abs(float(right)), tiny) + 2 * eps * float(term)
            assert abs(float(v) - right) <= bound


@needs_loops
def test_activations_of_zeros_infinities_and_no_number():
    z = np.asarray([0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, 1e308, -1e308, 710.0, -740.0])
    with np.errstate(all="ignore"):
        tanh = numpy_loops._loops.tanh_012(z)
        sigmoid = numpy_loops._loops.sigmoid_012(z)
        silu = numpy_loops._loops.silu_012(z)
    nan, last = np.nan, math.exp(-740.0)
    for found, right in zip(
        (*tanh, *sigmoid, *silu),
        (
            [0.0, -0.0, 1.0, -1.0, nan, 5e-324, 1.0, -1.0, 1.0, -1.0],
            [1.0, 1.0, 0.0, 0.0, nan, 1.0, 0.0, 0.0, 0.0, 0.0],
            [-0.0, 0.0, -0.0, 0.0, nan, -1e-323, -0.0, 0.0, -0.0, 0.0],
            [0.5, 0.5, 1.0, 0.0, nan, 0.5, 1.0, 0.0, 1.0, last],
            [0.25, 0.25, 0.0, 0.0, nan, 0.25, 0.0, 0.0, math.exp(-710.0), last],
            [-0.0, 0.0, -0.0, 0.0, nan, 0.0, -0.0, 0.0, -math.exp(-710.0), last],
            [0.0, -0.0, np.inf, -0.0, nan, 0.0, 1e308, -0.0, 710.0, -740.0 * last],
            [0.5, 0.5, 1.0, -0.0, nan, 0.5, 1.0, -0.0, 1.0, -739.0 * last],
            [0.5, 0.5, -0.0, -0.0, nan, 0.5, -0.0, -0.0, -708.0 * math.exp(-710.0), -738.0 * last],
        ),
        strict=True,
    ):
        np.testing.assert_allclose(found, right, rtol=1e-14, atol=1e-320)
        np.testing.assert_array_equal(np.signbit(found[[0, 1, 2, 3]]), np.signbit(right[:4]))


def kernels_of(plan):
    """The activations' kernels of a program that runs in place."""
    return [s.attributes["name"] for s in plan.in_place.at(2) if s.op == "activation"]


@needs_packed
def test_an_activation_and_its_slopes_are_one_step():
    net = ha.Network(ha.Dense(5, 16, act="silu"), ha.Dense(16, 16, act="softplus"), ha.Dense(16, 1))
    assert kernels_of(net.plan(300)) == ["silu_012", "sigmoid_01"]
    assert kernels_of(net.plan(300, "value")) == ["silu_0"]
    alone = ha.Network(ha.Dense(5, 16, act="tanh"), seed=0).plan(300, "value")
    assert kernels_of(alone) == []  # NumPy's own
    assert any(s.op == "tanh" for s in alone.in_place.at(2))


@pytest.mark.parametrize("n", [1, 30])
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "silu", "softplus", "antitanh"])
def test_activations_of_what_is_broadcast(name, n):
    """Their code may read what their argument was broadcast from."""
    act = ha.activation(name)

    def broadcast(x):
        xp = x.__array_namespace__()
        return xp.sum(act(xp.broadcast_to(x, (3, 5))))

    f = ha.Function(broadcast, in_shape=(5,))
    thrice = ha.Function(lambda x: 3.0 * np.sum(act(x)), in_shape=(5,))
    x = samples(n, 5, "float64")
    for want in ("value", "gradient", "hessian", "laplacian", "value_gradient_hessian"):
        found, right = getattr(f, want)(x), getattr(thrice, want)(x)
        if not isinstance(found, tuple):
            found, right = (found,), (right,)
        for a, b in zip(found, right, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)


@needs_packed
def test_activations_with_other_slopes_are_not_one_step():
    parameters = {f"w{i}": np.random.default_rng(i).standard_normal((5, 16)) for i in range(5)}

    def held(x, p):
        xp = x.__array_namespace__()
        z = [x @ p[k] for k in sorted(p)]
        z[0] = xp.stop_gradient(z[0])
        parts = [ha.activation("silu")(v) for v in z]
        return xp.sum(parts[0] * parts[1] + parts[2] * parts[3] + parts[4])

    f = ha.Function(held, 5, params=parameters)
    assert sorted(kernels_of(f.plan(1))) == ["silu_0", "silu_012"]
    x = samples(1, 5, "float64")
    found = f.hessian(x)
    np.testing.assert_allclose(found, f.hessian(x, forward_mode=True), rtol=1e-12, atol=1e-13)


@needs_packed
def test_independent_activations_are_one_step_with_their_slopes():
    parameters = {f"w{i}": np.random.default_rng(i).standard_normal((5, 16)) for i in range(5)}

    def five(x, p):
        xp = x.__array_namespace__()
        parts = [ha.activation("silu")(x @ p[k]) for k in sorted(p)]
        return xp.sum(parts[0] * parts[1] + parts[2] * parts[3] + parts[4])

    f = ha.Function(five, 5, params=parameters)
    assert kernels_of(f.plan(1)) == ["silu_012"]
    x = samples(1, 5, "float64")
    found = f.hessian(x)
    np.testing.assert_allclose(found, f.hessian(x, forward_mode=True), rtol=1e-12, atol=1e-13)


@needs_packed
def test_what_is_joined():
    net = ha.Network(
        ha.Dense(5, 32, act="tanh"), ha.resnet(32, 2, h=0.5, act="tanh"), ha.Dense(32, 1), seed=0
    )
    plan = net.plan(300)
    before, after = ([s.op for s in p.at(2)] for p in (plan.program, plan.in_place))
    assert not {"packed_matmul", "gram_plus", "multiply_add"} & set(before)  # for other backends
    assert {"packed_matmul", "gram_plus", "multiply_add"} <= set(after)
    given = [s.attributes["given"] for s in plan.in_place.at(2) if s.op == "packed_matmul"]
    assert {(), ("scale",), ("plus",), ("scale", "plus")} >= set(given) >= {("plus",)}
    for op in ("multiply", "add"):
        assert after.count(op) < before.count(op)
    assert after.count("activation") == 3
    assert not {"tanh", "cosh", "reciprocal", "square"} & set(after)
    laplacian = net.plan(300, "laplacian")
    assert any(s.op == "product_sum" for s in laplacian.in_place.at(2))
    x = samples(300, 5, "float64")
    forward = net.hessian(x, forward_mode=True)
    found = net.hessian(x)
    np.testing.assert_allclose(found, forward, rtol=0, atol=1e-13 * abs(forward).max())
    trace = np.trace(found[..., 0], axis1=1, axis2=2)
    np.testing.assert_allclose(net.laplacian(x)[:, 0, 0], trace, rtol=1e-12, atol=1e-13)


@needs_packed
def test_what_is_used_twice_or_returned_is_not_joined():
    k, c = np.random.default_rng(0).standard_normal((2, 16, 16))

    def f(x):
        xp = x.__array_namespace__()
        z = xp.tanh(x) * x  # met by a matrix and used again
        u = z @ k
        total = u + x
        return xp.concat([total, z, u @ c, total * x + x])

    function = ha.Function(f, in_shape=(16,))
    x = samples(40, 16, "float64")
    z = np.tanh(x) * x
    total = z @ k + x
    expected = np.concatenate([total, z, z @ k @ c, total * x + x], axis=1)
    for _ in range(3):
        np.testing.assert_allclose(function.value(x), expected, rtol=1e-12, atol=1e-13)


# ---- the compiled part itself ------------------------------------------------------------------


def operation(**changes):
    """np.add of four entries, with some of the fields replaced."""
    fields = {
        "kind": 0, "ufunc": np.add, "types": "ddd", "bases": (0, 0, 0), "offsets": (0, 0, 0),
        "shape": (4,), "strides": ((8,), (8,), (8,)), "core": (), "core_strides": (),
    }  # fmt: skip
    return tuple((fields | changes).values())


MATRIX = {
    "kind": 1, "ufunc": np.matmul, "shape": (), "strides": ((), (), ()), "core": (2, 2, 2),
    "core_strides": (16, 8) * 3,
}  # fmt: skip
COPY = {"kind": 2, "ufunc": None, "types": "?dd", "core": (8,), "strides": ((1,), (8,), (8,))}


def program(*operations, bases=1):
    return numpy_loops._loops.Program(list(operations), bases)


@needs_loops
@pytest.mark.parametrize("n", [1, 7, 63, 64, 65, 700])
def test_chunks_in_one_call_give_what_single_chunks_give(n, monkeypatch):
    net = ha.fully_connected([3, 16, 16, 2], act="tanh", seed=0)
    x = samples(n, 3, "float64")
    monkeypatch.setattr(numpy_backend, "_CACHE_BYTES", 1 << 14)
    seen = []
    for _ in range(3):
        same_bits(
            net.value_gradient_hessian(x), net.value_gradient_hessian(x, progress=seen.append)
        )
    assert seen[-1] == n


@needs_loops
def test_what_a_program_does():
    a = np.arange(4.0)
    program(operation()).run(0, (a,))
    np.testing.assert_array_equal(a, 2.0 * np.arange(4.0))
    sums = {"strides": ((0,), (8,), (0,))}
    program(operation(**sums)).run(0, (a,))  # adds to the first entry
    np.testing.assert_array_equal(a, [12.0, 2.0, 4.0, 6.0])
    program(operation(**MATRIX | {"bases": (0, 0, 1)}), bases=2).run(0, (a,), (b := np.zeros(4),))
    np.testing.assert_array_equal(b.reshape(2, 2), a.reshape(2, 2) @ a.reshape(2, 2))
    mask = np.asarray([True, False, True, False])
    program(operation(**COPY | {"bases": (0, 1, 2)}), bases=3).run(
        0, (mask,), (a, b := np.zeros(4))
    )
    np.testing.assert_array_equal(b, a * mask)
    assert program().run(0, (a,)) is None


@needs_loops
@pytest.mark.parametrize(
    "changes",
    [
        {"kind": -1},
        {"kind": 3},
        {"ufunc": None},
        {"ufunc": len},
        {"ufunc": np.matmul},
        {"ufunc": np.tanh},
        {"types": "dd"},
        {"types": ""},
        {"types": "ddf"},
        {"types": "qqq"},
        {"types": "OOO"},
        {"types": "zzz"},
        {"bases": (0, 0, 1)},
        {"bases": (0, -1, 0)},
        {"bases": (0, 0)},
        {"bases": (0, 0), "offsets": (0, 0), "strides": ((8,), (8,))},
        {"bases": (0, 0, 0, 0)},
        {"bases": 0},
        {"offsets": (0, 0)},
        {"offsets": (0, -8, 0)},
        {"offsets": (0, "a", 0)},
        {"offsets": (0, 2**70, 0)},
        {"offsets": (0, 2**62, 0)},
        {"shape": (1,) * 9, "strides": ((8,) * 9,) * 3},
        {"shape": (0,)},
        {"shape": (-4,)},
        {"shape": (2**62,)},
        {"shape": [4]},
        {"strides": ((8,), (8,))},
        {"strides": ((8,), (8,), (8, 8))},
        {"strides": ((8,), (8,), (-8,))},
        {"strides": 8},
        {"core": (1,)},
        MATRIX | {"core": ()},
        MATRIX | {"core": (2, 0, 2)},
        MATRIX | {"core_strides": (16, 8)},
        MATRIX | {"ufunc": np.add},
        MATRIX | {"bases": (0, 0), "offsets": (0, 0), "strides": ((), ())},
        MATRIX | {"core": (2, 2)},
        MATRIX | {"core_strides": (16, 8) * 2},
        MATRIX | {"core_strides": (-16, 8, 16, 8, 16, 8)},
        COPY | {"core": (0,)},
        COPY | {"core": (64,)},
        COPY | {"types": "ddd"},
        COPY | {"types": "?"},
    ],
)
def test_operations_that_do_not_fit_are_refused(changes):
    with pytest.raises((ValueError, TypeError, LookupError, OverflowError)):
        program(operation(**changes))


@needs_loops
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ([],),
        ((operation(),), 1),
        ([operation()], "a"),
        ([None], 1),
        ([()], 1),
        ([list(operation())], 1),
        ([operation()[:-1]], 1),
        ([], -1),
        ([], 2**62),
    ],
)
def test_programs_that_are_none_are_refused(arguments):
    with pytest.raises((ValueError, TypeError)):
        numpy_loops._loops.Program(*arguments)


@needs_loops
@pytest.mark.parametrize(
    "groups",
    [
        (),
        ((),),
        ((np.zeros(4), np.zeros(4)),),
        ((np.zeros(4),), (np.zeros(4),)),
        ((None,),),
        (([0.0] * 4,),),
        ([np.zeros(4)],),
        (np.zeros(4),),
        ((np.zeros(3),),),
        ((np.zeros(8)[::2],),),
        ((np.broadcast_to(0.0, 4),),),
        ((np.frombuffer(bytes(32)),),),
    ],
)
def test_arrays_that_do_not_fit_are_refused(groups):
    with pytest.raises((ValueError, TypeError)):
        program(operation()).run(0, *groups)


@needs_loops
def test_more_bases_than_fit_on_the_stack():
    arrays = [np.full(4, float(k)) for k in range(300)]
    p = program(operation(bases=(299, 298, 299)), bases=300)
    p.run(0, tuple(arrays[:100]), tuple(arrays[100:]))
    assert arrays[299].tolist() == [597.0] * 4
    with pytest.raises(TypeError, match="300"):
        p.run(0, tuple(arrays[:-1]))
