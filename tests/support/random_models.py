"""Random models with parameters, and random losses, for hypothesis.

A model is a list of steps, each array API code of one sample's features that takes its namespace as
an argument: hessarray traces it, and torch.func differentiates the same code on tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import array_api_compat.torch as txp
import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from parameter_models import Truth

import hessarray as ha
from hessarray.curvature import Loss

Step = Callable[[Any, Any, Any], Any]  # (xp, u, parameters)
WIDTHS = st.integers(1, 3)
ACTS: dict[str, Callable[[Any, Any], Any]] = {
    "identity": lambda xp, z: z,
    "tanh": lambda xp, z: xp.tanh(z),
    "sin": lambda xp, z: xp.sin(z),
    "softplus": lambda xp, z: xp.log1p(xp.exp(z)),
    "quadratic": lambda xp, z: 0.5 * z * z,
    "sigmoid": lambda xp, z: 1.0 / (1.0 + xp.exp(-z)),
}
KINDS = (
    "dense residual normalised gate convex quadratic gram scaled tied weight-normed joined "
    "multiplied".split()
)


@dataclass(repr=False)
class Drawn:
    """A model under construction, then one to be asked."""

    in_shapes: list[tuple[int, ...]]
    seed: int
    width: int = 0
    steps: list[tuple[str, Step]] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def add(self, what: str, step: Step, width: int, **shapes: tuple[int, ...]) -> None:
        prefix = len(self.steps)
        names = {k: f"{prefix}.{k}" for k in shapes}
        self.shapes |= {names[k]: s for k, s in shapes.items()}
        self.steps.append((what, lambda xp, u, p: step(xp, u, _Own(p, names))))
        self.width = width

    def one(self, xp: Any, xs: Any, p: Any) -> Any:
        """One sample."""
        u = xs[0] if len(xs) == 1 else xp.concat([xs[0], xp.sin(xs[1])], axis=0)
        for _, step in self.steps:
            u = step(xp, u, p)
        return u

    @property
    def params(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        return {
            k: rng.standard_normal(s) / math.sqrt(max(s[0] if s else 1, 1))
            for k, s in self.shapes.items()
        }

    def function(self) -> ha.Function:
        def code(*arrays: Any) -> Any:
            *xs, p = arrays
            return self.one(xs[0].__array_namespace__(), xs, p)

        return ha.Function(code, self.in_shapes, self.params)

    def inputs(self, n: int) -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng(self.seed + 1)
        return tuple(rng.standard_normal((n, *s)) for s in self.in_shapes)

    def truth(self, xs: Any, loss: Any = None, target: Any = None) -> Truth:
        """torch.func of all samples; ``loss`` is a random one."""
        batch = torch.func.vmap(lambda p, *x: self.one(txp, x, p), (None, *(0 for _ in xs)))
        tensors = [torch.tensor(x) for x in xs]
        if loss is None:
            return Truth(lambda p: batch(p, *tensors), self.params)
        t = torch.tensor(target)
        return Truth(lambda p: batch(p, *tensors), self.params, None, lambda f: loss.torch(f, t))

    def __repr__(self) -> str:
        return f"{self.in_shapes} {' '.join(what for what, _ in self.steps)} seed {self.seed}"


class _Own(Mapping[str, Any]):
    """A step's parameters by the names that the step knows."""

    def __init__(self, whole: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self.whole, self.names = whole, names

    def __getitem__(self, name: str) -> Any:
        return self.whole[self.names[name]]

    def __iter__(self) -> Any:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@st.composite
def models(draw: Any, depth: int = 3) -> Drawn:
    """One or two inputs, up to ``depth`` steps, an output of rank 0, 1 or 2."""
    d = draw(WIDTHS)
    several = draw(st.booleans())
    e = draw(WIDTHS) if several else 0
    model = Drawn([(d,), (e,)] if several else [(d,)], draw(st.integers(0, 2**31 - 1)), d + e)
    for _ in range(draw(st.integers(1, depth))):
        _grow(draw, model)
    rank, w = draw(st.sampled_from([0, 1, 1, 2])), model.width
    if rank == 0:
        model.add("sum", lambda xp, u, p: u @ p["c"], 1, c=(w,))
    elif rank == 2:
        m = draw(st.integers(1, 2))
        model.add(
            "table", lambda xp, u, p: xp.reshape(u @ p["T"], (2, m)), 2 * m, T=(w, 2 * m)
        )  # fmt: skip
    return model


def _grow(draw: Any, model: Drawn) -> None:
    kind, name, w = draw(st.sampled_from(KINDS)), draw(st.sampled_from(sorted(ACTS))), model.width
    act, m = ACTS[name], draw(WIDTHS)
    what = f"{kind}({name})"
    if kind == "dense":
        model.add(what, lambda xp, u, p: act(xp, u @ p["K"] + p["b"]), m, K=(w, m), b=(m,))
    elif kind == "residual":
        model.add(
            what, lambda xp, u, p: u + 0.5 * act(xp, u @ p["K"] + p["b"]), w, K=(w, w), b=(w,)
        )
    elif kind == "normalised":

        def normalised(xp: Any, u: Any, p: Any) -> Any:
            centred = u - xp.mean(u)
            return centred / xp.sqrt(xp.mean(centred**2) + 0.3) * p["g"] + p["s"]

        model.add(kind, normalised, w, g=(w,), s=(w,))
    elif kind == "gate":
        model.add(what, lambda xp, u, p: act(xp, u @ p["A"]) * (u @ p["B"]), m, A=(w, m), B=(w, m))
    elif kind == "convex":  # weights kept positive, and the features passed on
        model.add(
            what,
            lambda xp, u, p: xp.concat([act(xp, u @ xp.log1p(xp.exp(p["L"])) + p["b"]), u], axis=0),
            m + w, L=(w, m), b=(m,),
        )  # fmt: skip
    elif kind == "quadratic":

        def quadratic(xp: Any, u: Any, p: Any) -> Any:
            f = u @ p["v"] + 0.5 * xp.sum((p["A"] @ u) ** 2) + p["mu"]
            return xp.concat([f, act(xp, u)], axis=0)

        model.add(what, quadratic, 1 + w, v=(w,), A=(2, w), mu=(1,))
    elif kind == "gram":
        model.add(what, lambda xp, u, p: act(xp, u @ (p["A"].T @ p["A"])), w, A=(m, w))
    elif kind == "scaled":  # one number for all, and one for each, in different ways
        model.add(what, lambda xp, u, p: act(xp, u * p["c"]) * xp.exp(p["s"]), w, c=(w,), s=())
    elif kind == "tied":  # one matrix three times, once transposed
        model.add(
            what,
            lambda xp, u, p: xp.sin(act(xp, u @ p["W"]) @ p["W"].T) @ p["W"] + p["b"],
            m, W=(w, m), b=(m,),
        )  # fmt: skip
    elif kind == "weight-normed":

        def weight_normed(xp: Any, u: Any, p: Any) -> Any:
            length = xp.sqrt(xp.sum(p["V"] ** 2, axis=0) + 0.1)
            return act(xp, u @ (p["V"] / length * p["g"]))

        model.add(what, weight_normed, m, V=(w, m), g=(m,))
    elif kind == "joined":  # parameters beside features
        model.add(what, lambda xp, u, p: act(xp, xp.concat([u, p["c"]], axis=0)), w + m, c=(m,))
    else:  # two parameters that meet, beside one another
        model.add(what, lambda xp, u, p: (u * p["a"] + act(xp, p["a"] * p["d"])) * p["d"], w,
                  a=(w,), d=(w,))  # fmt: skip


# ---- losses -------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class RandomLoss:
    """A loss for hessarray, and torch's of all samples; what targets it is meant for."""

    name: str
    own: Any
    torch: Callable[[Any, Any], Any]

    def target(self, shape: tuple[int, ...], seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        if self.name == "cross_entropy":
            t = rng.random(shape) + 0.1
            return np.asarray(t / t.sum(axis=-1, keepdims=True))
        if self.name == "poisson":
            return rng.poisson(2.0, shape).astype(float)
        return rng.random(shape) if self.name == "binary_cross_entropy" else rng.normal(size=shape)

    def __repr__(self) -> str:
        return self.name


def _xp(a: Any) -> Any:
    return a.__array_namespace__()


def _coupled(f: Any, t: Any) -> Any:
    """Outputs do not only meet themselves."""
    return (_xp(f).sum(f) + 1.0) ** 2 * _xp(f).sum(f * f - t)


def _coupled_in_torch(f: Any, t: Any) -> Any:
    f, t = f.reshape(len(f), -1), t.reshape(len(t), -1)
    return ((f.sum(1) + 1.0) ** 2 * (f * f - t).sum(1)).sum()


LOSSES = [
    RandomLoss("mse", "mse", F.mse_loss),
    RandomLoss("sum_of_squares", "sum_of_squares", lambda f, t: ((f - t) ** 2).sum()),
    RandomLoss("binary_cross_entropy", "binary_cross_entropy", F.binary_cross_entropy_with_logits),
    RandomLoss("poisson", "poisson", F.poisson_nll_loss),
    RandomLoss("huber", "huber", F.huber_loss),
    RandomLoss(
        "cross_entropy",
        "cross_entropy",
        lambda f, t: -(t * F.log_softmax(f, -1)).sum(-1).mean(),
    ),
    RandomLoss(
        "fourth powers",
        Loss(lambda f, t: _xp(f).sum((f - t) ** 4), "mean"),
        lambda f, t: ((f - t) ** 4).sum() / len(f),
    ),
    RandomLoss("coupled", Loss(_coupled, "sum"), _coupled_in_torch),
]


@dataclass
class Case:
    """A model, a loss and n samples."""

    model: Drawn
    loss: RandomLoss
    n: int

    def __post_init__(self) -> None:
        self.f = self.model.function()
        self.xs = self.model.inputs(self.n)
        self.t = self.loss.target((self.n, *self.f.out_shape), self.model.seed)
        self.args = self.f, self.loss.own, self.xs, self.t

    def truth(self) -> Truth:
        return self.model.truth(self.xs, self.loss, self.t)


@st.composite
def cases(draw: Any, depth: int = 3) -> Case:
    model = draw(models(depth))
    losses = (
        LOSSES if model.function().out_shape else [k for k in LOSSES if k.name != "cross_entropy"]
    )
    return Case(model, draw(st.sampled_from(losses)), draw(st.sampled_from([1, 2, 5])))
