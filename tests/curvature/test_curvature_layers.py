"""Networks of the library's own layers: parameter Hessians against torch.func of their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, note, settings
from hypothesis import strategies as st
from parameter_models import LOSSES_IN_TORCH, Truth, joined, worst

import hessarray as ha
from hessarray.curvature import (
    kfac_factors,
    loss_hessian_diagonal,
    loss_hessian_dict,
    loss_hessian_operator,
    model_hessian_dict,
)

TOLERANCE = 1e-9
Code = Callable[[Any, dict[str, Any]], Any]  # (features of a batch, the layer's parameters)
WIDTHS = st.integers(1, 4)
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda z: z,
    "quadratic": lambda z: 0.5 * z * z,
    "tanh": torch.tanh,
    "antitanh": lambda z: torch.logaddexp(z, -z),
    "sigmoid": torch.sigmoid,
    "softplus": lambda z: F.softplus(z, threshold=1e9),
    "silu": F.silu,
    "gelu": F.gelu,
    "gaussian": lambda z: torch.exp(-z * z),
    "sin": torch.sin,
    "relu": torch.relu,
}
NAMES = st.sampled_from(sorted(ACTIVATIONS))


def _z(u: Any, p: dict[str, Any]) -> Any:
    return u @ p["K"] + p["b"] if "b" in p else u @ p["K"]


def _positive(a: Any) -> Any:
    return F.softplus(a, threshold=1e9)


@st.composite
def networks(draw: Any) -> tuple[ha.Network, list[tuple[str, Code]]]:
    """Layers, and for each the prefix of its parameters' names and its formula in torch."""
    d = draw(WIDTHS)
    layers, codes = [], []

    def put(layer: Any, code: Code) -> None:
        codes.append((f"{len(layers)}.", code))
        layers.append(layer)

    if draw(st.integers(0, 3)) == 0:
        _convex(draw, d, put)
    else:
        _plain(draw, d, put)
    net = ha.Network(*layers)
    rng = np.random.default_rng(draw(st.integers(0, 2**31 - 1)))
    net.load_parameters(
        {
            k: rng.normal(size=a.shape) / math.sqrt(a.shape[0] or 1)
            for k, a in net.parameters().items()
        }
    )
    return net, codes


def _plain(draw: Any, width: int, put: Callable[[Any, Code], None]) -> None:
    for _ in range(draw(st.integers(1, 4))):
        name, bias = draw(NAMES), draw(st.booleans())
        act = ACTIVATIONS[name]
        if draw(st.booleans()):
            out = draw(WIDTHS)
            put(ha.Dense(width, out, act=name, bias=bias), lambda u, p, s=act: s(_z(u, p)))
            width = out
        else:
            h = draw(st.sampled_from([0.25, 1.0, -0.5]))
            put(
                ha.Residual(width, h=h, act=name, bias=bias),
                lambda u, p, s=act, h=h: u + h * s(_z(u, p)),
            )
    if draw(st.booleans()):
        put(
            ha.Quadratic(width, draw(st.integers(1, 3))),
            lambda u, p: (u @ p["v"] + 0.5 * ((u @ p["A"].T) ** 2).sum(-1))[:, None] + p["mu"],
        )


def _convex(draw: Any, d: int, put: Callable[[Any, Code], None]) -> None:
    width = None
    for _ in range(draw(st.integers(1, 3))):
        name, bias, out = draw(NAMES), draw(st.booleans()), draw(WIDTHS)

        def code(
            ux: Any, p: dict[str, Any], w: int = width or 0, s: Any = ACTIVATIONS[name]
        ) -> Any:
            x, u = ux[:, w:], ux[:, :w]
            z = _z(x, p) if "L" not in p else u @ _positive(p["L"]) + _z(x, p)
            return torch.cat([s(z), x], 1)

        put(ha.InputConvex(d, width, out, act=name, bias=bias), code)
        width = out

    def end(ux: Any, p: dict[str, Any], w: int = width or 0) -> Any:
        x, u = ux[:, w:], ux[:, :w]
        f = u @ _positive(p["w"]) + x @ p["v"] + 0.5 * ((x @ p["A"].T) ** 2).sum(-1)
        return f[:, None] + p["mu"]

    put(ha.InputConvexQuadratic(d, width, draw(st.integers(1, 3))), end)


