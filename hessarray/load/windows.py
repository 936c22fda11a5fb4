"""Convolutions and pooling as gathers and contractions, over arrays (samples, channels, *space)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = [
    "average_pool",
    "convolve",
    "max_pool",
    "parts_of",
    "transposed_sources",
    "window_sources",
]

Ints = Sequence[int]
Sources = np.ndarray[Any, np.dtype[np.int64]]

_MAX_SOURCES = 1 << 24  # entries that the windows of one channel may read together


def window_sources(
    space: Ints, out: Ints, kernel: Ints, stride: Ints, before: Ints, dilation: Ints
) -> Sources:
    """Where entry k of window p reads: flat positions (p, k) in ``space``, -1 in the padding.

    Window p starts at ``p * stride - before`` and steps by ``dilation``, along each axis.
    """
    _check_reads(out, kernel)
    per_axis = []
    for n, m, k, s, b, step in zip(space, out, kernel, stride, before, dilation, strict=True):
        at = np.arange(m)[:, None] * s - b + np.arange(k) * step
        per_axis.append(np.where((at >= 0) & (at < n), at, -1))
    return _joined(per_axis, space)


def transposed_sources(
    space: Ints, out: Ints, kernel: Ints, stride: Ints, before: Ints, dilation: Ints
) -> Sources:
    """The same for a transposed convolution: output q takes p where q = p stride - before + k."""
    _check_reads(out, kernel)
    per_axis = []
    for n, m, k, s, b, step in zip(space, out, kernel, stride, before, dilation, strict=True):
        at = np.arange(m)[:, None] + b - np.arange(k) * step
        inside = (at % s == 0) & (at >= 0) & (at < n * s)
        per_axis.append(np.where(inside, at // s, -1))
    return _joined(per_axis, space)


def parts_of(space: Ints, out: Ints) -> Sources:
    """``out`` parts of nearly equal length along each axis (torch's adaptive pooling)."""
    per_axis = []
    for n, m in zip(space, out, strict=True):
        start = np.arange(m) * n // m
        stop = -(-np.arange(1, m + 1) * n // m)
        at = start[:, None] + np.arange(int(np.max(stop - start)))
        per_axis.append(np.where(at < stop[:, None], at, -1))
    return _joined(per_axis, space)


def convolve(xp: Any, x: Any, weight: Any, sources: Sources, groups: int = 1) -> Any:
    """sum_ck w[o, c, k] x[n, c, sources[p, k]]: (n, channels out, windows).

    ``x`` is (n, channels in, *space), ``weight`` (out, in / groups, *kernel).
    """
    n, channels = x.shape[:2]
    windows, taps = sources.shape
    patches = _patches(xp, x, sources, padded=True)
    outer, inner = weight.shape[0] // groups, channels // groups
    # Axes of length one are left out, so that one group of one sample is a plain product.
    several = [c for c in (n, groups) if c > 1]
    patches = xp.reshape(patches, (*several, inner, windows, taps))
    kernel = xp.reshape(weight, (*((groups,) if groups > 1 else ()), outer, inner, taps))
    group = "g" if groups > 1 else ""
    lead = ("n" if n > 1 else "") + group
    out = xp.einsum(f"{lead}cpk,{group}ock->{lead}op", patches, kernel)
    return xp.reshape(out, (n, weight.shape[0], windows))


def max_pool(xp: Any, x: Any, sources: Sources) -> Any:
    """Largest entry of each window: (n, channels, windows); the padding never wins.

    At ties value and derivative are those of the first entry.
    """
    # Reading an entry of the same window twice changes nothing, and needs no -inf.
    first = np.take_along_axis(sources, np.argmax(sources >= 0, axis=1)[:, None], axis=1)
    patches = _patches(xp, x, np.where(sources >= 0, sources, first), padded=False)
    return xp.max(patches, axis=3)


def average_pool(xp: Any, x: Any, sources: Sources, count: Any) -> Any:
    """Sum of each window over ``count``, a number for each window: (n, channels, windows)."""
    patches = _patches(xp, x, sources, padded=True)
    return xp.sum(patches, axis=3) * (1.0 / np.asarray(count, dtype=float))


def _check_reads(out: Ints, kernel: Ints) -> None:
    reads = math.prod((*out, *kernel))
    if reads > _MAX_SOURCES:
        raise ValueError(
            f"windows of {list(kernel)} read {reads:,} entries, at most {_MAX_SOURCES:,} are "
            "expected"
        )


def _joined(per_axis: list[Sources], space: Ints) -> Sources:
    """Flat (p, k) from the positions along each axis; -1 anywhere is -1 everywhere."""
    flat = np.zeros((1, 1), dtype=np.int64)
    for at, n in zip(per_axis, space, strict=True):
        left, right = flat[:, None, :, None], at[None, :, None, :]
        flat = np.where((left < 0) | (right < 0), -1, left * n + right)
        flat = flat.reshape(flat.shape[0] * flat.shape[1], -1)
    return flat


def _patches(xp: Any, x: Any, sources: Sources, padded: bool) -> Any:
    """x[n, c, sources[p, k]], with zero where the source is -1."""
    n, channels, size = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    flat = xp.reshape(x, (n, channels, size))
    if padded and np.any(sources < 0):
        flat = xp.concat([flat, np.zeros((n, channels, 1))], axis=2)
        sources = np.where(sources < 0, size, sources)
    return xp.take(flat, sources, axis=2)
