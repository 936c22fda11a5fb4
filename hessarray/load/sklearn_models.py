"""Networks from fitted scikit-learn estimators, read from their attributes.

scikit-learn itself is never imported, and no code of an estimator is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hessarray.activations import activation
from hessarray.errors import HessarrayError, LoadError
from hessarray.layers import Dense
from hessarray.load.limits import shown
from hessarray.networks import Network
from hessarray.surrogates import (
    Clip,
    Decode,
    Encode,
    GaussianProcess,
    Polynomial,
    Scale,
    Softmax,
)

__all__ = ["from_sklearn"]

Layers = list[Any]
_METHODS = ("predict", "predict_proba", "transform", "inverse_transform")


def from_sklearn(estimator: Any, output: str | Sequence[str] | None = None) -> Network:
    """A network that gives what a fitted estimator predicts, with (n, m) for m outputs.

    Supported are ``MLPRegressor``, ``MLPClassifier``, ``LinearRegression``, ``Ridge``, ``Lasso``,
    ``ElasticNet`` (and their CV versions), ``LogisticRegression``, ``GaussianProcessRegressor``
    with sums and products of the kernels RBF, Matern (nu 1.5, 2.5 and infinity), Constant, White,
    DotProduct and RationalQuadratic, ``TransformedTargetRegressor``, and a ``Pipeline`` of these
    behind ``StandardScaler``, ``MinMaxScaler``, ``MaxAbsScaler``, ``RobustScaler``, ``PCA``,
    ``TruncatedSVD``, ``PolynomialFeatures`` and ``FunctionTransformer`` of a function of NumPy.
    A transformer by itself, or a pipeline of transformers, gives what it transforms to.

    Parameters
    ----------
    estimator : scikit-learn estimator
        A fitted one.
    output : str or sequence of str, optional
        Of a classifier ``"probabilities"`` (predict_proba, the default) or ``"logits"``; of a
        Gaussian process ``"mean"`` (the default), ``"variance"`` (of a new observation, as the
        square of what ``return_std`` gives), or both.

    Raises
    ------
    LoadError
        A step is not fitted or not supported; names the step, and what is supported.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import PolynomialFeatures, StandardScaler
    >>> x = np.random.default_rng(0).normal(size=(50, 2))
    >>> model = make_pipeline(StandardScaler(), PolynomialFeatures(3), Ridge())
    >>> net = ha.from_sklearn(model.fit(x, np.sin(x[:, 0]) * x[:, 1]))
    >>> bool(np.allclose(net.value(x)[:, 0], model.predict(x), rtol=1e-12))
    True
    >>> net.hessian(x).shape
    (50, 2, 2, 1)
    """
    place = type(estimator).__name__
    layers = _layers(estimator, place, output)
    try:
        return Network(*layers)
    except ValueError as error:  # no layers, or neighbours of different widths
        raise LoadError(f"{place}: {shown(error)}") from None


def _layers(estimator: Any, place: str, output: Any, back: bool = False) -> Layers:
    """The layers of an estimator; with ``back`` those of its inverse_transform."""
    kind = _kind(estimator, place)
    if back and kind not in _INVERSES:
        raise LoadError(
            f"{place}: {kind} is not supported for targets, supported are "
            f"{', '.join(sorted(_INVERSES))}"
        )
    if output is not None and kind not in _WITH_OUTPUT:
        raise LoadError(
            f"{place}: {kind} has one kind of output, output={shown(output)} is for "
            f"{', '.join(_WITH_OUTPUT)}"
        )
    try:
        if back:
            return _INVERSES[kind](estimator, place)
        if kind in _WITH_OUTPUT:
            return _WITH_OUTPUT[kind](estimator, place, output)
        return _READERS[kind](estimator, place)
    except LoadError:
        raise
    except AttributeError as error:
        lacks = getattr(error, "name", None) or shown(error)
        raise LoadError(f"{place}: {kind} is not fitted, it has no {lacks}") from None
    except (HessarrayError, TypeError, ValueError) as error:
        raise LoadError(f"{place}: {kind}: {shown(error)}") from None


def _kind(estimator: Any, place: str) -> str:
    """Name of the class, or of its base class, in scikit-learn."""
    own: Any = type(estimator)
    for cls in own.__mro__:
        name: str = cls.__name__
        if name in _KNOWN and cls.__module__.startswith("sklearn."):
            if any(_is_own(own, method) for method in _METHODS):
                break
            return name
    raise LoadError(
        f"{place}: {own.__name__} is not supported, supported are {', '.join(sorted(_KNOWN))}"
    )


def _is_own(cls: Any, method: str) -> bool:
    """Whether a class outside scikit-learn defines this method."""
    home = next((c for c in cls.__mro__ if method in vars(c)), None)
    return home is not None and not home.__module__.startswith("sklearn.")


def _matrix(values: Any, name: str, axes: int = 2) -> Any:
    """A real array of this many axes, float32 or float64."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiu" or array.ndim != axes or 0 in array.shape:
        raise ValueError(f"{name} is no real array of {axes} axes")
    return array if array.dtype == np.float32 else array.astype(np.float64)


