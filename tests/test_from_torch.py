"""Networks from torch modules: equal to torch, derivatives to torch.func; or refused."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from compare import EPS, assert_close, normal, torch_truth  # noqa: E402
from torch import nn  # noqa: E402

import hessarray as ha  # noqa: E402
from hessarray.errors import LoadError  # noqa: E402


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def evaluated(module: Any) -> Any:
    """Dropout is for training."""
    return module.eval()


def assert_equal_to_torch(net: ha.Network, module: Any, x: Any = None) -> None:
    """Value, gradient and Hessian for x (n, d), against torch.func."""
    x = normal(3, 7, net.in_features) if x is None else x
    f, df, d2f = net(x, do_gradient=True, do_Hessian=True)
    truth = torch_truth(evaluated(module), x)
    assert_close(f, truth.f, 1e-14, "value")
    assert_close(df, truth.df, 1e-12, "gradient")
    assert_close(d2f, truth.d2f, 1e-12, "Hessian")


# ---- activations ---------------------------------------------------------------------------------

ACTIVATIONS: dict[str, Callable[[], Any]] = {
    "Tanh": nn.Tanh,
    "Sigmoid": nn.Sigmoid,
    "Softplus": nn.Softplus,
    "Softplus(beta)": lambda: nn.Softplus(beta=2.5, threshold=30.0),
    "LogSigmoid": nn.LogSigmoid,
    "ReLU": nn.ReLU,
    "ReLU in place": lambda: nn.ReLU(inplace=True),
    "ReLU6": nn.ReLU6,
    "LeakyReLU": nn.LeakyReLU,
    "LeakyReLU(0.3)": lambda: nn.LeakyReLU(0.3),
    "ELU": nn.ELU,
    "ELU(0.4)": lambda: nn.ELU(0.4),
    "SELU": nn.SELU,
    "CELU": nn.CELU,
    # torch keeps 1 / alpha in float32 where it differentiates: a power of two loses nothing.
    "CELU(0.5)": lambda: nn.CELU(0.5),
    "GELU": nn.GELU,
    "GELU(tanh)": lambda: nn.GELU(approximate="tanh"),
    "SiLU": nn.SiLU,
    "Mish": nn.Mish,
    "Softsign": nn.Softsign,
    "Hardtanh": nn.Hardtanh,
    "Hardtanh(-0.2, 0.7)": lambda: nn.Hardtanh(-0.2, 0.7),
    "Hardsigmoid": nn.Hardsigmoid,
    "Hardswish": nn.Hardswish,
}


def test_every_torch_activation_of_the_table_is_tested() -> None:
    from hessarray.load.torch_modules import _ACTIVATIONS

    tested = {type(make()).__name__ for make in ACTIVATIONS.values()}
    assert tested == {k for k in _ACTIVATIONS if hasattr(nn, k)}


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_values_of_activations(act: str) -> None:
    """One feature through weight 1: a few ulp, of 1 where torch's own formula cancels."""
    linear = nn.Linear(1, 1)
    with torch.no_grad():
        linear.weight.fill_(1.0)
        linear.bias.fill_(0.0)
    module = nn.Sequential(linear, ACTIVATIONS[act]())
    x = np.linspace(-8.0, 30.0, 1901)[:, None]
    want = module(torch.asarray(x)).detach().numpy()
    got = ha.from_torch(module).value(x)
    assert np.all(np.abs(got - want) <= 8.0 * EPS["float64"] * np.maximum(1.0, np.abs(want)))


@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_softplus_switches_on_one_side_only(beta: float) -> None:
    """Entry by entry: s' is exp(-25) at -25, where the sum over samples would hide it."""
    linear = nn.Linear(1, 1)
    with torch.no_grad():
        linear.weight.fill_(1.0)
        linear.bias.fill_(0.0)
    module = nn.Sequential(linear, nn.Softplus(beta=beta))
    x = np.asarray([[-25.0], [-21.0], [19.0], [21.0], [40.0]]) / beta
    truth = torch_truth(module, x)
    found = ha.from_torch(module)(x, do_gradient=True, do_Hessian=True)
    for got, want in zip(found[:2], truth[:2], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=0.0)
    # torch's s'' is sigma (1 - sigma), which cancels: right to an ulp of 1.
    np.testing.assert_allclose(found.d2f, truth.d2f, rtol=1e-12, atol=beta * EPS["float64"])
    e = np.exp(-np.abs(beta * x))
    exact = np.where(beta * x > 20.0, 0.0, beta * e / (1.0 + e) ** 2)
    np.testing.assert_allclose(found.d2f.reshape(x.shape), exact, rtol=1e-12, atol=0.0)


