"""Hessians of losses in the parameters, against torch.func.hessian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compare import normal
from parameter_models import LOSSES_IN_TORCH, MODELS, Truth, joined, worst

from hessarray.curvature import (
    LOSSES,
    Loss,
    loss_hessian_dict,
    loss_hessian_matrix,
    loss_sharpness,
    loss_value,
)

TOLERANCE = 1e-10


def target_for(loss: str, shape: tuple[int, ...]) -> np.ndarray:
    """Targets that the loss is meant for."""
    rng = np.random.default_rng(3)
    if loss == "poisson":
        return rng.poisson(2.0, shape).astype(float)
    if loss == "binary_cross_entropy":
        return rng.integers(0, 2, shape).astype(float)
    if loss == "cross_entropy":
        t = rng.random(shape)
        return np.asarray(t / t.sum(axis=-1, keepdims=True))
    return rng.standard_normal(shape)


def truth(name: str, loss: Callable[..., Any], t: Any, n: int = 4, **options: Any) -> Truth:
    target = torch.tensor(t)
    return Truth.of(MODELS[name], MODELS[name].inputs(n), lambda f: loss(f, target), **options)


# Losses of torch and of the library meet on outputs of every rank; the others on one model each.
PAIRS = [(m, "mse") for m in MODELS] + [
    ("mlp", loss) for loss in LOSSES if loss != "mse"
] + [("attention", "huber"), ("bilinear", "poisson"), ("recurrent", "sum_of_squares")]  # fmt: skip


def test_no_loss_is_left_out() -> None:
    assert set(LOSSES) == set(LOSSES_IN_TORCH) == {loss for _, loss in PAIRS}


@pytest.mark.parametrize(("name", "loss"), PAIRS)
def test_every_block_of_a_batch(name: str, loss: str) -> None:
    model, f = MODELS[name], MODELS[name].function()
    t = target_for(loss, (4, *f.out_shape))
    oracle = truth(name, LOSSES_IN_TORCH[loss], t)
    got = loss_hessian_dict(f, loss, model.inputs(), t)
    assert worst(got, oracle.loss_hessian()) < TOLERANCE
    matrix = loss_hessian_matrix(f, loss, model.inputs(), t)
    for other in (joined(got), matrix.T):
        np.testing.assert_allclose(matrix, other, rtol=0, atol=1e-13 * np.abs(matrix).max())
    assert float(loss_value(f, loss, model.inputs(), t)) == pytest.approx(oracle.value(), rel=1e-12)


@pytest.mark.parametrize(("name", "loss"), PAIRS)
def test_one_sample(name: str, loss: str) -> None:
    model, f = MODELS[name], MODELS[name].function()
    t = target_for(loss, (1, *f.out_shape))
    want = truth(name, LOSSES_IN_TORCH[loss], t, n=1).loss_hessian()
    got = loss_hessian_dict(f, loss, tuple(x[0] for x in model.inputs(1)), t[0], is_batch=False)
    assert worst(got, want) < TOLERANCE


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.float64])
def test_cross_entropy_of_classes(dtype: Any) -> None:
    classes = np.asarray([1, 0, 0, 1])
    want = truth("mlp", F.cross_entropy, classes).loss_hessian()
    f, xs = MODELS["mlp"].function(), MODELS["mlp"].inputs()
    assert worst(loss_hessian_dict(f, "cross_entropy", xs, classes.astype(dtype)), want) < TOLERANCE
    assert worst(loss_hessian_dict(f, "cross_entropy", xs, classes.tolist()), want) < TOLERANCE
    one = truth("mlp", F.cross_entropy, classes[:1], n=1).loss_hessian()
    got = loss_hessian_dict(f, "cross_entropy", xs[0][0], np.int64(1), is_batch=False)
    assert worst(got, one) < TOLERANCE


def test_cross_entropy_of_outputs_with_several_axes() -> None:
    """The classes are the last axis; what remains of the output is averaged over, as in torch."""
    xs, f = MODELS["attention"].inputs(), MODELS["attention"].function()
    for t in (
        np.random.default_rng(0).integers(0, 2, (4, 3)),
        target_for("cross_entropy", (4, 3, 2)),
    ):
        classes_second = t.ndim == 3

        def loss(z: Any, target: Any, moved: bool = classes_second) -> Any:
            return F.cross_entropy(z.movedim(-1, 1), target.movedim(-1, 1) if moved else target)

        want = truth("attention", loss, t).loss_hessian()
        assert worst(loss_hessian_dict(f, "cross_entropy", xs, t), want) < TOLERANCE


def test_losses_far_from_the_middle_do_not_overflow() -> None:
    model = MODELS["mlp"]
    f = model.function()
    f.load_parameters({k: 300.0 * a for k, a in model.values().items()})
    for loss, t in (("cross_entropy", [0, 1, 0, 1]), ("binary_cross_entropy", np.ones((4, 2)))):
        assert np.isfinite(loss_hessian_matrix(f, loss, model.inputs(), t)).all()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "criterion", ["MSELoss", "CrossEntropyLoss", "BCEWithLogitsLoss", "PoissonNLLLoss", "HuberLoss"]
)
def test_criteria_of_torch(criterion: str, reduction: str) -> None:
    own = getattr(torch.nn, criterion)(reduction=reduction)
    name = {"CrossEntropyLoss": "cross_entropy", "BCEWithLogitsLoss": "binary_cross_entropy",
            "PoissonNLLLoss": "poisson"}.get(criterion, "mse")  # fmt: skip
    for model in ("mlp", "attention") if criterion != "CrossEntropyLoss" else ("mlp",):
        f, xs = MODELS[model].function(), MODELS[model].inputs()
        t = target_for(name, (4, *f.out_shape))
        assert (
            worst(loss_hessian_dict(f, own, xs, t), truth(model, own, t).loss_hessian()) < TOLERANCE
        )
        single = loss_hessian_dict(f, own, xs[0][0], t[0], is_batch=False)
        assert worst(single, truth(model, own, t[:1], n=1).loss_hessian()) < TOLERANCE


def _quartic_mean(f: Any, t: Any) -> Any:
    return f.__array_namespace__().mean((f - t) ** 4)


def _quartic_sum(f: Any, t: Any) -> Any:
    return f.__array_namespace__().sum((f - t) ** 4)


def _weighted_classes(z: Any, t: Any) -> Any:
    xp = z.__array_namespace__()
    p = xp.exp(z) / xp.sum(xp.exp(z), axis=-1, keepdims=True)
    return -xp.sum(t * xp.log(p)) * 1.5


@pytest.mark.parametrize(
    ("function", "in_torch"),
    [
        (_quartic_mean, lambda f, t: ((f - t) ** 4).mean()),
        (_quartic_sum, lambda f, t: ((f - t) ** 4).sum()),
        (_weighted_classes, lambda z, t: -1.5 * (t * torch.log_softmax(z, -1)).sum()),
    ],
)
def test_how_a_function_adds_up_is_observed(function: Any, in_torch: Any) -> None:
    for name in ("mlp", "attention"):
        f, xs = MODELS[name].function(), MODELS[name].inputs()
        t = target_for("cross_entropy", (4, *f.out_shape))
        for n in (1, 4):
            want = truth(name, in_torch, t[:n], n=n).loss_hessian()
            got = loss_hessian_dict(f, function, [x[:n] for x in xs], t[:n])
            assert worst(got, want) < TOLERANCE


def test_what_one_sample_says_of_a_function_is_not_kept() -> None:
    """With one sample sum and mean are the same; the next batch must be looked at again."""

    def own(f: Any, t: Any) -> Any:
        return f.__array_namespace__().mean((f - t) ** 2)

    f, xs = MODELS["mlp"].function(), MODELS["mlp"].inputs()
    t = MODELS["mlp"].targets()
    loss_hessian_dict(f, own, xs[0][:1], t[:1])
    want = truth("mlp", F.mse_loss, t).loss_hessian()
    assert worst(loss_hessian_dict(f, own, xs, t), want) < TOLERANCE


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_that_says_how_it_adds_up(reduction: str) -> None:
    loss = Loss(lambda f, t: (f[0] - t[0]) ** 2 * f[1] ** 2, reduction)

    def in_torch(f: Any, t: Any) -> Any:
        return getattr((f[:, 0] - t[:, 0]) ** 2 * f[:, 1] ** 2, reduction)()

    f, xs, t = MODELS["mlp"].function(), MODELS["mlp"].inputs(), MODELS["mlp"].targets()
    assert (
        worst(loss_hessian_dict(f, loss, xs, t), truth("mlp", in_torch, t).loss_hessian())
        < TOLERANCE
    )


def test_a_target_of_its_own_shape() -> None:
    """A loss of one's own may want anything beside each sample: here a row of weights too."""
    loss = Loss(lambda f, t: f.__array_namespace__().sum(t[1] * (f - t[0]) ** 2), "sum")
    t = normal(0, 4, 2, 2) ** 2
    f, xs = MODELS["mlp"].function(), MODELS["mlp"].inputs()
    want = truth("mlp", lambda f, t: (t[:, 1] * (f - t[:, 0]) ** 2).sum(), t).loss_hessian()
    assert worst(loss_hessian_dict(f, loss, xs, t), want) < TOLERANCE


