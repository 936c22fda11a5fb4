"""Small models with parameters, each written twice: array API code of one sample, and torch.

The truth is torch.func of the second, which knows nothing of the library.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from compare import normal

import hessarray as ha

Arrays = Mapping[str, Any]
Shape = tuple[int, ...]

with warnings.catch_warnings():  # torch scripts its forward mode at first use, and advises against
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.func.hessian(torch.sum)(torch.zeros(1))


@dataclass(frozen=True)
class Model:
    """One sample in array API code, a batch in torch, and the shapes of inputs and parameters."""

    one: Callable[..., Any]
    batch: Callable[..., Any]
    in_shapes: tuple[Shape, ...]
    params: Mapping[str, Shape]

    def values(self, seed: int = 1) -> dict[str, np.ndarray]:
        return {k: 0.7 * normal(seed + 10 * i, *s) for i, (k, s) in enumerate(self.params.items())}

    def function(self, seed: int = 1) -> ha.Function:
        return ha.Function(self.one, self.in_shapes, self.values(seed))

    def inputs(self, n: int = 4, seed: int = 5) -> tuple[np.ndarray, ...]:
        return tuple(normal(seed + i, n, *s) for i, s in enumerate(self.in_shapes))

    def targets(self, n: int = 4, seed: int = 8) -> np.ndarray:
        return normal(seed, n, *self.function().out_shape)


def _xp(a: Any) -> Any:
    return a.__array_namespace__()


# ---- the models -----------------------------------------------------------------------------


def _scaled(x: Any, y: Any, p: Arrays) -> Any:
    xp = _xp(x)
    trace = xp.sum(xp.matmul(p["B"].T, p["B"]) * np.eye(2))
    return xp.concat([xp.sum(p["A"] * p["A"]) * x, trace * y])


def _norms(x: Any, p: Arrays) -> Any:
    xp = _xp(x)
    return x * (xp.sum(p["A1"] ** 2) + xp.sum(p["A2"] ** 2))


def _mlp(x: Any, p: Arrays) -> Any:
    tanh = _xp(x).tanh
    return tanh(tanh(x @ p["0.K"] + p["0.b"]) @ p["1.K"] + p["1.b"]) @ p["2.K"] + p["2.b"]


def _mlp_batch(x: Any, p: Arrays) -> Any:
    u = torch.tanh(torch.tanh(x @ p["0.K"] + p["0.b"]) @ p["1.K"] + p["1.b"])
    return u @ p["2.K"] + p["2.b"]


def _convolution(x: Any, p: Arrays) -> Any:
    xp = _xp(x)
    w = xp.stack([x[:-2], x[1:-1], x[2:]], axis=-1)
    h = xp.tanh(xp.matmul(w, p["k"]) * p["s"] + p["b"])
    return xp.sum(h * h, axis=0)


def _convolution_batch(x: Any, p: Arrays) -> Any:
    w = torch.stack([x[:, :-2], x[:, 1:-1], x[:, 2:]], -1)
    return (torch.tanh(w @ p["k"] * p["s"] + p["b"]) ** 2).sum(1)


def _convex(x: Any, p: Arrays) -> Any:
    xp = _xp(x)
    u = xp.tanh(x @ p["K"])
    w = xp.log1p(xp.exp(p["L"]))
    return xp.tanh(u @ w + x @ p["K2"]) @ xp.matmul(p["A"].T, p["A"]) + u @ w[:, :3]


def _convex_batch(x: Any, p: Arrays) -> Any:
    u, w = torch.tanh(x @ p["K"]), torch.log1p(torch.exp(p["L"]))
    return torch.tanh(u @ w + x @ p["K2"]) @ (p["A"].T @ p["A"]) + u @ w[:, :3]


def _recurrent(x: Any, p: Arrays) -> Any:
    xp = _xp(x)
    h = xp.tanh(x[0] @ p["W"] + p["b"])
    for i in (1, 2):
        h = xp.tanh(x[i] @ p["W"] + h @ p["U"] + p["b"])
    return h


def _recurrent_batch(x: Any, p: Arrays) -> Any:
    h = torch.tanh(x[:, 0] @ p["W"] + p["b"])
    for i in (1, 2):
        h = torch.tanh(x[:, i] @ p["W"] + h @ p["U"] + p["b"])
    return h


def _attention(x: Any, p: Arrays) -> Any:
    xp = _xp(x)
    q, k, v = x @ p["Q"], x @ p["K"], x @ p["V"]
    s = xp.exp(xp.matmul(q, k.T))
    return xp.matmul(s / xp.sum(s, axis=-1, keepdims=True), v) + p["g"] * x


def _attention_batch(x: Any, p: Arrays) -> Any:
    s = torch.softmax((x @ p["Q"]) @ (x @ p["K"]).transpose(-1, -2), -1)
    return s @ (x @ p["V"]) + p["g"] * x


def _odd(x: Any, p: Arrays) -> Any:
    xp = _xp(x)
    first = xp.where(x > 0, x * p["a"], p["b"])
    return first + xp.concat([p["c"], x[:1]]) ** 3 * p["d"]


def _odd_batch(x: Any, p: Arrays) -> Any:
    grown = torch.cat([p["c"].expand(x.shape[0], 1), x[:, :1]], 1)
    return torch.where(x > 0, x * p["a"], p["b"]) + grown**3 * p["d"]


def _tied(x: Any, p: Arrays) -> Any:
    """One matrix as encoder and, transposed, as decoder; a parameter without effect."""
    return _xp(x).tanh(x @ p["W"] + p["b"]) @ p["W"].T + 0.0 * p["idle"]


def _tied_batch(x: Any, p: Arrays) -> Any:
    return torch.tanh(x @ p["W"] + p["b"]) @ p["W"].T + 0.0 * p["idle"]


MODELS = {
    "bilinear": Model(
        lambda x, y, p: (x @ p["B"]) @ y,
        lambda x, y, p: torch.einsum("ni,ij,nj->n", x, p["B"], y),
        ((3,), (4,)),
        {"B": (3, 4)},
    ),
    "double bilinear": Model(
        lambda x, y, p: ((x @ p["B1"]) @ p["B2"]) @ y,
        lambda x, y, p: ((x @ p["B1"]) * (y @ p["B2"].T)).sum(-1),
        ((2,), (4,)),
        {"B1": (2, 3), "B2": (3, 4)},
    ),
    "two inputs": Model(
        _scaled,
        lambda x, y, p: torch.hstack(((p["A"] ** 2).sum() * x, (p["B"] ** 2).sum() * y)),
        ((2,), (2,)),
        {"A": (2, 2), "B": (2, 2)},
    ),
    "sum of norms": Model(
        _norms,
        lambda x, p: x * ((p["A1"] ** 2).sum() + (p["A2"] ** 2).sum()),
        ((),),
        {"A1": (2, 3), "A2": (2, 3)},
    ),
    "mlp": Model(
        _mlp,
        _mlp_batch,
        ((3,),),
        {"0.K": (3, 5), "0.b": (5,), "1.K": (5, 4), "1.b": (4,), "2.K": (4, 2), "2.b": (2,)},
    ),
    "convolution": Model(
        _convolution, _convolution_batch, ((8,),), {"k": (3, 4), "s": (4,), "b": (4,)}
    ),
    "convex": Model(
        _convex, _convex_batch, ((2,),), {"K": (2, 4), "L": (4, 3), "K2": (2, 3), "A": (2, 3)}
    ),
    "recurrent": Model(
        _recurrent, _recurrent_batch, ((3, 2),), {"W": (2, 3), "U": (3, 3), "b": (3,)}
    ),
    "attention": Model(
        _attention,
        _attention_batch,
        ((3, 2),),
        {"Q": (2, 2), "K": (2, 2), "V": (2, 2), "g": (1,)},
    ),
    "odd": Model(_odd, _odd_batch, ((2,),), {"a": (2,), "b": (2,), "c": (1,), "d": (2,)}),
    "tied": Model(_tied, _tied_batch, ((3,),), {"W": (3, 2), "b": (2,), "idle": (3,)}),
}

# The library's losses as torch's functions of all samples.
LOSSES_IN_TORCH: dict[str, Callable[[Any, Any], Any]] = {
    "mse": F.mse_loss,
    "sum_of_squares": lambda f, t: F.mse_loss(f, t, reduction="sum"),
    "cross_entropy": F.cross_entropy,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
    "poisson": F.poisson_nll_loss,
    "huber": F.huber_loss,
}


# ---- the truth ------------------------------------------------------------------------------


def tensors(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {k: torch.tensor(np.asarray(a, dtype=np.float64)) for k, a in arrays.items()}


class Truth:
    """torch.func of a batched torch function of (params) -> outputs, and of a loss of them."""

    def __init__(
        self, batch: Callable[[Arrays], Any], params: Arrays, names: Any = None, loss: Any = None
    ) -> None:
        """``loss(outputs)`` is one number for all samples; ``names`` are differentiated by."""
        whole = tensors(params)
        self.names = [k for k in whole if names is None or k in names]
        self.theta = {k: whole[k] for k in self.names}
        rest = {k: a for k, a in whole.items() if k not in self.names}
        self.outputs = lambda theta: batch({**rest, **theta})
        self.loss = None if loss is None else lambda theta: loss(self.outputs(theta))
        self._criterion = loss

    @classmethod
    def of(cls, model: Model, xs: Any, loss: Any = None, names: Any = None, seed: int = 1) -> Truth:
        inputs = [torch.tensor(x) for x in xs]
        return cls(lambda p: model.batch(*inputs, p), model.values(seed), names, loss)

    @property
    def sizes(self) -> list[int]:
        return [a.numel() for a in self.theta.values()]

    def flat(self, by_name: Mapping[str, Any]) -> np.ndarray:
        """Arrays by name as one vector, in the order of the names."""
        return np.concatenate([np.asarray(by_name[k]).reshape(-1) for k in self.names])

    def by_name(self, vector: Any) -> dict[str, Any]:
        parts = vector.split(self.sizes)
        return {k: v.reshape(self.theta[k].shape) for k, v in zip(self.names, parts, strict=True)}

    @property
    def vector(self) -> Any:
        return torch.cat([a.reshape(-1) for a in self.theta.values()])

    def model_hessian(self) -> dict[str, dict[str, np.ndarray]]:
        return _numpy(torch.func.hessian(self.outputs)(self.theta))

    def loss_hessian(self) -> dict[str, dict[str, np.ndarray]]:
        assert self.loss is not None
        return _numpy(torch.func.hessian(self.loss)(self.theta))

    def value(self) -> float:
        assert self.loss is not None
        return float(self.loss(self.theta))

    def gradient(self) -> np.ndarray:
        assert self.loss is not None
        return self.flat(torch.func.grad(self.loss)(self.theta))

    def matrix(self) -> np.ndarray:
        loss = self.loss
        assert loss is not None
        return np.asarray(torch.func.hessian(lambda v: loss(self.by_name(v)))(self.vector))

    def gauss_newton(self) -> np.ndarray:
        """J^T L J over all outputs of all samples."""
        shape = self.outputs(self.theta).shape
        f = self.outputs(self.theta).reshape(-1)
        J = torch.func.jacrev(lambda v: self.outputs(self.by_name(v)).reshape(-1))(self.vector)
        L = torch.func.hessian(lambda f: self._criterion(f.reshape(shape)))(f)
        return np.asarray(J.T @ L @ J)


def fisher(model: Model, xs: Any, loss: Any, target: Any, scale: float) -> np.ndarray:
    """scale times the sum over samples of g g^T, with loss(output, target) of one sample."""
    rows = []
    for i in range(len(target)):
        one = Truth.of(
            model,
            [x[i : i + 1] for x in xs],
            lambda f, i=i: loss(f, torch.tensor(target[i : i + 1])),
        )
        rows.append(one.gradient())
    return np.asarray(scale * np.stack(rows).T @ np.stack(rows))


def joined(blocks: Mapping[str, Mapping[str, Any]], lead: int = 0) -> np.ndarray:
    """All blocks in one matrix behind ``lead`` axes; zeros where there is none."""
    names = list(blocks)
    half = {k: blocks[k][k].shape[lead:] for k in names}
    sizes = {k: int(np.prod(s[: len(s) // 2])) for k, s in half.items()}
    front = blocks[names[0]][names[0]].shape[:lead]
    rows = []
    for a in names:
        row = [
            np.asarray(blocks[a][b]).reshape(*front, sizes[a], sizes[b])
            if b in blocks[a]
            else np.zeros((*front, sizes[a], sizes[b]))
            for b in names
        ]
        rows.append(np.concatenate(row, axis=-1))
    return np.concatenate(rows, axis=-2)


def _numpy(blocks: Any) -> dict[str, dict[str, np.ndarray]]:
    return {a: {b: h.numpy() for b, h in row.items()} for a, row in blocks.items()}


def worst(got: Mapping[str, Mapping[str, Any]], want: Mapping[str, Mapping[str, Any]]) -> float:
    """The largest error of a block, relative to the largest entry of all; shapes must agree."""
    assert list(got) == list(want)
    scale = max(
        (np.abs(h).max() for row in want.values() for h in row.values() if h.size), default=0
    )
    error = 0.0
    for a in want:
        assert list(got[a]) == list(want[a]), (list(got[a]), list(want[a]))
        for b, h in want[a].items():
            assert got[a][b].shape == h.shape, (a, b, got[a][b].shape, h.shape)
            off = np.abs(np.asarray(got[a][b]) - h)
            assert np.isfinite(off).all()
            error = max(error, float(off.max(initial=0.0)))
    return error / (float(scale) or 1.0)
