"""Strides known at planning time are those that NumPy finds when the program runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hessarray as ha
from hessarray.plan.source import expression
from hessarray.plan.step import SOME, VIEWS, row_major, view_strides

LENGTHS = st.lists(st.integers(1, 4), max_size=5)


def entries(a):
    """Strides in entries, 0 along axes of length one, as the planner writes them."""
    return tuple(0 if n == 1 else s // a.itemsize for n, s in zip(a.shape, a.strides, strict=True))


@st.composite
def views(draw):
    """An array cut, reversed, repeated, and with its axes in some order."""
    a = np.zeros(draw(LENGTHS))
    for k, n in enumerate(a.shape):
        kind = draw(st.sampled_from(["whole"] * 4 + ["cut", "reversed", "repeated"]))
        before = (slice(None),) * k
        if kind == "cut":
            start = draw(st.integers(0, n - 1))
            a = a[(*before, slice(start, draw(st.integers(start + 1, n))), ...)]
        elif kind == "reversed":
            a = np.flip(a, k)
        elif kind == "repeated":
            one = a[(*before, slice(0, 1), ...)]
            a = np.broadcast_to(one, (*a.shape[:k], 3, *a.shape[k + 1 :]))
    return np.transpose(a, draw(st.permutations(range(a.ndim)))) if draw(st.booleans()) else a


@st.composite
def reshapes(draw):
    """A view, and another shape with as many entries: axes split, merged, and of length one."""
    a = draw(views())
    factors = []
    for n in a.shape:
        for p in (2, 3, 5):
            while n % p == 0:
                factors.append(p)
                n //= p
    if draw(st.sampled_from([False, False, True])):
        factors = draw(st.permutations(factors))
    shape = []
    for p in factors:
        if shape and draw(st.booleans()):
            shape[-1] *= p
        else:
            shape += [1] * draw(st.sampled_from([0, 0, 0, 1])) + [p]
    return a, tuple(shape)


def reshaped(a, shape):
    """NumPy's own answer: the view, or None where it copies."""
    b = a.reshape(shape)
    return b if np.may_share_memory(a, b) else None


@settings(max_examples=500)
@given(reshapes())
def test_view_strides_are_numpys(case):
    a, shape = case
    found = view_strides(a.shape, entries(a), shape)
    theirs = reshaped(a, shape)
    assert (found is None) == (theirs is None)
    if theirs is not None:
        assert found == entries(theirs)


@pytest.mark.parametrize(
    ("lengths", "strides", "shape", "expected"),
    [
        ((), (), (), ()),
        ((1, 1), (0, 0), (1,), (0,)),
        ((), (), (1, 1), (0, 0)),
        ((6,), (1,), (2, 3), (3, 1)),
        ((2, 3), (3, 1), (6,), (1,)),
        ((2, 3), (1, 2), (6,), None),
        ((2, 1, 3), (3, 0, 1), (3, 2), (2, 1)),
        ((4, 3), (5, 1), (2, 2, 3), (10, 5, 1)),
        ((4, 3), (5, 1), (12,), None),
        ((4, 3), (0, 1), (2, 2, 3), (0, 0, 1)),
        ((4, 3), (0, 0), (12,), (0,)),
        ((4, 3), (0, 1), (12,), None),
        ((0, 3), (3, 1), (3, 0), (0, 1)),
    ],
)
def test_view_strides_of_known_cases(lengths, strides, shape, expected):
    assert view_strides(lengths, strides, shape) == expected


@given(LENGTHS)
def test_row_major_is_the_layout_of_a_new_array(lengths):
    assert row_major(lengths) == entries(np.empty(lengths))


# ---- whole programs ----------------------------------------------------------------------------


def attention(x):
    a = np.reshape(x, (3, 2))
    e = np.exp(a @ np.permute_dims(a, (1, 0)))
    return (e / np.sum(e, axis=1, keepdims=True)) @ a


def cuts(x):
    a = np.reshape(np.flip(np.tanh(x), axis=0), (2, 3))
    return np.concatenate([a[:, 1:] * a[:, :2], a[:, :1] + a[:, 2:]], axis=1)


FUNCTIONS = {
    "dense": lambda: ha.fully_connected([6, 9, 9, 2], act="tanh", seed=0),
    "residual": lambda: ha.resnet(6, 3, h=0.5, act="tanh", seed=0),
    "one output": lambda: ha.fully_connected([6, 4, 1], act="softplus", seed=0),
    "attention": lambda: ha.Function(attention, in_shape=(6,)),
    "cuts": lambda: ha.Function(cuts, in_shape=(6,)),
}


def planned(v, n):
    """A value's strides for n samples; within a sample, or whole samples apart."""
    strides = (s // SOME * n + s % SOME if s >= 0 else s for s in v.strides)
    axes = [*v.shape]
    if v.rows:
        axes.insert(v.lead, v.rows * n)
    return tuple(0 if k == 1 else s for k, s in zip(axes, strides, strict=True))


@pytest.mark.parametrize("mode", [None, True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_step_of_a_program_has_the_planned_strides_and_views_copy_nothing(name, mode):
    """Replayed step by step, with new arrays contiguous as the planned buffers are."""
    f, n = FUNCTIONS[name](), 7
    for at in (1, 1000):
        program = f.plan(at, forward_mode=mode).functional
        x = np.random.default_rng(0).standard_normal((n, 6))
        scope = {
            "xp": np, "n": n, "x": {"x0": x}, "p": f.parameters(), "v": {},
            "c": dict(program.made_constants()), "float": float,
        }  # fmt: skip
        seen = 0
        for s in program.steps:
            array = eval(expression(s), scope)
            if s.op in VIEWS and s.args[0].rows:
                assert np.may_share_memory(array, scope[s.args[0].name]), expression(s)
                seen += 1
            elif s.op not in VIEWS and s.op != "batch":
                array = np.ascontiguousarray(array).reshape(array.shape)
            scope[s.out.name] = array
            if s.out.rows:
                assert array.size == n * s.out.size or s.op in ("broadcast", "batch")
                assert entries(array) == planned(s.out, n), expression(s)
        assert seen
        value = scope[program.outputs["value"].name].reshape(n, -1)
        np.testing.assert_allclose(value, f.value(x).reshape(n, -1), rtol=1e-12, atol=1e-14)
        assert math.isfinite(value.sum())
