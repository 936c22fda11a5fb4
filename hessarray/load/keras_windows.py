"""Keras's layers over space: convolutions, pooling, padding, cropping and upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hessarray.errors import LoadError
from hessarray.load.keras_activations import activated
from hessarray.load.keras_config import Config, Rule, Weights, room, whole, wholes
from hessarray.load.limits import shown
from hessarray.load.windows import (
    average_pool,
    convolve,
    max_pool,
    transposed_sources,
    window_sources,
)

__all__ = ["WINDOW_LAYERS"]


def _channels_first(xp: Any, x: Any, config: Config) -> tuple[Any, bool]:
    """x as (1, channels, *space)."""
    last = config.get("data_format") != "channels_first"
    n = len(x.shape)
    order = (n - 1, *range(n - 1)) if last else tuple(range(n))
    return xp.expand_dims(xp.permute_dims(x, order), axis=0), last


def _back(xp: Any, z: Any, out: Sequence[int], last: bool) -> Any:
    """(1, channels, windows) as (*out, channels), or (channels, *out)."""
    z = xp.reshape(z, (z.shape[1], *out))
    return xp.permute_dims(z, (*range(1, len(out) + 1), 0)) if last else z


def _frame(
    space: Sequence[int], config: Config, kernel: Sequence[int], stride: Any = 1, dilation: Any = 1
) -> tuple[Any, list[int]]:
    """Sources of all windows, and how many there are along each axis."""
    count = len(space)
    s = wholes({"strides": stride}, "strides", count)
    d = wholes({"dilation_rate": dilation}, "dilation_rate", count)
    padding = config.get("padding", "valid")
    axes = list(zip(space, kernel, s, d, strict=True))
    reach = [step * (k - 1) + 1 for _, k, _, step in axes]
    if padding == "same":
        out = [-(-n // s) for n, _, s, _ in axes]
        spare = zip(out, s, reach, space, strict=True)
        before = [max(0, (m - 1) * s + r - n) // 2 for m, s, r, n in spare]
    elif padding in ("valid", "causal"):
        before = [r - 1 if padding == "causal" else 0 for r in reach]
        spare = zip(space, before, reach, s, strict=True)
        out = [(n + b - r) // s + 1 for n, b, r, s in spare]
    else:
        raise LoadError(f"padding={shown(padding)}, valid, same or causal is expected")
    if any(m < 1 for m in out):
        raise LoadError(f"windows of {list(kernel)} do not fit in {tuple(space)}")
    return window_sources(space, out, kernel, s, before, d), out


def _convolution(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    kernel = w["kernel"]
    axes = len(kernel.shape) - 2
    u, last = _channels_first(xp, x, config)
    sources, out = _frame(
        u.shape[2:], config, kernel.shape[:axes], config.get("strides"), config.get("dilation_rate")
    )
    weight = xp.permute_dims(kernel, (axes + 1, axes, *range(axes)))
    z = convolve(xp, u, weight, sources, whole(config, "groups", 1))
    if "bias" in w:
        z = z + xp.reshape(w["bias"], (-1, 1))
    return activated(xp, _back(xp, z, out, last), config.get("activation"))


def _transposed(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    """Each entry of x writes a window; what lies outside of the result is cut off."""
    kernel = w["kernel"]  # (*kernel, channels out, channels in)
    axes = len(kernel.shape) - 2
    u, last = _channels_first(xp, x, config)
    sources, out = _transposed_frame(u.shape[2:], config, kernel.shape[:axes])
    weight = xp.permute_dims(kernel, (axes, axes + 1, *range(axes)))
    z = convolve(xp, u, weight, sources)
    if "bias" in w:
        z = z + xp.reshape(w["bias"], (-1, 1))
    return activated(xp, _back(xp, z, out, last), config.get("activation"))


def _transposed_frame(
    space: Sequence[int], config: Config, kernel: Sequence[int]
) -> tuple[Any, list[int]]:
    """Sources of a transposed convolution, and its lengths, as on TensorFlow and JAX."""
    count = len(space)
    s, d = (wholes(config, k, count, 1) for k in ("strides", "dilation_rate"))
    extra: Any = config.get("output_padding")
    extra = [None] * count if extra is None else wholes(config, "output_padding", count, least=0)
    padding = config.get("padding", "valid")
    if padding not in ("valid", "same"):
        raise LoadError(f"padding={shown(padding)}, valid or same is expected")
    before, out = [], []
    for n, k, step, dilation, more in zip(space, kernel, s, d, extra, strict=True):
        reach = dilation * (k - 1) + 1
        if padding == "valid":
            left = reach - 1
            total = left + reach - 1 + (max(step - reach, 0) if more is None else more)
        else:
            total = step + reach - 2 if more is None else reach + reach % 2 - 2 + more
            left = min(total - total // 2, reach - 1)
        before.append(reach - 1 - left)
        out.append((n - 1) * step + total - reach + 2)
    if min(out) < 1:
        raise LoadError(f"its output would have lengths {out}")
    return transposed_sources(space, out, kernel, s, before, d), out


def _depthwise(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    """Each channel by itself, ``depth_multiplier`` times."""
    kernel = w["kernel"]
    axes = len(kernel.shape) - 2
    u, last = _channels_first(xp, x, config)
    sources, out = _frame(
        u.shape[2:], config, kernel.shape[:axes], config.get("strides"), config.get("dilation_rate")
    )
    weight = xp.permute_dims(kernel, (axes, axes + 1, *range(axes)))
    weight = xp.reshape(weight, (-1, 1, *kernel.shape[:axes]))
    z = convolve(xp, u, weight, sources, u.shape[1])
    if "bias" in w:
        z = z + xp.reshape(w["bias"], (-1, 1))
    return activated(xp, _back(xp, z, out, last), config.get("activation"))


def _pool(axes: int, largest: bool) -> Rule:
    def apply(xp: Any, x: Any, config: Config, w: Weights) -> Any:
        u, last = _channels_first(xp, x, config)
        kernel = wholes(config, "pool_size", axes)
        stride = config.get("strides")
        sources, out = _frame(u.shape[2:], config, kernel, kernel if stride is None else stride)
        if largest:
            z = max_pool(xp, u, sources)
        else:  # the padding does not count
            z = average_pool(xp, u, sources, np.sum(sources >= 0, axis=1))
        return _back(xp, z, out, last)

    return Rule(apply)


def _global_pool(name: str) -> Rule:
    def apply(xp: Any, x: Any, config: Config, w: Weights) -> Any:
        n = len(x.shape)
        axes = range(1, n) if config.get("data_format") == "channels_first" else range(n - 1)
        keep = bool(config.get("keepdims", False))
        return getattr(xp, name)(x, axis=tuple(axes), keepdims=keep)

    return Rule(apply)


def _pairs(config: Config, key: str, axes: int) -> list[tuple[int, int]]:
    """(before, after) of each axis, from a number, numbers, or pairs."""
    value = config.get(key)
    values = value if isinstance(value, list) and (axes > 1 or len(value) != 2) else [value] * axes
    pairs = [v if isinstance(v, list) else [v, v] for v in values]
    if len(pairs) != axes:
        raise LoadError(f"{key}={shown(value)}, numbers for {axes} axes are expected")
    return [tuple(wholes({key: p}, key, 2, least=0)) for p in pairs]  # type: ignore[misc]


def _zero_padding(axes: int) -> Rule:
    def apply(xp: Any, x: Any, config: Config, w: Weights) -> Any:
        first = int(config.get("data_format") == "channels_first")
        for i, (before, after) in enumerate(_pairs(config, "padding", axes), first):
            wide = [before + after + n if i == j else n for j, n in enumerate(x.shape)]
            room(*wide)
            parts = [
                np.zeros([m if i == j else n for j, n in enumerate(x.shape)])
                for m in (before, after)
            ]
            x = xp.concat([p for p in (parts[0], x, parts[1]) if p.shape[i]], axis=i)
        return x

    return Rule(apply)


def _cropping(axes: int) -> Rule:
    def apply(xp: Any, x: Any, config: Config, w: Weights) -> Any:
        first = int(config.get("data_format") == "channels_first")
        pairs = _pairs(config, "cropping", axes)
        key = [slice(a, x.shape[first + i] - b) for i, (a, b) in enumerate(pairs)]
        return x[(*[slice(None)] * first, *key)]

    return Rule(apply)


def _upsampling(axes: int) -> Rule:
    def apply(xp: Any, x: Any, config: Config, w: Weights) -> Any:
        if config.get("interpolation", "nearest") != "nearest":
            raise LoadError("only interpolation='nearest' is supported")
        first = int(config.get("data_format") == "channels_first")
        for i, size in enumerate(wholes(config, "size", axes), first):
            room(size, *x.shape)
            x = xp.take(x, np.repeat(np.arange(x.shape[i]), size), axis=i)
        return x

    return Rule(apply)


def _kernel(config: Config) -> str:
    return "kernel bias" if config.get("use_bias", True) else "kernel"


WINDOW_LAYERS: dict[str, Rule] = {
    **{f"Conv{k}D": Rule(_convolution, _kernel) for k in (1, 2, 3)},
    **{f"Conv{k}DTranspose": Rule(_transposed, _kernel) for k in (1, 2, 3)},
    **{f"DepthwiseConv{k}D": Rule(_depthwise, _kernel) for k in (1, 2)},
    **{f"AveragePooling{k}D": _pool(k, largest=False) for k in (1, 2, 3)},
    **{f"MaxPooling{k}D": _pool(k, largest=True) for k in (1, 2, 3)},
    **{f"GlobalAveragePooling{k}D": _global_pool("mean") for k in (1, 2, 3)},
    **{f"GlobalMaxPooling{k}D": _global_pool("max") for k in (1, 2, 3)},
    **{f"ZeroPadding{k}D": _zero_padding(k) for k in (1, 2)},
    **{f"Cropping{k}D": _cropping(k) for k in (1, 2)},
    **{f"UpSampling{k}D": _upsampling(k) for k in (1, 2)},
}
