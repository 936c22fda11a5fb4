"""The parameters of a module as one vector, and attributes by path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def module_getattr(obj: Any, names: str | Sequence[str]) -> Any:
    """``obj.a.b`` for names ("a", "b"), or ``obj.a`` for "a"."""
    for name in [names] if isinstance(names, str) else names:
        obj = getattr(obj, name)
    return obj


def module_setattr(obj: Any, names: str | Sequence[str], val: Any) -> None:
    """``obj.a.b = val`` for names ("a", "b"), or ``obj.a = val`` for "a"."""
    *path, last = [names] if isinstance(names, str) else names
    setattr(module_getattr(obj, path), last, val)


def extract_data(net: nn.Module, attr: str = "data") -> Tensor:
    """The attribute ('data' or 'grad') of all parameters as one vector; zeros where it is None."""
    parts = []
    for p in net.parameters():
        found = getattr(p, attr)
        parts.append(torch.zeros_like(p.data) if found is None else found)
    return torch.cat([a.reshape(-1) for a in parts]) if parts else torch.empty(0)


def insert_data(net: nn.Module, theta: Tensor) -> None:
    """The inverse of ``extract_data``: parameters take their values from the vector."""
    parameters = list(net.parameters())
    parts = torch.split(theta.detach(), [p.numel() for p in parameters])
    for p, part in zip(parameters, parts, strict=True):
        p.data = part.reshape(p.shape).to(p).clone()
