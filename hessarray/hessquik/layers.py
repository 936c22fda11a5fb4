"""hessQuik's layers, as torch modules with its weights and signatures."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hessarray.hessquik._engine import Evaluated, Spec, Triple, fused
from hessarray.hessquik.activations import (
    checked,
    hessQuikActivationFunction,
    identityActivation,
    sigma_and_derivatives,
    softplusActivation,
)

__all__ = [
    "ICNNLayer",
    "hessQuikLayer",
    "quadraticICNNLayer",
    "quadraticLayer",
    "resnetLayer",
    "singleLayer",
]


class hessQuikLayer(Evaluated):
    """Base class of layers; one of the user's own defines forward, dim_input and dim_output.

    Its ``forward(u, do_gradient, do_Hessian, ..., dudx=None, d2ud2x=None)`` returns the features
    and, given derivatives of u with respect to x, those of the features with respect to x.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(
        self,
        u: Tensor,
        do_gradient: bool = False,
        do_Hessian: bool = False,
        do_Laplacian: bool = False,
        forward_mode: bool | None = True,
        dudx: Tensor | None = None,
        d2ud2x: Tensor | None = None,
        v: Tensor | None = None,
    ) -> Triple:
        """(f, df, d2f): features, and their derivatives where asked for.

        Parameters
        ----------
        u : torch.Tensor (n, in)
            Features of the layer before.
        do_gradient, do_Hessian, do_Laplacian : bool
            What to compute; Hessian wins over Laplacian, and comes with the gradient.
        forward_mode : bool or None
            True and False: the order of multiplication. None: f now, the rest by ``backward``.
        dudx : torch.Tensor (n, d, in), optional
            Gradient of u with respect to x; the layer's own where left out.
        d2ud2x : torch.Tensor (n, d, d, in), or (n, 1, in) for the Laplacian, optional
            Hessian of u with respect to x.
        v : torch.Tensor, optional
            Directions: (k, in) with ``forward_mode=True``, (out, k) with False.

        Returns
        -------
        tuple
            f (n, out), df (n, d, out), d2f (n, d, d, out) or Laplacian (n, 1, out).
        """
        return self._evaluate(
            u, do_gradient, do_Hessian, do_Laplacian, forward_mode, dudx, d2ud2x, v
        )


def _uniform(parameter: Tensor, features: int) -> None:
    bound = 1.0 / math.sqrt(features)
    nn.init.uniform_(parameter, -bound, bound)


class _Activated(hessQuikLayer):
    """A layer of the form act(u M + b); an activation of the user's stays torch code."""

    act: hessQuikActivationFunction
    b: nn.Parameter | None

    def _weights(self) -> Tensor:
        """M (in, features)."""
        raise NotImplementedError

    def _engine_parameters(self) -> dict[str, Tensor]:
        found = {k: getattr(self, k, None) for k in ("K", "L", "b")}
        return {k: p for k, p in found.items() if p is not None}

    def _activated(self, u: Tensor, order: int) -> tuple[Tensor, Tensor, Tensor]:
        """act(u M + b) with gradient and Hessian in u."""
        M = self._weights()
        z = u @ M if self.b is None else u @ M + self.b
        f, first, second = sigma_and_derivatives(self.act, z, order)
        H = torch.einsum("...i,ai,bi->...abi", second, M, M) if order > 1 else u.new_zeros(())
        return f, first.unsqueeze(-2) * M, H

    def _by_parts(self, u: Tensor, order: int) -> Triple:
        return self._activated(u, order)


