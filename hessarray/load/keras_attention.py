"""Keras's attention, over (length, features) of one sample."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hessarray.errors import LoadError
from hessarray.load import neural
from hessarray.load.keras_config import Config, Rule, Weights, whole
from hessarray.load.limits import shown

__all__ = ["ATTENTION_LAYERS"]

_DENSE = ("query", "key", "value", "output")


def _multi_head(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    """Concatenated heads of softmax(q k^T / sqrt(key_dim)) v, projected."""
    query, value, key = _query_value_key(x)
    if config.get("use_gate") or config.get("sliding_window") is not None:
        raise LoadError("use_gate and sliding_window are not supported")
    if config.get("attention_axes") not in (None, 1, [1]):
        raise LoadError(f"attention_axes={shown(config['attention_axes'])}, [1] is expected")
    q, k, v = (
        xp.moveaxis(_projected(xp, u, w, name), 1, 0)
        for u, name in zip((query, key, value), _DENSE, strict=False)
    )
    scale = 1.0 / math.sqrt(whole(config, "key_dim"))
    heads = neural.attention(xp, q, k, v, _mask(query, key, config), scale)
    out = xp.einsum("htv,hvd->td", heads, w["output/kernel"])
    return out + w["output/bias"] if "output/bias" in w else out


def _projected(xp: Any, u: Any, w: Weights, name: str) -> Any:
    """(length, heads, features of a head)."""
    z = xp.einsum("td,dhk->thk", u, w[f"{name}/kernel"])
    return z + w[f"{name}/bias"] if f"{name}/bias" in w else z


def _attention(xp: Any, x: Any, config: Config, w: Weights) -> Any:
    """softmax(scores) v, where scores are scale q k^T or c sum tanh(scale (q + k))."""
    query, value, key = _query_value_key(x)
    mask = _mask(query, key, config)
    mode, scale = config.get("score_mode", "dot"), w.get("scale")
    if mode == "dot":
        return neural.attention(xp, query if scale is None else query * scale, key, value, mask, 1)
    if mode != "concat":
        raise LoadError(f"score_mode={shown(mode)}, dot or concat is expected")
    pairs = xp.expand_dims(query, axis=1) + xp.expand_dims(key, axis=0)
    scores = xp.sum(xp.tanh(pairs if scale is None else pairs * scale), axis=-1)
    scores = scores * w["concat_score_weight"]
    if mask is not None:
        scores = xp.where(mask, scores, -math.inf)
    return neural.product(xp, neural.softmax(xp, scores, -1), value)


def _query_value_key(x: Any) -> tuple[Any, Any, Any]:
    """Two or three inputs, of which the second is the key where there is no third."""
    if not isinstance(x, (list, tuple)) or len(x) not in (2, 3):
        raise LoadError("query, value and perhaps key are expected")
    if any(len(u.shape) != 2 for u in x):
        shapes = ", ".join(str(tuple(u.shape)) for u in x)
        raise LoadError(f"(length, features) of one sample is expected, not {shapes}")
    return x[0], x[1], x[-1]


def _mask(query: Any, key: Any, config: Config) -> Any:
    """Where a query may look: behind itself only, or anywhere."""
    lengths = query.shape[0], key.shape[0]
    return np.tri(*lengths, dtype=bool) if config.get("use_causal_mask") else None


def _multi_head_weights(config: Config) -> str:
    each = ("kernel", "bias") if config.get("use_bias", True) else ("kernel",)
    return " ".join(f"{name}/{k}" for name in _DENSE for k in each)


def _attention_weights(config: Config) -> str:
    concat = config.get("score_mode") == "concat"
    return "scale " * bool(config.get("use_scale")) + "concat_score_weight" * concat


ATTENTION_LAYERS: dict[str, Rule] = {
    "Attention": Rule(_attention, _attention_weights, options=("use_causal_mask",)),
    "MultiHeadAttention": Rule(
        _multi_head,
        _multi_head_weights,
        inputs=("query", "value", "key"),
        options=("use_causal_mask",),
        parts=tuple(f"{name}_dense" for name in _DENSE),
    ),
}
