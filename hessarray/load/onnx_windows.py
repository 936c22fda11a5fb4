"""ONNX operators on (samples, channels, *space): convolution, pooling and normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessarray.load import neural, windows
from hessarray.load.onnx_node import Node, axes_of, is_constant, namespace_of
from hessarray.load.onnx_samples import check_entries, check_product

__all__ = ["WINDOW_OPERATORS"]

Ints = Sequence[int]


@dataclass(frozen=True)
class _Frame:
    """Where the windows of a node lie, along each axis of space."""

    space: Ints
    kernel: Ints
    stride: Ints
    dilation: Ints
    before: Ints
    after: Ints

    @property
    def reach(self) -> list[int]:
        """Entries from the first to the last that one window reads."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]


def _frame(node: Node, x: Any, kernel: Ints | None = None) -> _Frame:
    """The attributes of a node, each with one entry for an axis of space, and within reason."""
    space = x.shape[2:]
    if not space:
        raise ValueError(f"an array of shape {x.shape} has no axis behind its channels")
    kernel = node.get("kernel_shape", kernel)
    ones, zeros = [1] * len(space), [0] * 2 * len(space)
    stride, dilation = node.get("strides", ones), node.get("dilations", ones)
    pads = node.get("pads", zeros)
    fits = kernel is not None and len(kernel) == len(stride) == len(dilation) == len(space)
    if not fits or 2 * len(space) != len(pads):
        raise ValueError(f"kernel, strides, dilations and pads do not all fit {len(space)} axes")
    assert kernel is not None
    if min(*kernel, *stride, *dilation) < 1 or min(pads) < 0:
        raise ValueError("kernel, strides and dilations must be positive, and pads not negative")
    check_entries([*kernel, *dilation])
    check_entries([n + p for n, p in zip(space, pads, strict=False)])
    before, after = pads[: len(space)], pads[len(space) :]
    frame = _Frame(space, kernel, stride, dilation, before, after)
    auto = node.get("auto_pad", "NOTSET") or "NOTSET"
    if auto == "NOTSET" or node.kind == "ConvTranspose":
        return frame
    if auto == "VALID":
        return _Frame(space, kernel, stride, dilation, [0] * len(space), [0] * len(space))
    wanted = [
        max((-(-n // s) - 1) * s + r - n, 0)
        for n, s, r in zip(space, stride, frame.reach, strict=True)
    ]
    small, large = [w // 2 for w in wanted], [w - w // 2 for w in wanted]
    ends = (small, large) if auto == "SAME_UPPER" else (large, small)
    return _Frame(space, kernel, stride, dilation, *ends)


def _windows(frame: _Frame, ceil: bool = False) -> list[int]:
    """How many windows there are along each axis."""
    counts = []
    for n, r, s, b, a in zip(
        frame.space, frame.reach, frame.stride, frame.before, frame.after, strict=True
    ):
        spare = n + b + a - r
        count = (-(-spare // s) if ceil else spare // s) + 1
        # A window that starts in the padding behind the last entry is left out.
        if ceil and (count - 1) * s >= n + b:
            count -= 1
        if spare < 0 or count < 1:
            raise ValueError(f"windows of {r} entries do not fit into {n + b + a}")
        counts.append(count)
    return counts


def _sources(x: Any, frame: _Frame, out: Ints) -> Any:
    check_entries((*x.shape[:2], *out, *frame.kernel))
    return windows.window_sources(
        frame.space, out, frame.kernel, frame.stride, frame.before, frame.dilation
    )


def _convolved(xp: Any, x: Any, kernel: Any, sources: Any, groups: int) -> Any:
    check_entries((x.shape[0], kernel.shape[0], len(sources)))
    if is_constant(x) and is_constant(kernel):
        check_product((x.shape[0], kernel.size, len(sources)), x, kernel)
    return windows.convolve(xp, x, kernel, sources, groups)


def _biased(xp: Any, y: Any, bias: Any, out: Ints) -> Any:
    y = y if bias is None else y + xp.reshape(bias, (-1, 1))
    return xp.reshape(y, (*y.shape[:2], *out))


def _conv(node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    frame = _frame(node, x, weight.shape[2:])
    groups = node.get("group", 1)
    if tuple(frame.kernel) != weight.shape[2:]:
        raise ValueError(f"kernel_shape {list(frame.kernel)} of weights {weight.shape}")
    if groups < 1 or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise ValueError(f"{x.shape[1]} channels in {groups} groups meet weights {weight.shape}")
    out = _windows(frame)
    xp = namespace_of(x, weight, bias)
    y = _convolved(xp, x, weight, _sources(x, frame, out), groups)
    return _biased(namespace_of(y, bias), y, bias, out)


def _conv_transpose(node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    frame = _frame(node, x, weight.shape[2:])
    groups = node.get("group", 1)
    if tuple(frame.kernel) != weight.shape[2:]:
        raise ValueError(f"kernel_shape {list(frame.kernel)} of weights {weight.shape}")
    if groups < 1 or x.shape[1] != weight.shape[0] or x.shape[1] % groups:
        raise ValueError(f"{x.shape[1]} channels in {groups} groups meet weights {weight.shape}")
    before, out = _transposed_out(node, frame)
    check_entries((*x.shape[:2], *out, *frame.kernel))
    sources = windows.transposed_sources(
        frame.space, out, frame.kernel, frame.stride, before, frame.dilation
    )
    xp = namespace_of(x, weight, bias)
    # (in, out / groups, *kernel) to the (out, in / groups, *kernel) of a convolution.
    inner, outer = x.shape[1] // groups, weight.shape[1]
    split = xp.reshape(weight, (groups, inner, outer, math.prod(frame.kernel)))
    turned = xp.permute_dims(split, (0, 2, 1, 3))
    kernel = xp.reshape(turned, (groups * outer, inner, math.prod(frame.kernel)))
    y = _convolved(xp, x, kernel, sources, groups)
    return _biased(namespace_of(y, bias), y, bias, out)


def _transposed_out(node: Node, frame: _Frame) -> tuple[list[int], list[int]]:
    """Padding in front, and lengths of the output."""
    axes = range(len(frame.space))
    extra = node.get("output_padding", [0] * len(frame.space))
    shape = node.get("output_shape")
    auto = node.get("auto_pad", "NOTSET") or "NOTSET"
    if len(extra) != len(axes) or min(extra) < 0 or (shape and len(shape) < len(axes)):
        raise ValueError(f"output_padding or output_shape do not fit {len(axes)} axes")
    full = [(frame.space[i] - 1) * frame.stride[i] + frame.reach[i] + extra[i] for i in axes]
    if shape:
        out = list(shape[-len(axes) :])
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        out = [frame.space[i] * frame.stride[i] for i in axes]
    else:
        none = auto == "VALID"
        ends = [(0, 0) if none else (frame.before[i], frame.after[i]) for i in axes]
        return [b for b, _ in ends], _positive([full[i] - sum(ends[i]) for i in axes])
    total = [full[i] - out[i] for i in axes]
    upper = auto == "SAME_UPPER"
    return [t // 2 if upper else t - t // 2 for t in total], _positive(out)


def _positive(out: list[int]) -> list[int]:
    if min(out) < 1:
        raise ValueError(f"its output would have shape {tuple(out)}")
    check_entries(out)
    return out


# ---- pooling ---------------------------------------------------------------------------------


def _max_pool(node: Node, x: Any) -> Any:
    if len(node.outputs) > 1 and node.outputs[1]:
        raise ValueError("its indices depend on x, which has no derivative")
    frame = _frame(node, x)
    out = _windows(frame, bool(node.get("ceil_mode", 0)))
    sources = _sources(x, frame, out)
    if not np.all(np.any(sources >= 0, axis=1)):
        raise ValueError("one of its windows lies in the padding")
    return _shaped(x, windows.max_pool(namespace_of(x), x, sources), out)


def _average_pool(node: Node, x: Any) -> Any:
    frame = _frame(node, x)
    out = _windows(frame, bool(node.get("ceil_mode", 0)))
    sources = _sources(x, frame, out)
    if node.get("count_include_pad", 0):
        # As if the padding were entries: windows reach beyond them with ceil_mode alone.
        wide = [n + b + a for n, b, a in zip(frame.space, frame.before, frame.after, strict=True)]
        counted = windows.window_sources(
            wide, out, frame.kernel, frame.stride, [0] * len(wide), frame.dilation
        )
    else:
        counted = sources
    count = np.sum(counted >= 0, axis=1)
    if not np.all(count):
        raise ValueError("one of its windows lies in the padding")
    return _shaped(x, windows.average_pool(namespace_of(x), x, sources, count), out)


def _shaped(x: Any, y: Any, out: Ints) -> Any:
    return namespace_of(y).reshape(y, (*x.shape[:2], *out))


def _global(name: str) -> Callable[..., Any]:
    def operator(node: Node, x: Any) -> Any:
        return getattr(namespace_of(x), name)(x, axis=_space(x), keepdims=True)

    return operator


def _space(x: Any) -> tuple[int, ...]:
    if x.ndim < 3:
        raise ValueError(f"an array of shape {x.shape} has no axis behind its channels")
    return tuple(range(2, x.ndim))


# ---- normalisation ---------------------------------------------------------------------------


def _layer_normalization(node: Node, x: Any, scale: Any, bias: Any = None) -> Any:
    xp = namespace_of(x)
    (first,) = axes_of([node.get("axis", -1)], x.ndim)
    axes = tuple(range(first, x.ndim))
    eps = float(node.get("epsilon", 1e-5))
    mean = xp.mean(x, axis=axes, keepdims=True)
    spread = xp.pow(xp.mean(xp.square(x - mean), axis=axes, keepdims=True) + eps, -0.5)
    y = (x - mean) * spread * scale
    return (y if bias is None else y + bias), mean, spread


def _batch_normalization(node: Node, x: Any, scale: Any, bias: Any, mean: Any, var: Any) -> Any:
    if node.get("training_mode", 0) or any(node.outputs[1:]):
        raise ValueError("it is in training mode, which mixes samples: export it for inference")
    if not node.get("spatial", 1):
        raise ValueError("spatial=0 is not supported, export with opset 9 or later")
    if x.ndim < 2:
        raise ValueError(f"an array of shape {x.shape} has no channels")
    xp = namespace_of(scale, bias, mean, var)
    shape = (-1,) + (1,) * (x.ndim - 2)
    slope = scale * xp.pow(var + float(node.get("epsilon", 1e-5)), -0.5)
    return (x - xp.reshape(mean, shape)) * xp.reshape(slope, shape) + xp.reshape(bias, shape)


def _instance_normalization(node: Node, x: Any, scale: Any, bias: Any) -> Any:
    shape = (-1,) + (1,) * (x.ndim - 2)
    y = neural.standardised(namespace_of(x), x, _space(x), float(node.get("epsilon", 1e-5)))
    scale, bias = (namespace_of(a).reshape(a, shape) for a in (scale, bias))
    return y * scale + bias


WINDOW_OPERATORS: dict[str, Callable[..., Any]] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "GlobalAveragePool": _global("mean"),
    "GlobalMaxPool": _global("max"),
    "InstanceNormalization": _instance_normalization,
    "LayerNormalization": _layer_normalization,
    "MaxPool": _max_pool,
}
