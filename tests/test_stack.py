"""Stacking changes how many calls there are, never what they compute."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hessarray as ha
import hessarray.plan.lower
from hessarray.backends import backend_named
from hessarray.plan.plan import make_plan
from hessarray.plan.step import VIEWS
from hessarray.plan.want import Want

WANTS = ("value", "gradient", "hessian", "hessian_diagonal", "laplacian")


def attention(x):
    xp = x.__array_namespace__()
    a = xp.reshape(x, (3, 2))
    e = xp.exp(a @ xp.permute_dims(a, (1, 0)))
    return (e / xp.sum(e, axis=1, keepdims=True)) @ a


def branches(x):
    """The same functions of several parts, whose results meet again."""
    xp = x.__array_namespace__()
    parts = [xp.tanh(x[:2]), xp.tanh(x[2:5] * 2.0), xp.sin(x[1:4]), xp.tanh(x[5:] + 1.0)]
    return xp.sum(parts[0]) * parts[1] * parts[2] + parts[3]


def pair(x, y):
    xp = x.__array_namespace__()
    return xp.tanh(x) * xp.tanh(y) + xp.sin(x @ y)


def differences(x, p):
    """Sums with factors, times matrices, and their differences."""
    xp = x.__array_namespace__()
    u = (xp.tanh(x) - 2.0 * xp.sin(x)) @ p["K"]
    return u - xp.tanh(u) @ p["L"] - 3.0 * (xp.exp(-u) @ p["L"])


def mixed():
    return ha.Network(
        ha.Dense(6, 7, act="tanh"),
        ha.Residual(7, h=0.5, act="softplus"),
        ha.Dense(7, 3, act="tanh"),
        ha.Dense(3, 9, act="softplus"),
        ha.Quadratic(9, 2),
        seed=0,
    )


FUNCTIONS = {
    "dense": lambda: ha.fully_connected([6, 16, 16, 16, 2], act="tanh", seed=0),
    "residual": lambda: ha.resnet(6, 4, h=0.5, act="tanh", seed=0),
    "mixed": mixed,
    "convex": lambda: ha.icnn(6, [5, 5, 5], seed=0),
    "attention": lambda: ha.Function(attention, in_shape=(6,)),
    "branches": lambda: ha.Function(branches, in_shape=(6,)),
    "differences": lambda: ha.Function(
        differences,
        in_shape=(6,),
        params={k: np.sin(np.arange(36.0) + i).reshape(6, 6) / 3.0 for i, k in enumerate("KL")},
    ),
    "two inputs": lambda: ha.Function(pair, in_shape=((3,), (3,))),
}


def points(f, n, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((n, *shape)) for shape in f.in_shapes]


def flat(found):
    """All arrays of a result, whatever tuples they are in."""
    return [a for part in found for a in flat(part)] if isinstance(found, tuple) else [found]


def costs_of(patch, name="numpy", **changes):
    """Let the planner weigh this library's costs otherwise."""
    backend = backend_named(name)
    patch.setattr(backend, "costs", replace(backend.costs, **changes))


def unstacked(patch):
    patch.setattr(hessarray.plan.lower, "stack", lambda builder, outputs, n, costs: outputs)


def calls(plan):
    """Array operations in a chunk; joining in place is none."""
    return sum(s.op not in VIEWS and s.op != "concat" and bool(s.args) for s in plan.program.at(2))


def joints(plan):
    return sum(s.op == "concat" for s in plan.program.at(2))


# ---- fewer calls -------------------------------------------------------------------------------


@pytest.mark.parametrize("want", ["hessian", "laplacian", ("value", "gradient", "hessian")])
@pytest.mark.parametrize("name", ["dense", "residual", "mixed"])
def test_one_sample_takes_fewer_calls(name, want, monkeypatch):
    costs_of(monkeypatch, whole=frozenset())  # what has a kernel leaves less to stack
    stacked = FUNCTIONS[name]().plan(1, want)
    unstacked(monkeypatch)
    plain = FUNCTIONS[name]().plan(1, want)
    assert stacked.bracket == plain.bracket
    assert calls(stacked) + 5 <= calls(plain)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("n", "changes"), [(10, {"call": 0.0, "matrix": 0.0}), (10**6, {})])
