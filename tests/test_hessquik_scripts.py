"""What hessQuik's own test suite and scripts do, on hessarray.hessquik; and both side by side."""

from __future__ import annotations

import copy
import importlib
import io
import pickle
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import hessarray as ha  # noqa: E402
import hessarray.hessquik.activations as act  # noqa: E402
import hessarray.hessquik.layers as lay  # noqa: E402
import hessarray.hessquik.networks as net  # noqa: E402
import hessarray.hessquik.utils as utils  # noqa: E402

ALL = {"do_gradient": True, "do_Hessian": True}
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(
                not torch.cuda.is_available(),
                reason="torch-cuda: no CUDA device answers torch.cuda.is_available()",
            ),
        ],
    ),
]


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def library(name: str) -> SimpleNamespace:
    """The four modules of one library, imported as a script does."""
    if name == "hessQuik":
        pytest.importorskip("hessQuik")
    parts = ("activations", "layers", "networks", "utils")
    modules = [importlib.import_module(f"{name}.{part}") for part in parts]
    return SimpleNamespace(**dict(zip(("act", "lay", "net", "utils"), modules, strict=True)))


BOTH = ("hessQuik", "hessarray.hessquik")

ACTIVATIONS = {
    "antiTanh": lambda act: act.antiTanhActivation(),
    "identity": lambda act: act.identityActivation(),
    "quadratic": lambda act: act.quadraticActivation(),
    "softplus": lambda act: act.softplusActivation(),
    "softplus 2.5": lambda act: act.softplusActivation(beta=2.5, threshold=4.0),
    "tanh": lambda act: act.tanhActivation(),
    "sigmoid": lambda act: act.sigmoidActivation(),
}

# Layers and networks of hessQuik's tests: a name, how to build it, its number of inputs.
LAYERS: dict[str, tuple[Any, int]] = {
    "single": (lambda q: q.lay.singleLayer(4, 7, act=q.act.softplusActivation()), 4),
    "single, no bias": (lambda q: q.lay.singleLayer(4, 7, q.act.softplusActivation(), False), 4),
    "resnet": (lambda q: q.lay.resnetLayer(4, h=0.25, act=q.act.softplusActivation()), 4),
    "resnet, no bias": (
        lambda q: q.lay.resnetLayer(4, h=0.25, act=q.act.softplusActivation(), bias=False),
        4,
    ),
    "icnn": (lambda q: q.lay.ICNNLayer(3, None, 5, act=q.act.softplusActivation()), 3),
    "icnn, no bias": (lambda q: q.lay.ICNNLayer(3, None, 5, q.act.softplusActivation(), False), 3),
    "quadratic": (lambda q: q.lay.quadraticLayer(4, 7), 4),
    "quadratic icnn": (lambda q: q.lay.quadraticICNNLayer(3, None, 5), 3),
}


def mixed(q: Any, m: int) -> Any:
    softplus = q.act.softplusActivation
    return q.net.NN(
        q.lay.singleLayer(3, 2, act=softplus()),
        q.lay.singleLayer(2, 7, act=softplus()),
        q.lay.resnetLayer(7, h=0.25, act=q.act.antiTanhActivation()),
        q.lay.singleLayer(7, 5, act=softplus()),
        q.lay.resnetLayer(5, h=0.5, act=q.act.quadraticActivation()),
        q.lay.singleLayer(5, m, act=softplus()),
    )


NETWORKS: dict[str, tuple[Any, int]] = {
    "mixed, one output": (lambda q: mixed(q, 1), 3),
    "mixed, three outputs": (lambda q: mixed(q, 3), 3),
    "fully connected": (lambda q: q.net.fullyConnectedNN([3, 2, 5, 1]), 3),
    "resnet": (lambda q: q.net.resnetNN(3, 4, h=0.25, act=q.act.quadraticActivation()), 3),
    "icnn layers": (
        lambda q: q.net.NN(
            q.lay.ICNNLayer(3, None, 5, act=q.act.softplusActivation()),
            q.lay.ICNNLayer(3, 5, 2, act=q.act.softplusActivation()),
            q.lay.ICNNLayer(3, 2, 7, act=q.act.softplusActivation()),
        ),
        3,
    ),
    "icnn": (lambda q: q.net.ICNN(3, [None, 5, 2, 7], act=q.act.softplusActivation()), 3),
    "blocks": (
        lambda q: q.net.NN(
            q.net.fullyConnectedNN([3, 2, 3], act=q.act.antiTanhActivation()),
            q.net.fullyConnectedNN([3, 4, 5], act=q.act.identityActivation()),
            q.net.fullyConnectedNN([5, 7, 6, 1], act=q.act.softplusActivation()),
        ),
        3,
    ),
    "resnet blocks": (
        lambda q: q.net.NN(
            q.lay.singleLayer(3, 7, act=q.act.antiTanhActivation()),
            q.net.resnetNN(7, 3, h=0.8, act=q.act.softplusActivation()),
            q.lay.quadraticLayer(7, 2),
        ),
        3,
    ),
    "icnn blocks": (
        lambda q: q.net.NN(
            q.net.ICNN(3, [None, 4, 5, 2, 7], act=q.act.tanhActivation()),
            q.lay.quadraticICNNLayer(3, 7, 2),
        ),
        3,
    ),
}
MODELS = {**{f"{k} layer": v for k, v in LAYERS.items()}, **NETWORKS}
OURS = SimpleNamespace(act=act, lay=lay, net=net, utils=utils)


