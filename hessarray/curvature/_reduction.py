"""Whether a loss is the sum or the mean of its samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from hessarray.curvature._data import Data, Options
from hessarray.curvature._problem import Problem
from hessarray.errors import OptionError

__all__ = ["scale_of", "values"]

_AGREE = {"float32": 1e-4, "float64": 1e-9}


def values(task: Problem, data: Data, how: Options) -> Any:
    """The loss of each sample, (n,)."""
    inj = task.injected("hessian")
    samples = task.samples("values", {"value": inj.outputs[0]}, inj.builder)
    return how.whole(samples, data)["value"]


def scale_of(task: Problem, data: Data) -> float:
    """What each sample's loss is multiplied with: 1 in a sum, 1/n in a mean."""
    if data.n == 0:
        return 1.0
    reduction = task.kept("reduction", lambda: None) or _reduction(task, data)
    return 1.0 / data.n if reduction == "mean" else 1.0


def _reduction(task: Problem, data: Data) -> str:
    loss = task.loss
    assert loss is not None
    found = loss.reduction
    if found is None and loss.needs != ("value",):
        found = "mean"
    if found is None and data.n == 1:
        return "sum"  # the same, and nothing is learnt
    if found is None:
        found = _observed(task, data)
    task.keep("reduction", found)
    return found


def _observed(task: Problem, data: Data) -> str:
    """How the function adds up: its value for all samples against the sum of their values."""
    loss, model = task.loss, task.model
    assert loss is not None
    to_numpy = data.backend.to_numpy
    count = len(model.in_shapes)
    mend = "say which with hessarray.curvature.Loss(function, reduction='mean' or 'sum')"
    try:
        each = np.asarray(to_numpy(values(task, data, Options())), dtype=np.float64)
        outputs = model.value(*data.arrays[:count])
        whole = np.asarray(to_numpy(loss.function(outputs, *data.arrays[count:])), dtype=np.float64)
    except Exception as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise OptionError(
            f"the loss cannot be called with all samples at once ({why}), so it is not known "
            f"whether it is their sum or mean: {mend}"
        ) from error
    if whole.size != 1:
        raise OptionError(
            f"the loss of all samples has shape {whole.shape}, one number is expected: {mend}"
        )
    total = float(whole.reshape(()))
    if not np.isfinite([total, each.sum()]).all():
        raise OptionError(
            f"the loss of all samples is {total:g}, so it is not seen whether it is their sum or "
            f"mean: check parameters, inputs and target, or {mend}"
        )
    near = _AGREE[data.backend.dtype_name(data.arrays[0])] * max(float(np.abs(each).sum()), 1e-300)
    found = [k for k, n in (("sum", 1), ("mean", data.n)) if abs(total * n - each.sum()) <= near]
    if len(found) == 1:
        return found[0]
    if found:
        raise OptionError(
            f"the losses of all samples add up to {total:g}, so sum and mean look alike: {mend}"
        )
    raise OptionError(
        f"the loss of all samples is {total:g}, neither the sum {each.sum():g} nor the mean "
        f"{each.mean():g} of the losses of each: it must add up over samples, or {mend}"
    )
