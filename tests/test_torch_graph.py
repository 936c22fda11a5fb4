"""Torch modules that torch.export traces: equal to torch and torch.func, or refused."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from compare import assert_close, normal  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import hessarray as ha  # noqa: E402
from hessarray.errors import LoadError  # noqa: E402
from hessarray.load.torch_operators import OPERATORS  # noqa: E402


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


class Code(nn.Module):  # type: ignore[misc]
    """A function of x, and of weights K (d, 4) and b (4,)."""

    def __init__(self, fn: Callable[..., Any], d: int = 4) -> None:
        super().__init__()
        self.fn = fn
        self.K = nn.Parameter(torch.randn(d, 4))
        self.b = nn.Parameter(torch.randn(4))

    def forward(self, x: Any) -> Any:
        return self.fn(x @ self.K + self.b)


def truth(module: Any, x: Any) -> tuple[Any, Any, Any]:
    """Value, gradient and Hessian for x (n, *in), input axes first, by torch.func."""

    def one(u: Any) -> Any:
        return module(u[None])[0]

    gradient = torch.func.jacrev(one)
    hessian = torch.func.jacfwd(gradient)
    # torch's fused attention kernels cannot be differentiated twice, and some rules are slow.
    torch.backends.mha.set_fastpath_enabled(False)
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        f, df, d2f = (
            torch.stack([g(u) for u in torch.asarray(x)]).detach().numpy()
            for g in (one, gradient, hessian)
        )
    torch.backends.mha.set_fastpath_enabled(True)
    k, o = x.ndim - 1, f.ndim - 1
    df = np.moveaxis(df, range(1, 1 + o), range(1 + k, 1 + k + o))
    d2f = np.moveaxis(d2f, range(1, 1 + o), range(1 + 2 * k, 1 + 2 * k + o))
    return f, df, d2f


def assert_equal_to_torch(module: Any, function: ha.Function, x: Any) -> None:
    f, df, d2f = truth(module, x)
    got = function.value_gradient_hessian(x)
    assert_close(got.f, f, 1e-13, "value", "torch")
    assert_close(got.df, df, 1e-11, "gradient", "torch.func")
    assert_close(got.d2f, d2f, 1e-10, "Hessian", "torch.func")


# ---- modules -------------------------------------------------------------------------------------


class Branches(nn.Module):  # type: ignore[misc]
    """Residual sums, concatenations, slices, buffers and a tensor that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.drop = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout()
        self.bn.running_mean += 0.3
        self.bn.running_var *= 1.7
        self.register_buffer("c", torch.arange(1.0, 4.0))
        self.k = torch.full((3,), 0.7)

    def forward(self, x: Any) -> Any:
        y = x + F.mish(self.drop(self.bn(self.a(x)))) * self.c
        z = torch.cat([y, torch.softmax(x, -1).view(x.shape[0], -1)], dim=1)
        first, _, last = z[:, :6].chunk(3, 1)
        return torch.cat([first * self.k[:2], last - z[:, 1:3].detach()], 1)


class Shared(nn.Module):  # type: ignore[misc]
    """One weight in two places, one of them transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decode.weight = self.encode.weight

    def forward(self, x: Any) -> Any:
        return self.decode(torch.tanh(self.encode(x))) @ self.encode.weight


class Heads(nn.Module):  # type: ignore[misc]
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True, **options)

    def forward(self, x: Any) -> Any:
        return self.attend(x, x.flip(1), x, need_weights=False)[0]


class Causal(nn.Module):  # type: ignore[misc]
    def forward(self, x: Any) -> Any:
        return F.scaled_dot_product_attention(x, x * x, x, is_causal=True, scale=0.3)


class Masked(nn.Module):  # type: ignore[misc]
    def __init__(self, mask: Any) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: Any) -> Any:
        return F.scaled_dot_product_attention(x, x, x, attn_mask=self.mask)


class Bilinear(nn.Bilinear):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(4, 4, 2)

    def forward(self, x: Any) -> Any:
        return super().forward(x, x.sin())


class OneSample(nn.Conv1d):  # type: ignore[misc]
    """Without a batch axis in front of the channels."""

    def __init__(self) -> None:
        super().__init__(2, 2, 2)

    def forward(self, x: Any) -> Any:
        return torch.stack([super(OneSample, self).forward(u).tanh() for u in x.unbind(0)])


class Positions(nn.Module):  # type: ignore[misc]
    """Embedded positions, which are constants."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)

    def forward(self, x: Any) -> Any:
        return torch.tanh(x + self.table(torch.arange(x.shape[1])))


