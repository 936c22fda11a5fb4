"""Plans: which contractions they hold, what they cost, what memory they state, how they print."""

from __future__ import annotations

import dataclasses
import gc
import linecache
import math
from dataclasses import replace

import numpy as np
import pytest
from threads import run_all

import hessarray as ha
from hessarray.backends import backend_named, numpy_buffers
from hessarray.graph.elementary import Elementary
from hessarray.plan.emit import Emitter
from hessarray.plan.paths import contraction_path
from hessarray.plan.plan import cost


def mlp(d, width, depth, m, act="tanh"):
    return ha.fully_connected([d, *[width] * depth, m], act=act, seed=1)


def shapes(plan):
    return [s.out.shape for s in plan.program.steps if s.out.rows]


def test_no_block_of_width_cubed_in_the_sum_over_sites():
    w = 64
    plan = mlp(10, w, 4, 1).plan(1000)
    assert plan.mode == "sum over sites"
    assert max(math.prod(s) for s in shapes(plan)) < w * w


def test_backward_mode_carries_blocks_of_the_layers_and_forward_mode_those_of_the_input():
    d, w = 4, 16
    net = mlp(d, w, 3, 1)
    backward, forward = net.plan(100, forward_mode=False), net.plan(100, forward_mode=True)
    assert max(math.prod(s) for s in shapes(backward)) >= w * w
    assert (d, d, w) in shapes(forward) or (w, d, d) in shapes(forward)
    assert "right" in backward.mode
    assert "left" in forward.mode


@pytest.mark.parametrize("want", ["hessian", "laplacian"])
def test_the_automatic_bracket_may_be_all_left_although_nothing_is_narrow(want):
    net = ha.fully_connected([3, 100, 16, 16], act="tanh", seed=0)
    automatic, forward = net.plan(1000, want), net.plan(1000, want, forward_mode=True)
    assert automatic.flops <= forward.flops


@pytest.mark.parametrize("n", [1, 100, 10_000])
@pytest.mark.parametrize(
    ("d", "w", "m"), [(1, 16, 8), (4, 16, 1), (64, 16, 1), (8, 4, 16), (256, 16, 2)]
)
def test_the_automatic_bracket_is_never_dearer_than_either_mode(d, w, m, n):
    net, costs = mlp(d, w, 3, m), backend_named("numpy").costs
    automatic, forward, backward = (
        cost(net.plan(n, forward_mode=mode).program, n, costs) for mode in (None, True, False)
    )
    assert automatic <= min(forward, backward)


def test_a_narrow_dominator_is_factored_out_of_a_wide_input():
    net = ha.Network(
        ha.Dense(512, 16, act="tanh"), ha.Residual(16, act="tanh"), ha.Residual(16, act="tanh"),
        ha.Dense(16, 1), seed=0,
    )  # fmt: skip
    plan = net.plan(10)
    assert "factored" in plan.mode or "right" in plan.mode
    assert plan.flops < net.plan(10, forward_mode=True).flops


def test_batch_free_operands_are_folded_once():
    """J of the first layer and ai,bi->abi carry no n: they belong to the binding."""
    d, w = 5, 8
    plan = mlp(d, w, 2, 1).plan(1000)
    once = [math.prod(s.out.shape) for s in plan.program.at(0)]
    assert d * d * w in once


def test_hvp_and_laplacian_hold_no_d_by_d_block():
    d = 64
    net = mlp(d, 16, 3, 1)
    for want in ("hvp", "laplacian", "hessian_diagonal"):
        assert max(math.prod(s) for s in shapes(net.plan(100, want))) < d * d


def test_hvp_costs_a_few_gradients():
    net = mlp(32, 64, 4, 1)
    gradient, value, hvp = (
        net.plan(1000, w).program.flops[1] for w in ("gradient", "value", "hvp")
    )
    assert hvp <= 4 * gradient
    assert gradient <= 4 * value


def test_a_value_needs_neither_jacobian_nor_adjoint():
    names = [s.out.name for s in mlp(3, 8, 2, 1).plan(10, "value").program.steps]
    assert not any(name.startswith(("J", "G")) for name in names)


def test_plans_are_immutable_and_two_serve_every_number_of_samples():
    net = mlp(3, 8, 2, 1)
    net.hessian(np.zeros((50, 3)))
    kept = dict(net._plans)
    for n in (4, 40, 5000):
        net.hessian(np.zeros((n, 3)))
    assert net._plans == kept
    for n in (1, 3):
        net.hessian(np.zeros((n, 3)))
    assert len(net._plans) == len(kept) + 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        net.plan(10).n = 3


def test_a_plan_does_not_depend_on_values():
    net = mlp(3, 8, 2, 1)
    before = net.plan(100).source
    net.load_parameters({k: v * 2.0 for k, v in net.parameters().items()})
    assert net.plan(100).source == before


