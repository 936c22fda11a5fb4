"""scikit-learn estimators: values against scikit-learn, derivatives against others, bad input."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)

import hessarray as ha

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)) * [1.0, 20.0, 0.1] + [0.0, 300.0, 1.0]
Z = (X - X.mean(0)) / X.std(0)
Y = np.sin(Z[:, 0]) + Z[:, 1] * Z[:, 2]
Y2 = np.stack([Y, np.cos(Z[:, 1])], axis=1)
POSITIVE = np.exp(0.3 * Y)
CLASSES = (Y > 0).astype(int) + (Y > 0.8)
LABELS = np.stack([Y > 0, Z[:, 0] > 0, Z[:, 1] > 0.5], axis=1).astype(int)


def mlp(act: str = "tanh", **options: Any) -> MLPRegressor:
    return MLPRegressor(
        hidden_layer_sizes=(6, 5), activation=act, max_iter=40, random_state=0, **options
    )


def classifier(**options: Any) -> MLPClassifier:
    return MLPClassifier(
        hidden_layer_sizes=(6,), activation="tanh", max_iter=40, random_state=0, **options
    )


def process(kernel: Any, **options: Any) -> GaussianProcessRegressor:
    return GaussianProcessRegressor(kernel, alpha=1e-6, optimizer=None, **options)


k = kernels
RBF, MATERN3, MATERN5 = k.RBF(1.3), k.Matern([0.9, 1.2, 2.0], nu=1.5), k.Matern(1.1, nu=2.5)
REGRESSORS: dict[str, tuple[Callable[[], Any], Any]] = {
    "mlp tanh": (lambda: make_pipeline(StandardScaler(), mlp()), Y),
    "mlp logistic, two outputs": (lambda: make_pipeline(MinMaxScaler(), mlp("logistic")), Y2),
    "mlp relu": (lambda: make_pipeline(RobustScaler(), mlp("relu")), Y),
    "mlp identity": (lambda: make_pipeline(MaxAbsScaler(), mlp("identity")), Y),
    # loss= came with scikit-learn 1.7.
    **(
        {"mlp poisson": (lambda: make_pipeline(StandardScaler(), mlp(loss="poisson")), POSITIVE)}
        if "loss" in MLPRegressor().get_params()
        else {}
    ),
    "linear": (LinearRegression, Y),
    "linear, two outputs": (LinearRegression, Y2),
    "ridge of a polynomial": (
        lambda: make_pipeline(StandardScaler(), PolynomialFeatures(3), Ridge()),
        Y,
    ),
    "lasso of interactions": (
        lambda: make_pipeline(
            StandardScaler(),
            PolynomialFeatures(3, interaction_only=True, include_bias=False),
            Lasso(0.01),
        ),
        Y,
    ),
    "pca": (lambda: make_pipeline(StandardScaler(), PCA(2), ElasticNet(0.01)), Y),
    "pca, whitened": (
        lambda: make_pipeline(PCA(3, whiten=True), PolynomialFeatures(2), Ridge()),
        Y,
    ),
    "svd": (lambda: make_pipeline(StandardScaler(with_std=False), TruncatedSVD(2), Ridge()), Y),
    "no scaling at all": (
        lambda: make_pipeline(
            StandardScaler(with_mean=False, with_std=False), "passthrough", Ridge()
        ),
        Y,
    ),
    "a clipped scaler": (lambda: make_pipeline(MinMaxScaler((-1, 2), clip=True), Ridge()), Y),
    "a function of NumPy": (
        lambda: make_pipeline(MinMaxScaler(), FunctionTransformer(np.log1p), Ridge()),
        Y,
    ),
    "scaled targets": (
        lambda: TransformedTargetRegressor(
            make_pipeline(StandardScaler(), mlp()), transformer=StandardScaler()
        ),
        Y2,
    ),
    "targets in an interval": (
        lambda: TransformedTargetRegressor(Ridge(), transformer=MinMaxScaler((-1, 1))),
        Y,
    ),
    "logarithms of targets": (
        lambda: TransformedTargetRegressor(
            make_pipeline(StandardScaler(), mlp()), func=np.log, inverse_func=np.exp
        ),
        POSITIVE,
    ),
    "log1p of targets, scaled": (
        lambda: TransformedTargetRegressor(
            make_pipeline(StandardScaler(), Ridge()),
            transformer=make_pipeline(FunctionTransformer(np.log1p, np.expm1), StandardScaler()),
        ),
        POSITIVE,
    ),
    "gp rbf": (lambda: make_pipeline(StandardScaler(), process(RBF)), Y),
    "gp rbf, unequal lengths": (
        lambda: make_pipeline(StandardScaler(), process(k.RBF([0.8, 1.1, 3.0]), normalize_y=True)),
        Y2,
    ),
    "gp matern 3/2": (
        lambda: make_pipeline(StandardScaler(), process(2.0 * MATERN3, normalize_y=True)),
        Y,
    ),
    "gp matern 5/2": (
        lambda: make_pipeline(StandardScaler(), process(MATERN5 + k.WhiteKernel(0.01))),
        Y,
    ),
    "gp matern infinity": (
        lambda: make_pipeline(StandardScaler(), process(k.Matern(1.0, nu=math.inf))),
        Y,
    ),
    "gp of everything": (
        lambda: make_pipeline(
            StandardScaler(),
            process(
                RBF * MATERN5
                + 0.5 * k.RationalQuadratic(1.2, 0.7)
                + k.DotProduct(0.4) ** 2
                + k.ConstantKernel(0.3)
                + k.WhiteKernel(0.1)
            ),
        ),
        Y,
    ),
}
CLASSIFIERS: dict[str, tuple[Callable[[], Any], Any]] = {
    "mlp of two": (lambda: make_pipeline(StandardScaler(), classifier()), CLASSES > 0),
    "mlp of three": (lambda: make_pipeline(StandardScaler(), classifier()), CLASSES),
    "mlp of labels": (lambda: make_pipeline(StandardScaler(), classifier()), LABELS),
    "logistic of two": (lambda: make_pipeline(StandardScaler(), LogisticRegression()), CLASSES > 0),
    "logistic of three": (lambda: make_pipeline(StandardScaler(), LogisticRegression()), CLASSES),
    "liblinear of two": (
        lambda: make_pipeline(StandardScaler(), LogisticRegression(solver="liblinear")),
        CLASSES > 0,
    ),
}
# Points that were not trained on, and some that were.
POINTS = np.concatenate([RNG.normal(size=(6, 3)) * [1.0, 20.0, 0.1] + [0.0, 300.0, 1.0], X[:3]])


@cache
def fitted(name: str) -> Any:
    make, targets = REGRESSORS.get(name) or CLASSIFIERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", FutureWarning)
        return make().fit(X, targets)


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REGRESSORS)
def test_values_are_those_of_predict(name: str) -> None:
    expected = fitted(name).predict(POINTS)
    expected = expected[:, None] if expected.ndim == 1 else expected
    found = ha.from_sklearn(fitted(name)).value(POINTS)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_values_are_those_of_predict_proba(name: str) -> None:
    net = ha.from_sklearn(fitted(name))
    np.testing.assert_allclose(
        net.value(POINTS), fitted(name).predict_proba(POINTS), rtol=1e-12, atol=1e-300
    )
    logits = ha.from_sklearn(fitted(name), output="logits").value(POINTS)
    if logits.shape[1] == 1:
        expected = np.concatenate([1 / (1 + np.exp(logits)), 1 / (1 + np.exp(-logits))], axis=1)
    elif "labels" in name:
        expected = 1 / (1 + np.exp(-logits))
    else:
        expected = np.exp(logits) / np.sum(np.exp(logits), axis=1, keepdims=True)
    np.testing.assert_allclose(net.value(POINTS), expected, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in REGRESSORS if name.startswith("gp")])
def test_variance_is_that_of_predict(name: str) -> None:
    model = fitted(name)
    mean, std = model.predict(POINTS, return_std=True)
    net = ha.from_sklearn(model, output=("mean", "variance"))
    found = net.value(POINTS)
    expected = np.concatenate([mean.reshape((9, -1)), std.reshape((9, -1)) ** 2], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9 * np.max(expected))
    only = ha.from_sklearn(model, output="variance").value(POINTS)
    np.testing.assert_array_equal(only, found[:, found.shape[1] // 2 :])


def test_transformers_by_themselves() -> None:
    model = make_pipeline(StandardScaler(), PolynomialFeatures(2), PCA(4)).fit(X)
    np.testing.assert_allclose(
        ha.from_sklearn(model).value(POINTS), model.transform(POINTS), rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", ["mean std", "centering scaling"])
def test_scalers_that_leave_a_step_out(kind: str, late: bool) -> None:
    """They have the attribute all the same, and look at their options when they are called."""
    make = StandardScaler if kind == "mean std" else RobustScaler
    for used in itertools.product([False, True], repeat=2):
        options = {f"with_{k}": v for k, v in zip(kind.split(), used, strict=True)}
        scaler = make(**{} if late else options)
        target = TransformedTargetRegressor(LinearRegression(), transformer=scaler).fit(X, Y2)
        scaler.fit(X).set_params(**options)
        target.transformer_.set_params(**options)
        forward, back = scaler.transform(POINTS), target.predict(POINTS)
        np.testing.assert_allclose(ha.from_sklearn(scaler).value(POINTS), forward, rtol=1e-12)
        np.testing.assert_allclose(ha.from_sklearn(target).value(POINTS), back, rtol=1e-12)


def test_single_precision_stays(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = mlp().fit(Z.astype(np.float32), Y.astype(np.float32))
    net = ha.from_sklearn(model)
    assert {str(a.dtype) for a in net.parameters().values()} == {"float32"}
    x = Z[:5].astype(np.float32)
    np.testing.assert_allclose(net.value(x)[:, 0], model.predict(x), rtol=1e-5)


# ---- derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*REGRESSORS, *CLASSIFIERS])
def test_derivatives_pass_the_checks(name: str) -> None:
    """In the units of the data, and off the training points, where Matern 3/2 has no third one."""
    scaled = ha.Network(ha.Scale(X.mean(0), X.std(0), inverse=True), ha.from_sklearn(fitted(name)))
    z = ((POINTS - X.mean(0)) / X.std(0))[:4]
    result = ha.check_finite_differences(scaled, z)
    assert result.passed, str(result)


def test_mlp_derivatives_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    scaler, model = (step for _, step in fitted("mlp tanh").steps)

    def plain(x: Any) -> Any:
        u = (x - torch.tensor(scaler.mean_)) / torch.tensor(scaler.scale_)
        for i, (K, b) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
            u = u @ torch.tensor(K) + torch.tensor(b)
            u = torch.tanh(u) if i < 2 else u
        return u[0]

    _, df, d2f = ha.from_sklearn(fitted("mlp tanh")).value_gradient_hessian(POINTS)
    for x, slope, hessian in zip(torch.tensor(POINTS), df, d2f, strict=True):
        expected = torch.autograd.functional.jacobian(plain, x)
        np.testing.assert_allclose(slope[:, 0], expected, rtol=1e-11, atol=1e-13)
        expected = torch.autograd.functional.hessian(plain, x)
        np.testing.assert_allclose(hessian[:, :, 0], expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["gp rbf, unequal lengths", "gp matern 5/2"])
def test_process_derivatives_are_those_of_jax(name: str) -> None:
    """Off the training points: there jax differentiates a root of zero, and gives NaN."""
    jax = pytest.importorskip("jax")
    import jax.numpy as jnp

    scaler, model = (step for _, step in fitted(name).steps)
    x = POINTS[:6]

    def plain(x: Any) -> Any:
        z = (x - scaler.mean_) / scaler.scale_ - model.X_train_
        if name == "gp matern 5/2":
            a = jnp.sqrt(5.0 * jnp.sum((z / 1.1) ** 2, axis=1))
            covariance = (1 + a + a * a / 3) * jnp.exp(-a)
        else:
            covariance = jnp.exp(-0.5 * jnp.sum((z / np.array([0.8, 1.1, 3.0])) ** 2, axis=1))
        mean = covariance @ model.alpha_.reshape((len(X), -1))
        return mean * model._y_train_std + model._y_train_mean

    with jax.enable_x64(True):
        first = np.asarray(jax.jit(jax.vmap(jax.jacfwd(plain)))(x))
        second = np.asarray(jax.jit(jax.vmap(jax.hessian(plain)))(x))
    _, df, d2f = ha.from_sklearn(fitted(name)).value_gradient_hessian(x)
    # alpha_ is up to 1e4: the sums cancel in both.
    size = np.max(np.abs(model.alpha_)) * 1e-13
    np.testing.assert_allclose(df, np.moveaxis(first, 1, -1), rtol=1e-9, atol=size)
    np.testing.assert_allclose(d2f, np.moveaxis(second, 1, -1), rtol=1e-9, atol=size)


@pytest.mark.parametrize(("nu", "slope"), [(1.5, 3.0), (2.5, 5.0 / 3.0)])
def test_matern_at_a_training_point_in_a_pipeline(nu: float, slope: float) -> None:
    """One training point: k = 1 - slope r^2 / 2 + ..., so the Hessian there is -slope / l^2."""
    x = np.array([[0.5, -2.0]])
    model = process(k.Matern([0.5, 3.0], nu=nu)).fit(x, [2.0])
    f, df, d2f = ha.from_sklearn(model).value_gradient_hessian(x)
    alpha = 2.0 / (1.0 + 1e-6)
    np.testing.assert_allclose(f, [[alpha]], rtol=1e-14)
    np.testing.assert_array_equal(df, 0.0)
    expected = -alpha * slope * np.diag([4.0, 1.0 / 9.0])
    np.testing.assert_allclose(d2f[0, :, :, 0], expected, rtol=1e-14)


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*REGRESSORS, *CLASSIFIERS])
def test_networks_are_saved_with_their_architecture(name: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    net = ha.from_sklearn(fitted(name))
    net.save(tmp_path / "net.safetensors")
    twin = ha.load(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(twin.value(POINTS), net.value(POINTS))
    np.testing.assert_array_equal(twin.hessian(POINTS[:2]), net.hessian(POINTS[:2]))


# ---- bad input -----------------------------------------------------------------------------------


class Mine(Ridge):
    def predict(self, X: Any) -> Any:
        return 0.0 * super().predict(X)


class MyKernel(k.RBF):
    pass


def changed(name: str, step: int = -1, **attributes: Any) -> Any:
    """A fitted estimator with other attributes."""
    import copy

    model = copy.deepcopy(fitted(name))
    for attribute, value in attributes.items():
        setattr(model[step] if hasattr(model, "steps") else model, attribute, value)
    return model


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "unfitted mlp": (mlp, "MLPRegressor is not fitted, it has no out_activation_"),
    "unfitted step": (
        lambda: make_pipeline(StandardScaler(), Ridge()),
        r"Pipeline step 'standardscaler': StandardScaler is not fitted, it has no mean_",
    ),
    "unfitted target": (lambda: TransformedTargetRegressor(Ridge()), "not fitted.*regressor_"),
    "unfitted process": (lambda: process(RBF), "not fitted, it has no X_train_"),
    "forest": (RandomForestRegressor, "RandomForestRegressor is not supported.*MLPRegressor"),
    "forest as a step": (
        lambda: make_pipeline(StandardScaler(), RandomForestRegressor()).set_params(
            standardscaler=StandardScaler().fit(X)
        ),
        "Pipeline step 'randomforestregressor': RandomForestRegressor is not supported",
    ),
    "columns": (lambda: ColumnTransformer([]), "ColumnTransformer is not supported"),
    "own class": (lambda: Mine().fit(X, Y), "Mine is not supported"),
    "no estimator": (lambda: 3, "int is not supported"),
    "an imitation": (lambda: SimpleNamespace(coef_=1), "SimpleNamespace is not supported"),
    "own function": (
        lambda: make_pipeline(FunctionTransformer(lambda x: x), Ridge()).fit(X, Y),
        "step 'functiontransformer': func=.*cannot be read, supported are np.exp",
    ),
    "own function of targets": (
        lambda: TransformedTargetRegressor(
            Ridge(), func=np.log, inverse_func=lambda y: np.exp(y)
        ).fit(X, POSITIVE),
        "inverse_func=.*cannot be read",
    ),
    "polynomial of targets": (
        lambda: TransformedTargetRegressor(Ridge(), transformer=PCA(), check_inverse=False).fit(
            X, Y2
        ),
        "PCA is not supported for targets, supported are .*StandardScaler",
    ),
    "matern 1/2": (
        lambda: process(k.Matern(nu=0.5) + RBF).fit(X, Y),
        "kernel: Matern with nu=0.5 is not supported",
    ),
    "periodic": (
        lambda: process(k.ExpSineSquared()).fit(X[:1], Y[:1]),
        "ExpSineSquared is not supported",
    ),
    "own kernel": (lambda: process(MyKernel()).fit(X, Y), "MyKernel is not supported"),
    "text for weights": (
        lambda: changed("mlp tanh", coefs_=[np.array([["a"]])] * 3),
        "no real array of 2 axes",
    ),
    "objects for weights": (
        lambda: changed("linear", coef_=np.array([object()])),
        "no real array of 2 axes",
    ),
    "too many biases": (
        lambda: changed("mlp tanh", intercepts_=[np.zeros(4)] * 3),
        "MLPRegressor: ",
    ),
    "one weight less": (lambda: changed("mlp tanh", coefs_=[np.ones((3, 5))] * 2), "MLPRegressor"),
    "widths that do not fit": (
        lambda: changed("mlp tanh", coefs_=[np.ones((3, 6)), np.ones((7, 5)), np.ones((5, 1))]),
        "layer 2 .* expects 7 features",
    ),
    "activation": (lambda: changed("mlp tanh", activation="step"), "'step' is unknown"),
    "output activation": (
        lambda: changed("mlp tanh", out_activation_="step"),
        "out_activation_ is 'step', identity or exp is expected",
    ),
    "scale of zero": (
        lambda: changed("mlp tanh", step=0, scale_=np.zeros(3)),
        r"StandardScaler: Scale: std\[0\]",
    ),
    "points": (lambda: changed("gp rbf", X_train_=np.zeros((2, 3))), r"X \(2, 3\) and alpha"),
    "one against all": (
        lambda: changed("logistic of three", multi_class="ovr"),
        "multi_class='ovr'.*softmax for more",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(name: str) -> None:
    make, message = BAD[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = make()
    with pytest.raises(ha.LoadError, match=message) as caught:
        ha.from_sklearn(estimator)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "output", "message"),
    [
        ("linear", "logits", "LinearRegression has one kind of output"),
        ("mlp tanh", "variance", "MLPRegressor has one kind of output"),
        ("mlp of two", "classes", "probabilities or logits"),
        ("gp rbf", "std", "mean, variance or both"),
    ],
)
def test_an_unknown_output_names_those_there_are(name: str, output: str, message: str) -> None:
    with pytest.raises(ha.LoadError, match=message):
        ha.from_sklearn(fitted(name), output=output)


def test_no_method_of_an_estimator_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fitted("scaled targets")
    for cls in (TransformedTargetRegressor, MLPRegressor, StandardScaler):
        for method in ("predict", "transform", "inverse_transform", "fit"):
            if hasattr(cls, method):
                monkeypatch.setattr(cls, method, None)
    assert ha.from_sklearn(model).out_features == 2


def test_scikit_learn_is_not_imported() -> None:
    code = "import hessarray as ha, sys; ha.from_sklearn; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