MODULES: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "branches": (Branches, (3,)),
    "shared weights": (Shared, (4,)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.GELU()), (3,)),
    "layer norm over two axes": (lambda: nn.LayerNorm((3, 2)), (3, 2)),
    "batch norm": (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.SiLU()), (3,)),
    "group norm": (lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.Tanh()), (4, 3)),
    "instance norm": (lambda: nn.InstanceNorm1d(2, affine=True), (2, 4)),
    "instance norm of the training": (
        lambda: nn.InstanceNorm1d(2, affine=True, track_running_stats=True),
        (2, 4),
    ),
    "rms norm": (lambda: nn.RMSNorm(4), (4,)),
    "linear on several axes": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh()), (2, 3)),
    "bilinear": (Bilinear, (4,)),
    "attention": (Heads, (3, 4)),
    "attention without bias": (lambda: Heads(bias=False, add_zero_attn=True), (3, 4)),
    "causal attention": (Causal, (2, 3, 2)),
    "masked attention": (lambda: Masked(torch.randn(3, 3)), (2, 3, 2)),
    "masked attention, truth": (lambda: Masked(torch.eye(3).bool()), (2, 3, 2)),
    "transformer": (lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), (3, 4)),
    "transformer, norm first": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(
                4, 2, 6, batch_first=True, activation="gelu", norm_first=True
            ),
            2,
            enable_nested_tensor=False,
        ),
        (2, 4),
    ),
    "positions": (Positions, (3, 4)),
    "conv 1d": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3, padding=2, stride=2, dilation=2),
            nn.Tanh(),
            nn.Conv1d(4, 2, 2, groups=2, bias=False),
        ),
        (2, 9),
    ),
    "conv 2d": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, (3, 2), padding="same"),
            nn.Softplus(),
            nn.Conv2d(2, 3, (2, 1), stride=(2, 1), padding="valid"),
            nn.AdaptiveAvgPool2d((1, 2)),
            nn.Flatten(),
        ),
        (1, 4, 4),
    ),
    "conv 3d": (lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.Tanh()), (1, 2, 3, 2)),
    "conv of one sample": (OneSample, (2, 4)),
    "conv with reflected edges": (
        lambda: nn.Sequential(nn.Conv1d(1, 2, 3, padding=1, padding_mode="circular"), nn.SiLU()),
        (1, 4),
    ),
    "transposed conv 1d": (
        lambda: nn.Sequential(
            nn.ConvTranspose1d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2), nn.Tanh()
        ),
        (2, 3),
    ),
    "transposed conv 2d": (
        lambda: nn.Sequential(nn.ConvTranspose2d(1, 2, (2, 3), dilation=2), nn.Tanh()),
        (1, 2, 2),
    ),
    "average pool": (
        lambda: nn.Sequential(nn.AvgPool1d(3, 2, padding=1, ceil_mode=True), nn.Tanh()),
        (2, 6),
    ),
    "average pool without padding": (
        lambda: nn.Sequential(nn.Tanh(), nn.AvgPool2d(2, padding=1, count_include_pad=False)),
        (1, 4, 3),
    ),
    "average pool, own divisor": (
        lambda: nn.Sequential(nn.Tanh(), nn.AvgPool2d(2, stride=1, divisor_override=3)),
        (1, 3, 3),
    ),
    "max pool 1d": (lambda: nn.Sequential(nn.Tanh(), nn.MaxPool1d(2, ceil_mode=True)), (2, 5)),
    "max pool 2d": (
        lambda: nn.Sequential(nn.Tanh(), nn.MaxPool2d(3, 2, padding=1, dilation=1)),
        (1, 4, 4),
    ),
    "adaptive pools": (
        lambda: nn.Sequential(nn.Tanh(), nn.AdaptiveMaxPool1d(4), nn.AdaptiveAvgPool1d(3)),
        (2, 7),
    ),
    "pools of three axes": (
        lambda: nn.Sequential(
            nn.Tanh(), nn.MaxPool3d(2, 1), nn.AvgPool3d((2, 1, 1), 1), nn.AdaptiveAvgPool3d(1)
        ),
        (1, 3, 2, 2),
    ),
    "largest parts": (lambda: nn.Sequential(nn.Tanh(), nn.AdaptiveMaxPool2d((2, 1))), (1, 3, 2)),
    "largest parts of three axes": (
        lambda: nn.Sequential(nn.Tanh(), nn.AdaptiveMaxPool3d((2, 1, 1))),
        (1, 3, 2, 1),
    ),
    "upsampled": (lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Tanh()), (1, 3)),
    "upsampled images": (lambda: nn.Sequential(nn.Tanh(), nn.Upsample(size=(3, 4))), (1, 2, 2)),
    "interpolated": (
        lambda: nn.Sequential(nn.Tanh(), nn.Upsample(scale_factor=2, mode="bilinear")),
        (1, 2, 2),
    ),
    "PReLU": (lambda: nn.Sequential(nn.Linear(3, 4), nn.PReLU(4)), (3,)),
    "GLU": (lambda: nn.Sequential(nn.Linear(3, 4), nn.GLU()), (3,)),
    "Softmax": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Softmax(dim=-1)), (3,)),
    "LogSoftmax": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LogSoftmax(dim=-1)), (3,)),
    "Tanhshrink": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanhshrink()), (3,)),
    "Softshrink": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Softshrink(0.1)), (3,)),
    "Hardshrink": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Hardshrink(0.1)), (3,)),
    "Threshold": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Threshold(0.1, 0.3)), (3,)),
    "weight norm": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.LayerNorm(4)
        ),
        (3,),
    ),
}