def test_the_printed_program_is_the_program():
    """The source, run by itself, gives the result bit for bit."""
    net = mlp(3, 8, 2, 2)
    x = np.random.default_rng(0).standard_normal((7, 3))
    plan = net.plan(7, "hessian")
    scope = {}
    exec(plan.source, scope)
    constants = dict(plan.functional.made_constants())
    bound = scope["seed"](np, scope["bind"](np, net.parameters(), constants), {})
    (result,) = scope["run"](np, bound, 7, {"x0": x}, {})
    np.testing.assert_allclose(result, net.hessian(x), rtol=1e-12, atol=1e-15)


def test_constants_of_an_activations_code_are_bound_beside_the_programs(monkeypatch):
    backend = backend_named("numpy")
    costs = replace(backend.costs, joins=False, whole=frozenset({"gate"}))
    monkeypatch.setattr(backend, "costs", costs)  # one operation, and no kernel for it
    gate = Elementary("gate", lambda xp, z: xp.where(z > 0.5, z, 0.25), 0.0, 0.0, smooth=True)

    def gated(x):
        xp = x.__array_namespace__()
        return gate(x) * xp.where(x > 0.0, x, 0.75)

    f = ha.Function(gated, in_shape=(3,))
    x = np.random.default_rng(0).standard_normal((5, 3))
    expected = np.where(x > 0.5, x, 0.25) * np.where(x > 0.0, x, 0.75)
    np.testing.assert_array_equal(f.value(x), expected)
    plan = f.plan(5, "value")
    assert len(plan.functional.constants) > len(plan.program.constants) > 0


def test_a_constant_takes_no_other_constants_name():
    emitter = Emitter()
    emitter.constants["c1"] = kept = np.ones(2)  # c0 went with the steps that used it
    emitter.constant(np.zeros(3))
    assert emitter.constants["c1"] is kept
    assert len(emitter.constants) == 2


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "silu"])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_printed_activations_stand_where_their_kernels_do(order, name):
    """Their code may move the batch axis across axes of length one."""
    jacobian = ha.fully_connected([3, 6, 5, 2], act="silu", seed=0).gradient_function()
    slope = ha.activation(name)
    for _ in range(order):
        slope = slope.derivative()

    def beside_others(x):
        xp = x.__array_namespace__()
        j = xp.permute_dims(jacobian(x), (1, 0))
        return xp.reshape(xp.concat([slope(j[:1]) + j, slope(j[:1])], axis=0), (-1,))

    f = ha.Function(beside_others, in_shape=(3,))
    x = np.random.default_rng(0).standard_normal((3, 3))
    plan, scope = f.plan(3, "value"), {}
    exec(plan.source, scope)
    constants = dict(plan.functional.made_constants())
    xp = backend_named("numpy").xp
    bound = scope["seed"](xp, scope["bind"](xp, f.parameters(), constants), {})
    (result,) = scope["run"](xp, bound, 3, {"x0": x}, {})
    np.testing.assert_allclose(result, f.value(x), rtol=1e-12, atol=1e-14)


def test_what_a_plan_prints():
    text = str(mlp(3, 8, 2, 1).plan(1234))
    first, *lines = text.splitlines()
    assert first.endswith("n = 1234")
    words = (
        "curvature|bracket|sweeps|symmetry|stacked|folded|steps|flops|estimate|memory|results|chunk"
    )
    for word, line in zip(words.split("|"), lines, strict=False):
        assert line.startswith(f"  {word}")
    assert all(line.startswith("  path") for line in lines[12:])
    assert len(lines) > 12


def test_what_a_plan_says_of_its_moves():
    """Each of them, where it was made, and not where it was not."""
    net = mlp(3, 64, 2, 1)
    sweeps = {
        ("hessian", None): "J forward and G in reverse, once for all 3 sites",
        ("hessian", True): "J and second derivatives forward",
        ("hessian", False): "J forward and G in reverse, once for all 3 sites; J forward from 8",
        ("hvp", None): "tangents forward, G with its tangent in reverse",
        ("gradient", None): "G in reverse",
        ("gradient", True): "J forward",
        ("value", None): "none",
    }
    for (want, mode), text in sweeps.items():
        printed = str(net.plan(n=100, want=want, forward_mode=mode))
        assert f"\n  sweeps           {text}" in printed, (want, mode)
    assert "bracket          none: the value alone" in str(net.plan(n=100, want="value"))
    few, many = str(net.plan(n=1)), str(net.plan(n=10_000))
    assert "stacked          0 joints" not in few
    assert "stacked          0 joints, 0 parts" in many
    steps = len(net.plan(n=1).program.at(0))
    assert steps > 5
    assert f"folded           {steps} steps without batch axis" in few