class Hardsigmoid(nn.Module):  # type: ignore[misc]
    """Its definition: torch cannot differentiate its own twice."""

    def forward(self, x: Any) -> Any:
        return nn.functional.relu6(x + 3.0) / 6.0


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_derivatives_with_activations(act: str) -> None:
    module = nn.Sequential(
        nn.Linear(3, 6), ACTIVATIONS[act](), nn.Linear(6, 5), ACTIVATIONS[act](), nn.Linear(5, 2)
    )
    net = ha.from_torch(module)
    if act == "Hardsigmoid":
        module[1] = module[3] = Hardsigmoid()
    assert_equal_to_torch(net, module, 2.0 * normal(3, 9, 3))


# ---- structure -----------------------------------------------------------------------------------


class Own(nn.Sequential):  # type: ignore[misc]
    """A user's class that only builds."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def shared() -> Any:
    act, square = nn.Tanh(), nn.Linear(4, 4)
    return nn.Sequential(nn.Linear(3, 4), act, square, act, square, act, nn.Linear(4, 2))


def normalised() -> Any:
    return nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)
    )


MODULES: dict[str, tuple[Callable[[], Any], str]] = {
    "one layer": (lambda: nn.Sequential(nn.Linear(3, 2)), "Dense(3, 2)"),
    "a Linear alone": (lambda: nn.Linear(3, 2), "Dense(3, 2)"),
    "two layers in a row": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Tanh()),
        "Dense(3, 4), Dense(4, 2)",
    ),
    "no bias": (
        lambda: nn.Sequential(nn.Linear(3, 4, bias=False), nn.SiLU(), nn.Linear(4, 2, bias=False)),
        "Dense(3, 4), Dense(4, 2)",
    ),
    "nested": (
        lambda: nn.Sequential(
            nn.Sequential(nn.Linear(3, 4), nn.Tanh()),
            nn.Sequential(nn.Sequential(nn.Linear(4, 5)), nn.Sequential()),
            nn.GELU(),
            nn.Sequential(nn.Linear(5, 4), nn.Sequential(nn.Sigmoid(), nn.Linear(4, 2))),
        ),
        "Dense(3, 4), Dense(4, 5), Dense(5, 4), Dense(4, 2)",
    ),
    "what does nothing": (
        lambda: nn.Sequential(
            nn.Identity(),
            nn.Linear(3, 4),
            nn.Dropout(0.5),
            nn.Identity(),
            nn.Tanh(),
            nn.Dropout(0.9),
            nn.Linear(4, 2),
            nn.Identity(),
        ),
        "Dense(3, 4), Dense(4, 2)",
    ),
    "shared modules": (shared, "Dense(3, 4), Dense(4, 4), Dense(4, 4), Dense(4, 2)"),
    "a class of the user's": (Own, "Dense(3, 5), Dense(5, 2)"),
    "parametrized": (normalised, "Dense(3, 4), Dense(4, 2)"),
    "by name": (
        lambda: nn.Sequential(OrderedDict(b=nn.Linear(3, 4), a=nn.Tanh(), c=nn.Linear(4, 2))),
        "Dense(3, 4), Dense(4, 2)",
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_structure(name: str) -> None:
    make, layers = MODULES[name]
    module = make()
    net = ha.from_torch(module)
    assert repr(net) == f"Network({layers})"
    assert_equal_to_torch(net, module)


@pytest.mark.parametrize("name", MODULES)
def test_imported_networks_can_be_saved(name: str, tmp_path: Any) -> None:
    net = ha.from_torch(MODULES[name][0]())
    net.save(tmp_path / "net.npz")
    x = normal(1, 4, net.in_features)
    assert ha.load(tmp_path / "net.npz").hessian(x).tobytes() == net.hessian(x).tobytes()


def test_float32_weights_stay_float32() -> None:
    module = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).to(torch.float32)
    net = ha.from_torch(module)
    assert {a.dtype.name for a in net.parameters().values()} == {"float32"}
    x = normal(2, 6, 3).astype("float32")
    f, df = net(x, do_gradient=True)[:2]
    assert f.dtype == df.dtype == np.float32
    gradient = torch.func.vmap(torch.func.jacrev(module))(torch.asarray(x)).detach().numpy()
    assert_close(f, module(torch.asarray(x)).detach().numpy(), 8 * EPS["float32"], "value")
    assert_close(df, np.swapaxes(gradient, 1, 2), 16 * EPS["float32"], "gradient")


def test_weights_are_copies() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x = normal(4, 5, 3)
    module(torch.asarray(x)).sum().backward()  # on the tape, with gradients
    net = ha.from_torch(module)
    before = net.hessian(x)
    names = {k: v.tobytes() for k, v in net.parameters().items()}
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(2.0)
    assert {k: v.tobytes() for k, v in net.parameters().items()} == names
    assert net.hessian(x).tobytes() == before.tobytes()
    assert not np.shares_memory(net[0].b, module[0].bias.detach().numpy())
    assert all(not a.flags.writeable for a in net.parameters().values())


def test_shared_layers_become_layers_of_their_own() -> None:
    net = ha.from_torch(shared())
    assert net[1] is not net[2]
    assert net[1].K.tobytes() == net[2].K.tobytes()


# ---- hessQuik ------------------------------------------------------------------------------------

LIBRARIES = ("hessQuik", "hessarray.hessquik")


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> SimpleNamespace:
    parts = ("activations", "layers", "networks")
    if request.param == "hessQuik":
        pytest.importorskip("hessQuik")
    return SimpleNamespace(**{k: __import__(f"{request.param}.{k}", fromlist=["*"]) for k in parts})


HESSQUIK: dict[str, Callable[[Any, Any, Any], Any]] = {
    "singleLayer": lambda act, lay, net: lay.singleLayer(3, 4, act=act.tanhActivation()),
    "singleLayer without a bias": lambda act, lay, net: lay.singleLayer(
        3, 4, act=act.sigmoidActivation(), bias=False
    ),
    "resnetLayer": lambda act, lay, net: lay.resnetLayer(3, h=0.3, act=act.antiTanhActivation()),
    "ICNNLayer": lambda act, lay, net: lay.ICNNLayer(3, None, 4),
    "quadraticLayer": lambda act, lay, net: lay.quadraticLayer(3, 2),
    "quadraticICNNLayer": lambda act, lay, net: lay.quadraticICNNLayer(3, None, 2),
    "fullyConnectedNN": lambda act, lay, net: net.fullyConnectedNN(
        [3, 5, 4], act=act.softplusActivation(beta=2.0, threshold=25.0)
    ),
    "resnetNN": lambda act, lay, net: net.resnetNN(3, 3, h=0.5, act=act.tanhActivation()),
    "ICNN": lambda act, lay, net: net.ICNN(3, [None, 5, 4], act=act.quadraticActivation()),
    "convex": lambda act, lay, net: net.NN(
        lay.ICNNLayer(3, None, 5), lay.ICNNLayer(3, 5, 2), lay.quadraticICNNLayer(3, 2, 2)
    ),
    "nested": lambda act, lay, net: net.NN(
        net.NN(
            lay.singleLayer(3, 4, act=act.tanhActivation()),
            net.NN(lay.resnetLayer(4, h=0.2, act=act.identityActivation())),
        ),
        net.resnetNN(4, 2, act=act.antiTanhActivation()),
        net.NN(lay.quadraticLayer(4, 3)),
    ),
}


@pytest.mark.parametrize("name", HESSQUIK)
def test_hessquik(name: str, library: SimpleNamespace) -> None:
    module = HESSQUIK[name](library.activations, library.layers, library.networks)
    net = ha.from_torch(module)
    x = normal(5, 6, 3)
    f, df, d2f = module(torch.asarray(x), do_gradient=True, do_Hessian=True, forward_mode=True)
    got = net(x, do_gradient=True, do_Hessian=True)
    for a, b in zip(got, (f, df, d2f), strict=True):
        b = np.broadcast_to(b.detach().numpy(), a.shape)  # one Hessian, where all samples share it
        assert_close(a, b, 1e-12, oracle="hessQuik")
    for k, p in net.parameters().items():
        assert any(p.tobytes() == q.detach().numpy().tobytes() for q in module.parameters()), k


def test_hessquik_nesting_is_kept(library: SimpleNamespace) -> None:
    module = HESSQUIK["nested"](library.activations, library.layers, library.networks)
    net = ha.from_torch(module)
    assert [type(part).__name__ for part in net] == ["Network"] * 3
    assert [len(part) for part in net] == [2, 2, 1]
    assert net[0][1][0].h == 0.2


# ---- what is refused -----------------------------------------------------------------------------


class Skip(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: Any) -> Any:
        return x + self.inner(x)


class Doubled(nn.Linear):  # type: ignore[misc]
    def forward(self, x: Any) -> Any:
        return 2.0 * super().forward(x)


class Backwards(nn.Sequential):  # type: ignore[misc]
    def forward(self, x: Any) -> Any:
        for module in reversed(self):
            x = module(x)
        return x


def impostor(name: str, base: Any = nn.Module) -> Any:
    """A class of the user's that has the name of one of torch's."""
    return type(name, (base,), {"forward": lambda self, x: 2.0 * x})()


def lazy() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.LazyLinear(3)


def hooked() -> Any:
    module = nn.Linear(3, 3)
    module.register_forward_hook(lambda m, x, y: 2.0 * y)
    return module


LINEAR: Callable[[], Any] = lambda: nn.Linear(3, 3)  # noqa: E731
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "unsupported": (
        lambda: nn.Sequential(LINEAR(), nn.BatchNorm1d(3)),
        r"^Sequential\.1: torch module BatchNorm1d is not supported, supported are CELU, ",
    ),
    "unsupported within": (
        lambda: nn.Sequential(LINEAR(), nn.Sequential(nn.Tanh(), LINEAR(), nn.LayerNorm(3))),
        r"^Sequential\.1\.2: torch module LayerNorm is not supported",
    ),
    "unsupported with a name": (
        lambda: nn.Sequential(OrderedDict(head=nn.Softmax(-1))),
        r"^Sequential\.head: torch module Softmax is not supported",
    ),
    "module of the user's": (Skip, r"^Skip: torch module Skip is not supported"),
    "activation first": (
        lambda: nn.Sequential(nn.Tanh(), LINEAR()),
        r"^Sequential\.0: activation Tanh follows no Linear layer",
    ),
    "activation alone": (nn.GELU, r"^GELU: activation GELU follows no Linear layer"),
    "activation twice": (
        lambda: nn.Sequential(LINEAR(), nn.Tanh(), nn.Dropout(), nn.ReLU()),
        r"^Sequential\.3: activation ReLU follows no Linear layer",
    ),
    "activation after nothing": (
        lambda: nn.Sequential(nn.Sequential(nn.Identity()), nn.Sequential(nn.Tanh())),
        r"^Sequential\.1\.0: activation Tanh follows no Linear layer",
    ),
    "empty": (nn.Sequential, "^Sequential has no layers"),
    "empty within": (lambda: nn.Sequential(nn.Sequential()), "^Sequential has no layers"),
    "nothing done": (lambda: nn.Sequential(nn.Identity(), nn.Dropout()), "^Sequential has no lay"),
    "widths": (
        lambda: nn.Sequential(LINEAR(), nn.Tanh(), nn.Linear(4, 3)),
        r"^Sequential: layer 1 \(Dense\) expects 4 features, layer 0 \(Dense\) gives 3",
    ),
    "half": (
        lambda: nn.Sequential(LINEAR().half()),
        r"^Sequential\.0: weights of dtype float16, float32 or float64 is expected",
    ),
    "bfloat16": (
        lambda: nn.Sequential(LINEAR(), LINEAR().bfloat16()),
        r"^Sequential\.1: weights of dtype bfloat16, float32",
    ),
    "complex": (
        lambda: nn.Sequential(nn.Linear(3, 3, dtype=torch.complex128)),
        r"^Sequential\.0: weights of dtype complex128, float32",
    ),
    "without values": (
        lambda: nn.Sequential(nn.Linear(3, 3, device="meta")),
        r"^Sequential\.0: weights on the device 'meta' have no values",
    ),
    "not yet known": (lambda: nn.Sequential(lazy()), r"^Sequential\.0: Linear has hooks"),
    "Linear that computes something else": (
        lambda: nn.Sequential(Doubled(3, 3)),
        r"^Sequential\.0: torch module Doubled is not supported",
    ),
    "Sequential that computes something else": (
        lambda: Backwards(LINEAR(), nn.Tanh()),
        "^Backwards: torch module Backwards is not supported",
    ),
    "Linear by name only": (
        lambda: nn.Sequential(impostor("Linear")),
        r"^Sequential\.0: torch module Linear is not supported",
    ),
    "Tanh by name only": (
        lambda: nn.Sequential(LINEAR(), impostor("Tanh")),
        r"^Sequential\.1: torch module Tanh is not supported",
    ),
    "Tanh that computes something else": (
        lambda: nn.Sequential(LINEAR(), impostor("Tanh", nn.Tanh)),
        r"^Sequential\.1: torch module Tanh is not supported",
    ),
    "hooks": (
        lambda: nn.Sequential(LINEAR(), hooked()),
        r"^Sequential\.1: Linear has hooks, which may change what it computes",
    ),
    "parameter of an activation": (
        lambda: nn.Sequential(LINEAR(), nn.Softplus(beta=-1.0)),
        r"^Sequential\.1: Softplus: softplus got beta=-1\.0",
    ),
    "no module": (lambda: None, "^NoneType: torch module NoneType is not supported"),
    "state_dict": (lambda: LINEAR().state_dict(), "^OrderedDict: torch module OrderedDict is not"),
    "class": (lambda: nn.Linear, "^type: torch module type is not supported"),
    "tensor": (lambda: torch.ones(3, 3), "^Tensor: torch module Tensor is not supported"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, message = REFUSED[name]
    module = make()
    with pytest.raises(LoadError, match=message) as caught:
        ha.from_torch(module)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.__cause__ is None


def test_refused_hessquik(library: SimpleNamespace) -> None:
    act, lay, net = library.activations, library.layers, library.networks

    class Cube(act.hessQuikActivationFunction):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, **kwargs: Any) -> Any:
            return x**3, 3.0 * x**2, 6.0 * x

    class Shifted(act.tanhActivation):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, **kwargs: Any) -> Any:
            return super().forward(x + 1.0, **kwargs)

    convex = lay.ICNNLayer(3, 2, 4)
    convex.nonneg = torch.exp
    single = lay.singleLayer(3, 3)
    single.act = lay.singleLayer(3, 3)
    mixed = net.NN(lay.singleLayer(3, 3), lay.singleLayer(3, 3))
    mixed[1] = lay.singleLayer(4, 3)
    refused = {
        r"^NN\.1\.act: torch module Cube is not supported": net.NN(
            lay.singleLayer(3, 3), lay.singleLayer(3, 3, act=Cube())
        ),
        r"^NN\.0\.layer\.act: torch module Shifted is not supported": net.NN(
            lay.resnetLayer(3, act=Shifted())
        ),
        r"^NN\.0: ICNNLayer with nonneg=.*exp.*, softplus is expected": net.NN(convex),
        r"^singleLayer\.act: singleLayer is no activation": single,
        r"^NN: layer 1 \(Dense\) expects 4 features, layer 0 \(Dense\) gives 3": mixed,
        r"^NN\.0: weights of dtype float16": net.NN(lay.quadraticLayer(3, 2).half()),
        "^NN has no layers": net.NN(),
    }
    for message, module in refused.items():
        with pytest.raises(LoadError, match=message):
            ha.from_torch(module)


def test_a_refused_module_is_left_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.LayerNorm(3))
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(LoadError):
        ha.from_torch(module)
    for k, v in module.state_dict().items():
        assert torch.equal(v, before[k])
    assert all(p.requires_grad for p in module.parameters())


def test_a_network_with_torchs_softplus_is_saved_and_loaded(tmp_path: Path) -> None:
    net = ha.from_torch(nn.Sequential(nn.Linear(3, 5), nn.Softplus(beta=2.0), nn.Linear(5, 1)))
    net.save(tmp_path / "net.npz")
    x = np.linspace(-40.0, 40.0, 30).reshape(10, 3)
    again = ha.load(tmp_path / "net.npz")
    for ours, theirs in zip(net(x, do_Hessian=True), again(x, do_Hessian=True), strict=True):
        if ours is not None:
            np.testing.assert_array_equal(ours, theirs)