@pytest.mark.parametrize("name", ["mlp", "convex", "recurrent", "two inputs", "tied"])
def test_subsets_and_frozen_parameters(name: str) -> None:
    model, f = MODELS[name], MODELS[name].function()
    xs, t, names = model.inputs(), model.targets(), list(model.params)
    for chosen in (names[:1], names[-1:], names[::2], names[1:]):
        want = truth(name, F.mse_loss, t, names=chosen).loss_hessian()
        assert worst(loss_hessian_dict(f, "mse", xs, t, params=chosen), want) < TOLERANCE
        frozen = [k for k in names if k not in chosen]
        assert worst(loss_hessian_dict(f, "mse", xs, t, frozen=frozen), want) < TOLERANCE
        got = loss_hessian_matrix(f, "mse", xs, t, params=iter(chosen))
        np.testing.assert_allclose(got, joined(want), rtol=0, atol=1e-12 * np.abs(got).max())
    both = loss_hessian_dict(f, "mse", xs, t, params=names[:2], frozen=names[1])
    assert worst(both, truth(name, F.mse_loss, t, names=names[:1]).loss_hessian()) < TOLERANCE


@pytest.mark.parametrize("name", ["mlp", "convex", "recurrent"])
def test_blocks_on_the_diagonal_and_of_layers(name: str) -> None:
    model, f = MODELS[name], MODELS[name].function()
    xs, t = model.inputs(), model.targets()
    whole = truth(name, F.mse_loss, t).loss_hessian()
    for options, keep in (
        ({"diagonal_only": True}, lambda a, b: a == b),
        ({"per_layer": True}, lambda a, b: a.rpartition(".")[0] == b.rpartition(".")[0]),
    ):
        want = {a: {b: h for b, h in row.items() if keep(a, b)} for a, row in whole.items()}
        assert worst(loss_hessian_dict(f, "mse", xs, t, **options), want) < TOLERANCE
        got = loss_hessian_matrix(f, "mse", xs, t, **options)
        np.testing.assert_allclose(got, joined(want), rtol=0, atol=1e-12 * np.abs(got).max())


def test_sharpness_is_the_spectral_radius() -> None:
    model = MODELS["mlp"]
    t = model.targets()
    want = np.abs(np.linalg.eigvalsh(truth("mlp", F.mse_loss, t).matrix())).max()
    assert float(loss_sharpness(model.function(), "mse", model.inputs(), t)) == pytest.approx(want)


@pytest.mark.parametrize("loss", LOSSES)
def test_float32_added_up_in_float64(loss: str) -> None:
    model, f = MODELS["mlp"], MODELS["mlp"].function()
    t = target_for(loss, (4, 2))
    single = [x.astype(np.float32) for x in model.inputs()]
    got = loss_hessian_dict(f, loss, single, t.astype(np.float32), accumulate="float64")
    assert {h.dtype for row in got.values() for h in row.values()} == {np.dtype("float64")}
    want = truth("mlp", LOSSES_IN_TORCH[loss], t).loss_hessian()
    assert worst(got, want) < 1e-4
    plain = loss_hessian_dict(f, loss, single, t.astype(np.float32))
    assert {h.dtype for row in plain.values() for h in row.values()} == {np.dtype("float32")}
    assert worst(plain, want) < 1e-4
