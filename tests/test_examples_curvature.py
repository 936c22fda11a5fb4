"""The examples of curvature run, agree with plain autodiff, and save their pictures."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import hessarray as ha

torch = pytest.importorskip("torch")

FOLDER = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location(request.param, FOLDER / f"{request.param}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


laplace = pytest.mark.parametrize("example", ["laplace_approximation"], indirect=True)
influence = pytest.mark.parametrize("example", ["influence_functions"], indirect=True)


def run(name: str, tmp_path: Path) -> str:
    """What the script prints, once its picture is there."""
    picture = tmp_path / "deep" / "picture.png"
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--out", str(picture)]
    # Matrices this small are slower in several threads, by far where other tests run beside.
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 15_000
    assert str(picture) in done.stdout
    return done.stdout


def number(pattern: str, text: str) -> float:
    found = re.search(pattern + r"\s+([-+.e\d]+)", text)
    assert found is not None, f"{pattern} not in {text}"
    return float(found.group(1))


def flat_model(net: ha.Network) -> tuple[Any, Any]:
    """The network in torch as a function of one flat vector, and that vector."""
    shapes = [a.shape for a in net.parameters().values()]
    ends = np.cumsum([0, *(int(np.prod(s)) for s in shapes)])

    def model(theta: Any, x: Any) -> Any:
        parts = [theta[i:j].reshape(s) for i, j, s in zip(ends, ends[1:], shapes, strict=False)]
        for K, b in zip(parts[::2], parts[1::2], strict=True):
            x = x @ K + b
            if b is not parts[-1]:
                x = torch.tanh(x)
        return x[..., 0]

    return model, torch.tensor(net.parameter_vector())


def test_laplace_approximation(tmp_path: Path) -> None:
    text = run("laplace_approximation", tmp_path)
    data, gap, beyond = (number(f"{k},? +mean", text) for k in ("data", "gap", "beyond"))
    assert 2 * data < gap < beyond
    assert number("root mean square error", text.replace(",", " ")) == pytest.approx(0.1, abs=0.03)
    assert float(re.search(r"to (\S+) the same", text).group(1)) < 1e-5  # type: ignore[union-attr]


@laplace
def test_laplace_variance_is_that_of_plain_autodiff(example: ModuleType) -> None:
    x, t = example.measurements(20)
    net = ha.Network(ha.Dense(1, 5, act="tanh"), ha.Dense(5, 4, act="tanh"), ha.Dense(4, 1), seed=3)
    at = np.linspace(-4, 4, 9)[:, None]
    model, theta = flat_model(net)
    jacobian = torch.func.jacrev(model)
    J, K = (jacobian(theta, torch.tensor(a)).numpy() for a in (x, at))
    precision = J.T @ J / example.NOISE**2 + example.PRIOR * np.eye(len(theta))
    expected = np.diag(K @ np.linalg.inv(precision) @ K.T)
    np.testing.assert_allclose(example.variance(net, x, t, at), expected, rtol=1e-8)
    by_products, _ = example.variance_by_products(net, x, t, at)
    np.testing.assert_allclose(by_products, expected, rtol=1e-5)


def test_influence_functions(tmp_path: Path) -> None:
    text = run("influence_functions", tmp_path)
    assert number("correlation", text) > 0.98


@influence
def test_influences_are_those_of_plain_autodiff(example: ModuleType) -> None:
    x, t = example.measurements()
    net = ha.Network(ha.Dense(1, 8, act="tanh"), ha.Dense(8, 1))
    net.initialize(np.random.default_rng(0), "float64")
    example.fit(net, example.LOSS, x, t, example.PRIOR)
    model, theta = flat_model(net)
    at = np.array([0.3])

    def losses(theta: Any) -> Any:
        return (model(theta, torch.tensor(x)) - torch.tensor(t[:, 0])) ** 2

    jacrev = torch.func.jacrev
    g = jacrev(losses)(theta).numpy()
    H = jacrev(jacrev(lambda p: losses(p).sum()))(theta).numpy()
    J = torch.func.grad(model)(theta, torch.tensor(at)).numpy()
    np.testing.assert_allclose(g.sum(axis=0), -example.PRIOR * theta.numpy(), atol=1e-6)
    expected = g @ np.linalg.inv(H + example.PRIOR * np.eye(len(H))) @ J
    found, _ = example.influences(net, x, t, at)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)
