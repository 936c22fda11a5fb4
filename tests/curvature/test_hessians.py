"""Parameter curvature against torch.func: blocks, forms, diagonals, products, mixed derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import hessarray as ha
from hessarray import curvature
from hessarray.errors import (
    CurvatureError,
    MemoryLimitError,
    OptionError,
    ParameterError,
    ShapeError,
)

torch = pytest.importorskip("torch")

# torch.func warns of a part of torch that it loads itself.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

N = 4  # samples


class Model(NamedTuple):
    """A function for hessarray, the same for torch on a batch, and its shapes."""

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    in_shapes: list[tuple[int, ...]]
    shapes: dict[str, tuple[int, ...]]


def _xp(x: Any) -> Any:
    return x.__array_namespace__()


def _readme(x: Any, y: Any, p: Any) -> Any:
    xp = _xp(x)
    return xp.concat([xp.sum(p["A"] * p["A"]) * x, xp.sum(p["B"] * p["B"]) * y])


def _convolution(x: Any, p: Any) -> Any:
    xp = _xp(x)
    windows = xp.stack([x[:-2], x[1:-1], x[2:]], axis=-1)
    h = xp.tanh(xp.matmul(windows, p["k"]) * p["s"] + p["b"])
    return xp.sum(h * h, axis=0)


def _torch_convolution(x: Any, p: Any) -> Any:
    windows = torch.stack([x[:, :-2], x[:, 1:-1], x[:, 2:]], -1)
    return (torch.tanh(windows @ p["k"] * p["s"] + p["b"]) ** 2).sum(1)


def _convex(x: Any, p: Any) -> Any:
    xp = _xp(x)
    u, w = xp.tanh(x @ p["K"]), xp.log1p(xp.exp(p["L"]))
    return xp.tanh(u @ w + x @ p["V"]) @ xp.matmul(p["A"].T, p["A"]) + u @ w


def _torch_convex(x: Any, p: Any) -> Any:
    u, w = torch.tanh(x @ p["K"]), torch.log1p(torch.exp(p["L"]))
    return torch.tanh(u @ w + x @ p["V"]) @ (p["A"].T @ p["A"]) + u @ w


def _recurrent(x: Any, p: Any) -> Any:
    h = _xp(x).tanh(x[0] @ p["W"] + p["b"])
    for i in (1, 2):
        h = _xp(x).tanh(x[i] @ p["W"] + h @ p["U"] + p["b"])
    return h


def _torch_recurrent(x: Any, p: Any) -> Any:
    h = torch.tanh(x[:, 0] @ p["W"] + p["b"])
    for i in (1, 2):
        h = torch.tanh(x[:, i] @ p["W"] + h @ p["U"] + p["b"])
    return h


def _attention(x: Any, p: Any) -> Any:
    xp = _xp(x)
    s = xp.exp(xp.matmul(x @ p["Q"], (x @ p["K"]).T))
    return xp.matmul(s / xp.sum(s, axis=-1, keepdims=True), x @ p["V"]) + p["g"] * x


def _torch_attention(x: Any, p: Any) -> Any:
    s = torch.softmax((x @ p["Q"]) @ (x @ p["K"]).transpose(-1, -2), -1)
    return s @ (x @ p["V"]) + p["g"] * x


def _odd(x: Any, p: Any) -> Any:
    xp = _xp(x)
    return xp.where(x > 0, x * p["a"], p["b"]) + xp.concat([p["c"], x[:1]]) ** 3 * p["d"]


def _torch_odd(x: Any, p: Any) -> Any:
    joined = torch.cat([p["c"].expand(len(x), 1), x[:, :1]], 1)
    return torch.where(x > 0, x * p["a"], p["b"]) + joined**3 * p["d"]


MODELS = {
    "bilinear": Model(
        lambda x, y, p: (x @ p["B"]) @ y,
        lambda x, y, p: torch.einsum("ni,ij,nj->n", x, p["B"], y),
        [(3,), (4,)],
        {"B": (3, 4)},
    ),
    "double bilinear": Model(
        lambda x, y, p: ((x @ p["B1"]) @ p["B2"]) @ y,
        lambda x, y, p: ((x @ p["B1"]) * (y @ p["B2"].T)).sum(-1),
        [(2,), (4,)],
        {"B1": (2, 3), "B2": (3, 4)},
    ),
    "hesse's README": Model(
        _readme,
        lambda x, y, p: torch.hstack(((p["A"] ** 2).sum() * x, (p["B"] ** 2).sum() * y)),
        [(2,), (2,)],
        {"A": (2, 2), "B": (2, 2)},
    ),
    "convolution with a scale": Model(
        _convolution, _torch_convolution, [(8,)], {"k": (3, 4), "s": (4,), "b": (4,)}
    ),
    "functions of parameters": Model(
        _convex, _torch_convex, [(2,)], {"K": (2, 4), "L": (4, 3), "V": (2, 3), "A": (2, 3)}
    ),
    "tied weights": Model(
        _recurrent, _torch_recurrent, [(3, 2)], {"W": (2, 3), "U": (3, 3), "b": (3,)}
    ),
    "attention, an output of rank 2": Model(
        _attention, _torch_attention, [(3, 2)], {"Q": (2, 2), "K": (2, 2), "V": (2, 2), "g": (1,)}
    ),
    "odd places": Model(_odd, _torch_odd, [(2,)], {"a": (2,), "b": (2,), "c": (1,), "d": (2,)}),
}
LOSSES = {
    "mse": lambda o, t: ((o - t) ** 2).mean(),
    "sum_of_squares": lambda o, t: ((o - t) ** 2).sum(),
}


class Case:
    """A model with data, and flat functions of its parameters for torch."""

    def __init__(self, name: str, loss: str) -> None:
        model = MODELS[name]
        rng = np.random.default_rng(0)
        self.params = {k: rng.standard_normal(s) for k, s in model.shapes.items()}
        self.net = ha.Function(model.ours, model.in_shapes, self.params)
        self.x = tuple(rng.standard_normal((N, *s)) for s in model.in_shapes)
        self.own = {k: torch.tensor(a) for k, a in self.params.items()}
        self.inputs = [torch.tensor(a) for a in self.x]
        self.theirs, self.criterion = model.theirs, LOSSES[loss]
        self.output = self.theirs(*self.inputs, self.own)
        self.target = rng.standard_normal(tuple(self.output.shape))
        self.theta = torch.cat([a.reshape(-1) for a in self.own.values()])

    def split(self, theta: Any) -> dict[str, Any]:
        sizes = [a.numel() for a in self.own.values()]
        parts = zip(self.own.items(), torch.split(theta, sizes), strict=True)
        return {k: part.reshape(a.shape) for (k, a), part in parts}

    def f(self, theta: Any) -> Any:
        return self.theirs(*self.inputs, self.split(theta)).reshape(-1)

    def loss(self, theta: Any) -> Any:
        out = self.theirs(*self.inputs, self.split(theta))
        return self.criterion(out, torch.tensor(self.target))

    def each(self, theta: Any) -> Any:
        out, t = self.theirs(*self.inputs, self.split(theta)), torch.tensor(self.target)
        return torch.stack([self.criterion(out[i : i + 1], t[i : i + 1]) for i in range(N)])


@pytest.fixture(params=MODELS, ids=str, scope="module")
def model_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=LOSSES, scope="module")
def loss_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def case(model_name: str, loss_name: str) -> Case:
    return Case(model_name, loss_name)


def close(found: Any, expected: Any) -> None:
    expected = expected.detach().numpy() if hasattr(expected, "detach") else np.asarray(expected)
    scale = float(np.abs(expected).max(initial=0.0)) + 1.0
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-10, atol=1e-11 * scale)


def flat(found: dict[str, Any]) -> np.ndarray:
    return np.concatenate([a.reshape(-1) for a in found.values()])


def test_model_blocks(case: Case) -> None:
    found = curvature.model_hessian_dict(case.net, case.x)
    expected = torch.func.hessian(lambda p: case.theirs(*case.inputs, p))(case.own)
    for a in expected:
        for b in expected:
            assert found[a][b].shape == tuple(expected[a][b].shape)
            close(found[a][b], expected[a][b])
    one = curvature.model_hessian_dict(case.net, tuple(x[0] for x in case.x), is_batch=False)
    for a in expected:
        close(one[a][a], found[a][a][0])


def test_loss_blocks_and_matrix(case: Case, loss_name: str) -> None:
    args = case.net, loss_name, case.x, case.target
    found = curvature.loss_hessian_dict(*args)
    expected = torch.func.hessian(
        lambda p: case.criterion(case.theirs(*case.inputs, p), torch.tensor(case.target))
    )(case.own)
    for a in expected:
        for b in expected:
            assert found[a][b].shape == tuple(expected[a][b].shape)
            close(found[a][b], expected[a][b])
    only = curvature.loss_hessian_dict(*args, diagonal_only=True)
    for a in expected:
        assert list(only[a]) == [a]
        close(only[a][a], expected[a][a])
    matrix = curvature.loss_hessian_matrix(*args)
    close(matrix, torch.func.hessian(case.loss)(case.theta))
    close(matrix, matrix.T)
    name = next(iter(expected))
    part = curvature.loss_hessian_dict(*args, params=[name])
    assert list(part) == [name]
    close(part[name][name], expected[name][name])
    close(curvature.loss_sharpness(*args), float(np.abs(np.linalg.eigvalsh(matrix)).max()))


def test_value_gradient_and_diagonal(case: Case, loss_name: str) -> None:
    args = case.net, loss_name, case.x, case.target
    close(curvature.loss_value(*args), case.loss(case.theta))
    close(flat(curvature.loss_gradient(*args)), torch.func.grad(case.loss)(case.theta))
    hessian = torch.func.hessian(case.loss)(case.theta)
    close(flat(curvature.loss_hessian_diagonal(*args)), torch.diagonal(hessian))
    v = np.random.default_rng(1).standard_normal((len(case.theta), 2))
    operator = curvature.loss_hessian_operator(*args)
    close(operator @ v[:, 0], hessian @ torch.tensor(v[:, 0]))
    close(operator @ v, hessian @ torch.tensor(v))


def test_gauss_newton_and_fisher(case: Case, loss_name: str) -> None:
    args = case.net, loss_name, case.x, case.target
    v = np.random.default_rng(1).standard_normal(len(case.theta))
    shape = case.output.shape
    jacobian = torch.func.jacrev(case.f)(case.theta)
    inner = torch.func.hessian(
        lambda o: case.criterion(o.reshape(shape), torch.tensor(case.target))
    )(case.f(case.theta))
    gauss_newton = jacobian.T @ inner @ jacobian
    close(curvature.gauss_newton_matrix(*args), gauss_newton)
    close(flat(curvature.gauss_newton_diagonal(*args)), torch.diagonal(gauss_newton))
    close(curvature.gauss_newton_operator(*args) @ v, gauss_newton @ torch.tensor(v))
    rows = torch.func.jacrev(case.each)(case.theta)
    fisher = rows.T @ rows / (N if loss_name == "mse" else 1)
    close(curvature.empirical_fisher_matrix(*args), fisher)
    close(flat(curvature.empirical_fisher_diagonal(*args)), torch.diagonal(fisher))
    close(curvature.empirical_fisher_operator(*args) @ v, fisher @ torch.tensor(v))


# ---- networks ----------------------------------------------------------------------------------


def network() -> ha.Network:
    return ha.Network(
        ha.Dense(3, 5, act="tanh"), ha.Residual(5, act="softplus"), ha.Dense(5, 2), seed=0
    )


def test_streamed_pieces_add_up() -> None:
    rng = np.random.default_rng(2)
    net, x, t = network(), rng.standard_normal((301, 3)), rng.standard_normal((301, 2))
    whole = curvature.loss_hessian_matrix(net, "mse", x, t)
    limit = whole.nbytes + 40_000
    seen: list[int] = []
    pieces = curvature.loss_hessian_matrix(
        net, "mse", x, t, memory_limit=limit, progress=seen.append, threads=1
    )
    assert len(seen) > 3
    assert seen[-1] == 301
    np.testing.assert_allclose(pieces, whole, rtol=1e-10, atol=1e-13)


def test_float32_adds_up_in_float64() -> None:
    rng = np.random.default_rng(3)
    net, x, t = network(), rng.standard_normal((50, 3)), rng.standard_normal((50, 2))
    exact = curvature.loss_hessian_matrix(net, "mse", x, t)
    args = net, "mse", x.astype(np.float32), t.astype(np.float32)
    assert curvature.loss_hessian_matrix(*args).dtype == np.float32
    found = curvature.loss_hessian_matrix(*args, accumulate="float64")
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)


def test_no_samples_and_per_layer() -> None:
    net = network()
    assert not curvature.loss_hessian_matrix(net, "mse", np.zeros((0, 3)), np.zeros((0, 2))).any()
    found = curvature.loss_hessian_dict(
        net, "mse", np.ones((2, 3)), np.ones((2, 2)), per_layer=True
    )
    assert sorted(found["0.K"]) == ["0.K", "0.b"]


def test_kfac_of_one_sample_is_the_block() -> None:
    rng = np.random.default_rng(4)
    net, x, t = network(), rng.standard_normal((1, 3)), rng.standard_normal((1, 2))
    matrix = curvature.gauss_newton_matrix(net, "mse", x, t, params=["0.K", "0.b"])
    a, s = curvature.kfac_factors(net, "mse", x, t)["0.K", "0.b"]
    np.testing.assert_allclose(np.kron(a, s), matrix, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    "name", ["CrossEntropyLoss", "BCEWithLogitsLoss", "PoissonNLLLoss", "HuberLoss", "MSELoss"]
)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_criteria_of_torch(name: str, reduction: str) -> None:
    rng = np.random.default_rng(5)
    net, x, t = network(), rng.standard_normal((6, 3)), rng.random((6, 2))
    own = {k: torch.tensor(np.array(a)) for k, a in net.parameters().items()}
    criterion = getattr(torch.nn, name)(reduction=reduction)

    def loss(p: Any) -> Any:
        u = torch.tanh(torch.tensor(x) @ p["0.K"] + p["0.b"])
        u = u + torch.nn.functional.softplus(u @ p["1.K"] + p["1.b"], threshold=1e9)
        return criterion(u @ p["2.K"] + p["2.b"], torch.tensor(t))

    expected = torch.func.hessian(loss)(own)
    found = curvature.loss_hessian_dict(net, criterion, x, t)
    for a in expected:
        for b in expected:
            close(found[a][b], expected[a][b])


def test_classes_by_number() -> None:
    rng = np.random.default_rng(6)
    net, x = network(), rng.standard_normal((6, 3))
    number = rng.integers(0, 2, 6)
    by_number = curvature.loss_hessian_matrix(net, "cross_entropy", x, number)
    close(by_number, curvature.loss_hessian_matrix(net, "cross_entropy", x, np.eye(2)[number]))


def test_a_function_says_how_it_adds_up() -> None:
    rng = np.random.default_rng(7)
    net, x, t = network(), rng.standard_normal((6, 3)), rng.standard_normal((6, 2))
    mse = curvature.loss_hessian_matrix(net, "mse", x, t)
    close(curvature.loss_hessian_matrix(net, lambda f, t: _xp(f).mean((f - t) ** 2), x, t), mse)
    total = curvature.loss_hessian_matrix(net, lambda f, t: _xp(f).sum((f - t) ** 2), x, t)
    close(total, 12 * mse)
    with pytest.raises(OptionError, match=r"neither the sum .* nor the mean"):
        curvature.loss_hessian_matrix(net, lambda f, t: _xp(f).sum((f - t) ** 2) ** 0.5, x, t)


def test_losses_of_derivatives() -> None:
    rng = np.random.default_rng(8)
    net = ha.Network(ha.Dense(2, 6, act="tanh"), ha.Dense(6, 1), seed=0)
    x, t = rng.standard_normal((5, 2)), rng.standard_normal((5, 1))
    own = {k: torch.tensor(np.array(a)) for k, a in net.parameters().items()}

    def f(p: Any, x: Any) -> Any:
        return (torch.tanh(x @ p["0.K"] + p["0.b"]) @ p["1.K"] + p["1.b"])[0]

    def one(p: Any, x: Any, t: Any) -> Any:
        slope = torch.func.grad(f, argnums=1)(p, x)
        lap = torch.trace(torch.func.hessian(f, argnums=1)(p, x))
        return (lap + f(p, x) - t[0]) ** 2 + (slope**2).sum()

    def mean(p: Any) -> Any:
        return torch.func.vmap(one, in_dims=(None, 0, 0))(
            p, torch.tensor(x), torch.tensor(t)
        ).mean()

    loss = curvature.Loss(
        lambda f, df, lap, t: (lap[0, 0] + f[0] - t[0]) ** 2 + _xp(f).sum(df * df),
        "mean",
        needs=("value", "gradient", "laplacian"),
    )
    for k, g in torch.func.grad(mean)(own).items():
        close(curvature.loss_gradient(net, loss, x, t)[k], g)
    found, expected = curvature.loss_hessian_dict(net, loss, x, t), torch.func.hessian(mean)(own)
    for a in expected:
        for b in expected:
            close(found[a][b], expected[a][b])


def test_mixed_derivatives() -> None:
    rng = np.random.default_rng(9)
    net = ha.Network(ha.Dense(3, 5, act="tanh"), ha.Dense(5, 2), seed=0)
    x, w = rng.standard_normal((4, 3)), rng.standard_normal((4, 2))
    own = {k: torch.tensor(np.array(a)) for k, a in net.parameters().items()}

    def f(p: Any, x: Any) -> Any:
        return torch.tanh(x @ p["0.K"] + p["0.b"]) @ p["1.K"] + p["1.b"]

    expected = torch.func.vmap(
        torch.func.jacrev(torch.func.jacrev(f, argnums=1), argnums=0), in_dims=(None, 0)
    )(own, torch.tensor(x))
    found = curvature.mixed_hessian_dict(net, x)
    weighted = curvature.mixed_hessian_dict(net, x, weights=w)
    for k, a in expected.items():
        close(found[k], a)
        close(weighted[k], np.einsum("nm,nm...->n...", w, a.numpy()))


def test_a_solution_moves_with_its_parameters() -> None:
    def f(x: Any, p: Any) -> Any:
        xp = _xp(x)
        return xp.sum((x - xp.exp(p["c"])) ** 2) + xp.sum(x**4) * p["s"][0] ** 2

    def solved(c: np.ndarray) -> np.ndarray:
        g, x = ha.Function(f, (3,), {"c": c, "s": np.ones(1)}), np.zeros(3)
        for _ in range(50):
            x = x - np.linalg.solve(g.hessian(x), g.gradient(x))
        return x

    c, h = np.array([0.3, -0.2, 0.5]), 1e-6
    model = ha.Function(f, (3,), {"c": c, "s": np.ones(1)})
    steps = [(solved(c + h * e) - solved(c - h * e)) / (2 * h) for e in np.eye(3)]
    found = curvature.solution_sensitivity(model, solved(c))
    np.testing.assert_allclose(found["c"], np.stack(steps, axis=1), atol=1e-8)
    with pytest.raises(CurvatureError, match="no stationary point"):
        curvature.solution_sensitivity(model, solved(c) + 1.0)


def test_on_every_library(backend: Any) -> None:
    rng = np.random.default_rng(10)
    net, x, t = network(), rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    there = [backend.xp.asarray(a, device=backend.device) for a in (x, t)]
    for make in (curvature.loss_hessian_matrix, curvature.gauss_newton_matrix):
        found = make(net, "mse", *there)
        assert type(found) is type(there[0])
        np.testing.assert_allclose(
            backend.to_numpy(found), make(net, "mse", x, t), rtol=1e-9, atol=1e-12
        )
    found = curvature.model_hessian_matrix(net, there[0])
    expected = curvature.model_hessian_matrix(net, x)
    np.testing.assert_allclose(backend.to_numpy(found), expected, rtol=1e-9, atol=1e-12)


def test_the_plan_states_the_bytes() -> None:
    net, x, t = network(), np.zeros((10, 3)), np.zeros((10, 2))
    plan = curvature.curvature_plan(net, "mse", x, t)
    assert plan.result_bytes == curvature.loss_hessian_matrix(net, "mse", x, t).nbytes
    assert "62 parameters" in str(plan)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"params": []}, ParameterError, "no parameter is selected"),
        ({"params": ["0.k"]}, ParameterError, r"did you mean 0\.b or 0\.K"),
        ({"frozen": ["0.c"]}, ParameterError, r"'0\.c' is unknown"),
        ({"target": np.zeros((5, 3))}, ShapeError, r"\(5, 2\) is expected"),
        ({"target": np.zeros((4, 2))}, ShapeError, "one target for each sample"),
        ({"inputs": np.zeros((5, 4))}, ShapeError, r"\(..., 3\) is expected"),
        ({"criterion": "msee"}, OptionError, "did you mean mse"),
        ({"criterion": lambda f, t: f - t}, ShapeError, "one number is expected"),
        ({"criterion": 3}, OptionError, "pass a name such as 'mse'"),
        ({"memory_limit": 1000}, MemoryLimitError, "loss_hessian_operator"),
        ({"memry_limit": 1000}, OptionError, "did you mean memory_limit"),
        ({"accumulate": "float16"}, OptionError, "use 'float64' or 'float32'"),
    ],
)
def test_bad_input_is_one_sentence(call: dict[str, Any], error: Any, message: str) -> None:
    given = {
        "model": network(),
        "criterion": "mse",
        "inputs": np.zeros((5, 3)),
        "target": np.zeros((5, 2)),
    }
    with pytest.raises(error, match=message):
        curvature.loss_hessian_matrix(**(given | call))


def test_a_torch_module_is_sent_to_from_torch() -> None:
    with pytest.raises(OptionError, match="from_torch"):
        curvature.model_hessian_dict(torch.nn.Linear(2, 1), np.zeros((3, 2)))
