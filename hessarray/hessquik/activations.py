"""hessQuik's activations: elementwise (sigma, sigma', sigma''), and the engine's name for each.

A subclass of ``hessQuikActivationFunction`` with ``forward`` and ``compute_derivatives`` of its own
works in every layer; there its torch code takes part in the chain rule as it is.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from hessarray.activations import activation
from hessarray.function import Function

__all__ = [
    "antiTanhActivation",
    "hessQuikActivationFunction",
    "identityActivation",
    "quadraticActivation",
    "sigmoidActivation",
    "softplusActivation",
    "tanhActivation",
]

Spec = tuple[str, tuple[tuple[str, float], ...]]


class hessQuikActivationFunction(nn.Module):  # type: ignore[misc]
    """Base class: a subclass computes (sigma, sigma', sigma'') in ``forward``.

    It may instead leave the derivatives to ``compute_derivatives``, called with what ``forward``
    put into ``self.ctx``; ``backward`` does so after ``forward(x, ..., forward_mode=None)``.
    """

    ctx: tuple[Tensor, ...] | None

    def __init__(self) -> None:
        super().__init__()
        self.ctx = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "ctx": None}

    def forward(
        self,
        x: Tensor,
        do_gradient: bool = False,
        do_Hessian: bool = False,
        forward_mode: bool | None = True,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(sigma, sigma', sigma''), each of x's shape; None where not asked for.

        ``forward_mode=None`` gives sigma alone and keeps what ``backward`` needs.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def backward(self, do_Hessian: bool = False) -> tuple[Tensor, Tensor | None]:
        """(sigma', sigma'') at the x of the last ``forward(x, ..., forward_mode=None)``."""
        if self.ctx is None:
            raise RuntimeError(
                f"{type(self).__name__}.backward needs forward(x, do_gradient=True, "
                "forward_mode=None) first"
            )
        return self.compute_derivatives(*self.ctx, do_Hessian=do_Hessian)

    def compute_derivatives(
        self, *args: Tensor, do_Hessian: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """(sigma', sigma'') from the contents of ``ctx``."""
        raise NotImplementedError(f"{type(self).__name__} must define compute_derivatives")

    def _spec(self) -> Spec | None:
        """Name and parameters in hessarray's table; None for code that only torch can run."""
        return None


class _Tabled(hessQuikActivationFunction):
    """An activation of hessarray's table."""

    table_name = ""

    def _spec(self) -> Spec | None:
        own = type(self)
        changed = (
            own.forward is not _Tabled.forward
            or own.compute_derivatives is not _Tabled.compute_derivatives
        )
        return None if changed else (self.table_name, self._options())

    def _options(self) -> tuple[tuple[str, float], ...]:
        """The parameters that the table's entry takes."""
        return ()

    def forward(
        self,
        x: Tensor,
        do_gradient: bool = False,
        do_Hessian: bool = False,
        forward_mode: bool | None = True,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        wanted = do_gradient or do_Hessian
        if wanted and forward_mode is None:
            self.ctx = (x,)
        if not wanted or forward_mode is None:
            return self._evaluate(x, False, False)[0], None, None
        sigma, first, second = self._evaluate(x, True, do_Hessian)
        return sigma, first, second

    def compute_derivatives(
        self, *args: Tensor, do_Hessian: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        _, first, second = self._evaluate(args[0], True, do_Hessian)
        return first, second

    def _evaluate(self, x: Tensor, gradient: bool, hessian: bool) -> tuple[Any, Any, Any]:
        # One entry is one sample of a function of one variable.
        function = elementwise((self.table_name, self._options()))
        found = function.derivatives(x.reshape(-1, 1), do_gradient=gradient, do_Hessian=hessian)
        sigma, first, second = (None if a is None else a.reshape(x.shape) for a in found)
        return sigma, first, second


@cache
def elementwise(spec: Spec) -> Function:
    """The activation of this name as a function of one variable."""
    name, parameters = spec
    return Function(activation(name, **dict(parameters)), in_shape=(1,))


class antiTanhActivation(_Tabled):
    """log(cosh x) + log 2, without overflow.

    Examples
    --------
    >>> import torch
    >>> antiTanhActivation()(torch.zeros(1), do_gradient=True)[1]
    tensor([0.])
    """

    table_name = "antitanh"


class identityActivation(_Tabled):
    """x."""

    table_name = "identity"


class quadraticActivation(_Tabled):
    """x^2 / 2."""

    table_name = "quadratic"


class tanhActivation(_Tabled):
    """tanh x."""

    table_name = "tanh"


class sigmoidActivation(_Tabled):
    """1 / (1 + exp(-x))."""

    table_name = "sigmoid"


class softplusActivation(_Tabled):
    """log(1 + exp(beta x)) / beta, and its limits where beta |x| > threshold.

    Parameters
    ----------
    beta : float
        Steepness.
    threshold : float
        As hessQuik has it: beyond, sigma is x or its tiny tail, sigma' 1 or 0, sigma'' 0.
    """

    table_name = "softplus"

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def _options(self) -> tuple[tuple[str, float], ...]:
        return ("beta", float(self.beta)), ("threshold", float(self.threshold))

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"beta={self.beta}, threshold={self.threshold}"


def checked(act: Any, default: type[hessQuikActivationFunction]) -> hessQuikActivationFunction:
    """The activation, or a new default where there is none."""
    if act is None:
        return default()
    if not isinstance(act, hessQuikActivationFunction):
        raise TypeError(
            f"act is {type(act).__name__}: pass an activation of hessarray.hessquik.activations, "
            "such as tanhActivation(), or a subclass of hessQuikActivationFunction"
        )
    return act


def sigma_and_derivatives(
    act: hessQuikActivationFunction, z: Tensor, order: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(sigma, sigma', sigma'') of any activation; zeros beyond ``order``."""
    sigma, first, second = act(z, do_gradient=order > 0, do_Hessian=order > 1)
    zero = torch.zeros_like(z)
    return sigma, zero if first is None else first, zero if second is None else second
