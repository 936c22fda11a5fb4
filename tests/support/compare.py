"""Comparison with an oracle, and the oracles that several test files share.

The oracles know nothing of the library: jax.jacrev and jax.jacfwd, torch.func, finite differences.
Their results are put in the library's axis order, input axes before output axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

EPS = {"float32": float(np.finfo(np.float32).eps), "float64": float(np.finfo(np.float64).eps)}


def errors(got: Any, want: Any) -> tuple[float, float]:
    """Norm-wise and max-wise relative error; absolute where the truth is zero."""
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
    if not want.size:
        return 0.0, 0.0
    assert np.isfinite(want).all(), "the oracle is not finite"
    off = np.abs(got - want)
    norm, largest = np.linalg.norm(want), np.abs(want).max()
    return (
        float(np.linalg.norm(off) / (norm or 1.0)),
        float(off.max() / (largest or 1.0)),
    )


def assert_close(got: Any, want: Any, tol: float, what: str = "result", oracle: str = "") -> None:
    """Both relative errors are below ``tol``; ``oracle`` says against whom."""
    by_norm, by_max = errors(got, want)
    worst = max(by_norm, by_max) if math.isfinite(by_norm + by_max) else math.inf
    assert worst < tol, f"{what}{f' against {oracle}' if oracle else ''}: {worst:.3g} >= {tol:.3g}"


class Truth(NamedTuple):
    """Value (..., *out), gradient (..., *in, *out), Hessian (..., *in, *in, *out)."""

    f: Any
    df: Any
    d2f: Any

    @property
    def diagonal(self) -> Any:
        """(..., d, *out), for inputs of one axis; the batch has one axis."""
        return np.einsum("naa...->na...", self.d2f)

    @property
    def laplacian(self) -> Any:
        """(n, 1, *out), for inputs of one axis."""
        return np.einsum("naa...->n...", self.d2f)[:, None]


def in_before_out(a: Any, inputs: int, out: int, lead: int = 0) -> Any:
    """Move the ``out`` output axes, which autodiff puts first, behind the ``inputs`` input axes."""
    return np.moveaxis(
        np.asarray(a), range(lead, lead + out), range(lead + inputs, lead + inputs + out)
    )


# Each oracle runs once, so that a fast program is not worth its compilation.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def compiled(fn: Callable[..., Any], *arrays: Any) -> Any:
    """``fn(*arrays)`` under jit, compiled quickly."""
    return jax.jit(fn).lower(*arrays).compile(_QUICK)(*arrays)


def jax_truth(fn: Callable[[Any], Any], x: Any, batched: bool = True) -> Truth:
    """Derivatives of ``fn`` of one sample, for the samples x (n, *in), by JAX in float64."""
    x = jax.numpy.asarray(np.asarray(x, dtype=np.float64))
    k = x.ndim - batched
    out = jax.eval_shape(fn, x[0] if batched else x).ndim

    def everything(u: Any) -> Any:
        gradient = jax.jacrev(fn)
        return fn(u), gradient(u), jax.jacfwd(gradient)(u)

    f, df, d2f = compiled(jax.vmap(everything) if batched else everything, x)
    lead = int(batched)
    return Truth(
        np.asarray(f), in_before_out(df, k, out, lead), in_before_out(d2f, 2 * k, out, lead)
    )


def jax_truth_of(fn: Callable[..., Any], *xs: Any) -> tuple[Any, Any, Any]:
    """The same for several inputs (one sample, no batch): tuples of blocks."""
    arrays = [jax.numpy.asarray(np.asarray(x, dtype=np.float64)) for x in xs]
    every = tuple(range(len(xs)))
    out = jax.eval_shape(fn, *arrays).ndim

    def everything(*us: Any) -> Any:
        gradient = jax.jacrev(fn, argnums=every)
        return fn(*us), gradient(*us), jax.jacfwd(gradient, argnums=every)(*us)

    f, df, d2f = compiled(everything, *arrays)
    return (
        np.asarray(f),
        tuple(in_before_out(g, x.ndim, out) for g, x in zip(df, arrays, strict=True)),
        tuple(
            tuple(in_before_out(h, x.ndim + y.ndim, out) for h, y in zip(row, arrays, strict=True))
            for row, x in zip(d2f, arrays, strict=True)
        ),
    )


def torch_truth(fn: Callable[[Any], Any], x: Any) -> Truth:
    """Derivatives of ``fn`` of one sample (d,) -> (m,), for x (n, d), by torch.func in float64."""
    import torch

    x = torch.asarray(np.asarray(x, dtype=np.float64))
    gradient = torch.func.jacrev(fn)
    f, df = torch.func.vmap(fn)(x), torch.func.vmap(gradient)(x)
    d2f = torch.func.vmap(torch.func.jacrev(gradient))(x)
    f, df, d2f = (a.detach().numpy() for a in (f, df, d2f))
    return Truth(f, in_before_out(df, 1, 1, 1), in_before_out(d2f, 2, 1, 1))


def finite_differences(fn: Callable[[Any], Any], x: Any, h: float = 1e-5) -> Any:
    """Central differences of fn (n, d) -> (n, *out) along each feature: (n, d, *out)."""
    x = np.asarray(x, dtype=np.float64)
    steps = [h * row for row in np.eye(x.shape[1])]
    return np.stack([(fn(x + s) - fn(x - s)) / (2.0 * h) for s in steps], axis=1)


def normal(seed: int, *shape: int) -> np.ndarray:
    """Standard normal numbers, the same for the same seed."""
    return np.asarray(np.random.default_rng(seed).standard_normal(shape))


def positive(seed: int, *shape: int) -> np.ndarray:
    """Numbers between 0.5 and 2."""
    return np.random.default_rng(seed).uniform(0.5, 2.0, shape)


def randomized(function: Any, seed: int, scale: float = 0.8) -> Any:
    """The function itself, with parameters drawn anew, away from zero curvature."""
    rng = np.random.default_rng(seed)
    function.load_parameters(
        {k: scale * rng.standard_normal(a.shape) for k, a in function.parameters().items()}
    )
    return function


def plain_forward(weights: Sequence[tuple[Any, Any]], act: Callable[[Any], Any]) -> Any:
    """act(... act(u K + b) ...) as plain code, for an autodiff oracle."""

    def fn(u: Any) -> Any:
        for K, b in weights:
            u = act(u @ K + b)
        return u

    return fn
