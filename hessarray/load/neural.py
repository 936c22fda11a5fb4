"""Softmax, normalisation and attention as array API code, for models from other libraries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["attention", "log_softmax", "logsumexp", "product", "softmax", "standardised"]


def softmax(xp: Any, x: Any, axis: int) -> Any:
    """exp(x - m) / sum exp(x - m); the largest entry m cancels, so it has no derivative."""
    e = xp.exp(x - _largest(xp, x, axis))
    return e / xp.sum(e, axis=axis, keepdims=True)


def log_softmax(xp: Any, x: Any, axis: int) -> Any:
    """x - log sum exp(x)."""
    centred = x - _largest(xp, x, axis)
    return centred - xp.log(xp.sum(xp.exp(centred), axis=axis, keepdims=True))


def logsumexp(xp: Any, x: Any, axes: Sequence[int], keepdims: bool = False) -> Any:
    """Log sum exp(x) over these axes."""
    m = _largest(xp, x, tuple(axes))
    out = m + xp.log(xp.sum(xp.exp(x - m), axis=tuple(axes), keepdims=True))
    return out if keepdims else xp.squeeze(out, axis=tuple(axes))


def _largest(xp: Any, x: Any, axis: Any) -> Any:
    return xp.stop_gradient(xp.max(x, axis=axis, keepdims=True))


def standardised(xp: Any, x: Any, axes: Sequence[int], eps: float) -> Any:
    """(x - mean) / sqrt(var + eps) over these axes."""
    centred = x - xp.mean(x, axis=tuple(axes), keepdims=True)
    var = xp.mean(xp.square(centred), axis=tuple(axes), keepdims=True)
    return centred * xp.pow(var + eps, -0.5)


def product(xp: Any, x: Any, y: Any) -> Any:
    """Matrix product; axes of length one in front are left out of the contraction."""
    if len(x.shape) < 2 or len(y.shape) < 2:
        return xp.matmul(x, y)
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    shape = (*batch, x.shape[-2], y.shape[-1])
    if math.prod(y.shape[:-2]) == 1:  # one matrix: all else are rows of x
        rows = x.shape[:-1]
        x = xp.reshape(x, (*(n for n in rows if n != 1), x.shape[-1]))
        return xp.reshape(xp.matmul(x, xp.reshape(y, y.shape[-2:])), shape)
    return xp.reshape(xp.matmul(_narrow(xp, x, batch), _narrow(xp, y, batch)), shape)


def _narrow(xp: Any, x: Any, batch: tuple[int, ...]) -> Any:
    """x without those batch axes that have length one in the result."""
    lead = x.shape[:-2]
    wide = batch[len(batch) - len(lead) :]
    kept = tuple(n for n, m in zip(lead, wide, strict=True) if m != 1)
    return xp.reshape(x, (*kept, *x.shape[-2:]))


def attention(xp: Any, q: Any, k: Any, v: Any, mask: Any = None, scale: float | None = None) -> Any:
    """softmax(q k^T scale + mask) v, over (..., length, features); ``mask`` may be truth values."""
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    # Half of the scale on either side would round twice: once, on the shorter array.
    scores = product(xp, q * scale, xp.matrix_transpose(k))
    if mask is not None:
        truth = mask.dtype.kind == "b"
        scores = xp.where(mask, scores, -math.inf) if truth else scores + mask
    return product(xp, softmax(xp, scores, -1), v)