def _dense(K: Any, b: Any, act: str = "identity") -> Dense:
    K = _matrix(K, "a weight")
    layer = Dense(K.shape[0], K.shape[1], act=act, bias=b is not None, seed=...)
    layer.K = K
    if b is not None:
        layer.b = np.array(np.broadcast_to(_matrix(np.atleast_1d(b), "a bias", 1), K.shape[1:]))
    return layer


# ---- pipelines -----------------------------------------------------------------------------------


def _steps(pipeline: Any, place: str) -> list[tuple[str, Any]]:
    steps = [(f"{place} step '{k}'", step) for k, step in pipeline.steps]
    return [(k, step) for k, step in steps if step is not None and step != "passthrough"]


def _pipeline(pipeline: Any, place: str, output: Any) -> Layers:
    steps = _steps(pipeline, place)
    last = len(steps) - 1
    found: Layers = []
    for i, (name, step) in enumerate(steps):
        found += _layers(step, name, output if i == last else None)
    return found


def _pipeline_back(pipeline: Any, place: str) -> Layers:
    found: Layers = []
    for name, step in reversed(_steps(pipeline, place)):
        found += _layers(step, name, None, back=True)
    return found


def _transformed_target(estimator: Any, place: str) -> Layers:
    regressor, transformer = estimator.regressor_, estimator.transformer_
    found = _layers(regressor, f"{place}.regressor", None)
    width = found[-1].out_features
    back = _layers(transformer, f"{place}.transformer", None, back=True)
    # A function is for any number of columns.
    return found + [Decode(*[layer] * width) if isinstance(layer, str) else layer for layer in back]


# ---- transformers --------------------------------------------------------------------------------


# What switches a scaler's attribute off: StandardScaler(with_mean=False) has a mean_ all the same.
_SWITCHES = {
    "center_": ("with_centering",),
    "mean_": ("with_mean",),
    "scale_": ("with_std", "with_scaling"),
}


def _scaler(mean: str | None, std: str, inverse: bool) -> Callable[[Any, str], Layers]:
    """(u - mean) / std with these attributes, each of which may be None; or its inverse."""

    def used(scaler: Any, name: str) -> Any:
        value = getattr(scaler, name)  # an error where the scaler is not fitted
        return value if all(getattr(scaler, k, True) for k in _SWITCHES.get(name, ())) else None

    def read(scaler: Any, place: str) -> Layers:
        center = None if mean is None else used(scaler, mean)
        scale = used(scaler, std)
        if center is None and scale is None:
            return [Encode(*["identity"] * scaler.n_features_in_)]
        like = np.zeros(len(scale if center is None else center))
        return [
            Scale(
                like if center is None else _matrix(center, "the mean", 1),
                like + 1.0 if scale is None else _matrix(scale, "the scale", 1),
                inverse=inverse,
            )
        ]

    return read


def _min_max(scaler: Any, place: str) -> Layers:
    low, high = scaler.feature_range
    found: Layers = _scaler("min_", "scale_", True)(scaler, place)  # u * scale_ + min_
    return [*found, Clip(low, high, found[0].out_features)] if scaler.clip else found


def _pca(pca: Any, place: str) -> Layers:
    K = _matrix(pca.components_, "components_").T
    if pca.whiten:
        std = np.sqrt(_matrix(pca.explained_variance_, "explained_variance_", 1))
        K = K / np.maximum(std, np.finfo(std.dtype).eps)
    mean = _matrix(pca.mean_, "mean_", 1)
    return [Scale(mean, np.ones_like(mean)), _dense(K, None)]


def _svd(svd: Any, place: str) -> Layers:
    return [_dense(_matrix(svd.components_, "components_").T, None)]


