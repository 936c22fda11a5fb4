"""Second derivatives of a model's outputs in its parameters, against torch.func.hessian."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from parameter_models import MODELS, Truth, joined, worst

import hessarray as ha
from hessarray.curvature import model_hessian_dict, model_hessian_matrix, model_sharpness

TOLERANCE = 1e-10


@pytest.mark.parametrize("name", MODELS)
def test_every_block_of_a_batch(name: str) -> None:
    model = MODELS[name]
    xs = model.inputs()
    want = Truth.of(model, xs).model_hessian()
    got = model_hessian_dict(model.function(), xs)
    assert worst(got, want) < TOLERANCE
    lead = 1 + len(model.function().out_shape)
    matrix = model_hessian_matrix(model.function(), xs)
    np.testing.assert_array_equal(matrix, joined(got, lead))
    np.testing.assert_allclose(matrix, matrix.swapaxes(-1, -2), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", MODELS)
def test_one_sample_is_that_of_a_batch_without_its_axis(name: str) -> None:
    model = MODELS[name]
    xs = model.inputs(1)
    want = Truth.of(model, xs).model_hessian()
    want = {a: {b: h[0] for b, h in row.items()} for a, row in want.items()}
    single = tuple(x[0] for x in xs)
    inputs = single if len(single) > 1 else single[0]
    assert worst(model_hessian_dict(model.function(), inputs, is_batch=False), want) < TOLERANCE
    lead = len(model.function().out_shape)
    got = model_hessian_matrix(model.function(), inputs, is_batch=False)
    np.testing.assert_allclose(
        got, joined(want, lead), rtol=0, atol=1e-12 * (1 + np.abs(got).max())
    )


@pytest.mark.parametrize("name", ["two inputs", "convex", "recurrent", "odd", "tied"])
def test_subsets_and_frozen_parameters(name: str) -> None:
    model, f = MODELS[name], MODELS[name].function()
    xs, names = model.inputs(3), list(model.params)
    for chosen in [c for r in (1, 2) for c in combinations(names, r)]:
        want = Truth.of(model, xs, names=chosen).model_hessian()
        assert worst(model_hessian_dict(f, xs, params=chosen[::-1]), want) < TOLERANCE
        frozen = [k for k in names if k not in chosen]
        assert worst(model_hessian_dict(f, xs, frozen=frozen), want) < TOLERANCE


@pytest.mark.parametrize("name", ["double bilinear", "convex", "recurrent"])
def test_only_blocks_on_the_diagonal(name: str) -> None:
    model, f = MODELS[name], MODELS[name].function()
    xs = model.inputs(3)
    want = {a: {a: row[a]} for a, row in Truth.of(model, xs).model_hessian().items()}
    assert worst(model_hessian_dict(f, xs, diagonal_only=True), want) < TOLERANCE
    got = model_hessian_matrix(f, xs, diagonal_only=True)
    scale = np.abs(got).max() + 1.0
    np.testing.assert_allclose(got, joined(want, got.ndim - 2), rtol=0, atol=TOLERANCE * scale)


def test_sharpness_is_the_spectral_radius_of_each_output() -> None:
    model = MODELS["attention"]
    xs = model.inputs(3)
    matrix = joined(Truth.of(model, xs).model_hessian(), 3)
    want = np.abs(np.linalg.eigvalsh(matrix)).max(axis=-1)
    np.testing.assert_allclose(model_sharpness(model.function(), xs), want, rtol=1e-10)
    single = model_sharpness(model.function(), xs[0][1], is_batch=False)
    np.testing.assert_allclose(single, want[1], rtol=1e-10)


def test_float32_stays_float32() -> None:
    model = MODELS["convex"]
    xs = [x.astype(np.float32) for x in model.inputs()]
    got = model_hessian_dict(model.function(), xs[0])
    assert {h.dtype for row in got.values() for h in row.values()} == {np.dtype("float32")}
    assert worst(got, Truth.of(model, [x.astype(float) for x in xs]).model_hessian()) < 1e-4


def test_parameters_are_those_of_the_call() -> None:
    model = MODELS["mlp"]
    f, xs = model.function(), model.inputs()
    first = model_hessian_matrix(f, xs)
    f.load_parameters(model.values(seed=3))
    assert worst(model_hessian_dict(f, xs), Truth.of(model, xs, seed=3).model_hessian()) < TOLERANCE
    f.load_parameters(model.values())
    np.testing.assert_array_equal(model_hessian_matrix(f, xs), first)


def test_no_sample_gives_blocks_of_no_sample() -> None:
    for model in (MODELS["mlp"], MODELS["convex"], MODELS["bilinear"]):
        f = model.function()
        matrix = model_hessian_matrix(f, model.inputs(0))
        count = sum(a.size for a in f.parameters().values())
        assert matrix.shape == (0, *f.out_shape, count, count)


def test_tensors_that_require_no_gradient_are_frozen() -> None:
    model = MODELS["mlp"]
    f = model.function().to("torch")
    still = ["0.K", "1.b"]
    for k in still:
        f.parameters()[k].requires_grad_(False)
    xs = model.inputs()
    names = [k for k in model.params if k not in still]
    got = model_hessian_dict(f, torch.tensor(xs[0]))
    plain = {a: {b: h.detach().numpy() for b, h in row.items()} for a, row in got.items()}
    assert worst(plain, Truth.of(model, xs, names=names).model_hessian()) < TOLERANCE


def test_a_network_whose_output_does_not_depend_on_a_parameter_twice() -> None:
    net = ha.Network(ha.Dense(2, 3, act="identity"), seed=0)
    matrix = model_hessian_matrix(net, np.ones((2, 2)))
    np.testing.assert_array_equal(matrix, np.zeros((2, 3, 9, 9)))