def test_nothing_is_stacked_where_calls_cost_nothing(name, n, changes, monkeypatch):
    costs_of(monkeypatch, gram=False, **changes)  # each J diag(w) J^T costs something besides calls
    ours = FUNCTIONS[name]().plan(n, "hessian")
    unstacked(monkeypatch)
    plain = FUNCTIONS[name]().plan(n, "hessian")
    assert joints(ours) == joints(plain)
    assert calls(ours) == calls(plain)


@pytest.mark.parametrize("name", ["dense", "residual", "mixed", "attention", "branches"])
def test_the_dearer_a_call_the_fewer_there_are(name, monkeypatch):
    counts = []
    for call in (0.0, 1e-7, 1e-6, 1e-3):
        costs_of(monkeypatch, call=call, matrix=0.0)
        f = FUNCTIONS[name]()
        counts.append(calls(f.plan(10, "laplacian", forward_mode=True)))
    assert counts[-1] < counts[0]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("name", ["residual", "mixed", "attention", "differences"])
def test_copying_side_by_side_counts_as_a_call(name, monkeypatch):
    """torch and JAX cannot compute the parts of a longer array in their places."""
    copies = {"gram": False, "joins": False, "whole": frozenset(), "call": 3e-6}
    plans = []
    for placed in (True, False):
        costs_of(monkeypatch, placed=placed, **copies)
        plans.append(FUNCTIONS[name]().plan(1, "laplacian"))
    in_place, copied = plans
    assert joints(copied) < joints(in_place)
    assert calls(copied) + joints(copied) <= calls(in_place) + joints(in_place)
    costs_of(monkeypatch, placed=False, **copies)
    assert joints(FUNCTIONS[name]().plan(300, "laplacian")) == 0  # entries cost more than calls


def test_equal_functions_of_several_parts_become_one_call(monkeypatch):
    costs_of(monkeypatch, call=1e-3)
    plan = FUNCTIONS["branches"]().plan(1, "value")
    assert sum(s.op == "tanh" for s in plan.functional.steps) == 1


def test_one_sample_reads_large_matrices_once_on_the_way_forward(monkeypatch):
    def products(net):
        return sum(s.op == "matmul" for s in net.plan(1, "hessian").program.at(2))

    wide = ha.fully_connected([3, 300, 300, 300, 2], act="tanh", seed=0)
    x = np.random.default_rng(0).standard_normal((1, 3))
    h, count = wide.hessian(x), products(wide)
    unstacked(monkeypatch)
    plain = ha.fully_connected([3, 300, 300, 300, 2], act="tanh", seed=0)
    assert count < products(plain)
    np.testing.assert_allclose(h, plain.hessian(x), rtol=0, atol=1e-14 * abs(h).max())
    monkeypatch.undo()
    # The value's row and three of the Jacobian; with very many samples it would not pay.
    costs = backend_named("numpy").costs
    for n in (1, 10**5):
        program = make_plan(wide.graph(), Want(second="hessian"), n, costs).program
        rows = {s.args[0].rows for s in program.at(2)[1:] if s.op == "matmul"}
        assert (4 in rows) == (n == 1)


@pytest.mark.skipif(not backend_named("numpy").costs.gram, reason="built without a C compiler")
@pytest.mark.parametrize(("m", "inner"), [(16, 0), (21, 0), (7, 2), (16, 2)])
def test_all_sites_of_many_outputs_are_one_contraction(m, inner, monkeypatch):
    """The first has a constant J, the last a constant G, and those of residual layers a factor."""

    def network():
        layers = [ha.Residual(48, h=0.5, act="tanh") for _ in range(inner)]
        ends = ha.Dense(48, 48, act="softplus"), ha.Dense(48, m)
        return ha.Network(ha.Dense(18, 48, act="tanh"), *layers, *ends, seed=0)

    net, x = network(), np.random.default_rng(0).standard_normal((20, 18))
    plan, h = net.plan(100, "hessian"), net.hessian(x)
    sites = [s for s in plan.program.at(2) if s.op == "gram"]
    assert [s.args[0].shape for s in sites] == [(18, 48 * plan.sites)]
    np.testing.assert_array_equal(h, h.swapaxes(1, 2))
    unstacked(monkeypatch)
    apart = network()
    assert sum(s.op == "gram" for s in apart.plan(100, "hessian").program.at(2)) == plan.sites
    np.testing.assert_allclose(h, apart.hessian(x), rtol=0, atol=1e-14 * abs(h).max())


