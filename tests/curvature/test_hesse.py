"""The behaviour that hesse's own tests ask for: closed forms of its models, exactly.

hesse (github.com/dscamiss/hesse) differentiates torch modules; its models are functions here. With
whole numbers all sums are exact, so that what comes out is the closed form itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import hessarray as ha
from hessarray.curvature import (
    loss_hessian_dict,
    loss_hessian_matrix,
    loss_sharpness,
    model_hessian_dict,
    model_hessian_matrix,
    model_sharpness,
)
from hessarray.errors import ParameterError

SUM = torch.nn.MSELoss(reduction="sum")
BATCH = 4


def whole(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-10, 10, shape).astype(float)


def bilinear() -> ha.Function:
    """x, y -> x^T B y, one output as torch.nn.Bilinear has it."""
    return ha.Function(
        lambda x, y, p: (p["B.weight"] @ y) @ x, ((3,), (4,)), {"B.weight": whole(0, 1, 3, 4)}
    )


B1, B2 = whole(1, 2, 3), whole(2, 3, 4)


def double() -> ha.Function:
    """x, y -> x^T B1 B2 y."""
    return ha.Function(
        lambda x, y, p: (x @ p["B1"]) @ (p["B2"] @ y), ((2,), (4,)), {"B1": B1, "B2": B2}
    )


def norms() -> ha.Function:
    """x -> x (|A1|^2 + |A2|^2) for a number x."""

    def fn(x: Any, p: Any) -> Any:
        xp = x.__array_namespace__()
        return x * (xp.sum(p["A1"] * p["A1"]) + xp.sum(p["A2"] * p["A2"]))

    return ha.Function(fn, ((),), {"A1": whole(3, 2, 3), "A2": whole(4, 2, 3)})


def readme() -> ha.Function:
    """x, y -> [tr(A^T A) x, tr(B^T B) y]."""

    def fn(x: Any, y: Any, p: Any) -> Any:
        xp = x.__array_namespace__()
        a, b = (xp.sum(p[k] * p[k]) for k in "AB")
        return xp.concat([a * x, b * y])

    return ha.Function(fn, ((2,), (2,)), {"A": whole(5, 2, 2), "B": whole(6, 2, 2)})


def sample(single: bool, *arrays: np.ndarray) -> Any:
    """All samples, or the first without its axis."""
    return tuple(a[0] if single else a for a in arrays)


X, Y = whole(7, BATCH, 2), whole(8, BATCH, 4)
SINGLE = pytest.mark.parametrize("single", [False, True])
DIAGONAL = pytest.mark.parametrize("diagonal_only", [False, True])


def keys(blocks: Any) -> dict[str, list[str]]:
    return {a: list(row) for a, row in blocks.items()}


# ---- models ---------------------------------------------------------------------------------


@SINGLE
def test_a_bilinear_model_has_no_curvature(single: bool) -> None:
    f, inputs = bilinear(), sample(single, whole(1, BATCH, 3), whole(2, BATCH, 4))
    lead = () if single else (BATCH,)
    H = model_hessian_dict(f, inputs, is_batch=not single)
    assert keys(H) == {"B.weight": ["B.weight"]}
    assert H["B.weight"]["B.weight"].shape == (*lead, 1, 1, 3, 4, 1, 3, 4)
    assert not H["B.weight"]["B.weight"].any()
    matrix = model_hessian_matrix(f, inputs, is_batch=not single)
    assert matrix.shape == (*lead, 1, 12, 12)
    assert not matrix.any()
    sharpness = model_sharpness(f, inputs, is_batch=not single)
    assert sharpness.shape == (*lead, 1)
    assert not sharpness.any()


@SINGLE
@DIAGONAL
def test_a_double_bilinear_model(single: bool, diagonal_only: bool) -> None:
    x, y = sample(single, X, Y)
    options = {"diagonal_only": diagonal_only, "is_batch": not single}
    H = model_hessian_dict(double(), (x, y), **options)
    # d2 (x^T B1 B2 y) / dB1_ij dB2_kl = x_i delta_jk y_l
    cross = np.einsum("...i,jk,...l->...ijkl", x, np.eye(3), y)
    want = {"B1": {"B1": np.zeros((*x.shape[:-1], 2, 3, 2, 3)), "B2": cross},
            "B2": {"B1": np.einsum("...ijkl->...klij", cross),
                   "B2": np.zeros((*x.shape[:-1], 3, 4, 3, 4))}}  # fmt: skip
    if diagonal_only:
        want = {k: {k: row[k]} for k, row in want.items()}
    assert keys(H) == keys(want)
    for a, row in want.items():
        for b, h in row.items():
            np.testing.assert_array_equal(H[a][b], h)
    matrix = model_hessian_matrix(double(), (x, y), **options)
    flat = cross.reshape(*x.shape[:-1], 6, 12) * (0.0 if diagonal_only else 1.0)
    np.testing.assert_array_equal(matrix[..., :6, 6:], flat)
    np.testing.assert_array_equal(matrix[..., 6:, :6], flat.swapaxes(-1, -2))
    assert not matrix[..., :6, :6].any()
    assert not matrix[..., 6:, 6:].any()


@SINGLE
@DIAGONAL
def test_a_sum_of_squared_norms(single: bool, diagonal_only: bool) -> None:
    (x,) = sample(single, whole(9, BATCH))
    H = model_hessian_dict(norms(), x, diagonal_only=diagonal_only, is_batch=not single)
    both = ["A1", "A2"]
    assert keys(H) == {k: [k] if diagonal_only else both for k in both}
    for a in H:
        for b in H[a]:
            eye = np.eye(6) if a == b else np.zeros((6, 6))
            want = np.multiply.outer(2.0 * np.asarray(x), eye)
            np.testing.assert_array_equal(H[a][b], want.reshape(*np.shape(x), 2, 3, 2, 3))


@SINGLE
def test_frozen_parameters_are_left_out(single: bool) -> None:
    """As in hesse: tensors that require no gradient; or by name."""
    (x,), options = sample(single, whole(9, BATCH)), {"is_batch": not single}
    f = norms()
    want = model_hessian_dict(f, x, **options)["A2"]["A2"]
    named = model_hessian_dict(f, x, frozen=["A1"], **options)
    f.to("torch").parameters()["A1"].requires_grad_(False)
    torches = model_hessian_dict(f, torch.tensor(x), **options)
    for H in (named, torches):
        assert keys(H) == {"A2": ["A2"]}
    np.testing.assert_array_equal(named["A2"]["A2"], want)
    np.testing.assert_array_equal(torches["A2"]["A2"].detach(), want)
    inputs = sample(single, X, Y)
    H = model_hessian_dict(double(), inputs, frozen=["B1"], **options)
    assert keys(H) == {"B2": ["B2"]}
    assert not H["B2"]["B2"].any()


# ---- losses ---------------------------------------------------------------------------------


@SINGLE
def test_the_loss_of_a_bilinear_model(single: bool) -> None:
    x, y = sample(single, whole(1, BATCH, 3), whole(2, BATCH, 4))
    t = sample(single, whole(3, BATCH, 1))[0]
    H = loss_hessian_dict(bilinear(), SUM, (x, y), t, is_batch=not single)
    assert keys(H) == {"B.weight": ["B.weight"]}
    outer = np.einsum("ni,nj->nij", np.atleast_2d(x), np.atleast_2d(y))
    want = 2.0 * np.einsum("nij,nkl->ijkl", outer, outer).reshape(1, 3, 4, 1, 3, 4)
    np.testing.assert_array_equal(H["B.weight"]["B.weight"], want)


@SINGLE
@DIAGONAL
def test_the_loss_of_a_double_bilinear_model(single: bool, diagonal_only: bool) -> None:
    x, y = sample(single, X, Y)
    t = whole(10, BATCH)[: 1 if single else None]
    given = t[0] if single else t
    H = loss_hessian_dict(
        double(), SUM, (x, y), given, diagonal_only=diagonal_only, is_batch=not single
    )
    x, y = np.atleast_2d(x), np.atleast_2d(y)
    left, right = x @ B1, y @ B2.T  # f = left . right
    error = (left * right).sum(axis=1) - t
    one, two = np.einsum("ni,nj->nij", x, right), np.einsum("nj,nl->njl", left, y)
    second = np.einsum("n,ni,jk,nl->ijkl", error, x, np.eye(3), y)
    cross = 2.0 * (np.einsum("nij,nkl->ijkl", one, two) + second)
    want = {"B1": {"B1": 2.0 * np.einsum("nij,nkl->ijkl", one, one), "B2": cross},
            "B2": {"B1": cross.transpose(2, 3, 0, 1),
                   "B2": 2.0 * np.einsum("nij,nkl->ijkl", two, two)}}  # fmt: skip
    if diagonal_only:
        want = {k: {k: row[k]} for k, row in want.items()}
    assert keys(H) == keys(want)
    for a, row in want.items():
        for b, h in row.items():
            np.testing.assert_array_equal(H[a][b], h)


# ---- the matrix, sharpness, selection, the README -------------------------------------------


@SINGLE
@DIAGONAL
def test_the_matrix_is_made_of_the_blocks(single: bool, diagonal_only: bool) -> None:
    inputs = sample(single, X, Y)
    options = {"diagonal_only": diagonal_only, "is_batch": not single}
    lead = () if single else (BATCH,)
    H = model_hessian_dict(double(), inputs, **options)
    matrix = model_hessian_matrix(double(), inputs, **options)
    assert matrix.shape == (*lead, 18, 18)
    spans = {"B1": (slice(0, 6), (2, 3)), "B2": (slice(6, 18), (3, 4))}
    for a, (rows, p) in spans.items():
        for b, (columns, q) in spans.items():
            found = matrix[..., rows, columns]
            want = H[a][b].reshape(found.shape) if b in H[a] else np.zeros(found.shape)
            assert p + q == H[a][b].shape[len(lead) :] if b in H[a] else True
            np.testing.assert_array_equal(found, want)


def test_sharpness_is_the_largest_absolute_eigenvalue() -> None:
    (x,) = sample(False, -np.arange(1.0, 5.0))
    np.testing.assert_allclose(model_sharpness(norms(), x), 2.0 * np.abs(x), rtol=1e-14)
    t = whole(11, BATCH)
    want = np.linalg.eigvalsh(loss_hessian_matrix(norms(), SUM, x, t))
    got = float(loss_sharpness(norms(), SUM, x, t))
    assert got == pytest.approx(np.abs(want).max(), rel=1e-12)


def test_nothing_selected_is_an_error() -> None:
    with pytest.raises(ParameterError, match="unknown"):
        model_hessian_dict(norms(), np.ones(2), params=["bad_1", "bad_2"])
    with pytest.raises(ParameterError, match="no parameter is selected"):
        model_hessian_dict(norms(), np.ones(2), params=[])


def test_the_example_of_its_readme() -> None:
    x = np.asarray([[1.0, 2.0], [3.0, 4.0]])
    inputs = (x, -x)
    matrix = model_hessian_matrix(model=readme(), inputs=inputs)
    assert matrix.shape == (2, 4, 8, 8)
    want = np.zeros((2, 4, 8, 8))
    for n in range(2):
        for m in range(4):
            i = 4 * (m // 2) + np.arange(4)
            want[n, m, i, i] = 2.0 * np.hstack(inputs)[n, m]
    np.testing.assert_array_equal(matrix, want)
    part = model_hessian_matrix(model=readme(), inputs=inputs, params=["A"])
    np.testing.assert_array_equal(part, want[..., :4, :4])
    target = whole(12, 2, 4)
    call = {"model": readme(), "criterion": torch.nn.MSELoss(), "inputs": inputs, "target": target}
    loss = loss_hessian_matrix(**call)
    assert loss.shape == (8, 8)
    np.testing.assert_allclose(loss_hessian_matrix(**call, params=["A"]), loss[:4, :4], rtol=1e-14)