def assert_same(ours: Any, theirs: Any, atol: float = 1e-12) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            # hessQuik leaves the batch axis of a constant Hessian out.
            torch.testing.assert_close(a.detach(), b.detach().expand_as(a), rtol=0, atol=atol)


# ------------------------------------------------------------- hessQuik's test-suite, on ours


@pytest.mark.parametrize("forward_mode", [True, False])
@pytest.mark.parametrize("name", [k for k in ACTIVATIONS if k != "softplus 2.5"])
def test_activations(name: str, forward_mode: bool) -> None:
    f, x = ACTIVATIONS[name](act), torch.randn(11, 7)
    assert utils.input_derivative_check(f, x, forward_mode=forward_mode) == (True, None)
    found = utils.input_derivative_check(f, x, do_Hessian=True, forward_mode=forward_mode)
    assert found == (True, True)


@pytest.mark.parametrize("forward_mode", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_input_derivatives(name: str, forward_mode: bool) -> None:
    build, d = MODELS[name]
    f, x = build(OURS), torch.randn(11, d)
    assert utils.input_derivative_check(f, x, forward_mode=forward_mode) == (True, None)
    options = {"do_Hessian": True, "forward_mode": forward_mode}
    assert utils.input_derivative_check(f, x, **options) == (True, True)
    differences = utils.input_derivative_check_finite_difference(f, x, atol=1e-3, **options)
    assert differences == (True, True)


@pytest.mark.parametrize("name", MODELS)
def test_laplacians_and_directions(name: str) -> None:
    """hessQuik offers them for single and residual layers only."""
    build, d = MODELS[name]
    f, x = build(OURS), torch.randn(11, d)
    laplacian = utils.input_derivative_check_finite_difference_laplacian
    assert laplacian(f, x, do_Laplacian=False) == (True, None)
    assert laplacian(f, x, do_Laplacian=True, atol=1e-3) == (True, True)
    assert utils.directional_derivative_check(f, x, tol=1e-10) == (True,) * 4
    assert utils.directional_derivative_laplacian_check(f, x, tol=1e-10) == (True, True)


WEIGHTED = {
    "single layer": LAYERS["single"],
    "resnet": (lambda q: q.net.resnetNN(4, 4, act=q.act.softplusActivation()), 4),
    "blocks": (
        lambda q: q.net.NN(
            q.lay.singleLayer(4, 7, act=q.act.tanhActivation()),
            q.net.resnetNN(7, 4, act=q.act.softplusActivation()),
            q.net.fullyConnectedNN([7, 13, 5], act=q.act.quadraticActivation()),
            q.lay.singleLayer(5, 3, act=q.act.identityActivation()),
            q.lay.quadraticLayer(3, 2),
        ),
        4,
    ),
    "icnn": (
        lambda q: q.net.NN(
            q.net.ICNN(4, [None, 4, 5, 2, 7], act=q.act.tanhActivation()),
            q.lay.quadraticICNNLayer(4, 7, 2),
        ),
        4,
    ),
}


@pytest.mark.parametrize("forward_mode", [True, False])
@pytest.mark.parametrize("name", WEIGHTED)
def test_weight_derivatives(name: str, forward_mode: bool) -> None:
    build, d = WEIGHTED[name]
    f, x = build(OURS), 0.5 * torch.randn(5, d)
    before = copy.deepcopy(f.state_dict())
    assert utils.network_derivative_check(f, x, do_Hessian=True, forward_mode=forward_mode)
    assert all(torch.equal(a, before[k]) for k, a in f.state_dict().items())


def test_weight_derivatives_through_autodiff() -> None:
    f = net.NNPytorchAD(mixed(OURS, 2))
    assert utils.network_derivative_check(f, 0.5 * torch.randn(3, 3), do_Hessian=True)


@pytest.mark.parametrize("wrapper", ["NNPytorchAD", "NNPytorchHessian"])
def test_autodiff_networks(wrapper: str) -> None:
    f = mixed(OURS, 1)
    wrapped, x = getattr(net, wrapper)(f), torch.randn(5, 3)
    assert_same(wrapped(x, **ALL), f(x, **ALL))
    assert list(wrapped.state_dict()) == [f"net.{k}" for k in f.state_dict()]
    assert utils.input_derivative_check(wrapped, x, do_Hessian=True) == (True, True)


def test_autodiff_of_several_outputs() -> None:
    f, x = mixed(OURS, 3), torch.randn(5, 3)
    assert_same(net.NNPytorchAD(f)(x, **ALL), f(x, **ALL))
    with pytest.raises(ValueError, match="3 outputs"):
        net.NNPytorchHessian(f)(x, **ALL)


class Wrong(act.hessQuikActivationFunction):
    """The derivative of another function."""

    def forward(self, x: Any, do_gradient: bool = False, do_Hessian: bool = False, **_: Any) -> Any:
        return torch.sin(x), 1.1 * torch.cos(x), -torch.sin(x)


def test_a_wrong_derivative_fails(capsys: pytest.CaptureFixture[str]) -> None:
    f, x = net.NN(lay.singleLayer(3, 4, act=Wrong())), torch.randn(5, 3)
    assert utils.input_derivative_check(f, x, do_Hessian=True, verbose=True)[0] is False
    differences = utils.input_derivative_check_finite_difference
    assert differences(f, x, do_Hessian=True, verbose=True)[0] is False
    assert utils.network_derivative_check(f, x, verbose=True) is True  # of Phi, as it is
    printed = capsys.readouterr().out
    assert "Gradient FAILED" in printed
    assert "Gradient PASSED" in printed
    utils.directional_derivative_check(f, x, verbose=True)
    utils.directional_derivative_laplacian_check(f, x, verbose=True)
    assert "FORWARD MODE: grad = " in capsys.readouterr().out


def test_a_detached_hessian_fails_in_the_weights() -> None:
    class Detached(net.NN):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            f, df, d2f = super().forward(*args, **kwargs)
            return f, df, d2f.detach()

    f = Detached(
        lay.singleLayer(3, 4, act=act.quadraticActivation()),
        lay.singleLayer(4, 2, act=act.tanhActivation()),
    )
    assert not utils.network_derivative_check(f, torch.randn(5, 3), do_Hessian=True)


# ----------------------------------------------------------------- side by side with hessQuik


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_hessquiks(name: str) -> None:
    theirs = ACTIVATIONS[name](library("hessQuik").act)
    ours, x = ACTIVATIONS[name](act), 3.0 * torch.randn(4, 2, 3)
    for asked in ({}, {"do_gradient": True}, ALL):
        assert_same(ours(x, **asked), theirs(x, **asked), 1e-14)
    for f in (ours, theirs):
        assert f(x, **ALL, forward_mode=None)[1:] == (None, None)
    assert_same(ours.backward(do_Hessian=True), theirs.backward(do_Hessian=True), 1e-14)
    assert ours.backward()[1] is None


@pytest.mark.parametrize("name", MODELS)
def test_values_weights_and_seeds_are_hessquiks(name: str) -> None:
    build, d = MODELS[name]
    found = []
    for source in BOTH:
        torch.manual_seed(7)
        found.append(build(library(source)))
    theirs, ours = found
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for k, a in ours.state_dict().items():
        assert torch.equal(a, theirs.state_dict()[k]), k
    # hessQuik's layers share their default activation.
    names = [[k for k, _ in f.named_modules(remove_duplicate=False)] for f in found]
    assert names[0] == names[1]
    assert ours.dim_output() == theirs.dim_output()
    x = torch.randn(6, d)
    for mode in (True, False):
        for asked in ({}, {"do_gradient": True}, ALL):
            options = {**asked, "forward_mode": mode}
            assert_same(ours(x, **options), theirs(x, **options))
    if "icnn" not in name and "quadratic" not in name and name != "resnet blocks":
        asked = {"do_gradient": True, "do_Laplacian": True}
        assert_same(ours(x, **asked), theirs(x, **asked))


@pytest.mark.parametrize("name", ["mixed, three outputs", "icnn blocks", "resnet blocks"])
def test_weights_load_in_either_direction(name: str) -> None:
    build, d = MODELS[name]
    theirs, ours = (build(library(source)) for source in BOTH)
    x = torch.randn(4, d)
    ours.load_state_dict(theirs.state_dict())
    assert_same(ours(x, **ALL), theirs(x, **ALL))
    build, _ = MODELS[name]
    other = build(OURS)
    theirs.load_state_dict(other.state_dict())
    assert_same(other(x, **ALL), theirs(x, **ALL))


@pytest.mark.parametrize("name", ["single layer", "resnet layer", "icnn layer"])
def test_layers_continue_given_derivatives_as_hessquik(name: str) -> None:
    build, d = MODELS[name]
    theirs, ours = (build(library(source)) for source in BOTH)
    ours.load_state_dict(theirs.state_dict())
    u, dudx = torch.randn(6, d), torch.randn(6, d, d)
    d2ud2x = torch.randn(6, d, d, d)
    d2ud2x = d2ud2x + d2ud2x.transpose(1, 2)
    options = {**ALL, "forward_mode": True, "dudx": dudx, "d2ud2x": d2ud2x}
    # hessQuik's input-convex layers append the identity as the derivative of x, whatever dudx.
    count = 5 if name == "icnn layer" else None
    mine, other = ([a[..., :count] for a in f(u, **options)] for f in (ours, theirs))
    assert_same(mine, other)


def hermite_script(q: Any, weights: Any) -> tuple[list[Any], Any]:
    """hessQuik's example ex_peaks_hermite.py, shorter."""
    torch.manual_seed(3)
    n_train, n_val = 40, 10
    x = -3 + 6 * torch.rand(n_train + n_val, 2)
    yc, dy, d2y = q.utils.peaks(x, do_gradient=True, do_Hessian=True)
    y = torch.cat((yc, dy.view(yc.shape[0], -1), d2y.view(yc.shape[0], -1)), dim=1)
    idx = torch.randperm(n_train + n_val)
    x_train, y_train = x[idx[:n_train]], y[idx[:n_train]]
    x_val, y_val = x[idx[n_train:]], y[idx[n_train:]]
    f = q.net.NN(
        q.lay.singleLayer(2, 8, act=q.act.tanhActivation()),
        q.net.resnetNN(8, 2, h=1.0, act=q.act.tanhActivation()),
        q.lay.singleLayer(8, 1, act=q.act.identityActivation()),
    )
    if weights is not None:
        f.load_state_dict(weights)
    start = copy.deepcopy(f.state_dict())
    optimizer = torch.optim.Adam(f.parameters(), lr=1e-3)
    options = {**ALL, "loss_weights": (1.0, 0.5, 0.25)}
    _, _, row = q.utils.print_headers(**options)
    history = []
    for epoch in range(3):
        running = q.utils.train_one_epoch(f, x_train, y_train, optimizer, 5, **options)
        train = q.utils.test(f, x_train, y_train, **options)
        valid = q.utils.test(f, x_val, y_val, **options)
        print(row.format(epoch, 0.0, "|", *running, "|", *train, "|", *valid))
        history.append((*running, *train, *valid))
    return history, start


def test_a_training_script_gives_the_same_losses() -> None:
    theirs, start = hermite_script(library("hessQuik"), None)
    ours, same = hermite_script(library("hessarray.hessquik"), start)
    assert all(torch.equal(a, same[k]) for k, a in start.items())
    assert ours[-1][4] < ours[0][4]
    for a, b in zip(ours, theirs, strict=True):
        assert len(a) == 12
        assert a == pytest.approx(b, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("source", BOTH)
def test_the_example_of_the_readme(source: str) -> None:
    q = library(source)
    d, widths = 10, [32, 64]
    f = q.net.NN(
        q.lay.singleLayer(d, widths[0], act=q.act.antiTanhActivation()),
        q.lay.resnetLayer(widths[0], h=1.0, act=q.act.softplusActivation()),
        q.lay.singleLayer(widths[0], widths[1], act=q.act.quadraticActivation()),
    )
    nex, k, m = 20, 3, widths[-1]
    x = torch.randn(nex, d)
    fx, dfx, d2fx = f(x, do_gradient=True, do_Hessian=True)
    assert (fx.shape, dfx.shape, d2fx.shape) == ((nex, m), (nex, d, m), (nex, d, d, m))
    _, _, lap = f(x, do_gradient=True, do_Laplacian=True)
    torch.testing.assert_close(lap[:, 0], torch.einsum("naam->nm", d2fx))
    v = torch.randn(k, d)
    _, vdfx, vd2fxv = f(x, do_gradient=True, do_Hessian=True, v=v, forward_mode=True)
    torch.testing.assert_close(vdfx, v @ dfx)
    torch.testing.assert_close(vd2fxv, torch.einsum("ka,nabm,lb->nklm", v, d2fx, v))
    v = torch.randn(m, k)
    _, dfxv, d2fxv = f(x, do_gradient=True, do_Hessian=True, v=v, forward_mode=False)
    torch.testing.assert_close(dfxv, dfx @ v)
    torch.testing.assert_close(d2fxv, d2fx @ v)


@pytest.mark.parametrize("source", BOTH)
def test_timing(source: str) -> None:
    q = library(source)
    found = q.utils.timing_test(
        torch.tensor([2, 3]), torch.tensor([1]), nex=3, num_trials=2, width=4, depth=1
    )
    assert found["timing_trials"].shape == (2, 1, 2)
    assert sorted(found) == sorted(utils.timing_test([2], [1], num_trials=1, depth=1))
    assert found["timing_trials_mean"].shape == found["timing_trials_std"].shape == (2, 1)


@pytest.mark.parametrize("kind", ["resnet", "fully_connected", "icnn"])
@pytest.mark.parametrize("wrapper", ["hessQuik", "PytorchAD", "PytorchHessian"])
def test_networks_to_time(kind: str, wrapper: str) -> None:
    f = utils.timing.setup_network(2, 1, 4, 1, kind, wrapper)
    assert f(torch.randn(3, 2), **ALL)[2].shape == (3, 2, 2, 1)
    with pytest.raises(ValueError, match="network_type"):
        utils.timing.setup_network(2, 1, 4, 1, "lstm", wrapper)


# --------------------------------------------------------------------------- torch's own ways


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODELS)
def test_devices_and_dtypes(name: str, device: str) -> None:
    build, d = MODELS[name]
    f = build(OURS)
    x = torch.randn(5, d)
    double = f(x, **ALL)
    f = f.to(device)
    assert_same([a.cpu() for a in f(x.to(device), **ALL)], double, 1e-10)
    f = f.to(torch.float32)
    single = f(x.to(device, torch.float32), **ALL)
    assert {a.dtype for a in single} == {torch.float32}
    assert {a.device.type for a in single} == {device}
    assert_same([a.cpu().double() for a in single], double, 1e-4)


def test_factory_arguments() -> None:
    f = net.NN(
        lay.singleLayer(2, 3, device="cpu", dtype=torch.float32),
        net.resnetNN(3, 2, dtype=torch.float32),
        net.fullyConnectedNN([3, 4], dtype=torch.float32),
        lay.quadraticLayer(4, 2, dtype=torch.float32),
    )
    assert {p.dtype for p in f.parameters()} == {torch.float32}
    assert f(torch.randn(2, 2, dtype=torch.float32), **ALL)[2].dtype == torch.float32


def test_changed_weights_show_at_once() -> None:
    f, x = mixed(OURS, 2).requires_grad_(False), torch.randn(4, 3)
    before = f(x, **ALL)
    for change in (
        lambda: f[0].K.mul_(2.0),
        lambda: f.load_state_dict(mixed(OURS, 2).state_dict()),
        lambda: setattr(f[2], "h", 0.5),
        lambda: setattr(f[0], "act", act.tanhActivation()),
        lambda: utils.insert_data(f, 0.5 * utils.extract_data(f)),
        lambda: setattr(f[1].K, "data", f[1].K.data + 1.0),
    ):
        change()
        after = f(x, **ALL)
        assert not torch.equal(after[0], before[0])
        assert_same(after, net.NNPytorchAD(f)(x, **ALL))
        before = after


def test_copies_and_pickles() -> None:
    f, x = mixed(OURS, 2), torch.randn(4, 3)
    expected = f(x.requires_grad_(True), **ALL, forward_mode=False)
    buffer = io.BytesIO()
    torch.save(f, buffer)
    buffer.seek(0)
    for twin in (
        copy.deepcopy(f),
        pickle.loads(pickle.dumps(f)),
        torch.load(buffer, weights_only=False),
    ):
        assert_same(twin(x, **ALL), expected, 1e-14)
        with torch.no_grad():
            twin[0].K.zero_()
        assert_same(f(x, **ALL), expected, 1e-14)


def test_gradients_flow_to_weights_and_inputs() -> None:
    f, x = mixed(OURS, 2), torch.randn(4, 3, requires_grad=True)
    sum(a.square().sum() for a in f(x, **ALL)).backward()
    ours = [x.grad, *(p.grad for p in f.parameters())]
    x.grad = None
    f.zero_grad()
    sum(a.square().sum() for a in net.NNPytorchAD(f)(x, **ALL)).backward()
    for a, b in zip(ours, [x.grad, *(p.grad for p in f.parameters())], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_no_grad_leaves_no_graph() -> None:
    f, x = mixed(OURS, 2), torch.randn(4, 3)
    assert all(a.requires_grad for a in f(x, **ALL))
    with torch.no_grad():
        assert not any(a.requires_grad for a in f(x, **ALL))


def test_a_module_may_occur_twice() -> None:
    layer = lay.resnetLayer(3, act=act.tanhActivation())
    f, x = net.NN(layer, layer), torch.randn(4, 3)
    assert_same(f(x, **ALL), net.NNPytorchAD(f)(x, **ALL))
    assert utils.network_derivative_check(f, x, do_Hessian=True)


def test_hooks_and_parametrizations_take_part() -> None:
    f, x = mixed(OURS, 2), torch.randn(4, 3)
    plain = f(x, **ALL)
    seen = []
    handle = f[1].register_forward_hook(lambda *_: seen.append(1))
    assert_same(f(x, **ALL), plain, 1e-12)
    assert seen
    handle.remove()
    torch.nn.utils.parametrizations.weight_norm(f[0], "K")
    assert_same(f(x, **ALL), plain, 1e-12)
    sum(a.square().sum() for a in f(x, **ALL)).backward()
    assert f[0].parametrizations.K.original0.grad is not None


# ------------------------------------------------------------------------- modes and arguments


def test_backward_in_two_stages() -> None:
    f, x = mixed(OURS, 3), torch.randn(4, 3)
    full = f(x, **ALL)
    value, *rest = f(x, **ALL, forward_mode=None)
    assert rest == [None, None]
    assert_same([value, *f.backward(do_Hessian=True)], full)
    assert f.backward()[1] is None
    v = torch.randn(3, 2)
    assert_same(f.backward(do_Hessian=True, v=v), [full[1] @ v, full[2] @ v])


@pytest.mark.parametrize("source", BOTH)
def test_backward_passes_through_parts(source: str) -> None:
    """g(f(x)) by hand: forward through both, then backward from the last to the first."""
    q = library(source)
    first = q.net.fullyConnectedNN([3, 4, 5], act=q.act.tanhActivation())
    last = q.net.resnetNN(5, 2, act=q.act.softplusActivation())
    whole = q.net.NN(first, last)
    x = torch.randn(4, 3)
    u, *_ = first(x, **ALL, forward_mode=None)
    g, *_ = last(u, **ALL, forward_mode=None)
    dg, d2g = last.backward(do_Hessian=True)
    dg, d2g = first.backward(do_Hessian=True, dgdf=dg, d2gd2f=d2g)
    assert_same((g, dg, d2g), whole(x, **ALL, forward_mode=True))


@pytest.mark.parametrize("name", ["blocks", "icnn blocks", "resnet blocks"])
def test_forward_continues_through_parts(name: str) -> None:
    build, d = MODELS[name]
    f, x = build(OURS), torch.randn(4, d)
    u, du, d2u = x, None, None
    for part in f:
        u, du, d2u = part(u, **ALL, forward_mode=True, dudx=du, d2ud2x=d2u)
    assert_same((u, du, d2u), f(x, **ALL))
    u, du, lap = x, None, None
    for part in f:
        u, du, lap = part(u, do_gradient=True, do_Laplacian=True, dudx=du, d2ud2x=lap)
    assert_same((u, du, lap), f(x, do_gradient=True, do_Laplacian=True))


def test_what_was_not_asked_for_is_none() -> None:
    f, x = mixed(OURS, 2), torch.randn(4, 3)
    assert [a is None for a in f(x)] == [False, True, True]
    assert [a is None for a in f(x, do_gradient=True)] == [False, False, True]
    assert [a is None for a in f(x, do_Laplacian=True)] == [False, True, False]
    # As in hessQuik, the Hessian brings the gradient, and wins over the Laplacian.
    assert [a is None for a in f(x, do_Hessian=True)] == [False, False, False]
    assert f(x, do_Hessian=True, do_Laplacian=True)[2].shape == (4, 3, 3, 2)


def test_directions_without_a_mode() -> None:
    f, x = mixed(OURS, 2), torch.randn(4, 3)
    assert f(x, **ALL, v=torch.randn(5, 3))[2].shape == (4, 5, 5, 2)
    assert f(x, **ALL, v=torch.randn(2, 5))[2].shape == (4, 3, 3, 5)
    assert f.setup_forward_mode() is False
    assert f.setup_forward_mode(forward_mode=None) is None
    assert net.fullyConnectedNN([2, 3]).setup_forward_mode() is True


def test_errors_say_what_to_do() -> None:
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="incompatible composition for block 0 to block 1"):
        net.NN(lay.singleLayer(3, 4), lay.singleLayer(5, 2))
    with pytest.raises(TypeError, match="tanhActivation"):
        lay.singleLayer(3, 4, act=torch.tanh)  # type: ignore[arg-type]
    f = lay.singleLayer(3, 3)
    with pytest.raises(RuntimeError, match="forward_mode=None"):
        f.backward()
    with pytest.raises(RuntimeError, match="forward_mode=None"):
        act.tanhActivation().backward()
    with pytest.raises(ValueError, match="dudx"):
        f(x, **ALL, d2ud2x=torch.zeros(4, 3, 3, 3))
    with pytest.raises(ValueError, match="dudx"):
        f(x, **ALL, dudx=torch.zeros(4, 3, 3), v=torch.zeros(1, 3))
    with pytest.raises(TypeError, match="forward_mod"):
        net.NN(f)(x, forward_mod=True)
    with pytest.raises(ValueError, match="is expected"):
        f(torch.randn(4, 2))
    with pytest.raises(NotImplementedError, match="forward"):
        act.hessQuikActivationFunction()(x)
    with pytest.raises(NotImplementedError, match="hessQuikLayer"):
        lay.hessQuikLayer()(x)
    with pytest.raises(NotImplementedError, match="dim_input"):
        lay.hessQuikLayer().dim_input()


# ------------------------------------------------------------------ the user's own classes


class Sine(act.hessQuikActivationFunction):
    """As hessQuik's documentation has one write an activation."""

    def forward(
        self, x: Any, do_gradient: bool = False, do_Hessian: bool = False, forward_mode: Any = True
    ) -> Any:
        dsigma, d2sigma = None, None
        if do_gradient or do_Hessian:
            if forward_mode is not None:
                dsigma, d2sigma = self.compute_derivatives(x, do_Hessian=do_Hessian)
            else:
                self.ctx = (x,)
        return torch.sin(x), dsigma, d2sigma

    def compute_derivatives(self, *args: Any, do_Hessian: bool = False) -> Any:
        return torch.cos(args[0]), -torch.sin(args[0]) if do_Hessian else None


class Shifted(act.tanhActivation):
    """A subclass that computes something else than its parent."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        return super().forward(x + 1.0, *args, **kwargs)


class OwnLayer(lay.hessQuikLayer):
    """The layer of hessQuik's tutorial, in which neither Laplacian nor directions occur."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.n_in, self.n_out = n_in, n_out
        self.act = act.tanhActivation()
        self.K = torch.nn.Parameter(torch.randn(n_in, n_out))

    def dim_input(self) -> int:
        return self.n_in

    def dim_output(self) -> int:
        return self.n_out

    def forward(  # type: ignore[override]
        self,
        u: Any,
        do_gradient: bool = False,
        do_Hessian: bool = False,
        forward_mode: bool = True,
        dudx: Any = None,
        d2ud2x: Any = None,
    ) -> Any:
        df, d2f = None, None
        f, s1, s2 = self.act(u @ self.K, do_gradient=do_gradient, do_Hessian=do_Hessian)
        if do_gradient or do_Hessian:
            df = s1.unsqueeze(1) * self.K
            if do_Hessian:
                d2f = torch.einsum("ni,ai,bi->nabi", s2, self.K, self.K)
                if dudx is not None:
                    d2f = torch.einsum("nai,nijm,nbj->nabm", dudx, d2f, dudx)
                if d2ud2x is not None:
                    d2f = d2f + torch.einsum("nabi,nim->nabm", d2ud2x, df)
            if dudx is not None:
                df = dudx @ df
        return f, df, d2f


class DoubledLayer(lay.singleLayer):
    """A layer of the library with a forward of its own."""

    def forward(self, u: Any, *args: Any, **kwargs: Any) -> Any:
        return tuple(None if a is None else 2.0 * a for a in super().forward(u, *args, **kwargs))


OWN = {
    "activation": lambda: net.NN(
        lay.singleLayer(3, 4, act=Sine()),
        lay.resnetLayer(4, act=Sine(), h=0.5),
        lay.singleLayer(4, 2, act=act.tanhActivation()),
    ),
    "subclass of an activation": lambda: net.fullyConnectedNN([3, 4, 2], act=Shifted()),
    "activation in an icnn": lambda: net.NN(
        net.ICNN(3, [None, 4, 5], act=Sine()), lay.quadraticICNNLayer(3, 5, 2)
    ),
    "layer": lambda: net.NN(lay.singleLayer(3, 4), OwnLayer(4, 5), lay.quadraticLayer(5, 2)),
    "first layer": lambda: net.NN(OwnLayer(3, 5), net.resnetNN(5, 2), OwnLayer(5, 2)),
    "subclass of a layer": lambda: net.NN(DoubledLayer(3, 4, act=Sine()), lay.singleLayer(4, 2)),
}


@pytest.mark.parametrize("name", OWN)
def test_classes_of_the_users_own(name: str) -> None:
    f, x = OWN[name](), torch.randn(6, 3)
    assert_same(f(x, **ALL), net.NNPytorchAD(f)(x, **ALL))
    assert utils.input_derivative_check(f, x, do_Hessian=True) == (True, True)
    assert utils.input_derivative_check(f, x, do_Hessian=True, forward_mode=False) == (True, True)
    assert utils.network_derivative_check(f, x, do_Hessian=True)
    assert utils.directional_derivative_check(f, x) == (True,) * 4
    assert utils.directional_derivative_laplacian_check(f, x) == (True, True)
    value, *_ = f(x, **ALL, forward_mode=None)
    assert_same([value, *f.backward(do_Hessian=True)], f(x, **ALL))


# -------------------------------------------------------------------------------- the parcel


def test_import_lines() -> None:
    import hessarray.hessquik as hessQuik

    for part in ("activations", "layers", "networks", "utils"):
        theirs = getattr(
            library("hessQuik"),
            {"activations": "act", "layers": "lay", "networks": "net", "utils": "utils"}[part],
        )
        names = [
            k
            for k, a in vars(theirs).items()
            if callable(a) and getattr(a, "__module__", "").startswith("hessQuik")
        ]
        assert names
        for name in names:
            assert hasattr(getattr(hessQuik, part), name), f"{part}.{name}"


def test_vectors_of_parameters() -> None:
    f = mixed(OURS, 2)
    theta = utils.extract_data(f)
    assert theta.shape == (sum(p.numel() for p in f.parameters()),)
    assert not utils.extract_data(f, "grad").any()
    utils.insert_data(f, torch.arange(float(theta.numel())))
    assert torch.equal(utils.extract_data(f), torch.arange(float(theta.numel())))
    assert torch.equal(utils.module_getattr(f, ["2", "layer", "K"]), f[2].layer.K)
    utils.module_setattr(f, ("2", "layer", "b"), None)
    assert f[2].layer.b is None
    assert utils.module_getattr(f[2], "width") == 7


def test_the_engine_agrees_with_the_modules() -> None:
    """The same network written with hessarray's own layers, from the same weights."""
    f, x = mixed(OURS, 2), torch.randn(4, 3)
    same = ha.Network(
        ha.Dense(3, 2, act=ha.activation("softplus", threshold=20.0)),
        ha.Dense(2, 7, act=ha.activation("softplus", threshold=20.0)),
        ha.Residual(7, h=0.25, act="antitanh"),
        ha.Dense(7, 5, act=ha.activation("softplus", threshold=20.0)),
        ha.Residual(5, h=0.5, act="quadratic"),
        ha.Dense(5, 2, act=ha.activation("softplus", threshold=20.0)),
    )
    same.load_parameters({k.replace("layer.", ""): p.detach() for k, p in f.state_dict().items()})
    assert_same(same(x, **ALL), f(x, **ALL), 1e-14)
