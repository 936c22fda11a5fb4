"""Random models and losses: every block, form, diagonal and product, against torch.func."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parameter_models import joined, worst
from random_models import Case, Drawn, cases, models

from hessarray.curvature import (
    empirical_fisher_diagonal,
    empirical_fisher_matrix,
    empirical_fisher_operator,
    gauss_newton_diagonal,
    gauss_newton_matrix,
    gauss_newton_operator,
    loss_gradient,
    loss_hessian_diagonal,
    loss_hessian_dict,
    loss_hessian_matrix,
    loss_hessian_operator,
    loss_value,
    mixed_hessian_dict,
    model_gradient_dict,
    model_hessian_dict,
    model_hessian_matrix,
)

TOLERANCE = 1e-9
EXACT = 1e-12  # of the same sums in another order
CANCELLED = 1e-13  # left of terms up to some hundred: a single class has no cross entropy


def close(got: Any, want: Any, tolerance: float = TOLERANCE, scale: float = 0.0) -> None:
    """To a share of the largest entry, or of ``scale`` where that is larger."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert np.isfinite(want).all()
    most = max(float(np.abs(want).max(initial=0.0)), scale) or 1.0
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * most + CANCELLED)


def flat(found: dict[str, Any]) -> np.ndarray:
    return np.concatenate([a.reshape(-1) for a in found.values()])


@given(cases())
def test_every_block_of_a_loss(case: Case) -> None:
    truth = case.truth()
    want = truth.loss_hessian()
    got = loss_hessian_dict(*case.args)
    assert worst(got, want) < TOLERANCE
    matrix = loss_hessian_matrix(*case.args)
    scale = float(np.abs(matrix).max())
    close(matrix, joined(want))
    close(joined(got), matrix, EXACT)
    close(matrix.T, matrix, EXACT)
    for a, row in got.items():
        for b, h in row.items():
            rank = case.f.parameters()[a].ndim
            turned = np.moveaxis(got[b][a], range(-rank, 0), range(rank))
            close(h, turned, EXACT, scale)
    close(loss_value(*case.args), truth.value())
    close(flat(loss_gradient(*case.args)), truth.gradient())


@settings(max_examples=12)
@given(cases())
def test_diagonals_and_products_are_those_of_the_matrices(case: Case) -> None:
    v = np.random.default_rng(0).standard_normal((loss_hessian_operator(*case.args).shape[0], 2))
    for matrix, diagonal, operator in (
        (loss_hessian_matrix, loss_hessian_diagonal, loss_hessian_operator),
        (gauss_newton_matrix, gauss_newton_diagonal, gauss_newton_operator),
        (empirical_fisher_matrix, empirical_fisher_diagonal, empirical_fisher_operator),
    ):
        whole = matrix(*case.args)
        scale = float(np.abs(whole).max())
        found = diagonal(*case.args)
        assert {k: a.shape for k, a in found.items()} == {
            k: a.shape for k, a in case.f.parameters().items()
        }
        close(flat(found), np.diagonal(whole), TOLERANCE, scale)
        close(operator(*case.args) @ v, whole @ v, TOLERANCE, scale)


@given(cases())
def test_gauss_newton_and_fisher(case: Case) -> None:
    truth = case.truth()
    close(gauss_newton_matrix(*case.args), truth.gauss_newton())
    mean = case.loss.name not in ("sum_of_squares", "coupled")
    rows = [
        case.model.truth([x[i : i + 1] for x in case.xs], case.loss, case.t[i : i + 1]).gradient()
        for i in range(case.n)
    ]
    gradients = np.stack(rows)
    want = gradients.T @ gradients / (case.n if mean else 1)
    close(empirical_fisher_matrix(*case.args), want)


@given(cases(), st.data())
def test_subsets_are_blocks_of_the_whole(case: Case, data: st.DataObject) -> None:
    names = list(case.f.parameters())
    whole = loss_hessian_dict(*case.args)
    scale = max(float(np.abs(h).max(initial=0.0)) for row in whole.values() for h in row.values())
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    frozen = [k for k in names if k not in chosen]
    for options, kept in (
        ({"params": chosen}, lambda a, b: a in chosen and b in chosen),
        ({"frozen": frozen}, lambda a, b: a in chosen and b in chosen),
        ({"diagonal_only": True}, lambda a, b: a == b),
        ({"per_layer": True}, lambda a, b: a.split(".")[0] == b.split(".")[0]),
    ):
        got = loss_hessian_dict(*case.args, **options)
        want = {a: {b: h for b, h in row.items() if kept(a, b)} for a, row in whole.items()}
        want = {a: row for a, row in want.items() if row}
        assert {a: list(row) for a, row in got.items()} == {a: list(row) for a, row in want.items()}
        for a, row in want.items():
            for b, h in row.items():
                close(got[a][b], h, EXACT, scale)
        close(loss_hessian_matrix(*case.args, **options), joined(want), EXACT, scale)