def constant_and_not(x, p):
    xp = x.__array_namespace__()
    y = x @ p["L"]
    return xp.tanh(x @ p["K"]) @ p["V"] + (y * y) @ p["U"]


def test_a_site_that_is_the_same_for_all_samples_stays_folded(monkeypatch):
    rng = np.random.default_rng(0)
    params = {k: rng.standard_normal((25, 32)) for k in "KL"}
    params |= {k: rng.standard_normal((32, 32)) for k in "VU"}
    net = ha.Function(constant_and_not, in_shape=(25,), params=params)
    flops = net.plan(100, "hessian").program.flops
    x = rng.standard_normal((5, 25))
    h = net.hessian(x)
    unstacked(monkeypatch)
    again = ha.Function(constant_and_not, in_shape=(25,), params=params)
    assert flops[1] <= again.plan(100, "hessian").program.flops[1]
    np.testing.assert_allclose(h, again.hessian(x), rtol=0, atol=1e-14 * abs(h).max())


# ---- the same results --------------------------------------------------------------------------


@pytest.mark.backends("numpy", "torch", "strict")
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("call", [None, 1e-3])
def test_results_stay(name, call, backend, monkeypatch):
    library = "array_api_strict" if backend.name == "strict" else backend.name
    if call is not None:
        costs_of(monkeypatch, library, call=call)
    f, n = FUNCTIONS[name](), 3
    x = points(f, n)
    ours = [getattr(f, want)(*map(backend.asarray, x)) for want in WANTS]
    unstacked(monkeypatch)
    plain = FUNCTIONS[name]()
    for want, found in zip(WANTS, ours, strict=True):
        theirs = getattr(plain, want)(*x)
        for a, b in zip(flat(found), flat(theirs), strict=True):
            np.testing.assert_allclose(backend.to_numpy(a), b, rtol=1e-11, atol=1e-12, err_msg=want)


@given(
    widths=st.lists(st.integers(1, 9), min_size=3, max_size=6),
    kinds=st.lists(
        st.sampled_from(["tanh", "softplus", "sin", "quadratic"]), min_size=5, max_size=5
    ),
    residual=st.booleans(),
    n=st.sampled_from([1, 2, 11]),
    mode=st.sampled_from([None, True, False]),
)
def test_any_widths_in_any_mode(widths, kinds, residual, n, mode):
    def make():
        layers = []
        for a, b, act in zip(widths, widths[1:], kinds, strict=False):
            layers.append(ha.Dense(a, b, act=act))
            if residual:
                layers.append(ha.Residual(b, h=0.5, act=act))
        return ha.Network(*layers, seed=0)

    x = np.random.default_rng(0).standard_normal((n, widths[0]))
    with pytest.MonkeyPatch.context() as patch:
        costs_of(patch, call=1e-3)
        ours = make().value_gradient_hessian(x, forward_mode=mode)
        unstacked(patch)
        theirs = make().value_gradient_hessian(x, forward_mode=mode)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11 * (1.0 + np.max(np.abs(b))))


def test_gradients_flow_through_stacked_programs():
    torch = pytest.importorskip("torch")
    net = FUNCTIONS["mixed"]().to("torch", dtype="float64")
    assert calls(net.plan(1, "laplacian")) > 0
    u = torch.asarray(points(net, 1)[0]).requires_grad_()
    (slope,) = torch.autograd.grad(net.laplacian(u).sum(), u)
    h = 1e-6
    for i in range(6):
        step = torch.zeros_like(u)
        step[0, i] = h
        quotient = (net.laplacian(u + step) - net.laplacian(u - step)).sum() / (2 * h)
        assert abs(quotient.item() - slope[0, i].item()) < 1e-6 * (1.0 + abs(quotient.item()))


# ---- side by side in memory --------------------------------------------------------------------


def roots(steps):
    """The buffer that each value lies in."""
    found = {}
    for s in steps:
        first = s.args[0].name if s.args and hasattr(s.args[0], "name") else None
        found[s.out.name] = found.get(first, s.out.name) if s.op in VIEWS else s.out.name
    return found