def _polynomial(features: Any, place: str) -> Layers:
    return [Polynomial(features.powers_)]


# Functions of NumPy, and one of SciPy, by their names.
_FUNCTIONS = {
    "exp": "exp",
    "exp2": "exp2",
    "expit": "sigmoid",
    "expm1": "expm1",
    "log": "log",
    "log10": "log10",
    "log1p": "log1p",
    "log2": "log2",
    "reciprocal": "reciprocal",
    "sinh": "sinh",
    "arcsinh": "asinh",
    "sqrt": "sqrt",
    "square": "square",
}


def _function(transformer: Any, place: str, attribute: str) -> str:
    function = getattr(transformer, attribute)
    options = getattr(transformer, "kw_args" if attribute == "func" else "inv_kw_args", None)
    if function is None:
        return "identity"
    name = getattr(function, "__name__", "")
    if not isinstance(function, np.ufunc) or name not in _FUNCTIONS or options:
        raise LoadError(
            f"{place}: {attribute}={shown(function)} is code that cannot be read, supported are "
            f"{', '.join(f'np.{k}' for k in _FUNCTIONS if k != 'expit')} without options"
        )
    return _FUNCTIONS[name]


def _function_transformer(transformer: Any, place: str) -> Layers:
    name = _function(transformer, place, "func")
    return [Encode(*[name] * transformer.n_features_in_)]


def _function_back(transformer: Any, place: str) -> Layers:
    return [_function(transformer, place, "inverse_func")]


# ---- linear models and networks ------------------------------------------------------------------


def _linear(model: Any, place: str) -> Layers:
    K = np.atleast_2d(np.asarray(model.coef_)).T
    return [_dense(K, model.intercept_)]


_MLP_ACTIVATIONS = {"identity": "identity", "logistic": "sigmoid", "relu": "relu", "tanh": "tanh"}


def _perceptron(model: Any) -> Layers:
    """The layers, the last one without its activation."""
    act = _MLP_ACTIVATIONS.get(model.activation)
    if act is None:
        raise ValueError(f"activation {shown(model.activation)} is unknown")
    *hidden, last = zip(model.coefs_, model.intercepts_, strict=True)
    return [*(_dense(K, b, act) for K, b in hidden), _dense(*last)]


def _mlp_regressor(model: Any, place: str) -> Layers:
    final = model.out_activation_
    if final not in ("identity", "exp"):  # exp with loss="poisson"
        raise ValueError(f"out_activation_ is {shown(final)}, identity or exp is expected")
    found = _perceptron(model)
    found[-1].act = activation(final)
    return found


def _mlp_classifier(model: Any, place: str, output: Any) -> Layers:
    found, final = _perceptron(model), model.out_activation_
    if final not in ("logistic", "softmax"):
        raise ValueError(f"out_activation_ is {shown(final)}, logistic or softmax is expected")
    return _classified(found, final == "softmax", place, output)


def _logistic(model: Any, place: str, output: Any) -> Layers:
    found = _linear(model, place)
    rule = getattr(model, "multi_class", "auto")  # until scikit-learn 1.7
    several = found[-1].out_features > 1
    one_by_one = rule == "ovr" or (model.solver == "liblinear" and rule != "multinomial")
    if (several and one_by_one) or (not several and rule == "multinomial"):
        raise LoadError(
            f"{place}: LogisticRegression with multi_class={shown(rule)} and solver="
            f"{shown(model.solver)} is not supported for {len(model.classes_)} classes, supported "
            "are the sigmoid for two classes and the softmax for more"
        )
    return _classified(found, several, place, output)


def _classified(found: Layers, softmax: bool, place: str, output: Any) -> Layers:
    """Logits as they are, or with the function that makes them probabilities."""
    if output not in (None, "logits", "probabilities"):
        raise LoadError(f"{place}: output={shown(output)}, probabilities or logits are expected")
    last = found[-1]
    if output == "logits":
        return found
    if softmax:
        return [*found, Softmax(last.out_features)]
    if last.out_features > 1:  # several labels, each by itself
        return [*found[:-1], _dense(last.K, last.b, "sigmoid")]
    # [1 - p, p] of two classes; 1 - sigmoid(z) is sigmoid(-z), which does not cancel.
    K, b = np.concatenate([-last.K, last.K], axis=1), np.concatenate([-last.b, last.b])
    return [*found[:-1], _dense(K, b, "sigmoid")]


