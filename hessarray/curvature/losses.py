r"""Losses: functions of one sample's output and target, and how samples add up.

With n samples, m outputs f and targets t, logits z = f (the formulas and names of torch.nn):

======================  ==================================================  =========
name                    one sample                                          reduction
======================  ==================================================  =========
``"mse"``               1/m sum_i (f_i - t_i)^2                             mean
``"sum_of_squares"``    sum_i (f_i - t_i)^2                                 sum
``"cross_entropy"``     log sum_i exp z_i - z_t, or - sum_i t_i log p_i     mean
``"binary_cross_entropy"``  1/m sum_i softplus(z_i) - t_i z_i               mean
``"poisson"``           1/m sum_i exp(z_i) - t_i z_i                        mean
``"huber"``             1/m sum_i (r^2/2 where |r| <= 1, else |r| - 1/2)    mean
======================  ==================================================  =========

In cross entropy the classes are the output's last axis (what is before it is averaged over), and
the target is the class number, or probabilities of all classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hessarray.activations import activation
from hessarray.errors import OptionError, near_names

__all__ = ["LOSSES", "Loss", "loss_of", "name_of"]

REDUCTIONS = ("mean", "sum")
NEEDS = ("value", "gradient", "laplacian")


@dataclass(frozen=True)
class Loss:
    """A loss for one sample, and how samples add up.

    Parameters
    ----------
    function : callable
        ``function(f, target)``, array API code that returns one number for one sample: f has the
        model's output shape, target one sample's. With ``needs`` it is called with what that names
        in front of the target, such as ``function(f, df, lap, target)``.
    reduction : str, optional
        'mean' or 'sum' over samples. Where it is left out the function is called once with all
        samples, as ``function(outputs, target)``, and its value says which of the two it is.
    needs : tuple of str
        Of 'value' (m), 'gradient' (d, m) and 'laplacian' (1, m) with respect to the input: for
        physics-informed and Hermite losses. All parameter derivatives stay in closed form.
    """

    function: Callable[..., Any]
    reduction: str | None = None
    needs: tuple[str, ...] = ("value",)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise OptionError(
                f"function is a {type(self.function).__name__}: pass function(output, target)"
            )
        if self.reduction not in (*REDUCTIONS, None):
            raise OptionError(f"reduction={self.reduction!r}: use 'mean' or 'sum'")
        given: object = self.needs
        if not isinstance(given, tuple) or not given or set(given) - set(NEEDS):
            raise OptionError(f"needs={self.needs!r}: pass a tuple of some of {', '.join(NEEDS)}")


def _xp(a: Any) -> Any:
    return a.__array_namespace__()


def _mse(f: Any, t: Any) -> Any:
    return _xp(f).mean((f - t) ** 2)


def _sum_of_squares(f: Any, t: Any) -> Any:
    return _xp(f).sum((f - t) ** 2)


def _cross_entropy(z: Any, t: Any) -> Any:
    xp = _xp(z)
    centred = z - xp.stop_gradient(xp.max(z, axis=-1, keepdims=True))  # cancels: no derivative
    logsum = xp.log(xp.sum(xp.exp(centred), axis=-1))
    if t.shape == z.shape:
        return xp.mean(xp.sum(t, axis=-1) * logsum - xp.sum(t * centred, axis=-1))
    chosen = xp.equal(xp.arange(z.shape[-1]), xp.expand_dims(t, axis=-1))
    kept = xp.where(chosen, centred, xp.zeros_like(centred))
    return xp.mean(logsum - xp.sum(kept, axis=-1))


def _binary_cross_entropy(z: Any, t: Any) -> Any:
    return _xp(z).mean(activation("softplus")(z) - t * z)


def _poisson(z: Any, t: Any) -> Any:
    xp = _xp(z)
    return xp.mean(xp.exp(z) - t * z)


def _huber(f: Any, t: Any) -> Any:
    xp = _xp(f)
    r = f - t
    size = xp.abs(r)
    return xp.mean(xp.where(size <= 1.0, 0.5 * r * r, size - 0.5))


LOSSES = {
    "mse": Loss(_mse, "mean"),
    "sum_of_squares": Loss(_sum_of_squares, "sum"),
    "cross_entropy": Loss(_cross_entropy, "mean"),
    "binary_cross_entropy": Loss(_binary_cross_entropy, "mean"),
    "poisson": Loss(_poisson, "mean"),
    "huber": Loss(_huber, "mean"),
}

# torch.nn's criteria and functions; those of their options that change the value must be at rest.
_TORCH = {
    "MSELoss": "mse",
    "mse_loss": "mse",
    "CrossEntropyLoss": "cross_entropy",
    "cross_entropy": "cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy",
    "binary_cross_entropy_with_logits": "binary_cross_entropy",
    "PoissonNLLLoss": "poisson",
    "poisson_nll_loss": "poisson",
    "HuberLoss": "huber",
    "huber_loss": "huber",
}
_AT_REST = {
    "weight": None,
    "pos_weight": None,
    "label_smoothing": 0.0,
    "ignore_index": -100,
    "log_input": True,
    "full": False,
    "delta": 1.0,
}


def loss_of(criterion: Any) -> Loss:
    """A Loss from a name, a Loss, a criterion of torch.nn or an array API function."""
    if isinstance(criterion, Loss):
        return criterion
    if isinstance(criterion, str):
        if criterion not in LOSSES:
            near = near_names(criterion, LOSSES)
            raise OptionError(
                f"criterion '{criterion}' is unknown: {near or 'use ' + ', '.join(LOSSES)}"
            )
        return LOSSES[criterion]
    if str(getattr(criterion, "__module__", "")).startswith("torch.nn"):
        return _from_torch(criterion)
    if not callable(criterion):
        raise OptionError(
            f"criterion is a {type(criterion).__name__}: pass a name such as 'mse', "
            "or a function loss(output, target)"
        )
    return _wrapped(criterion)


def _from_torch(criterion: Any) -> Loss:
    if isinstance(criterion, type):
        raise OptionError(f"criterion is a class: pass torch.nn.{criterion.__name__}()")
    name = getattr(criterion, "__name__", type(criterion).__name__)
    reduction = getattr(criterion, "reduction", "mean")
    changed = [k for k, v in _AT_REST.items() if getattr(criterion, k, v) != v]
    changed += [] if reduction in REDUCTIONS else ["reduction"]
    if name not in _TORCH or changed:
        what = f" with {', '.join(changed)} set" if changed else ""
        raise OptionError(
            f"torch.nn's {name}{what} has no counterpart here: pass the loss as an array API "
            f"function loss(output, target), or one of {', '.join(LOSSES)}"
        )
    found = LOSSES[_TORCH[name]]
    if reduction == found.reduction:
        return found
    return _SUMMED[_TORCH[name]]


_kept: dict[Any, Loss] = {}


def _wrapped(function: Callable[..., Any]) -> Loss:
    """One object for one function: what was traced for it is found again."""
    try:
        return _kept.setdefault(function, Loss(function)) if len(_kept) < 256 else Loss(function)
    except TypeError:  # not hashable
        return Loss(function)


def _summed(name: str) -> Loss:
    """The sum over samples and outputs of a loss that is a mean over both."""
    function = LOSSES[name].function
    axes = -1 if name == "cross_entropy" else None  # the classes are one output

    def summed(f: Any, t: Any) -> Any:
        return function(f, t) * float(math.prod(f.shape[:axes]))

    return Loss(summed, "sum")


_SUMMED = {name: _summed(name) for name, loss in LOSSES.items() if loss.reduction == "mean"}


def name_of(loss: Loss) -> str | None:
    """The name of one of ``LOSSES``, or of its sum; None of a loss of the caller's own."""
    known = [*LOSSES.items(), *_SUMMED.items()]
    return next((name for name, own in known if own is loss), None)