@pytest.mark.parametrize("whole", [True, False], ids=["activations whole", "as code"])
@pytest.mark.parametrize("want", ["hessian", "laplacian", "hessian_diagonal"])
def test_what_is_joined_is_written_in_its_place(want, whole, monkeypatch):
    """Only constants are copied: who makes a part writes it into the joined buffer."""
    if not whole:
        costs_of(monkeypatch, whole=frozenset())
    plan = FUNCTIONS["dense"]().plan(1, want)
    steps = plan.in_place.at(2)
    assert joints(plan) or whole
    place, constants = roots(steps), 0
    for s in (s for s in steps if s.op == "concat"):
        start, axis = 0, s.attributes["axis"]
        for part in s.args:
            if 0 in part.strides:  # the same for all samples
                constants, start = constants + 1, start + part.dims[axis]
                continue
            home = plan.layout.homes[place[part.name]]
            assert home.whole is s.out
            assert (home.axis, home.start) == (axis, start)
            start = home.stop
        assert start == s.out.dims[axis]
    source = plan.source_for("numpy").partition("def run(")[2]
    assert "concatenate(" not in source
    assert len(re.findall(r"copyto\((?!out\[)", source)) == constants


def laid_out(plan, n):
    """The arena, and the views over it by name."""
    arena = np.zeros(n * plan.entries_per_sample)
    lines = plan.source_for("numpy").partition("def workspace(xp, n, arena):")[2]
    scope = {"xp": np, "n": n, "arena": arena}
    found = {}
    for line in lines.partition("    return")[0].strip().splitlines():
        name, _, place = line.strip().partition(" = ")
        found[name] = scope[name] = eval(place, {}, scope)
    return arena, found


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("n", [1, 5])
def test_parts_lie_in_the_joined_buffer_and_buffers_in_the_arena(name, n, monkeypatch):
    costs_of(monkeypatch, call=1e-3)
    plan = FUNCTIONS[name]().plan(n, "hessian")
    arena, found = laid_out(plan, n)
    for view in found.values():
        assert np.shares_memory(view, arena)
    for part, (whole, axis, start, stop, *_) in plan.layout.homes.items():
        if whole.name in found:
            place = found[whole.name][(slice(None),) * axis + (slice(start, stop),)]
            assert found[part].size == place.size
            assert np.shares_memory(found[part], place)


def nested(x):
    xp = x.__array_namespace__()
    a, b, c = xp.tanh(x[:6]), xp.sin(x[6:12]), xp.exp(x[12:])
    rows = xp.concat([xp.reshape(a, (2, 3)), xp.reshape(b, (2, 3))], axis=0)
    return xp.concat([rows, xp.reshape(c, (4, 2))], axis=1) ** 2


def twice(x):
    xp = x.__array_namespace__()
    a, b = xp.tanh(x[:10]), xp.sin(x[10:])
    return xp.concat([a, b, a], axis=0) * xp.sum(xp.concat([b, a], axis=0))


@pytest.mark.parametrize("code", [nested, twice])
@pytest.mark.parametrize("n", [1, 3])
def test_joints_inside_joints_along_other_axes(code, n):
    strict = pytest.importorskip("array_api_strict")
    f = ha.Function(code, in_shape=(20,))
    (x,) = points(f, n)
    for want in WANTS:
        theirs = np.asarray(getattr(f, want)(strict.asarray(x)))
        np.testing.assert_allclose(getattr(f, want)(x), theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("call", [1e-7, 1e-3])
def test_no_buffer_is_read_before_it_is_written(name, n, call, monkeypatch):
    """The work buffer is poisoned before every run."""
    from hessarray.backends import numpy_buffers

    costs_of(monkeypatch, call=call)
    f = FUNCTIONS[name]()
    x = points(f, n)
    unused = numpy_buffers._Buffer.room

    def poisoned(self, size):
        memory = unused(self, size)
        memory.fill(np.nan)
        return memory

    monkeypatch.setattr(numpy_buffers._Buffer, "room", poisoned)
    for want in WANTS:
        once, again = flat(getattr(f, want)(*x)), flat(getattr(f, want)(*x))
        for a, b in zip(once, again, strict=True):
            assert np.all(np.isfinite(a))
            np.testing.assert_array_equal(a, b)
