"""Whether a loss is the sum or the mean of its samples."""

from __future__ import annotations

from typing import Any

from hessarray.curvature._data import Data
from hessarray.curvature._problem import Problem

__all__ = ["scale_of"]


def scale_of(task: Problem, data: Data) -> float:
    return 1.0 / max(data.n, 1) if task.loss.reduction == "mean" else 1.0


_: Any = None
