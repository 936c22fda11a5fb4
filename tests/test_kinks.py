"""The warning where a second derivative leaves out a bend, and the samples that are near one."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import hessarray as ha

X = np.random.default_rng(0).normal(size=(4, 2))


def function(code: Callable[[Any, Any], Any]) -> Any:
    """The function of two inputs with this code(xp, x)."""
    return ha.Function(lambda x: code(x.__array_namespace__(), x), in_shape=(2,))


def warned(call: Callable[[], Any]) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return [w for w in found if issubclass(w.category, ha.KinkWarning)]


BENT: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "abs": (lambda xp, x: xp.abs(x), "abs"),
    "relu": (lambda xp, x: ha.activation("relu")(x), "relu"),
    "leaky_relu": (lambda xp, x: xp.exp(ha.activation("leaky_relu")(x)), "leaky_relu"),
    "hardtanh": (lambda xp, x: ha.activation("hardtanh")(xp.sin(x)), "hardtanh"),
    "maximum": (lambda xp, x: xp.maximum(xp.sin(x), xp.exp(x)), "maximum"),
    "minimum": (lambda xp, x: xp.minimum(0.5, x), "minimum"),
    "clip": (lambda xp, x: xp.clip(x, -0.5, 0.5), "maximum, minimum"),
    "max of an axis": (lambda xp, x: xp.max(x), "maximum"),
    "a leaky relu by where": (lambda xp, x: xp.where(x > 0, x, 0.1 * x), "where"),
    "three pieces": (lambda xp, x: xp.where(x < 0, 0.0, xp.where(x < 1, x, 1.0)), "minimum, where"),
    "layer by layer": (lambda xp, x: xp.exp(xp.abs(xp.sin(x) - 0.1)), "abs"),
}
SMOOTH: dict[str, Callable[[Any, Any], Any]] = {
    "tanh": lambda xp, x: xp.tanh(x),
    "logaddexp": lambda xp, x: xp.logaddexp(x[0], x[1]),
    "hypot": lambda xp, x: xp.hypot(x[0] + 5.0, x[1]),
    "atan2": lambda xp, x: xp.atan2(x[0], x[1] + 9.0),
    "elu": lambda xp, x: ha.activation("elu")(x),
    "gelu": lambda xp, x: ha.activation("gelu")(x),
    "a guarded logarithm": lambda xp, x: xp.where(x > 0, xp.log(xp.where(x > 0, x, 1.0)), 0.0),
    "a softplus by where": lambda xp, x: xp.where(x > 20, x, xp.log1p(xp.exp(xp.minimum(x, 20.0)))),
    "a frozen scale": lambda xp, x: x * xp.stop_gradient(xp.max(xp.abs(x))),
    "softmax": lambda xp, x: ha.Softmax(2)(x),
}
SECOND: dict[str, Callable[[Any], Any]] = {
    "hessian": lambda f: f.hessian(X),
    "hessian_diagonal": lambda f: f.hessian_diagonal(X),
    "laplacian": lambda f: f.laplacian(X),
    "hvp": lambda f: f.hvp(X, np.ones(2)),
    "value_gradient_hessian": lambda f: f.value_gradient_hessian(X),
    "one sample": lambda f: f.hessian(X[0]),
    "weighted": lambda f: f.weighted_hessian(X, np.ones(f.out_shape)),
    "gradient of the gradient": lambda f: f.gradient_function().gradient(X),
    "hessian function": lambda f: f.hessian_function().value(X),
}


# ---- the warning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BENT)
def test_a_bend_is_named_once(name: str) -> None:
    code, kinks = BENT[name]
    f = function(code)
    (message,) = warned(lambda: f.hessian(X))
    assert f"second derivative of {kinks} is zero almost everywhere" in str(message.message)
    assert message.filename == __file__
    for call in SECOND.values():
        assert not warned(lambda call=call: call(f))


@pytest.mark.parametrize("name", SMOOTH)
def test_no_warning_for_smooth_functions(name: str) -> None:
    f = function(SMOOTH[name])
    with np.errstate(all="ignore"):
        assert not warned(lambda: f.hessian(X))


# Two halves of which the first bends: what is kept decides.
KEPT: dict[str, Callable[[Any, Any, int], Any]] = {
    "slice": lambda xp, both, half: both[half : half + 1],
    "take": lambda xp, both, half: xp.take(both, xp.asarray(np.array([half, half])), axis=0),
    "flip": lambda xp, both, half: xp.flip(both, axis=0)[1 - half],
    "rows": lambda xp, both, half: xp.reshape(both, (2, 1))[half, ...],
    "columns": lambda xp, both, half: xp.permute_dims(both[None, :], (1, 0))[half, 0],
    "broadcast": lambda xp, both, half: xp.broadcast_to(both[:, None], (2, 3))[half, 1],
    "scaled": lambda xp, both, half: (both * np.array([2.0, 3.0]) + 1.0)[half] ** 3,
    "outer": lambda xp, both, half: (both[:, None] * both[half : half + 1])[half, 0],
    "stack": lambda xp, both, half: xp.stack([both[0], both[1], both[0] * both[1]])[half],
    "where": lambda xp, both, half: xp.where(both[half] > 0, xp.exp(both), both**2)[half],
}


@pytest.mark.parametrize("name", KEPT)
def test_a_bend_that_is_cut_away_does_not_count(name: str) -> None:
    def make(half: int) -> Any:
        def code(xp: Any, x: Any) -> Any:
            return KEPT[name](xp, xp.concat([xp.abs(x[:1]), x[1:] ** 2]), half)

        return function(code)

    assert len(warned(lambda: make(0).hessian(X))) == 1
    assert "abs" in ha.kinks(make(0), X).names
    assert not warned(lambda: make(1).hessian(X))
    assert "abs" not in ha.kinks(make(1), X).names


@pytest.mark.parametrize("name", SECOND)
def test_every_way_to_a_second_derivative_warns(name: str) -> None:
    f = function(BENT["abs"][0])
    (message,) = warned(lambda: SECOND[name](f))
    assert message.filename == __file__


def test_first_derivatives_do_not_warn() -> None:
    f = function(BENT["abs"][0])
    assert not warned(lambda: (f.value(X), f.gradient(X), f.gradient_function().value(X)))
    assert len(warned(lambda: f.hessian(X))) == 1


def test_networks_warn_once_each() -> None:
    nets = [ha.fully_connected([2, 3, 1], act="relu", seed=i) for i in range(2)]
    assert len(warned(lambda: [net.hessian(x) for net in nets for x in (X, X[:1], X[0])])) == 2
    nets[0].load_parameters(nets[1].parameters())
    assert not warned(lambda: nets[0].hessian(X))
    assert len(warned(lambda: pickle.loads(pickle.dumps(nets[0])).hessian(X))) == 1


def test_a_repeated_call_does_not_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import hessarray._evaluation

    f = function(BENT["abs"][0])
    assert len(warned(lambda: f.hessian(X))) == 1
    monkeypatch.setattr(hessarray._evaluation, "warn_of_kinks", None)
    f.hessian(X)
    f.laplacian(X)


# ---- samples near a kink -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "x", "distances"),
    [
        (lambda xp, x: xp.abs(x), [[0.0, 3.0], [-1.0, 2.0]], [[0.0], [1.0]]),
        (lambda xp, x: ha.activation("relu6")(x), [[5.5, 3.0], [-1.0, 8.0]], [[0.5], [1.0]]),
        (lambda xp, x: xp.maximum(x[0], x[1]), [[1.0, 1.25], [-1.0, 2.0]], [[0.25], [3.0]]),
        (
            lambda xp, x: xp.clip(x[0], -1.0, 2.0),
            [[0.0, 0.0], [1.5, 0.0]],
            [[1.0, 2.0], [2.5, 0.5]],
        ),
        (lambda xp, x: x[0] - xp.floor(x[1]), [[0.0, 1.25], [0.5, 1.75]], [[0.25], [0.25]]),
        (lambda xp, x: xp.round(x[0]) * x[1], [[0.75, 1.0], [2.0, 1.0]], [[0.25], [0.5]]),
        (lambda xp, x: xp.sign(x[0]) * x[1], [[0.75, 1.0], [-2.0, 1.0]], [[0.75], [2.0]]),
        (
            lambda xp, x: xp.where((x[0] > 1.0) & (x[1] < 2.0), xp.exp(x[0]), 0.0),
            [[3.0, 1.5], [1.25, 0.0]],
            [[2.0, 0.5], [0.25, 2.0]],
        ),
        (lambda xp, x: xp.max(x), [[1.0, 1.5], [1.0, 1.0]], [[0.5], [0.0]]),
        (lambda xp, x: xp.tanh(x), [[1.0, 1.5]], np.zeros((1, 0))),
    ],
)
def test_distances_are_those_of_the_arguments(code: Any, x: Any, distances: Any) -> None:
    found = ha.kinks(function(code), np.array(x), tolerance=1e-3)
    np.testing.assert_allclose(found.distances, distances, atol=1e-15)
    np.testing.assert_array_equal(found.near, np.any(np.asarray(distances) < 1e-3, axis=1))


def test_layers_have_their_names() -> None:
    net = ha.Network(
        ha.Dense(2, 3, act="relu", seed=0),
        ha.Network(ha.Dense(3, 3, act="tanh"), ha.Dense(3, 2, act="hardtanh")),
        ha.Clip(-0.1, [0.1, np.inf]),
    )
    found = ha.kinks(net, X)
    assert found.names == (
        "layer 0 (Dense): relu",
        "layer 1.1 (Dense): hardtanh",
        "layer 2 (Clip): maximum",
        "layer 2 (Clip): minimum",
    )
    assert "0 of 4 samples" in str(found)


def test_relu_units_near_their_kink() -> None:
    """Every pre-activation is compared with what plain code finds."""
    net = ha.fully_connected([2, 5, 4, 1], act="relu", seed=3)
    x = np.random.default_rng(1).normal(size=(200, 2))
    p = net.parameters()
    z1 = x @ p["0.K"] + p["0.b"]
    z2 = np.maximum(z1, 0.0) @ p["1.K"] + p["1.b"]
    z3 = np.maximum(z2, 0.0) @ p["2.K"] + p["2.b"]
    reached = z3 > 0  # a relu at the end: where it is off, nothing before it counts
    through = (z2 > 0) & reached
    first = np.abs(z1) <= 0.05
    expected = np.stack(
        [
            np.any(first & np.any((p["1.K"] != 0) & through[:, None, :], axis=2), axis=1),
            np.any((np.abs(z2) <= 0.05) & reached, axis=1),
            np.any(np.abs(z3) <= 0.05, axis=1),
        ],
        axis=1,
    )
    found = ha.kinks(net, x, tolerance=0.05)
    np.testing.assert_array_equal(found.distances <= 0.05, expected)
    assert 20 < np.sum(found.near) < 180


@pytest.mark.parametrize(
    ("code", "x"),
    [
        (lambda xp, x: xp.logaddexp(x[0], x[1]), [[1.0, 1.0], [1.0, 2.0]]),
        (lambda xp, x: xp.hypot(x[0], x[1]), [[1.0, 1.0], [0.0, 2.0]]),
        (lambda xp, x: xp.atan2(x[0], x[1]), [[1.0, 1.0], [1.0, 0.0]]),
        (lambda xp, x: xp.where(x > 0, x * x, -x * xp.abs(x)), [[0.0, 1.0]]),
        (lambda xp, x: xp.where(x[0] > 1.0, xp.abs(x[1]), 3.0 * x[0]), [[0.0, 0.0]]),
        (lambda xp, x: 0.0 * xp.abs(x), [[0.0, 0.0]]),
        (lambda xp, x: xp.where(xp.isnan(x), 0.0, x), [[0.0, 1.0]]),
    ],
    ids=["logaddexp", "hypot", "atan2", "smooth joint", "branch not taken", "times 0", "isnan"],
)
def test_what_bends_nothing_is_not_near(code: Any, x: Any) -> None:
    assert not ha.kinks(function(code), np.array(x)).near.any()


def test_the_branch_cut_of_atan2_is_a_jump() -> None:
    f = function(lambda xp, x: xp.atan2(x[0], x[1]))
    assert ha.kinks(f, np.array([[0.0, -2.0], [0.0, 2.0]])).near.tolist() == [True, False]


def test_batches_inputs_and_libraries(backend: Any) -> None:
    f = ha.Function(lambda x, y: np.abs(x) - y, in_shape=((2,), (2,)))
    x, y = np.zeros((3, 4, 2)), np.ones((3, 4, 2))
    x[1, 2] = 1.0
    found = ha.kinks(f, backend.asarray(x), backend.asarray(y))
    assert found.near.shape == (3, 4)
    assert found.distances.shape == (3, 4, 1)
    assert np.sum(~found.near) == 1
    assert not found.near[1, 2]
    single = ha.kinks(f, backend.asarray(x[0, 0]), backend.asarray(y[0, 0]))
    assert single.near.shape == ()
    assert bool(single.near)


def test_derivative_functions_have_the_kinks_of_the_original() -> None:
    net = ha.fully_connected([2, 3, 1], act="gelu", seed=0)
    assert ha.kinks(net.gradient_function(), X).names == ()
    bent = ha.fully_connected([2, 3, 1], act="relu", seed=0)
    assert len(ha.kinks(bent.hessian_function(), X).names) == 2


def test_more_samples_than_are_looked_at_at_once() -> None:
    f = function(lambda xp, x: xp.abs(x[0]) + x[1])
    x = np.zeros((1000, 2))
    x[::3, 0] = 1.0
    np.testing.assert_array_equal(ha.kinks(f, x).near, x[:, 0] == 0.0)


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), "small"])
def test_a_bad_tolerance_is_one_sentence(tolerance: Any) -> None:
    with pytest.raises(ValueError, match="tolerance="):
        ha.kinks(function(BENT["abs"][0]), X, tolerance=tolerance)


def test_wrong_shapes_are_those_of_any_evaluation() -> None:
    with pytest.raises(ha.ShapeError, match="last axis"):
        ha.kinks(function(BENT["abs"][0]), np.zeros((3, 5)))


def test_no_samples_still_name_the_kinks() -> None:
    net = ha.fully_connected([2, 3, 1], act="relu", seed=0)
    found = ha.kinks(net, np.zeros((0, 2)))
    assert len(found.names) == 2
    assert found.near.shape == (0,)
    assert ha.kinks(ha.fully_connected([2, 1], act="tanh"), np.zeros((0, 2))).names == ()
    assert str(ha.kinks(ha.fully_connected([2, 1], act="tanh"), X)) == "no kinks"


@pytest.mark.parametrize(
    ("name", "found"),
    [("squared_relu", True), ("elu", True), ("softsign", True), ("silu", False), ("tanh", False)],
)
def test_a_gradient_inside_a_function_bends_where_the_second_derivative_jumps(name, found):
    f = ha.Function(lambda x: np.sum(ha.activation(name)(x)), in_shape=(2,))
    g = f.gradient_function()
    outer = ha.Function(lambda x: np.sum(g(x)), in_shape=(2,))
    assert bool(ha.kinks(outer, np.zeros((1, 2))).names) is found


def test_softsign_at_zero_keeps_its_third_derivative():
    f = ha.Function(lambda x: np.sum(ha.activation("softsign")(x)), in_shape=(1,))
    assert f.gradient_function().hessian(np.zeros((1, 1))).item() == 6.0