@cache
def traced(name: str) -> tuple[Any, ha.Function]:
    """Each is traced once: torch takes a second for it."""
    torch.manual_seed(0)
    make, shape = MODULES[name] if name in MODULES else (lambda: Code(CODE[name]), (4,))
    module = make().eval()
    return module, ha.from_torch(module, np.ones((1, *shape)))


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    module, function = traced(name)
    assert_equal_to_torch(module, function, normal(1, 3, *MODULES[name][1]))


def norms(z: Any) -> Any:
    parts = [torch.linalg.vector_norm(z, ord=p, dim=-1, keepdim=True) for p in (1, 2, 3, np.inf)]
    return torch.cat([*parts, F.normalize(z, dim=-1)], -1)


PAIR = torch.tensor([0, 3])
MATRIX = torch.asarray(normal(0, 4, 4))


def written(z: Any) -> Any:
    out = z * 2.0
    out[:, 1:3] = z[:, :2].sin()
    out[:, 0] += z[:, 3]
    return out


CODE: dict[str, Callable[[Any], Any]] = {
    "arithmetic": lambda z: (2.0 - z) * z / (3.0 + z * z) + torch.sub(z, z.sin(), alpha=0.3),
    "powers": lambda z: (z * z + 1.0) ** 0.3 + z**3 + 1.3**z + (z * z + 0.1) ** z,
    "roots": lambda z: torch.rsqrt(z * z + 1.0) + (z * z + 2.0).sqrt() + (z * z + 1).reciprocal(),
    "elementary": lambda z: z.exp() + z.cos().expm1() + (z * z).log1p() + z.erf() + z.sinh(),
    "angles": lambda z: torch.atan2(z, z.cos()) + torch.hypot(z, z + 1.0) + z.tanh().asin(),
    "inverses": lambda z: (z.sigmoid().acos() + (z * z + 1.1).acosh() + z.atan() + z.asinh()
                           + z.sigmoid().atanh() + z.erfc() + z.square() + z.tan() + z.cosh()
                           + (z * z + 1.0).log()),
    "tests": lambda z: torch.where(
        torch.logical_not(z.eq(z.round())) & z.ne(0.0) ^ torch.logical_or(z > 1.0, z.isnan()),
        z.square() + torch.logical_and(z > 0.5, z < 1.5) * z,
        z.logical_xor(z > 0.0) * z**3,
    ),
    "matrices": lambda z: (z.mm(MATRIX) + torch.addmm(z, z * z, MATRIX, beta=0.5, alpha=2.0)
                           + torch.stack([MATRIX.mv(u) * u.dot(u) for u in z.unbind(0)])),
    "added products": lambda z: torch.baddbmm(
        z.view(-1, 2, 2), z.view(-1, 2, 2), z.view(-1, 2, 2), beta=0.3, alpha=0.7
    ),
    "logarithms": lambda z: torch.logaddexp(z, -z) + (z * z + 1.0).log10() + (z * z + 1.0).log2(),
    "division": lambda z: torch.div(z * z, z, rounding_mode="floor") + z % 0.7,
    "choice": lambda z: torch.where((z > 0.0) & (z < 1.0) | (z < -1.0), z * z, z.sin()),
    "masks": lambda z: z * (z >= 0.0) + (z < 0.5).to(z.dtype) * z**2 + torch.relu(z) * ~(z > 1.0),
    "clamped": lambda z: (z.clamp(-0.5, 0.7) + z.clamp_min(0.1) * z + z.clamp(max=0.2) * z
                          + z.clamp_max(0.3)),
    "extremes": lambda z: torch.maximum(z, z.sin()) + torch.minimum(z * z, z),
    "entries": lambda z: (z.max(-1).values * z.min(1)[0] + z.amax(1) * z.amin(1))[:, None],
    "sums": lambda z: z.sum(-1, keepdim=True) * z.mean(dim=1, keepdim=True) + z.prod(1)[:, None],
    "moments": lambda z: torch.stack([z.var(-1), z.std(-1, correction=0), z.std(dim=1)], dim=1),
    "norms": norms,
    "soft": lambda z: torch.logsumexp(z, -1, keepdim=True) + F.softmin(z, -1) + z.log_softmax(-1),
    "cumulative": lambda z: z.cumsum(1) * z,
    "shapes": lambda z: z.view(-1, 2, 2).transpose(1, 2).flatten(1).unsqueeze(2).squeeze(2).tanh(),
    "repeated": lambda z: z.repeat(1, 2) * z[:, :, None].expand(-1, -1, 2).reshape(-1, 8),
    "indexed": lambda z: z[:, [2, 0]] * z[:, torch.tensor([1, 1])] + z.index_select(1, PAIR),
    "put": lambda z: z.new_zeros(len(z), 6).index_copy(1, torch.tensor([0, 2, 3, 5]), z) ** 2,
    "gathered": lambda z: z * z.gather(1, torch.tensor([[3, 2, 1, 0]]).expand(z.shape[0], -1)),
    "rolled": lambda z: z.roll(1, 1) * z.flip(1) + torch.roll(z, (2,), (1,)),
    "padded": lambda z: F.pad(z * z, (1, 2), value=0.5)[:, 1:6] * F.pad(z, (0, 1)),
    "written into": written,
    "split": lambda z: z.split(2, 1)[0] * z.split([1, 3], 1)[1][:, 1:] + z.tensor_split(2, 1)[1],
    "unbound": lambda z: torch.stack([u * u for u in z.unbind(1)], dim=-1),
    "products": lambda z: torch.einsum("ni,nj->nij", z, z).flatten(1) @ torch.ones(16, 2),
    "batched products": lambda z: torch.bmm(z.view(-1, 2, 2), z.view(-1, 2, 2).mT).flatten(1),
    "quadratic form": lambda z: (z[:, None, :] @ torch.ones(4, 4) @ z[:, :, None]).squeeze(-1),
    "triangles": lambda z: (z.view(-1, 2, 2).tril() + z.view(-1, 2, 2).triu() ** 2).flatten(1),
    "filled": lambda z: torch.cat([torch.ones_like(z), z.new_zeros(z.shape) + z**3], 1),
    "float": lambda z: z.double() * z + z.round() * z + z.floor() * z + z.trunc() + z.ceil(),
    "activations": lambda z: sum(
        act(z)
        for act in (F.relu6, F.elu, F.selu, F.celu, F.gelu, F.silu, F.hardswish, F.softsign,
                    F.hardtanh, F.leaky_relu, F.logsigmoid, F.softplus, torch.sigmoid)
    ) + F.gelu(z, approximate="tanh") + F.celu(z, alpha=0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", CODE)
def test_operators(name: str) -> None:
    module, function = traced(name)
    assert_equal_to_torch(module, function, normal(2, 4, 4))


def test_every_operator_of_the_table_is_tested() -> None:
    """Names that no test here reaches are rows that nobody has compared with torch."""
    seen = {step.operator for name in (*MODULES, *CODE) for step in traced(name)[1]._fn.steps}
    assert set(OPERATORS) - seen == UNREACHED


# torch cannot differentiate its own hardsigmoid twice; eager dropout in eval leaves no trace.
UNREACHED = {"hardsigmoid", "dropout"}


def test_hardsigmoid() -> None:
    """Its value and gradient: torch cannot differentiate it twice."""
    module = Code(F.hardsigmoid)
    f = ha.from_torch(module, np.ones((1, 4)))
    assert [step.operator for step in f._fn.steps][-1] == "hardsigmoid"
    x = normal(1, 5, 4)
    assert_close(f.value(x), module(torch.asarray(x)).detach().numpy(), 1e-14)
    want = torch.func.vmap(torch.func.jacrev(module))(torch.asarray(x)).detach().numpy()
    assert_close(f.gradient(x), np.swapaxes(want, 1, 2), 1e-7)  # torch has 1/6 in float32


def test_a_squeeze_of_everything_leaves_the_batch() -> None:
    """Of one sample it would take the batch axis as well."""
    module = Code(lambda z: z[:, :, None].squeeze().tanh())
    x = normal(1, 5, 4)
    f = ha.from_torch(module, x)
    assert_close(f.value(x), module(torch.asarray(x)).detach().numpy(), 1e-14)


# ---- what a function is --------------------------------------------------------------------------


def test_parameters_have_torchs_names_and_can_be_replaced() -> None:
    module = Branches().eval()
    f = ha.from_torch(module, torch.zeros(1, 3))
    assert list(f.parameters()) == [k for k, _ in module.named_parameters()]
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(1.3)
    x = normal(3, 5, 3)
    f.load_parameters({k: p.detach().numpy() for k, p in module.named_parameters()})
    assert_close(f.value(x), module(torch.asarray(x)).detach().numpy(), 1e-13, oracle="torch")


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (lambda y: (y, y.prod(-1)), ("output0", "output1")),
        (lambda y: [y, y[:, :, None] * y[:, None]], ("output0", "output1")),
        (lambda y: {"lift": y, "drag": y.sum(-1, keepdim=True)}, ("lift", "drag")),
        (lambda y: (y, None), None),
        (lambda y: {"only": y}, None),
    ],
)
def test_several_outputs(outputs: Any, names: Any) -> None:
    module = Code(lambda z: outputs(torch.tanh(z)))
    x = normal(4, 5, 4)
    f = ha.from_torch(module, x)
    assert f.output_names == names
    found = module(torch.asarray(x))
    found = found.values() if isinstance(found, dict) else [v for v in found if v is not None]
    want = torch.cat([v.reshape(5, -1) for v in found], 1).detach().numpy()
    assert_close(f.value(x), want, 1e-14, oracle="torch")
    assert ha.check_derivatives(f, x)


