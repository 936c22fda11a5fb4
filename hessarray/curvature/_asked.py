"""From what a caller passed to a problem, its data and its options."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hessarray.curvature._data import Data, Options, gather
from hessarray.curvature._problem import Problem, problem, selected
from hessarray.curvature.losses import loss_of
from hessarray.errors import OptionError
from hessarray.function import Function

__all__ = ["Names", "asked"]

Names = Iterable[str] | str | None


def asked(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names,
    is_batch: bool | None,
    options: dict[str, Any],
) -> tuple[Problem, Data, Options]:
    """Check everything before anything is computed."""
    rest = dict(options)
    frozen = rest.pop("frozen", ())
    how = Options.of(rest)
    names = selected(model, params, frozen)
    if criterion is None and target is not None:
        raise OptionError("criterion is None: pass a name such as 'mse', or loss(output, target)")
    if criterion is None and how.accumulate is not None:
        raise OptionError("accumulate= is for sums over samples: leave it out for a model")
    loss = None if criterion is None else loss_of(criterion)
    data = gather(model, loss, inputs, target, is_batch)
    return problem(model, loss, names, data.target), data, how