@given(models(), st.sampled_from([1, 3]))
def test_every_block_of_a_model(model: Drawn, n: int) -> None:
    f, xs = model.function(), model.inputs(n)
    truth = model.truth(xs)
    got = model_hessian_dict(f, xs)
    assert worst(got, truth.model_hessian()) < TOLERANCE
    matrix = model_hessian_matrix(f, xs)
    close(matrix, joined(got, 1 + len(f.out_shape)), EXACT)
    close(np.swapaxes(matrix, -1, -2), matrix, EXACT)
    one = model_hessian_matrix(f, tuple(x[-1] for x in xs), is_batch=False)
    close(one, matrix[-1], EXACT, float(np.abs(matrix).max()))


@given(models())
def test_gradients_and_mixed_blocks_of_a_model(model: Drawn) -> None:
    """d2f / dx dtheta from the model's own Hessian, x and theta both as inputs."""
    f, xs = model.function(), model.inputs(2)
    names = list(f.parameters())
    all_in = _with_parameters_as_inputs(model)
    theta = [np.broadcast_to(a, (2, *a.shape)) for a in f.parameters().values()]
    hessian, slopes = all_in.hessian(*xs, *theta), all_in.gradient(*xs, *theta)
    found = mixed_hessian_dict(f, xs)
    gradients = model_gradient_dict(f, xs)
    several = found if isinstance(found, tuple) else (found,)
    m = len(f.out_shape)
    for j, name in enumerate(names):
        p = f.parameters()[name].ndim
        slope = slopes[len(xs) + j]
        close(gradients[name], np.moveaxis(slope, range(1, 1 + p), range(-p, 0)))
        for i, x in enumerate(xs):
            want = hessian[i][len(xs) + j]  # (n, x, theta, m)
            axes = [0, *range(want.ndim - m, want.ndim), *range(1, want.ndim - m)]
            close(several[i][name], np.transpose(want, axes), TOLERANCE, float(np.abs(x).max()))


def _with_parameters_as_inputs(model: Drawn) -> Any:
    import hessarray as ha

    count, names = len(model.in_shapes), list(model.shapes)

    def code(*arrays: Any) -> Any:
        p = dict(zip(names, arrays[count:], strict=True))
        return model.one(arrays[0].__array_namespace__(), arrays[:count], p)

    return ha.Function(code, [*model.in_shapes, *model.shapes.values()])


@settings(max_examples=15)
@given(cases(depth=2), st.sampled_from([1, 2]))
def test_streamed_pieces_and_threads_add_up(case: Case, threads: int) -> None:
    n = 300
    xs = tuple(np.resize(x, (n, *x.shape[1:])) * np.linspace(0.5, 1.0, n)[:, None] for x in case.xs)
    t = np.resize(case.t, (n, *case.t.shape[1:]))
    args = case.f, case.loss.own, xs, t
    whole = loss_hessian_matrix(*args, threads=3 - threads)
    limit = whole.nbytes + 16_000
    scale = max(1.0, float(np.abs(whole).max()))
    close(loss_hessian_matrix(*args, memory_limit=limit, threads=threads), whole, EXACT, scale)
    diagonal = flat(loss_hessian_diagonal(*args, memory_limit=limit, threads=threads))
    close(diagonal, np.diagonal(whole), 1e-11, scale)


@settings(max_examples=8)
@given(cases())
def test_torch_gives_what_numpy_gives(case: Case) -> None:
    """Sums that are made in place on NumPy are made otherwise elsewhere."""
    f, loss, xs, t = case.args
    there = f, loss, tuple(torch.tensor(x) for x in xs), torch.tensor(t)
    for call in (loss_hessian_matrix, gauss_newton_matrix, empirical_fisher_matrix):
        whole = call(*case.args)
        scale = max(1.0, float(np.abs(whole).max()))  # what adds up to zero is of this size
        close(call(*there), whole, EXACT, scale)
        parts = call(*there, params=list(f.parameters())[:1])
        close(parts, whole[: len(parts), : len(parts)], EXACT, scale)
    v = np.random.default_rng(0).standard_normal(len(whole))
    scale = max(1.0, float(np.abs(loss_hessian_matrix(*case.args)).max()))
    product = loss_hessian_operator(*there).matvec(torch.tensor(v))
    close(product, loss_hessian_operator(*case.args) @ v, EXACT, scale)
    diagonal = [a.reshape(-1) for a in loss_hessian_diagonal(*there).values()]
    close(torch.cat(diagonal), flat(loss_hessian_diagonal(*case.args)), EXACT, scale)
    close(model_hessian_matrix(f, there[2]), model_hessian_matrix(f, xs), EXACT, 1.0)