def test_an_estimate_is_the_sum_over_steps():
    costs = replace(backend_named("numpy").costs, gram=False)
    wide, deep = mlp(3, 64, 1, 1), mlp(3, 64, 2, 1)
    for want in ("value", "gradient", "hessian"):
        plans = [net.plan(n=n, want=want) for net in (wide, deep) for n in (100, 1000)]
        assert all(plan.costs == backend_named("numpy").costs for plan in plans)
        assert plans[0].seconds < min(plans[1].seconds, plans[2].seconds) < plans[3].seconds
        assert f"estimate         {1e3 * plans[3].seconds:.3g} ms" in str(plans[3])
    value = mlp(3, 64, 1, 1).plan(n=1000, want="value")
    doubled = replace(costs, **{k: 2 * getattr(costs, k) for k in ("call", "flop", "entry", "row")})
    assert cost(value.program, 1000, doubled) == pytest.approx(2 * cost(value.program, 1000, costs))
    assert replace(value, costs=None).seconds is None
    assert "estimate" not in str(replace(value, costs=None))


def test_plans_and_what_is_bound_for_them_are_few():
    net, x = mlp(70, 8, 1, 1), np.random.default_rng(0).standard_normal((5, 70))
    whole = net.gradient(x)[..., 0]
    for k in [*range(1, 71), 1, 70]:
        v = np.eye(70)[:k]
        found = net.derivatives(x, do_gradient=True, v=v, forward_mode=True).df
        np.testing.assert_allclose(found[..., 0], whole[:, :k], rtol=1e-13, atol=1e-15)
    assert len(net._plans) == 64
    assert {key[0] for key in net._bound} <= {id(plan) for plan in net._plans.values()}


def test_the_text_of_a_program_goes_with_it():
    def texts():
        gc.collect()
        return {name for name in linecache.cache if name.startswith("<hessarray program")}

    before, net = texts(), mlp(3, 8, 1, 1)
    net.hessian(np.zeros((2, 3)))
    (name,) = texts() - before
    assert any("def run(" in line for line in linecache.getlines(name))
    numpy_buffers.scratch.free.clear()  # which keeps the views of 64 programs
    del net
    assert texts() <= before


def test_stated_memory_is_the_memory_of_the_work_buffers():
    net = mlp(6, 32, 3, 1)
    plan = net.plan(500)
    run = plan.compiled(backend_named("numpy"))
    arena = np.empty(13 * plan.entries_per_sample)
    views = run._workspace(run.xp, 13, arena)
    assert all(np.shares_memory(v, arena) for v in views)
    low = arena.__array_interface__["data"][0]
    for v in views:
        start = v.__array_interface__["data"][0]
        assert low <= start < low + arena.nbytes


def test_buffers_that_are_alive_together_do_not_overlap():
    """Poison: every buffer is overwritten right after its last use, and the result stays."""
    net = ha.Network(
        ha.Dense(3, 9, act="gelu"),
        ha.Residual(9, h=0.5, act="softplus"),
        ha.Quadratic(9, 4),
        seed=0,
    )
    x = np.random.default_rng(0).standard_normal((11, 3))
    ours = net.value_gradient_hessian(x, threads=1)
    import array_api_strict

    functional = net.value_gradient_hessian(array_api_strict.asarray(x))
    for a, b in zip(ours, functional, strict=True):
        np.testing.assert_allclose(a, np.asarray(b), rtol=1e-13, atol=1e-14)


def test_threads_share_one_plan_and_keep_their_own_buffers():
    net = mlp(4, 16, 2, 1)
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal((n, 4)) for n in (1, 3, 8, 200)]
    expected = [net.hessian(x) for x in xs]
    wrong = []

    def work(_):
        for _ in range(20):
            for x, e in zip(xs, expected, strict=True):
                if not np.allclose(net.hessian(x, threads=1), e, rtol=1e-12, atol=1e-14):
                    wrong.append(x.shape)

    run_all(work, 4)
    assert not wrong


def test_chunks_and_threads_do_not_change_the_result():
    net = mlp(4, 16, 3, 2)
    x = np.random.default_rng(0).standard_normal((1001, 4))
    whole = net.value_gradient_hessian(x, threads=1)
    seen = []
    result = sum(a.nbytes for a in whole)
    parts = net.value_gradient_hessian(
        x, threads=3, memory_limit=result + 400_000, progress=seen.append
    )
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)
    assert seen == sorted(seen)
    assert seen[-1] == 1001


def test_opt_einsum_orders_every_product():
    """The path search sees the batch index: folding wins for many samples, not for one."""
    sizes = (("a", 10), ("b", 10), ("i", 64))
    terms, output = ("ai", "bi", ".i"), ".ab"
    many = contraction_path(terms, output, (*sizes, (".", 100_000)))
    one = contraction_path(terms, output, (*sizes, (".", 1)))
    assert many[0] == (0, 1)
    assert one[0] != (0, 1)


def test_unknown_wants_are_refused():
    with pytest.raises(ValueError, match="hessian"):
        mlp(2, 3, 1, 1).plan(10, want=("value", "curvature"))
