"""What cannot be asked for: one sentence and a typed error each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from parameter_models import MODELS

import hessarray as ha
from hessarray.curvature import (
    Loss,
    curvature_plan,
    empirical_fisher_matrix,
    gauss_newton_matrix,
    kfac_factors,
    loss_gradient,
    loss_hessian_dict,
    loss_hessian_matrix,
    loss_hessian_operator,
    loss_sharpness,
    mixed_hessian_dict,
    model_hessian_dict,
    model_hessian_matrix,
    model_sharpness,
    solution_sensitivity,
)
from hessarray.errors import (
    BackendError,
    CurvatureError,
    DTypeError,
    HessarrayError,
    MemoryLimitError,
    OptionError,
    ParameterError,
    ShapeError,
)

NET, TWO, CONVEX = MODELS["mlp"], MODELS["bilinear"], MODELS["convex"]
X, T = NET.inputs()[0], NET.targets()


def _loss(**options: Any) -> Callable[[], Any]:
    given = {"criterion": "mse", "inputs": X, "target": T} | options
    return lambda: loss_hessian_matrix(NET.function(), **given)


def _torch_loss(name: str, **options: Any) -> Callable[[], Any]:
    return _loss(criterion=getattr(torch.nn, name)(**options), target=np.zeros(4))


def _operator(like: Callable[[Any], Any] = torch.tensor) -> Any:
    return loss_hessian_operator(NET.function(), "mse", like(X), like(T))


def _nan() -> ha.Function:
    f = NET.function()
    values = NET.values()
    values["1.K"][0, 0] = np.nan
    f.load_parameters(values)
    return f


def _squares(f: Any, t: Any) -> Any:
    return f.__array_namespace__().sum((f - t) ** 2)


class _Own(torch.nn.Module):
    def forward(self, f: Any, t: Any) -> Any:
        return ((f - t) ** 2).sum()


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    # parameters
    "none selected": (_loss(params=[]), ParameterError, "no parameter is selected"),
    "all frozen": (_loss(frozen=list(NET.params)), ParameterError, "no parameter is selected"),
    "none there": (
        lambda: model_hessian_dict(ha.Function(lambda x: x, (3,)), X),
        ParameterError,
        "no parameter is selected: the model has none",
    ),
    "near name": (_loss(params=["1.k"]), ParameterError, r"'1.k' is unknown: did you mean .*1\.K"),
    "near frozen": (_loss(frozen="1.k"), ParameterError, r"'1.k' is unknown: did you mean"),
    "far name": (_loss(params=["zzz"]), ParameterError, "the names are 0.K, 0.b, 1.K"),
    "params a number": (_loss(params=3), OptionError, "params=3: pass names"),
    "frozen a number": (_loss(frozen=3), OptionError, "frozen=3: pass names"),
    "name elsewhere": (
        lambda: mixed_hessian_dict(CONVEX.function(), CONVEX.inputs(), params="Q"),
        ParameterError,
        "'Q' is unknown",
    ),
    # targets
    "outputs of the target": (_loss(target=T[:, :1]), ShapeError, r"\(4, 1\), \(4, 2\) is exp"),
    "samples of the target": (_loss(target=T[:3]), ShapeError, r"\(3, 2\), the inputs' batch is"),
    "target a number": (_loss(target=1.0), ShapeError, "one target for each sample"),
    "no target": (_loss(target=None), OptionError, "pass target="),
    "target a word": (_loss(target="abc"), DTypeError, "target has dtype"),
    "target of objects": (_loss(target=np.full((4, 2), None)), DTypeError, "dtype object"),
    "target complex": (_loss(target=1j * T), DTypeError, "complex128"),
    "target ragged": (_loss(target=[[1, 2], [3]]), ShapeError, "ragged"),
    "target masked": (_loss(target=np.ma.masked_array(T)), BackendError, "masked"),
    "target of a sum of torch": (
        _loss(criterion=torch.nn.MSELoss(reduction="sum"), target=T[:, :1]),
        ShapeError,
        r"\(4, 1\), \(4, 2\) is expected",
    ),
    "no such class": (
        _loss(criterion="cross_entropy", target=[0, 1, 2, 0]),
        OptionError,
        "target has class 2: whole numbers from 0 to 1",
    ),
    "ignored class": (
        _loss(criterion=torch.nn.CrossEntropyLoss(), target=[0, 1, -100, 0]),
        OptionError,
        "target has class -100",
    ),
    "half a class": (
        _loss(criterion="cross_entropy", target=[0, 0.5, 1, 0]), OptionError, "class 0.5"
    ),
    "classes of a number": (
        lambda: loss_hessian_dict(TWO.function(), "cross_entropy", TWO.inputs(), np.zeros(4)),
        ShapeError,
        "take 'binary_cross_entropy'",
    ),
    # losses
    "loss not scalar": (
        _loss(criterion=lambda f, t: (f - t) ** 2),
        ShapeError,
        r"the loss of one sample has shape \(2,\), one number is expected",
    ),
    "loss not traced": (_loss(criterion=lambda f, t: 3.0), ShapeError, "has a float, one number"),
    "loss of nothing": (_loss(criterion=lambda f, t: None), ShapeError, "has a NoneType"),
    "neither sum nor mean": (
        _loss(criterion=lambda f, t: _squares(f, t) ** 2), OptionError, "neither the sum .* nor"
    ),
    "not for a batch": (
        _loss(criterion=lambda f, t: f[0] * f[1] * (t[0] - t[1])),
        OptionError,
        "the loss of all samples has shape",
    ),
    "raises for a batch": (
        _loss(criterion=lambda f, t: f @ np.ones((2, 2)) @ np.ones(3) if f.ndim > 1 else f @ t),
        OptionError,
        "cannot be called with all samples at once",
    ),
    "sum and mean look alike": (
        lambda: loss_hessian_matrix(NET.function(), _squares, X, NET.function().value(X)),
        OptionError,
        "sum and mean look alike: say which",
    ),
    "near loss": (_loss(criterion="mes"), OptionError, "'mes' is unknown: did you mean mse"),
    "far loss": (_loss(criterion="zzz"), OptionError, "use mse, sum_of_squares"),
    "loss a number": (_loss(criterion=3), OptionError, "criterion is a int"),
    "no loss": (_loss(criterion=None), OptionError, "criterion is None"),
    "torch's class": (_loss(criterion=torch.nn.MSELoss), OptionError, r"pass torch.nn.MSELoss\(\)"),
    "torch's none": (_torch_loss("MSELoss", reduction="none"), OptionError, "reduction set"),
    "torch's smoothing": (
        _torch_loss("CrossEntropyLoss", label_smoothing=0.1), OptionError, "label_smoothing set"
    ),
    "torch's weight": (
        _torch_loss("CrossEntropyLoss", weight=torch.ones(2)), OptionError, "weight set"
    ),
    "torch's delta": (_torch_loss("HuberLoss", delta=2.0), OptionError, "delta set"),
    "torch's other": (_torch_loss("L1Loss"), OptionError, "L1Loss has no counterpart"),
    "torch's code": (_loss(criterion=_Own()), HessarrayError, "cannot be traced"),
    "Loss of a number": (lambda: Loss(3), OptionError, "pass function"),  # type: ignore[arg-type]
    "Loss of a reduction": (lambda: Loss(_squares, "avg"), OptionError, "use 'mean' or 'sum'"),
    "Loss of needs": (
        lambda: Loss(_squares, needs=("hessian",)), OptionError, "value, gradient, laplacian"
    ),
    "needs a word": (
        lambda: Loss(_squares, needs="value"), OptionError, "pass a tuple"  # type: ignore[arg-type]
    ),
    "needs of two inputs": (
        lambda: loss_gradient(
            TWO.function(), Loss(_squares, "sum", ("laplacian",)), TWO.inputs(), np.zeros(4)
        ),
        OptionError,
        "models of one input",
    ),
    "Gauss-Newton of a Laplacian": (
        lambda: gauss_newton_matrix(
            NET.function(), Loss(lambda a, t: a[0, 0] ** 2, "mean", ("laplacian",)), X, T
        ),
        OptionError,
        "take the Hessian or the empirical Fisher matrix",
    ),
    # memory
    "matrix": (
        _loss(memory_limit=1000),
        MemoryLimitError,
        "54 parameters would take 23,328 bytes, the limit is 1,000: loss_hessian_operator",
    ),
    "Gauss-Newton": (
        lambda: gauss_newton_matrix(NET.function(), "mse", X, T, memory_limit=1e3),
        MemoryLimitError,
        "23,328 bytes, the limit is 1,000: gauss_newton_operator",
    ),
    "Fisher": (
        lambda: empirical_fisher_matrix(NET.function(), "mse", X, T, memory_limit=1000),
        MemoryLimitError,
        "empirical_fisher_operator multiplies with it",
    ),
    "model": (
        lambda: model_hessian_matrix(NET.function(), X, memory_limit=1000),
        MemoryLimitError,
        "186,624 bytes, the limit is 1,000: name fewer parameters",
    ),
    "more than the machine has": (
        lambda: loss_hessian_matrix(
            ha.fully_connected([1000, 2000, 1000]), "mse", np.zeros((1, 1000)), np.zeros((1, 1000))
        ),
        MemoryLimitError,
        "128,192,072,000,000 bytes",
    ),
    # models
    "torch module": (
        lambda: model_hessian_matrix(torch.nn.Linear(3, 2), X),  # type: ignore[arg-type]
        OptionError,
        r"model is a torch.*Linear.*ha.from_torch\(module\)",
    ),
    "bare function": (
        lambda: model_hessian_matrix(lambda x, p: x, X),  # type: ignore[arg-type]
        OptionError,
        r"ha.Function\(fn, in_shape, params\)",
    ),
    # inputs
    "features": (_loss(inputs=X[:, :2]), ShapeError, r"\(4, 2\), \(..., 3\) is expected"),
    "one sample": (_loss(inputs=X[0]), ShapeError, r"\(\), \(n,\) is expected with is_batch=T"),
    "a batch": (_loss(is_batch=False), ShapeError, r"\(4,\), \(\) is expected with is_ba"),
    "is_batch a word": (_loss(is_batch="no"), OptionError, "is_batch='no'"),
    "number of inputs": (_loss(inputs=(X, X)), ShapeError, "1 inputs are expected, got 2"),
    "lists": (_loss(inputs=X.tolist()), BackendError, "inputs are a list of no arrays"),
    "nothing": (_loss(inputs=()), BackendError, "inputs are a tuple of no arrays"),
    "pinned": (
        lambda: loss_hessian_matrix(NET.function().to("torch"), "mse", X, T),
        BackendError,
        "pinned to torch",
    ),
    "a word": (_loss(inputs="abc"), BackendError, "x is a builtins.str"),
    "masked": (_loss(inputs=np.ma.masked_array(X)), BackendError, "masked array"),
    "whole numbers": (_loss(inputs=X.astype(int)), DTypeError, "int64"),
    "half precision": (_loss(inputs=X.astype(np.float16)), DTypeError, "float16"),
    "two libraries": (
        lambda: model_hessian_matrix(
            TWO.function(), (TWO.inputs()[0], torch.tensor(TWO.inputs()[1]))
        ),
        BackendError,
        "of one array library",
    ),
    "two dtypes": (
        lambda: model_hessian_matrix(
            TWO.function(), (TWO.inputs()[0], TWO.inputs()[1].astype(np.float32))
        ),
        BackendError,
        "of one array library and dtype",
    ),
    "two batches": (
        lambda: model_hessian_matrix(TWO.function(), (TWO.inputs()[0], TWO.inputs(3)[1])),
        ShapeError,
        "make them equal",
    ),
    # options
    "misspelt": (_loss(memry_limit=1), OptionError, "did you mean memory_limit"),
    "misspelt layer": (_loss(per_layr=True), OptionError, "did you mean per_layer"),
    "unknown": (_loss(zzz=1), OptionError, "'zzz' is unknown here: use frozen, memory_limit"),
    "memory a word": (_loss(memory_limit="1GB"), OptionError, "memory_limit='1GB'"),
    "memory negative": (_loss(memory_limit=-3), OptionError, "memory_limit=-3"),
    "threads": (_loss(threads=0), OptionError, "threads=0"),
    "progress": (_loss(progress=3), OptionError, "progress=3"),
    "accumulate": (_loss(accumulate="float16"), OptionError, "use 'float64' or 'float32'"),
    "accumulate a model": (
        lambda: model_hessian_matrix(NET.function(), X, accumulate="float64"),
        OptionError,
        "sums over samples",
    ),
    "layers of a model": (
        lambda: model_hessian_matrix(NET.function(), X, per_layer=True), OptionError, "unknown here"
    ),
    "form": (lambda: curvature_plan(NET.function(), "mse", X, T, form="fisher"), OptionError,
             "use hessian, gauss_newton, empirical_fisher"),
    "want": (lambda: curvature_plan(NET.function(), "mse", X, T, want="all"), OptionError,
             "use matrix, diagonal, product"),
    # operators
    "vector": (lambda: _operator().matvec(torch.ones(3)), ShapeError, r"\(54,\) is expected"),
    "vector a list": (lambda: _operator() @ [1.0], ShapeError, r"\(54,\) is expected"),
    "matrix of vectors": (lambda: _operator() @ torch.ones(3, 3), ShapeError, r"\(54, k\)"),
    "no vector": (lambda: _operator().matmat(torch.ones(54, 0)), ShapeError, r"\(54, k\)"),
    "SciPy's": (lambda: _operator(np.asarray) @ np.ones(3), ValueError, "dimension mismatch"),
    # what has no such form
    "kernel": (
        lambda: kfac_factors(
            MODELS["convolution"].function(), "mse", MODELS["convolution"].inputs(), np.ones((4, 4))
        ),
        OptionError,
        "'k' is neither matrix nor bias",
    ),
    "function of parameters": (
        lambda: kfac_factors(CONVEX.function(), "mse", CONVEX.inputs(), np.ones((4, 3))),
        OptionError,
        "K-FAC has no factors",
    ),
    "weights": (
        lambda: mixed_hessian_dict(CONVEX.function(), CONVEX.inputs(), weights=np.ones(2)),
        ShapeError,
        r"weights have shape \(2,\), \(3,\) or \(4, 3\) is expected",
    ),
    "solution of two inputs": (
        lambda: solution_sensitivity(TWO.function(), TWO.inputs()), OptionError, "join the inputs"
    ),
    "solution of outputs": (
        lambda: solution_sensitivity(CONVEX.function(), np.zeros(2)), OptionError, "pass weights="
    ),
    "no solution": (
        lambda: solution_sensitivity(CONVEX.function(), np.ones(2), weights=np.ones(3)),
        CurvatureError,
        "x is no stationary point",
    ),
    "solutions on a line": (
        lambda: solution_sensitivity(
            ha.Function(lambda x, p: (x[0] - p["a"][0]) ** 2, (2,), {"a": np.ones(1)}), np.ones(2)
        ),
        CurvatureError,
        "singular",
    ),
    "sharpness of NaN": (
        lambda: loss_sharpness(_nan(), "mse", X, T), CurvatureError, "are not finite"
    ),
    "model sharpness of NaN": (lambda: model_sharpness(_nan(), X), CurvatureError, "not finite"),
    "reduction of NaN": (
        lambda: loss_hessian_matrix(_nan(), _squares, X, T),
        OptionError,
        "the loss of all samples is nan, so it is not seen whether",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_one_sentence_says_what_is_wrong(name: str) -> None:
    call, kind, text = BAD[name]
    with pytest.raises(kind, match=text) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_nan_in_a_weight_comes_out_where_it_matters() -> None:
    got = loss_hessian_dict(_nan(), "mse", X, T)
    assert np.isnan(got["0.K"]["0.K"]).any()
    assert np.isfinite(got["2.b"]["2.b"]).all()  # mean squares: no weight occurs in it


def test_errors_are_also_what_one_would_catch() -> None:
    with pytest.raises(KeyError):
        loss_hessian_matrix(NET.function(), "mse", X, T, params=["1.k"])
    with pytest.raises(ValueError, match="unknown"):
        loss_hessian_matrix(NET.function(), "mes", X, T)
    with pytest.raises(MemoryError):
        loss_hessian_matrix(NET.function(), "mse", X, T, memory_limit=10)
