"""Brackets: the dynamic programme finds the cheapest, and every bracket gives the same result."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hessarray as ha
import hessarray.plan.plan
from hessarray.backends import backend_named
from hessarray.backends.protocol import Costs
from hessarray.plan.bracket import _Chain, _SweepTime, cheapest
from hessarray.plan.derive import Bracket, dominators
from hessarray.plan.plan import cost
from hessarray.plan.want import Want

NUMPY = backend_named("numpy").costs
SECONDS = {"hessian": "hessian", "diagonal": "hessian_diagonal", "laplacian": "laplacian"}


def subsets(numbers):
    numbers = list(numbers)
    return [c for k in range(len(numbers) + 1) for c in combinations(numbers, k)]


def brackets(last):
    """All of them: up to where second derivatives are carried, and which Jacobians come out."""
    for left in (None, *range(1, last)):
        for cuts in subsets(range((left or 0) + 1, last)):
            yield Bracket(left=left, cuts=cuts)
    if last:
        yield Bracket(left=last, reverse_gradient=False)


def chain_of(widths, act="tanh", bias=False):
    layers = [ha.Dense(a, b, act=act, bias=bias) for a, b in pairwise(widths)]
    return ha.Network(*layers, seed=0)


# ---- the dynamic programme ---------------------------------------------------------------------


class Priced:
    """The same estimate for one bracket, added up from its segments without any recursion."""

    def __init__(self, graph, want, n, costs):
        self.chain = _Chain(graph, want, n, costs)
        self.last = len(self.chain.chain) - 1
        self.known = {}

    def segment(self, i, j, width, tie, skip):
        key = (i, j, width, tie, skip)
        if key not in self.known:
            c = self.chain
            sweep, time = _SweepTime(c, width), 0.0
            for p in range(c.place[i] + 1, c.place[j] + 1):
                node = c.nodes[p]
                if id(node) in c.sites and p >= skip:
                    constant = not any(id(a) in sweep.batched for a in node.args)
                    time += c._site(node, width, tie, constant)
                time += sweep.push(node)
            if j < self.last:
                u = c.chain[j]
                time += c._sandwich(width, u.size, tie, id(u) not in sweep.batched)
            self.known[key] = time
        return self.known[key]

    def __call__(self, bracket):
        c = self.chain
        if bracket.left == self.last:
            return c._lefts()[self.last]
        time, skip = c._adjoint(), 0
        if bracket.left is not None:
            skip = c.place[bracket.left] + 1
            rows = c.d**c.tie
            time += c._lefts()[bracket.left]
            time += c._product(rows, c.chain[bracket.left].size, c.m)
        ends = [0, *bracket.cuts, self.last]
        for i, j in pairwise(ends):
            width, tie = (c.d, c.tie) if i == 0 else (c.chain[i].size, 2)
            time += self.segment(i, j, width, tie, skip)
        return time


@settings(max_examples=60)
@given(
    widths=st.lists(st.sampled_from([1, 2, 4, 16, 128, 700]), min_size=2, max_size=4),
    second=st.sampled_from(sorted(SECONDS)),
    n=st.sampled_from([1, 100, 100_000]),
    left=st.sampled_from([None, None, 3]),
    call=st.sampled_from([0.0, 1e-7, 1e-5]),
    residual=st.booleans(),
)
def test_no_bracket_is_cheaper_than_the_one_found(widths, second, n, left, call, residual):
    costs = Costs(call=call, flop=2.5e-11, entry=6e-10, row=2.5e-8, matrix=2e-7)
    net = chain_of(widths)
    if residual:
        net = ha.Network(*net.layers, ha.Residual(widths[-1], act="sin", bias=False))
    want = Want(value=False, second=second, left=left)
    price = Priced(net.graph(), want, n, costs)
    found = cheapest(net.graph(), want, n, costs)
    least = min(map(price, brackets(price.last)))
    assert price(found) <= least * (1 + 1e-12)


SHAPES = [[2, 64, 64, 64], [500, 8, 64, 8], [2, 8, 2, 64, 1], [64, 64, 2, 64, 64], [64, 64, 64, 1]]


def test_each_kind_of_bracket_is_the_cheapest_somewhere():
    kinds = set()
    for widths in SHAPES:
        graph = chain_of(widths).graph()
        for second in SECONDS:
            want = Want(value=False, second=second)
            b = cheapest(graph, want, 1000, NUMPY)
            price = Priced(graph, want, 1000, NUMPY)
            assert price(b) <= min(map(price, brackets(price.last))) * (1 + 1e-12)
            kind = "left" if b.left == price.last else "part" if b.left else "cut" * bool(b.cuts)
            kinds.add(kind)
    assert kinds == {"left", "part", "cut", ""}


# ---- next to the two named modes ---------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 100, 10_000])
@pytest.mark.parametrize("want", ["hessian", "laplacian"])
@pytest.mark.parametrize(
    ("d", "w", "m"),
    [
        (1, 16, 8), (4, 16, 1), (64, 16, 1), (8, 4, 16), (256, 16, 2), (3, 64, 1), (10, 64, 1),
        (3, 100, 16), (2, 8, 2), (32, 32, 32), (512, 64, 1),
    ],
)  # fmt: skip
def test_the_choice_is_not_dearer_than_either_mode(d, w, m, n, want):
    net = ha.fully_connected([d, w, w, w, m], act="tanh", seed=1)
    automatic, forward, backward = (
        cost(
            net.plan(n, want, forward_mode=mode).program,
            10 ** len(str(n - 1)) if n > 1 else 1,
            NUMPY,
        )
        for mode in (None, True, False)
    )
    assert automatic <= 1.05 * min(forward, backward)  # both are estimates, from other ends


@pytest.mark.parametrize("m", [1, 8])
@pytest.mark.parametrize("n", [1, 10, 1000])
def test_the_wide_resnet_factors_its_first_jacobian_out(m, n):
    """A thousand inputs, width 16: H = J0^T [16 x 16] J0, and J0 carries little or no batch."""
    d, w = 1024, 16
    net = ha.Network(
        ha.Dense(d, w, act="tanh"),
        *(ha.Residual(w, h=0.25, act="tanh") for _ in range(4)),
        ha.Dense(w, m),
        seed=0,
    )
    plan = net.plan(n, "hessian")
    assert plan.bracket.left is None
    assert plan.bracket.cuts
    first = dominators(net.graph())[plan.bracket.cuts[0]]
    assert first.size == w
    assert plan.bracket.cuts[0] <= 3  # x, x K, + b, tanh
    assert "factored out" in plan.mode
    plain, forward = flops_of_plain_sum(net, n), net.plan(n, "hessian", forward_mode=True).flops
    assert plan.flops < plain < forward


def flops_of_plain_sum(net, n):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hessarray.plan.plan, "cheapest", lambda *a: Bracket())
        twin = ha.Network(*net.layers)
        return twin.plan(n, "hessian").flops


# ---- what a plan calls it ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bracket", "text"),
    [
        (Bracket(), "sum over sites"),
        (Bracket(cuts=(2,)), "Jacobian of dominator 2 of 4 factored out, then sum over sites"),
        (
            Bracket(cuts=(1, 3)),
            "Jacobians of dominators 1, 3 of 4 factored out, then sum over sites",
        ),
        (Bracket(cuts=(1, 2, 3)), "all right (backward)"),
        (Bracket(left=2), "all left up to dominator 2, then sum over sites"),
        (Bracket(left=4, reverse_gradient=False), "all left (forward)"),
    ],
)
def test_the_bracket_in_words(bracket, text, monkeypatch):
    monkeypatch.setattr(hessarray.plan.plan, "cheapest", lambda *a: bracket)
    net = chain_of([3, 5, 2])
    assert len(dominators(net.graph())) == 5
    plan = net.plan(10, "hessian")
    assert (plan.mode, plan.bracket) == (text, bracket)


# ---- the same result ---------------------------------------------------------------------------


def softmax(x):
    e = np.exp(np.reshape(x, (2, 2)))
    return np.reshape(e / np.sum(e, axis=1, keepdims=True), (4,))


MADE = {
    "two layers": lambda: chain_of([3, 5, 2]),
    "bottleneck": lambda: chain_of([4, 1, 3, 2], act="softplus"),
    "residual": lambda: ha.Network(
        ha.Dense(3, 4, act="sin", bias=False), ha.Residual(4, h=0.5, act="tanh", bias=False), seed=0
    ),
    "one output": lambda: ha.Network(
        ha.Dense(3, 4, act="tanh", bias=False), ha.Quadratic(4, 2), seed=0
    ),
    "several axes": lambda: ha.Function(softmax, in_shape=(4,)),
    "two inputs": lambda: ha.Function(lambda x, y: np.sin(np.tanh(x) * y), ((2,), (2,))),
}


@pytest.mark.parametrize("second", sorted(SECONDS))
@pytest.mark.parametrize("name", MADE)
def test_every_bracket_gives_the_same(name, second):
    rng = np.random.default_rng(0)
    f = MADE[name]()
    x = [rng.standard_normal((3, *s)) for s in f.in_shapes]

    def results(f, **mode):
        found = getattr(f, SECONDS[second])(*x, **mode)
        parts = found if isinstance(found, tuple) else (found,)
        return [a for p in parts for a in (p if isinstance(p, tuple) else (p,))]

    expected = results(f)
    assert all(np.all(np.isfinite(a)) for a in expected)
    last = len(dominators(f.graph())) - 1
    tried = [results(f, forward_mode=mode) for mode in (True, False)]
    choices = list(brackets(last))
    for bracket in choices[:: 1 + len(choices) // 40]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hessarray.plan.plan, "cheapest", lambda *a, b=bracket: b)
            tried.append(results(MADE[name]()))
    for found in tried:
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_planning_a_deep_network_stays_quick_enough():
    """Quadratic in the depth: no bracket is lowered that is not taken."""
    net = ha.fully_connected([3, *[8] * 40, 1], act="tanh", seed=0)
    chain = _Chain(net.graph(), Want(second="hessian"), 1000, NUMPY)
    assert len(chain.chain) > 100
    assert chain.best() == cheapest(net.graph(), Want(second="hessian"), 1000, NUMPY)