def test_several_inputs() -> None:
    class Two(nn.Module):  # type: ignore[misc]
        def forward(self, x: Any, y: Any) -> Any:
            return torch.tanh(x).sum((1, 2), keepdim=True)[:, 0] * y

    f = ha.from_torch(Two(), (torch.zeros(1, 2, 2), np.zeros((1, 3))))
    assert f.in_shapes == ((2, 2), (3,))
    x, y = normal(1, 4, 2, 2), normal(2, 4, 3)
    assert_close(f.value(x, y), Two()(torch.asarray(x), torch.asarray(y)).numpy(), 1e-14)
    mixed = f.hessian(x, y)[0][1]  # d2f_m / dx_a dy_b = (1 - tanh(x_a)^2) delta_bm
    want = (1.0 - np.tanh(x) ** 2)[..., None, None] * np.eye(3)
    assert_close(mixed, want, 1e-14)


def test_a_sequential_stays_a_network() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    assert repr(ha.from_torch(module, torch.zeros(1, 3))) == "Network(Dense(3, 4), Dense(4, 2))"


@pytest.mark.backends("numpy", "torch", "jax", "strict")
def test_on_every_library(backend: Any) -> None:
    module = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True).eval()
    f = ha.from_torch(module, torch.zeros(1, 2, 4))
    x = normal(1, 2, 2, 4)
    got = backend.to_numpy(f.hessian(backend.asarray(x)))
    assert_close(got, truth(module, x)[2], 1e-10, oracle="torch.func")


