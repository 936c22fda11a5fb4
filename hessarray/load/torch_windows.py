"""ATen's convolutions and poolings, in any number of space axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hessarray.load.windows import (
    average_pool,
    convolve,
    max_pool,
    parts_of,
    transposed_sources,
    window_sources,
)

__all__ = ["WINDOWS"]

Ints = Sequence[int]


def _each(values: Any, count: int) -> list[int]:
    """One number for each space axis."""
    given = [values] if isinstance(values, int) else list(values)
    return given * count if len(given) == 1 else given


def _batched(operator: Callable[..., Any]) -> Callable[..., Any]:
    """The operator on (n, channels, *space), for x that may lack n."""

    def batched(axes: int) -> Callable[..., Any]:
        def run(xp: Any, x: Any, *args: Any, **options: Any) -> Any:
            if len(x.shape) > axes + 1:
                return operator(xp, x, *args, **options)
            out = operator(xp, xp.expand_dims(x, axis=0), *args, **options)
            return xp.reshape(out, out.shape[1:])

        return run

    return batched


def _convolved(
    xp: Any, x: Any, weight: Any, bias: Any, windows: Callable[..., Any], groups: int
) -> Any:
    """``windows(space)`` gives the sources and the lengths of the result along its axes."""
    single = len(x.shape) < len(weight.shape)
    x = xp.expand_dims(x, axis=0) if single else x
    sources, out = windows(x.shape[2:])
    z = convolve(xp, x, weight, sources, groups)
    if bias is not None:
        z = z + xp.reshape(bias, (-1, 1))
    return xp.reshape(z, (*(() if single else z.shape[:1]), z.shape[1], *out))


def _convolution(
    xp: Any,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
) -> Any:
    kernel = weight.shape[2:]
    s, p, d, o = (_each(v, len(kernel)) for v in (stride, padding, dilation, output_padding))

    def forward(space: Ints) -> Any:
        axes = zip(space, kernel, s, p, d, strict=True)
        out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes]
        return window_sources(space, out, kernel, s, p, d), out

    def backward(space: Ints) -> Any:
        axes = zip(space, kernel, s, p, d, o, strict=True)
        out = [(n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, d, o in axes]
        return transposed_sources(space, out, kernel, s, p, d), out

    if transposed:
        return _convolved(xp, x, _transposed(xp, weight, groups), bias, backward, groups)
    return _convolved(xp, x, weight, bias, forward, groups)


def _convolution_of_words(
    xp: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """ATen's conv1d, conv2d and conv3d, whose padding may be "valid" or "same"."""
    if padding != "same":
        padding = 0 if padding == "valid" else padding
        return _convolution(xp, x, weight, bias, stride, padding, dilation, False, [0], groups)
    kernel = weight.shape[2:]
    d = _each(dilation, len(kernel))
    before = [d * (k - 1) // 2 for d, k in zip(d, kernel, strict=True)]
    ones = [1] * len(kernel)  # the only stride that "same" may have

    def same(space: Ints) -> Any:
        return window_sources(space, space, kernel, ones, before, d), space

    return _convolved(xp, x, weight, bias, same, groups)


def _transposed(xp: Any, weight: Any, groups: int) -> Any:
    """(in, out / groups, *kernel) as (out, in / groups, *kernel)."""
    inner, outer, *kernel = weight.shape
    w = xp.reshape(weight, (groups, inner // groups, outer, -1))
    return xp.reshape(xp.permute_dims(w, (0, 2, 1, 3)), (groups * outer, inner // groups, *kernel))


def _pooled(n: int, k: int, s: int, p: int, d: int, ceil: bool) -> int:
    """Number of windows; with ``ceil`` the last may reach over the end, but starts inside."""
    room = n + 2 * p - d * (k - 1) - 1
    count = -(-room // s) + 1 if ceil else room // s + 1
    return count - int(ceil and (count - 1) * s >= n + p)


def _windows(
    x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool
) -> tuple[Any, list[int], tuple[list[int], ...]]:
    space = x.shape[2:]
    count = len(space)
    k, p, d = (_each(v, count) for v in (kernel, padding, dilation))
    s = _each(stride, count) if stride else k
    out = [_pooled(*v, ceil) for v in zip(space, k, s, p, d, strict=True)]
    return window_sources(space, out, k, s, p, d), out, (k, s, p)


@_batched
def _max_pool(
    xp: Any,
    x: Any,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    sources, out, _ = _windows(x, kernel, stride, padding, dilation, ceil_mode)
    return xp.reshape(max_pool(xp, x, sources), (*x.shape[:2], *out))


@_batched
def _average_pool(
    xp: Any,
    x: Any,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    sources, out, (k, s, p) = _windows(x, kernel, stride, padding, 1, ceil_mode)
    count: Any = np.sum(sources >= 0, axis=1)
    if divisor_override:
        count = np.full(len(sources), divisor_override)
    elif count_include_pad:  # the padding counts, what ceil_mode adds beyond it does not
        wide = [n + 2 * b for n, b in zip(x.shape[2:], p, strict=True)]
        padded = window_sources(wide, out, k, s, [0] * len(k), [1] * len(k))
        count = np.sum(padded >= 0, axis=1)
    return xp.reshape(average_pool(xp, x, sources, count), (*x.shape[:2], *out))


@_batched
def _adaptive_average_pool(xp: Any, x: Any, out: Any) -> Any:
    sizes = _sizes(x, out)
    sources = parts_of(x.shape[2:], sizes)
    pooled = average_pool(xp, x, sources, np.sum(sources >= 0, axis=1))
    return xp.reshape(pooled, (*x.shape[:2], *sizes))


@_batched
def _adaptive_max_pool(xp: Any, x: Any, out: Any) -> Any:
    sizes = _sizes(x, out)
    pooled = max_pool(xp, x, parts_of(x.shape[2:], sizes))
    return xp.reshape(pooled, (*x.shape[:2], *sizes))


def _sizes(x: Any, out: Any) -> list[int]:
    """Lengths of the result, of which None keeps that of x."""
    space = x.shape[2:]
    given: list[Any] = _each(out, len(space))
    return [n if m is None else m for m, n in zip(given, space, strict=True)]


def _with_indices(operator: Callable[..., Any]) -> Callable[..., Any]:
    """ATen's pooling that also returns indices, of which there are none here."""
    return lambda *args, **options: (operator(*args, **options), None)


WINDOWS: dict[str, Callable[..., Any]] = {
    "convolution": _convolution,
    **{f"conv{k}d": _convolution_of_words for k in (1, 2, 3)},
    **{f"avg_pool{k}d": _average_pool(k) for k in (1, 2, 3)},
    **{f"max_pool{k}d": _max_pool(k) for k in (1, 2, 3)},
    **{f"adaptive_avg_pool{k}d": _adaptive_average_pool(k) for k in (1, 2, 3)},
    **{f"adaptive_max_pool{k}d": _with_indices(_adaptive_max_pool(k)) for k in (1, 2, 3)},
}
