"""Peaks, timing, training, and the baselines by automatic differentiation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import hessarray as ha
from hessarray.baselines import AutodiffNetwork, HessianNetwork
from hessarray.check import check_derivatives, check_finite_differences
from hessarray.data import peaks, peaks_function
from hessarray.timing import setup_network, time_trials, timing_test
from hessarray.training import evaluate_loss, print_headers, train_one_epoch

# ------------------------------------------------------------------------------------- peaks


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_peaks_on_every_library(backend: Any, dtype: str) -> None:
    points = np.random.default_rng(0).uniform(-3, 3, size=(7, 2)).astype(dtype)
    f, df, d2f = peaks(backend.asarray(points), do_gradient=True, do_Hessian=True)
    assert (f.shape, df.shape, d2f.shape) == ((7, 1), (7, 2, 1), (7, 2, 2, 1))
    assert f.dtype == backend.dtype(dtype)
    x, y = points.astype(float).T
    truth = (
        3 * (1 - x) ** 2 * np.exp(-(x**2) - (y + 1) ** 2)
        - 10 * (x / 5 - x**3 - y**5) * np.exp(-(x**2) - y**2)
        - np.exp(-((x + 1) ** 2) - y**2) / 3
    )
    tolerance = 2e-5 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(backend.to_numpy(f)[:, 0], truth, atol=tolerance)


def test_peaks_has_right_derivatives_and_comes_in_parts() -> None:
    points = np.random.default_rng(0).uniform(-3, 3, size=(50, 2))
    assert check_derivatives(peaks_function, points)
    assert check_finite_differences(peaks_function, points)
    assert [a is None for a in peaks(points)] == [False, True, True]
    assert [a is None for a in peaks(points, do_gradient=True)] == [False, False, True]
    assert [a is None for a in peaks(points, do_Hessian=True)] == [False, False, False]


@pytest.mark.backends("torch")
def test_peaks_is_hessquiks(backend: Any) -> None:
    theirs = pytest.importorskip("hessQuik.utils").peaks
    x = backend.asarray(np.random.default_rng(0).uniform(-3, 3, size=(20, 2)))
    for ours, other in zip(peaks(x, True, True), theirs(x, True, True), strict=True):
        np.testing.assert_allclose(ours.numpy(), other.numpy(), rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------ timing


@pytest.mark.backends("numpy", "torch", "jax", "cupy", "torch-cuda", "jax-cuda")
def test_timing(backend: Any) -> None:
    found = timing_test(
        [2, 5],
        [1],
        nex=3,
        num_trials=2,
        width=4,
        depth=2,
        backend=backend.name.removesuffix("-cuda"),
        device=None if backend.name in ("numpy", "cupy") else backend.device,
    )
    assert set(found) == {
        "timing_trials",
        "timing_trials_mean",
        "timing_trials_std",
        "in_feature_range",
        "out_feature_range",
        "nex",
        "num_trials",
    }
    assert found["timing_trials"].shape == (2, 1, 2)
    assert (found["timing_trials"] > 0.0).all()
    assert np.array_equal(found["timing_trials_mean"], found["timing_trials"].mean(axis=2))


@pytest.mark.parametrize("kind", ["resnet", "fully_connected", "icnn"])
def test_networks_to_time(kind: str) -> None:
    net = setup_network(3, 1, width=5, depth=2, network_type=kind)
    assert (net.in_features, net.out_features) == (3, 1)
    assert check_derivatives(net, np.ones((2, 3)))


@pytest.mark.backends("torch")
@pytest.mark.parametrize("wrapper", ["PytorchAD", "PytorchHessian"])
def test_timing_of_the_baselines(backend: Any, wrapper: str) -> None:
    found = timing_test(
        [2], [1], nex=3, num_trials=1, depth=1, backend=backend.name, network_wrapper=wrapper
    )
    assert found["timing_trials"].shape == (1, 1, 1)
    assert not np.isnan(found["timing_trials_std"]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "fortran"}, "numpy, torch"),
        ({"network_type": "lstm"}, "resnet, fully_connected"),
        ({"network_wrapper": "magic"}, "hessarray, PytorchAD"),
        ({"network_wrapper": "PytorchAD"}, "backend='torch'"),
        ({"network_type": "icnn"}, "one output"),
    ],
)
def test_timing_refuses(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timing_test([2], [3], num_trials=1, **options)  # type: ignore[arg-type]


def test_trials_leave_the_first_call_out() -> None:
    calls = []
    seconds = time_trials(lambda: calls.append(1) or (np.zeros((0, 2)), None), 3)
    assert len(calls) == 4
    assert seconds.shape == (3,)


# ---------------------------------------------------------------------------------- training


def hermite(backend: Any, n: int = 20) -> tuple[Any, Any]:
    x = backend.asarray(np.random.default_rng(0).uniform(-3, 3, size=(n, 2)))
    parts = peaks(x, do_gradient=True, do_Hessian=True)
    return x, backend.xp.concat([a.reshape(n, -1) for a in parts], axis=1)


@pytest.mark.backends("torch", "torch-cuda")
@pytest.mark.parametrize(
    ("do_gradient", "do_hessian"), [(False, False), (True, False), (True, True)]
)
def test_a_pinned_network_trains(backend: Any, do_gradient: bool, do_hessian: bool) -> None:
    import torch

    torch.manual_seed(0)
    x, y = hermite(backend)
    net = ha.Network(
        ha.Dense(2, 16, act="tanh"), ha.Residual(16, act="tanh"), ha.Dense(16, 1), seed=0
    )
    net.to("torch", device=backend.device)
    optimizer = torch.optim.Adam(net.parameters().values(), lr=1e-2)
    asked = {"do_gradient": do_gradient, "do_Hessian": do_hessian}
    before = evaluate_loss(net, x, y, **asked)
    assert len(before) == 2 + do_gradient + do_hessian
    assert before[0] == pytest.approx(sum(before[1:]))
    for _ in range(3):
        running = train_one_epoch(net, x, y, optimizer, batch_size=6, **asked)
    assert len(running) == len(before)
    assert evaluate_loss(net, x, y, **asked)[0] < before[0]


@pytest.mark.backends("torch")
def test_loss_weights_and_their_sum(backend: Any) -> None:
    x, y = hermite(backend)
    net = ha.fully_connected([2, 4, 1], act="tanh", seed=0)
    weights = (2.0, 0.5, 0.25)
    total, *terms = evaluate_loss(net, x, y, True, True, loss_weights=weights)
    assert total == pytest.approx(sum(w * t for w, t in zip(weights, terms, strict=True)))
    f = net.value(x).numpy()
    assert terms[0] == pytest.approx(((f[:, 0] - y[:, 0].numpy()) ** 2).sum() / 2 / len(x))


def test_headers(capsys: pytest.CaptureFixture[str]) -> None:
    headers, names, row = print_headers(True, True, verbose=True, loss_weights=(1.0, 0.5, 0.25))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert names[:7] == ("epoch", "time", "|", "loss", "loss_f", "loss_df", "loss_d2f")
    assert len(headers) == len(names) == 17
    losses = ("|", 1.0, 0.5, 0.25, 0.125)
    assert len(row.format(1, 0.5, *losses * 3)) == len(lines[0])
    print_headers()
    assert capsys.readouterr().out == ""


# --------------------------------------------------------------------------------- baselines


@pytest.mark.backends("torch")
def test_baselines_agree_with_the_engine(backend: Any) -> None:
    x = backend.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    vector = setup_network(3, 2, width=6, depth=2)
    scalar = setup_network(3, 1, width=6, depth=2, network_type="icnn")
    for net, baseline in (
        (vector, AutodiffNetwork(vector)),
        (scalar, AutodiffNetwork(scalar)),
        (scalar, HessianNetwork(scalar)),
    ):
        ours = net(x, do_gradient=True, do_Hessian=True)
        for a, b in zip(ours, baseline(x, do_gradient=True, do_Hessian=True), strict=True):
            np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=0, atol=1e-13)
        assert not x.requires_grad
        assert [a is None for a in baseline(x)] == [False, True, True]
        assert [a is None for a in baseline(x, do_gradient=True)] == [False, False, True]
    with pytest.raises(ValueError, match="2 outputs"):
        HessianNetwork(vector)(x)


@pytest.mark.backends("torch")
def test_baselines_take_any_torch_code(backend: Any) -> None:
    import torch

    x = backend.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    linear = torch.nn.Linear(3, 2, dtype=torch.float64)
    f, df, d2f = AutodiffNetwork(linear)(x, do_gradient=True, do_Hessian=True)
    assert torch.equal(df[0], linear.weight.T)
    assert not d2f.any()
    assert f.shape == (5, 2)
    squared = HessianNetwork(lambda u: (u**2).sum(dim=1))
    assert torch.equal(squared(x, do_Hessian=True).d2f[0, :, :, 0], 2 * torch.eye(3, dtype=x.dtype))


@pytest.mark.backends("torch")
def test_training_through_the_autodiff_baseline(backend: Any) -> None:
    import torch

    x, y = hermite(backend)
    net = ha.fully_connected([2, 4, 1], act="tanh", seed=0).to("torch")
    results = []
    for f in (net, AutodiffNetwork(net)):
        for p in net.parameters().values():
            p.grad = None
        train_one_epoch(f, x, y, torch.optim.SGD(net.parameters().values(), lr=0.0), 20, True, True)
        results.append([p.grad.clone() for p in net.parameters().values()])
    for a, b in zip(*results, strict=True):
        assert math.isfinite(float(a.sum()))
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