def test_float32() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).float()
    f = ha.from_torch(module, torch.zeros(1, 3, dtype=torch.float64))
    assert {a.dtype.name for a in f.parameters().values()} == {"float32"}
    x = normal(1, 5, 3).astype("float32")
    want = module(torch.asarray(x)).detach().numpy()
    got = f.value(x)
    assert got.dtype == np.float32
    assert_close(got, want, 1e-5)


def test_a_traced_function_needs_no_torch_and_can_be_pickled(tmp_path: Any) -> None:
    f = ha.from_torch(Branches().eval(), torch.zeros(1, 3))
    x = normal(1, 2, 3)
    (tmp_path / "f.pickle").write_bytes(pickle.dumps((f, x, f.hessian(x))))
    code = (
        "import pickle, sys; f, x, h = pickle.load(open(sys.argv[1], 'rb')); "
        "assert (f.hessian(x) == h).all(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "f.pickle")], check=True)


def test_the_module_is_left_as_it_was() -> None:
    module = Branches().train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(LoadError):
        ha.from_torch(module, torch.zeros(4, 3))
    ha.from_torch(module.eval(), torch.zeros(4, 3))
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()


# ---- what is refused -----------------------------------------------------------------------------


def code(fn: Callable[[Any], Any]) -> Callable[[], Any]:
    return lambda: Code(fn, 3)


class Counting(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Any) -> Any:
        self.calls += 1.0
        return torch.tanh(x)


class Embedded(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 2)

    def forward(self, x: Any) -> Any:
        return self.table(x.abs().long() % 3)[:, 0]


def hooked() -> Any:
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    state = {"calls": 0}

    def hook(m: Any, x: Any, y: Any) -> Any:
        state["calls"] += 1
        return y * state["calls"]

    module[0].register_forward_hook(hook)
    return module


MIXES = "mixes samples, or is random: the result for one changes with the others in the batch"
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "dropout": (
        lambda: nn.Sequential(nn.LayerNorm(3), nn.Dropout()).train(),
        r"^Sequential\.1: Dropout is in training mode, .*: call module\.eval\(\) first$",
    ),
    "batch norm in training": (
        lambda: nn.Sequential(nn.LayerNorm(3), nn.BatchNorm1d(3)).train(),
        r"^Sequential\.1: BatchNorm1d is in training mode",
    ),
    "batch norm without statistics": (
        lambda: nn.Sequential(nn.LayerNorm(3), nn.BatchNorm1d(3, track_running_stats=False)).eval(),
        f"Sequential (fails on inputs|{MIXES})",
    ),
    "dropout as a function": (code(F.dropout), f"^Code {MIXES}"),
    "centred over samples": (code(lambda z: z - z.mean(0)), f"^Code {MIXES}"),
    "softmax over samples": (code(lambda z: z.softmax(0)), f"^Code {MIXES}"),
    "largest of the batch": (code(lambda z: z / z.abs().max().clamp(min=1e3)), f"^Code {MIXES}"),
    "a trace of the others": (code(lambda z: z + 1e-30 * z.sum()), f"^Code {MIXES}"),
    "another sample": (code(lambda z: z.roll(1, 0)), f"^Code {MIXES}"),
    "compared with others": (
        code(lambda z: torch.where(z > z.mean(0), z, -z)),
        f"^Code {MIXES}",
    ),
    "samples and features exchanged": (
        code(lambda z: z.reshape(4, -1).T.tanh()),
        f"^Code {MIXES}",
    ),
    "sequence first": (lambda: nn.TransformerEncoderLayer(4, 2, 6).eval(), MIXES),
    "one number": (code(lambda z: z.sum()), r"^Code returns shape \(\) for 3 samples"),
    "samples last": (code(lambda z: z.T), r"^Code returns shape \(4, 3\) for 3 samples"),
    "no tensor": (code(lambda z: (z, 3)), "^Code returns int among its results: one tensor, or a "),
    "tuples in tuples": (code(lambda z: (z, (z, z))), "^Code returns tuple among its results"),
    "nothing": (code(lambda z: None), "^Code returns nothing: one tensor, or a tuple or dict of"),
    "outputs without samples": (
        code(lambda z: (z, torch.ones(2))), r"^Code returns shape \(2,\) for 3 samples, which"
    ),
    "indices": (
        code(lambda z: z.max(-1)), "^Code returns 'output1' of dtype int64, which has no derivative"
    ),
    "outputs that mix": (code(lambda z: (z, z - z.mean(0))), f"^Code {MIXES}"),
    "put twice": (
        code(lambda z: z.index_add(1, torch.tensor([0, 0]), z[:, :2])),
        "accumulate=True is not supported|index_add is not supported",
    ),
    "a branch on values": (
        code(lambda z: z if z.sum() > 0 else -z),
        "^Code (cannot be traced by torch.export|mixes samples)",
    ),
    "unsupported operator": (
        code(lambda z: torch.special.bessel_j0(z)),
        r"^Code: torch operator special_bessel_j0 is not supported, .*OPERATORS names",
    ),
    "sorted": (code(lambda z: z.sort(-1).values), "^Code: torch operator sort is not supported"),
    "state": (Counting, "^Counting: a call changes the buffer 'calls'"),
    "embedding": (Embedded, "^Embedded.*: _to_copy: a conversion to int64 has no derivative"),
    "its own error": (code(lambda z: z @ torch.ones(7, 2)), "^Code fails on inputs of shape"),
    "hooks with state": (hooked, "^Sequential.*(mixes samples|computes other values)"),
    "half": (
        lambda: nn.Sequential(nn.LayerNorm(3)).half(),
        "^Sequential: weights of dtype float16, float32 or float64 is expected",
    ),
    "meta": (
        lambda: nn.Sequential(nn.LayerNorm(3, device="meta")),
        "^Sequential: weights on the device 'meta' have no values",
    ),
    "no module": (lambda: None, "^NoneType is no torch module"),
    "a state dict": (lambda: nn.Linear(3, 3).state_dict(), "^OrderedDict is no torch module"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, message = REFUSED[name]
    module = make()
    x = torch.rand(2, 3, 4) if name == "sequence first" else torch.rand(2, 3)
    with pytest.raises(LoadError, match=message) as caught:
        ha.from_torch(module, x)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.zeros(3, 3, dtype=torch.int64), "the example has dtype int64, floating numbers"),
        (torch.zeros(0, 3), r"the example has shape \(0, 3\), a batch of one or more samples"),
        (torch.zeros(()), r"the example has shape \(\), a batch of one or more samples"),
        (torch.zeros(2, 5), r"fails on inputs of shape \(3, 5\)"),
        (torch.zeros(3), r"mixes samples|fails on inputs of shape \(3,\)"),
        ("x", r"the example 'x' is no array: pass a batch \(n, ...\) of each input"),
        ([[1.0, 2.0], [3.0]], r"the example \[\[1.0, 2.0\], \[3.0\]\] is no array"),
        (2.0, r"the example has shape \(\), a batch of one or more samples"),
        ([], r"the example has shape \(0,\), a batch of one or more samples"),
    ],
)
def test_refused_examples(example: Any, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        ha.from_torch(nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2)), example)


def test_an_example_of_plain_numbers() -> None:
    module = nn.LayerNorm(3)
    of_lists = ha.from_torch(module, [[1.0, 2.0, 4.0]])
    of_arrays = ha.from_torch(module, (np.ones((1, 3)),))
    x = normal(3, 2, 3)
    assert np.array_equal(of_lists.hessian(x), of_arrays.hessian(x))