# ---- Gaussian processes --------------------------------------------------------------------------


def _gaussian_process(model: Any, place: str, output: Any) -> Layers:
    outputs = ("mean",) if output is None else (output,) if isinstance(output, str) else output
    X, alpha = _matrix(model.X_train_, "X_train_"), np.asarray(model.alpha_)
    kernel = _kernel(model.kernel_, f"{place} kernel")
    root = None
    if "variance" in outputs:
        L = _matrix(model.L_, "L_")
        root = np.linalg.solve(L, np.eye(len(L), dtype=L.dtype))
    mean, std = model._y_train_mean, model._y_train_std
    return [GaussianProcess(X, alpha, kernel, mean, std, inverse_root=root, outputs=outputs)]


def _lengths(kernel: Any) -> list[float]:
    return [float(v) for v in np.atleast_1d(kernel.length_scale)]


def _matern(kernel: Any, place: str) -> tuple[Any, ...]:
    if kernel.nu == math.inf:
        return ("rbf", *_lengths(kernel))
    if kernel.nu not in (1.5, 2.5):
        raise LoadError(
            f"{place}: Matern with nu={kernel.nu} is not supported, supported are 1.5, 2.5 and "
            "infinity"
        )
    return ("matern", float(kernel.nu), *_lengths(kernel))


def _parts(name: str) -> Callable[[Any, str], tuple[Any, ...]]:
    return lambda k, place: (name, _kernel(k.k1, place), _kernel(k.k2, place))


def _number(name: str, attribute: str) -> Callable[[Any, str], tuple[Any, ...]]:
    return lambda k, place: (name, float(getattr(k, attribute)))


_KERNELS: dict[str, Callable[[Any, str], tuple[Any, ...]]] = {
    "ConstantKernel": _number("constant", "constant_value"),
    "DotProduct": _number("dot", "sigma_0"),
    "Exponentiation": lambda k, place: ("power", float(k.exponent), _kernel(k.kernel, place)),
    "Matern": _matern,
    "Product": _parts("product"),
    "RBF": lambda k, place: ("rbf", *_lengths(k)),
    "RationalQuadratic": lambda k, place: ("rational_quadratic", float(k.alpha), *_lengths(k)),
    "Sum": _parts("sum"),
    "WhiteKernel": _number("white", "noise_level"),
}


def _kernel(kernel: Any, place: str) -> tuple[Any, ...]:
    own: Any = type(kernel)
    if own.__name__ not in _KERNELS or not own.__module__.startswith("sklearn."):
        raise LoadError(
            f"{place}: {own.__name__} is not supported, supported are {', '.join(_KERNELS)}"
        )
    return _KERNELS[own.__name__](kernel, place)


# ---- tables --------------------------------------------------------------------------------------

_LINEAR = "ElasticNet ElasticNetCV Lasso LassoCV LinearRegression Ridge RidgeCV".split()
_READERS: dict[str, Callable[[Any, str], Layers]] = {
    **dict.fromkeys(_LINEAR, _linear),
    "FunctionTransformer": _function_transformer,
    "MLPRegressor": _mlp_regressor,
    "MaxAbsScaler": _scaler(None, "scale_", False),
    "MinMaxScaler": _min_max,
    "PCA": _pca,
    "PolynomialFeatures": _polynomial,
    "RobustScaler": _scaler("center_", "scale_", False),
    "StandardScaler": _scaler("mean_", "scale_", False),
    "TransformedTargetRegressor": _transformed_target,
    "TruncatedSVD": _svd,
}
_WITH_OUTPUT: dict[str, Callable[[Any, str, Any], Layers]] = {
    "GaussianProcessRegressor": _gaussian_process,
    "LogisticRegression": _logistic,
    "MLPClassifier": _mlp_classifier,
    "Pipeline": _pipeline,
}
_INVERSES: dict[str, Callable[[Any, str], Layers]] = {
    "FunctionTransformer": _function_back,
    "MaxAbsScaler": _scaler(None, "scale_", True),
    "MinMaxScaler": _scaler("min_", "scale_", False),
    "Pipeline": _pipeline_back,
    "RobustScaler": _scaler("center_", "scale_", True),
    "StandardScaler": _scaler("mean_", "scale_", True),
}
_KNOWN = {*_READERS, *_WITH_OUTPUT}
