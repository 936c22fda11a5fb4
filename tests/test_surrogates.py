"""Scalers, encodings, ensembles, mirrors, Gaussian processes: values, derivatives, files."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath as mp
import numpy as np
import pytest

import hessarray as ha

RNG = np.random.default_rng(0)
X3 = RNG.normal(size=(6, 3))


def member(seed: int, act: str = "tanh") -> Any:
    return ha.fully_connected([3, 5, 2], act=act, seed=seed)


def gaussian_process(**options: Any) -> Any:
    rng = np.random.default_rng(3)
    root = np.tril(rng.normal(size=(7, 7)))
    kernel = ("product", ("constant", 2.0), ("matern", 2.5, 1.0, 2.0, 3.0))
    arrays = {"X": rng.normal(size=(7, 3)), "alpha": rng.normal(size=(7, 2))}
    return ha.GaussianProcess(
        **arrays, kernel=kernel, outputs=("mean", "variance"), inverse_root=root, **options
    )


LAYERS: dict[str, Callable[[], Any]] = {
    "scale": lambda: ha.Scale([1.0, 2.0, 3.0], [2.0, -3.0, 4.0]),
    "scale-inverse": lambda: ha.Scale(0.5, [2.0, 3.0, 4.0], inverse=True),
    "clip": lambda: ha.Clip([-np.inf, -0.5, 0.0], [0.3, np.inf, 0.1]),
    "encode": lambda: ha.Encode(
        "exp", [("sin", 2.0), "identity", ("cos", 0.5)], ["exp", ("power", 3), ("leaky_relu", 0.1)]
    ),
    "decode": lambda: ha.Decode("exp10", "sigmoid", ("clip", -0.2, 0.4)),
    "polynomial": lambda: ha.Polynomial([[1, 0, 0], [0, 2, 1], [0, 0, 0], [1, 1, 2]]),
    "softmax": lambda: ha.Softmax(3),
    "log-softmax": lambda: ha.Softmax(3, log=True),
    "ensemble": lambda: ha.Ensemble(
        member(0), member(1), member(2), outputs=("all", "mean", "variance", "std"), correction=1
    ),
    "mean": lambda: ha.Mean(member(0), ha.Dense(3, 2, act="sin", seed=3)),
    "mirror": lambda: ha.Mirror(
        member(0), inputs=[1, 0, 2], outputs=[1, 0], input_signs=[1, 1, -1], output_signs=[-1, -1]
    ),
    "gaussian-process": gaussian_process,
}


def reference(name: str, x: np.ndarray) -> np.ndarray:
    """What each of these layers gives, for one sample, in plain NumPy."""
    a, b, c = x
    values = [np.asarray(member(i).value(x)) for i in range(3)]
    if name == "scale":
        return (x - [1.0, 2.0, 3.0]) / [2.0, -3.0, 4.0]
    if name == "scale-inverse":
        return x * [2.0, 3.0, 4.0] + 0.5
    if name == "clip":
        return np.array([min(a, 0.3), max(b, -0.5), min(max(c, 0.0), 0.1)])
    if name == "encode":
        leaky = c if c > 0 else 0.1 * c
        return np.array(
            [math.exp(a), math.sin(2 * b), b, math.cos(b / 2), math.exp(c), c**3, leaky]
        )
    if name == "decode":
        return np.array([10.0**a, 1 / (1 + math.exp(-b)), min(max(c, -0.2), 0.4)])
    if name == "polynomial":
        return np.array([a, b * b * c, 1.0, a * b * c * c])
    if name in ("softmax", "log-softmax"):
        p = np.exp(x) / np.sum(np.exp(x))
        return p if name == "softmax" else np.log(p)
    if name == "ensemble":
        rest = [np.mean(values, axis=0), np.var(values, axis=0, ddof=1)]
        return np.concatenate([*values, *rest, np.std(values, axis=0, ddof=1)])
    if name == "mean":
        return (values[0] + ha.Network(ha.Dense(3, 2, act="sin", seed=3)).value(x)) / 2
    if name == "mirror":
        return (values[0] - member(0).value(np.array([b, a, -c]))[::-1]) / 2
    gp = gaussian_process()
    r = np.sqrt(5 * np.sum(((x - gp.X) / [1.0, 2.0, 3.0]) ** 2, axis=1))
    k = 2.0 * (1 + r + r**2 / 3) * np.exp(-r)
    variance = 2.0 - np.sum((gp.inverse_root @ k) ** 2)
    return np.concatenate([k @ gp.alpha, [variance, variance]])


@pytest.mark.parametrize("name", LAYERS)
def test_values_are_those_of_the_formula(name: str) -> None:
    net = ha.Network(LAYERS[name]())
    expected = np.array([reference(name, x) for x in X3])
    assert net.out_features == expected.shape[1]
    np.testing.assert_allclose(net.value(X3), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", LAYERS)
def test_derivatives_inside_a_network(name: str) -> None:
    layer = LAYERS[name]()
    net = ha.Network(
        ha.Dense(2, 3, act="tanh", seed=5), layer, ha.Dense(layer.out_features, 2, "sin", seed=6)
    )
    x = np.random.default_rng(1).normal(size=(5, 2))
    result = ha.check_finite_differences(net, x)
    assert result.passed, str(result)


@pytest.mark.parametrize("name", LAYERS)
def test_every_library_gives_the_same(name: str, backend: Any) -> None:
    net = ha.Network(LAYERS[name]())
    expected = net.value_gradient_hessian(X3)
    found = net.value_gradient_hessian(backend.asarray(X3))
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(backend.to_numpy(f), e, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_and_pickles_round_trip_exactly(name: str, suffix: str, tmp_path: Path) -> None:
    net = ha.Network(ha.Network(LAYERS[name]()))
    path = tmp_path / f"net{suffix}"
    net.save(path)
    for twin in (ha.load(path), pickle.loads(pickle.dumps(net))):
        assert twin.parameters().keys() == net.parameters().keys()
        np.testing.assert_array_equal(twin.value(X3), net.value(X3))
        np.testing.assert_array_equal(twin.hessian(X3), net.hessian(X3))


def test_parameters_of_members_are_parameters_of_the_network() -> None:
    net = ha.Network(ha.Ensemble(member(0), ha.Mirror(member(1))))
    names = list(net.parameters())
    assert "0.members.0.0.K" in names
    assert "0.members.1.inner.1.b" in names
    before = net.value(X3)
    net.load_parameters({k: 2.0 * v for k, v in net.parameters().items()})
    assert not np.allclose(net.value(X3), before)


def test_scale_to_an_interval_and_back() -> None:
    low, high = np.array([-3.0, 100.0]), np.array([5.0, 300.0])
    there = ha.Scale.between(low, high, to=(-1.0, 1.0))
    back = ha.Scale.between(low, high, to=(-1.0, 1.0), inverse=True)
    np.testing.assert_allclose(there(np.stack([low, high])), [[-1, -1], [1, 1]], rtol=1e-14)
    x = np.array([[0.3, 170.0]])
    np.testing.assert_allclose(ha.Network(there, back).value(x), x, rtol=1e-14)
    assert ha.Scale(np.float32([1, 2]), np.float32([1, 2])).mean.dtype == np.float32


def test_ensemble_uncertainty_has_derivatives_of_torch() -> None:
    torch = pytest.importorskip("torch")
    members = [ha.fully_connected([3, 6, 1], act="tanh", seed=i) for i in range(4)]
    net = ha.Network(ha.Ensemble(*members, outputs=("mean", "std")))
    weights = [{k: torch.tensor(np.array(v)) for k, v in m.parameters().items()} for m in members]

    def plain(x: Any) -> Any:
        y = [torch.tanh(x @ w["0.K"] + w["0.b"]) for w in weights]
        y = torch.stack(
            [torch.tanh(u @ w["1.K"] + w["1.b"]) for u, w in zip(y, weights, strict=True)]
        )
        return torch.cat([y.mean(0), y.std(0, correction=0)])

    found = net.hessian(X3)
    for x, hessian in zip(torch.tensor(X3), found, strict=True):
        for output in range(2):
            expected = torch.autograd.functional.hessian(lambda u, j=output: plain(u)[j], x)
            np.testing.assert_allclose(hessian[:, :, output], expected, rtol=1e-10, atol=1e-12)


def test_a_mirrored_network_is_exactly_symmetric() -> None:
    net = ha.Network(LAYERS["mirror"]())
    image = X3[:, [1, 0, 2]] * [1, 1, -1]
    np.testing.assert_array_equal(net.value(image), -net.value(X3)[:, [1, 0]])


def test_a_surrogate_in_physical_units() -> None:
    """d/dx of decode(net(encode(x))) is what jax finds for the same code."""
    jax = pytest.importorskip("jax")
    import jax.numpy as jnp

    inner = ha.fully_connected([4, 8, 2], act="silu", seed=2)
    k = math.pi / 180
    net = ha.Network(
        ha.Encode([("sin", k), ("cos", k)], "log10", "identity"),
        ha.Scale([0.0, 0.0, 5.0, 1.0], [1.0, 1.0, 2.0, 0.3]),
        inner,
        ha.Scale([0.1, 0.2], [0.5, 2.0], inverse=True),
        ha.Decode("exp10", "sigmoid"),
    )
    p = inner.parameters()

    def plain(x: Any) -> Any:
        u = jnp.stack([jnp.sin(k * x[0]), jnp.cos(k * x[0]), jnp.log10(x[1]), x[2]])
        u = (u - jnp.array([0, 0, 5.0, 1.0])) / jnp.array([1, 1, 2, 0.3])
        for i in range(2):
            u = jax.nn.silu(u @ p[f"{i}.K"] + p[f"{i}.b"])
        u = u * jnp.array([0.5, 2.0]) + jnp.array([0.1, 0.2])
        return jnp.stack([10 ** u[0], jax.nn.sigmoid(u[1])])

    x = np.array([[10.0, 1e5, 0.7], [-40.0, 3e6, 1.1]])
    with jax.enable_x64(True):
        expected = np.asarray(jax.jit(jax.vmap(jax.hessian(plain)))(x))
    found = np.moveaxis(net.hessian(x), -1, 1)
    scale = np.abs(x[:, None, :, None] * x[:, None, None, :])  # columns differ by 1e5
    np.testing.assert_allclose(found * scale, expected * scale, rtol=1e-10, atol=1e-12)


# ---- Gaussian processes ------------------------------------------------------------------------


def exact_kernel(nu: float, x: list[Any], y: list[Any], lengths: list[float]) -> Any:
    r = mp.sqrt(sum(((a - b) / l) ** 2 for a, b, l in zip(x, y, lengths, strict=True)))
    a = mp.sqrt(2 * nu) * r
    return (1 + a + (a * a / 3 if nu == 2.5 else 0)) * mp.exp(-a)


@pytest.mark.parametrize("nu", [1.5, 2.5])
@pytest.mark.parametrize("shift", [0.0, 1e-200, 1e-9, 1e-3, 0.7])
def test_matern_near_its_training_point(nu: float, shift: float) -> None:
    """Against central differences of the definition, with hundreds of digits."""
    lengths, center = [0.5, 2.0], [0.3, -1.2]
    net = ha.Network(ha.GaussianProcess([center], [1.0], ("matern", nu, *lengths)))
    x = [center[0] + shift, center[1] - 2 * shift]
    f, df, d2f = net.value_gradient_hessian(np.array(x))
    with mp.workdps(1400 if shift < 1e-100 else 400):
        h = mp.mpf(10) ** -300 if shift < 1e-100 else mp.mpf(10) ** -120
        point = [mp.mpf(v) for v in x]

        def at(*steps: tuple[int, int]) -> Any:
            moved = list(point)
            for axis, sign in steps:
                moved[axis] += sign * h
            return exact_kernel(nu, moved, [mp.mpf(c) for c in center], lengths)

        value = float(at())
        slope = [float((at((a, 1)) - at((a, -1))) / (2 * h)) for a in range(2)]
        bend = [
            [
                float(
                    (at((a, 1), (b, 1)) - at((a, 1), (b, -1)) - at((a, -1), (b, 1))
                     + at((a, -1), (b, -1))) / (4 * h * h)
                )
                for b in range(2)
            ]
            for a in range(2)
        ]  # fmt: skip
    np.testing.assert_allclose(f[0], value, rtol=1e-14)
    np.testing.assert_allclose(df[:, 0], slope, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(d2f[:, :, 0], bend, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("nu", [1.5, 2.5])
def test_matern_at_its_training_point_is_the_analytic_curvature(nu: float) -> None:
    lengths = np.array([0.5, 2.0])
    net = ha.Network(ha.GaussianProcess([[0.3, -1.2]], [1.0], ("matern", nu, *lengths)))
    f, df, d2f = net.value_gradient_hessian(np.array([[0.3, -1.2]]))
    assert f.item() == 1.0
    np.testing.assert_array_equal(df, 0.0)
    expected = np.diag(-(3.0 if nu == 1.5 else 5.0 / 3.0) / lengths**2)
    np.testing.assert_allclose(d2f[0, :, :, 0], expected, rtol=1e-14)


def test_third_derivatives_of_matern_52_at_a_training_point_are_zero() -> None:
    net = ha.Network(ha.GaussianProcess([[0.3, -1.2]], [1.0], ("matern", 2.5, 1.0)))
    third = net.hessian_function().gradient(np.array([0.3, -1.2]))
    np.testing.assert_array_equal(third, 0.0)


def test_distances_do_not_cancel_far_from_the_origin() -> None:
    """With |x|^2 - 2 x . X + |X|^2 the seventh digit would be wrong here."""
    X = 1e6 + np.array([[0.0], [0.5], [1.25]])
    net = ha.Network(ha.GaussianProcess(X, [1.0, -2.0, 3.0], ("rbf", 0.25)))
    x = 1e6 + np.array([0.375])
    z = (x - X[:, 0]) / 0.25
    k = np.exp(-0.5 * z**2) * [1.0, -2.0, 3.0]
    f, df, d2f = net.value_gradient_hessian(x)
    np.testing.assert_allclose(f[0], k.sum(), rtol=1e-14)
    np.testing.assert_allclose(df[0, 0], np.sum(-z / 0.25 * k), rtol=1e-13)
    np.testing.assert_allclose(d2f[0, 0, 0], np.sum((z**2 - 1) / 0.0625 * k), rtol=1e-13)
    third = net.hessian_function().gradient(x).item()
    np.testing.assert_allclose(third, np.sum((3 * z - z**3) / 0.25**3 * k), rtol=1e-12)


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ha.Scale(0.0, 1.0), ha.ShapeError, "features="),
        (lambda: ha.Scale([1.0, 2.0], [1.0, 0.0]), ValueError, r"std\[1\] is 0.0"),
        (lambda: ha.Scale([1.0, 2.0], [1.0, 2.0, 3.0]), ha.ShapeError, r"\(2,\), std \(3,\)"),
        (lambda: ha.Scale("ab", 1.0), ValueError, "real numbers"),
        (lambda: ha.Scale.between([0.0], [0.0]), ValueError, r"std\[0\]"),
        (lambda: ha.Scale.between([0.0], [1.0], to=(1, 1)), ValueError, "no interval"),
        (lambda: ha.Clip([1.0, 2.0], [3.0, 1.0]), ValueError, r"low\[1\] is 2.0"),
        (lambda: ha.Encode(), ValueError, "for each column"),
        (lambda: ha.Encode("exp", "lag"), ValueError, "column 1.*'lag'.*did you mean"),
        (lambda: ha.Encode(("sin", 1.0, 2.0)), ValueError, "'sin' with 2 numbers"),
        (lambda: ha.Encode(("power", math.nan)), ValueError, "column 0"),
        (lambda: ha.Encode(3), ValueError, "column 0 is 3"),
        (lambda: ha.Decode(["exp", "log"]), ValueError, "one function"),
        (lambda: ha.Ensemble(), ha.ShapeError, "at least one member"),
        (
            lambda: ha.Ensemble(member(0), ha.Dense(4, 2)),
            ha.ShapeError,
            "member 1 has in_features=4",
        ),
        (lambda: ha.Ensemble(member(0), len), TypeError, "member 1"),
        (lambda: ha.Ensemble(member(0), outputs="median"), ValueError, "variance"),
        (lambda: ha.Ensemble(member(0), outputs="std", correction=1), ValueError, "correction"),
        (lambda: ha.Mirror(member(0), inputs=[0, 1]), ha.ShapeError, "2 entries for 3"),
        (lambda: ha.Mirror(member(0), inputs=[0, 1, 1]), ValueError, "no order"),
        (lambda: ha.Mirror(member(0), output_signs=[1, 2]), ValueError, "1 or -1"),
        (lambda: ha.Polynomial([1, 2]), ha.ShapeError, r"\(m, d\)"),
        (lambda: ha.Polynomial([[0.5, 1]]), ValueError, "whole numbers"),
        (lambda: ha.Polynomial([[65, 0]]), ValueError, "64"),
        (lambda: ha.GaussianProcess([[1.0]], [1.0, 2.0], ("rbf", 1)), ha.ShapeError, r"\(N, d\)"),
        (
            lambda: ha.GaussianProcess([[1.0]], [1.0], ("cubic", 1)),
            ValueError,
            "'cubic' is unknown",
        ),
        (lambda: ha.GaussianProcess([[1.0]], [1.0], ("rbf", 1, 2)), ValueError, "2 numbers"),
        (lambda: ha.GaussianProcess([[1.0]], [1.0], ("rbf", -1)), ValueError, "positive"),
        (lambda: ha.GaussianProcess([[1.0]], [1.0], ("matern", 0.5, 1)), ValueError, "nu=0.5"),
        (
            lambda: ha.GaussianProcess([[1.0]], [1.0], ("rbf", 1), outputs="variance"),
            ValueError,
            "inverse_root",
        ),
    ],
)
def test_bad_input_is_one_sentence(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        make()
    assert isinstance(caught.value, (ha.HessarrayError, TypeError))
    assert "\n" not in str(caught.value)


# ---- files from strangers ------------------------------------------------------------------------


def written(tmp_path: Path, layer: Any, change: Callable[[Any], None]) -> Path:
    """A file of a network of this layer, with a changed description."""
    from hessarray.load import to_architecture
    from hessarray.load.limits import ARCHITECTURE

    safetensors = pytest.importorskip("safetensors.numpy")
    net = ha.Network(layer)
    entries = to_architecture(net)
    change(entries[0])
    path = tmp_path / "net.safetensors"
    arrays = {k: np.array(v) for k, v in net.parameters().items()}
    safetensors.save_file(arrays, path, {ARCHITECTURE: json.dumps(entries)})
    return path


def nested(entry: dict[str, Any]) -> None:
    inner = {"layer": "Softmax", "features": 3, "log": False}
    for _ in range(400):
        inner = {"layer": "Mean", "members": [inner]}
    entry.clear()
    entry.update(layer="Mean", members=[inner])


def deep_kernel(entry: dict[str, Any]) -> None:
    for _ in range(400):
        entry["kernel"] = ["power", 1.0, entry["kernel"]]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("scale", {"features": 4}, "tensor '0.mean' has shape"),
        ("scale", {"features": -1}, "positive whole number"),
        ("scale", {"inverse": 1}, "true or false"),
        ("scale", {"more": 1}, "needs exactly features, inverse"),
        ("clip", {"low": [5.0, 5.0, 5.0]}, r"low\[0\] is 5.0"),
        ("clip", {"low": ["a", 0, 0]}, "number is expected"),
        ("encode", {"columns": [[["os.system", 1]]]}, "no function 'os.system'"),
        ("encode", {"columns": [["exp"]]}, "list is expected"),
        ("encode", {"columns": [[[{}]]]}, r"no \[name, numbers\]"),
        ("encode", {"columns": [[["elu", 1, 2, 3, 4]]]}, "column 0"),
        ("polynomial", {"powers": [[1], [1, 2]]}, "Polynomial"),
        ("polynomial", {"powers": [[10**30]]}, "Polynomial"),
        ("softmax", {"features": 10**12}, "positive whole number"),
        ("ensemble", {"outputs": ["secret"]}, "outputs"),
        ("ensemble", {"outputs": [["mean"]]}, "outputs"),
        ("ensemble", {"correction": "x"}, "number is expected"),
        ("ensemble", {"members": []}, "at least one member"),
        ("ensemble", {"members": [3]}, "is no layer"),
        ("mirror", {"inputs": [0, 0, 0]}, "no order"),
        ("mirror", {"inner": None}, "is no layer"),
        ("mirror", {"input_signs": [1.0, 1.0, 1e400]}, "1 or -1"),
        ("gaussian-process", {"points": 8}, "tensor '0.X' has shape"),
        ("gaussian-process", {"kernel": ["exec", 1]}, "'exec' is unknown"),
        ("gaussian-process", {"outputs": [1]}, "outputs"),
        ("gaussian-process", deep_kernel, "deep"),
        ("softmax", nested, "deep"),
    ],
)
def test_a_changed_description_is_one_sentence(
    name: str, change: Any, message: str, tmp_path: Path
) -> None:
    path = written(
        tmp_path, LAYERS[name](), change if callable(change) else lambda entry: entry.update(change)
    )
    with pytest.raises(ha.LoadError, match=message) as caught:
        ha.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_plain_function_has_no_place_in_a_file(tmp_path: Path) -> None:
    net = ha.Network(ha.Encode(lambda z: z * z, "exp"))
    np.testing.assert_array_equal(net.value(np.array([3.0, 0.0])), [9.0, 1.0])
    with pytest.raises(ha.LoadError, match="column 0"):
        net.save(tmp_path / "net.npz")