def in_torch(codes: list[tuple[str, Code]], x: np.ndarray) -> Callable[[Any], Any]:
    def batch(params: Any) -> Any:
        u = torch.tensor(x)
        for prefix, code in codes:
            own = {k[len(prefix) :]: a for k, a in params.items() if k.startswith(prefix)}
            u = code(u, own)
        return u

    return batch


@given(networks(), st.sampled_from(sorted(LOSSES_IN_TORCH)), st.sampled_from([1, 3]))
def test_loss_hessians(made: Any, loss: str, n: int) -> None:
    net, codes = made
    note(repr(net))
    rng = np.random.default_rng(n)
    x, t = rng.normal(size=(n, *net.in_shape)), rng.random((n, *net.out_shape))
    target = torch.tensor(t)
    truth = Truth(
        in_torch(codes, x), net.parameters(), None, lambda f: LOSSES_IN_TORCH[loss](f, target)
    )
    want = truth.loss_hessian()
    assert worst(loss_hessian_dict(net, loss, x, t), want) < TOLERANCE
    matrix = joined(want)
    scale = np.abs(matrix).max() or 1.0
    diagonal = truth.flat(loss_hessian_diagonal(net, loss, x, t))
    np.testing.assert_allclose(diagonal, np.diagonal(matrix), rtol=0, atol=TOLERANCE * scale)
    v = rng.normal(size=len(matrix))
    product = loss_hessian_operator(net, loss, x, t) @ v
    np.testing.assert_allclose(product, matrix @ v, rtol=0, atol=len(v) * TOLERANCE * scale)


@settings(max_examples=20)
@given(networks())
def test_model_hessians(made: Any) -> None:
    net, codes = made
    note(repr(net))
    x = np.random.default_rng(0).normal(size=(2, *net.in_shape))
    want = Truth(in_torch(codes, x), net.parameters()).model_hessian()
    assert worst(model_hessian_dict(net, x), want) < TOLERANCE


def test_kfac_factors_are_second_moments() -> None:
    """Of [u, 1] on the left, and n / n times J^T L J of the pre-activations on the right."""
    net = ha.Network(ha.Dense(3, 4, act="tanh"), ha.Dense(4, 2), seed=0)
    rng = np.random.default_rng(1)
    x, t, n = rng.normal(size=(6, 3)), rng.normal(size=(6, 2)), 6
    p = net.parameters()
    u = np.tanh(x @ p["0.K"] + p["0.b"])
    factors = kfac_factors(net, "sum_of_squares", x, t)
    assert list(factors) == [("0.K", "0.b"), ("1.K", "1.b")]
    pre = {
        "0": (x, np.einsum("na,ai->nai", 1 - u**2, p["1.K"])),
        "1": (u, np.tile(np.eye(2), (n, 1, 1))),
    }
    for (a, s), (features, j) in zip(factors.values(), pre.values(), strict=True):
        wide = np.concatenate([features, np.ones((n, 1))], axis=1)
        np.testing.assert_allclose(a, wide.T @ wide / n, rtol=1e-12)
        np.testing.assert_allclose(s, 2 * np.einsum("nai,nbi->ab", j, j), rtol=1e-12)


def test_kfac_factors_of_no_sample_are_zero() -> None:
    net = ha.Network(ha.Dense(3, 4, act="tanh"), ha.Dense(4, 2), seed=0)
    factors = kfac_factors(net, "mse", np.zeros((0, 3)), np.zeros((0, 2)))
    assert [(a.shape, s.shape) for a, s in factors.values()] == [((4, 4), (4, 4)), ((5, 5), (2, 2))]
    assert not any(np.any(a) for pair in factors.values() for a in pair)