class singleLayer(_Activated):
    """f(u) = act(u K + b).

    Parameters
    ----------
    in_features, out_features : int
        Widths.
    act : hessQuikActivationFunction, optional
        Identity where left out.
    bias : bool
        Whether there is a b.
    device, dtype : optional
        Of the weights K (in, out) and b (out,).

    Examples
    --------
    >>> import torch
    >>> f, df, d2f = singleLayer(4, 7)(torch.randn(10, 4), do_gradient=True, do_Hessian=True)
    >>> f.shape, df.shape, d2f.shape
    (torch.Size([10, 7]), torch.Size([10, 4, 7]), torch.Size([10, 4, 4, 7]))
    """

    K: nn.Parameter

    def __init__(
        self,
        in_features: int,
        out_features: int,
        act: hessQuikActivationFunction | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.act = checked(act, identityActivation)
        where = {"device": device, "dtype": dtype}
        self.K = nn.Parameter(torch.empty(in_features, out_features, **where))
        self.register_parameter(
            "b", nn.Parameter(torch.empty(out_features, **where)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights, uniform in +-1/sqrt(out)."""
        nn.init.kaiming_uniform_(self.K, a=math.sqrt(5))
        if self.b is not None:
            _uniform(self.b, self.out_features)

    def dim_input(self) -> int:
        """Number of input features."""
        return self.in_features

    def dim_output(self) -> int:
        """Number of output features."""
        return self.out_features

    def _weights(self) -> Tensor:
        return self.K

    def _spec(self) -> Spec | None:
        act = self.act._spec()
        bias = self.b is not None
        return act and ("single", self.in_features, self.out_features, act, bias)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class resnetLayer(hessQuikLayer):
    """f(u) = u + h layer(u), with ``layer`` a singleLayer of one width.

    Parameters
    ----------
    width : int
        Number of features in and out.
    h : float
        Step size.
    act, bias, device, dtype
        As in singleLayer.
    """

    def __init__(
        self,
        width: int,
        h: float = 1.0,
        act: hessQuikActivationFunction | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.width = width
        self.h = h
        self.layer = singleLayer(width, width, act=act, bias=bias, device=device, dtype=dtype)

    def dim_input(self) -> int:
        """Number of input features."""
        return self.width

    def dim_output(self) -> int:
        """Number of output features."""
        return self.width

    def _engine_parameters(self) -> dict[str, Tensor]:
        return self.layer._engine_parameters()

    def _spec(self) -> Spec | None:
        inner = fused(self.layer)
        return inner and ("resnet", self.width, float(self.h), *inner[3:])

    def _by_parts(self, u: Tensor, order: int) -> Triple:
        f, J, H = self.layer(u, do_gradient=order > 0, do_Hessian=order > 1)
        if J is not None:
            J = torch.eye(self.width, dtype=J.dtype, device=J.device) + self.h * J
        return u + self.h * f, J, None if H is None else self.h * H

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"width={self.width}, h={self.h}"


class ICNNLayer(_Activated):
    """f([u, x]) = [act(u softplus(L) + x K + b), x].

    Parameters
    ----------
    input_dim : int
        d, the length of x, which the layer passes on.
    in_features : int or None
        Length of u; None for a first layer, which sees x only.
    out_features : int
        Number of new features.
    act : hessQuikActivationFunction, optional
        Softplus where left out; convex and non-decreasing for a convex network.
    bias : bool
        Whether there is a b.
    device, dtype : optional
        Of the weights L (in, out), K (d, out), b (out,).
    """

    K: nn.Parameter
    L: nn.Parameter | None

    def __init__(
        self,
        input_dim: int,
        in_features: int | None,
        out_features: int,
        act: hessQuikActivationFunction | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.in_features = in_features
        self.out_features = out_features
        self.act = checked(act, softplusActivation)
        self.nonneg = nn.functional.softplus
        where = {"device": device, "dtype": dtype}
        self.K = nn.Parameter(torch.empty(input_dim, out_features, **where))
        sizes = {
            "L": None if in_features is None else (in_features, out_features),
            "b": (out_features,) if bias else None,
        }
        for name, size in sizes.items():
            parameter = None if size is None else nn.Parameter(torch.empty(size, **where))
            self.register_parameter(name, parameter)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights, uniform as in hessQuik."""
        nn.init.kaiming_uniform_(self.K, a=math.sqrt(self.input_dim))
        if self.L is not None and self.in_features is not None:
            nn.init.kaiming_uniform_(self.L, a=math.sqrt(self.in_features))
        if self.b is not None:
            _uniform(self.b, self.out_features)

    def dim_input(self) -> int:
        """Number of input features."""
        return self.input_dim + (self.in_features or 0)

    def dim_output(self) -> int:
        """Number of output features."""
        return self.out_features + self.input_dim

    def _weights(self) -> Tensor:
        return self.K if self.L is None else torch.cat((self.nonneg(self.L), self.K))

    def _spec(self) -> Spec | None:
        act = self.act._spec()
        if act is None or self.nonneg is not nn.functional.softplus:
            return None
        sizes = (self.input_dim, self.in_features, self.out_features)
        return ("icnn", *sizes, act, self.b is not None)

    def _by_parts(self, u: Tensor, order: int) -> Triple:
        f, J, H = self._activated(u, order)
        d = self.input_dim
        passed = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)[:, -d:]
        J = torch.cat((J, passed.expand(*J.shape[:-1], d)), dim=-1)
        if order > 1:
            H = torch.cat((H, H.new_zeros(*H.shape[:-1], d)), dim=-1)
        return torch.cat((f, u[..., -d:]), dim=-1), J, H


class quadraticLayer(hessQuikLayer):
    """f(u) = u v + |A u|^2 / 2 + mu, one output.

    Parameters
    ----------
    in_features : int
        Length of u.
    rank : int
        Rows of A (rank, in); v is (in,), mu (1,).
    device, dtype : optional
        Of the weights.
    """

    def __init__(self, in_features: int, rank: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.in_features = in_features
        self.rank = rank
        where = {"device": device, "dtype": dtype}
        self.v = nn.Parameter(torch.empty(in_features, **where))
        self.mu = nn.Parameter(torch.empty(1, **where))
        self.A = nn.Parameter(torch.empty(rank, in_features, **where))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights: v and A uniform in +-1/sqrt(in), mu in (0, 1)."""
        _uniform(self.v, self.in_features)
        nn.init.uniform_(self.mu)
        _uniform(self.A, self.in_features)

    def dim_input(self) -> int:
        """Number of input features."""
        return self.in_features

    def dim_output(self) -> int:
        """Number of output features."""
        return 1

    def _engine_parameters(self) -> dict[str, Tensor]:
        return {"v": self.v, "A": self.A, "mu": self.mu}

    def _spec(self) -> Spec | None:
        return "quadratic", self.in_features, self.rank


class quadraticICNNLayer(hessQuikLayer):
    """f([u, x]) = u softplus(w) + x v + |A x|^2 / 2 + mu, one output.

    Parameters
    ----------
    input_dim : int
        d, the length of x.
    in_features : int or None
        Length of u; None where there is only x.
    rank : int
        Rows of A (rank, d); w is (in,), v (d,), mu (1,).
    device, dtype : optional
        Of the weights.
    """

    w: nn.Parameter | None

    def __init__(
        self,
        input_dim: int,
        in_features: int | None,
        rank: int,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.in_features = in_features
        self.rank = rank
        where = {"device": device, "dtype": dtype}
        self.register_parameter(
            "w", None if in_features is None else nn.Parameter(torch.empty(in_features, **where))
        )
        self.v = nn.Parameter(torch.empty(input_dim, **where))
        self.mu = nn.Parameter(torch.empty(1, **where))
        self.A = nn.Parameter(torch.empty(rank, input_dim, **where))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights, uniform as in hessQuik."""
        features = self.in_features or self.input_dim
        if self.w is not None:
            _uniform(self.w, features)
        _uniform(self.v, features)
        nn.init.uniform_(self.mu)
        _uniform(self.A, self.input_dim)

    def dim_input(self) -> int:
        """Number of input features."""
        return self.input_dim + (self.in_features or 0)

    def dim_output(self) -> int:
        """Number of output features."""
        return 1

    def _engine_parameters(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {} if self.w is None else {"w": self.w}
        return {**found, "v": self.v, "A": self.A, "mu": self.mu}

    def _spec(self) -> Spec | None:
        return "quadratic_icnn", self.input_dim, self.in_features, self.rank
