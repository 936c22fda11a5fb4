"""hessQuik's networks, and its two baselines by automatic differentiation."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from hessarray.baselines import AutodiffNetwork, HessianNetwork
from hessarray.errors import OptionError, ShapeError, near_names
from hessarray.hessquik._engine import LEFT_OUT, Evaluated, Spec, Triple, fused
from hessarray.hessquik.activations import hessQuikActivationFunction, softplusActivation
from hessarray.hessquik.layers import ICNNLayer, resnetLayer, singleLayer

__all__ = [
    "ICNN",
    "NN",
    "NNPytorchAD",
    "NNPytorchHessian",
    "fullyConnectedNN",
    "resnetNN",
]


class NN(nn.Sequential, Evaluated):  # type: ignore[misc]
    """Layers, and networks of layers, one after another.

    Parameters
    ----------
    *args : hessQuikLayer or NN
        Neighbours must agree in width. Layers of the user's own may be among them.

    Raises
    ------
    ShapeError
        Neighbours do not fit (a ValueError).
    """

    def __init__(self, *args: Any) -> None:
        for i, (a, b) in enumerate(pairwise(args)):
            if a.dim_output() != b.dim_input():
                raise ShapeError(
                    f"incompatible composition for block {i} to block {i + 1}: "
                    f"{type(a).__name__} gives {a.dim_output()} features, "
                    f"{type(b).__name__} expects {b.dim_input()}"
                )
        super().__init__(*args)

    def dim_input(self) -> int:
        """Number of input features."""
        return int(self[0].dim_input())

    def dim_output(self) -> int:
        """Number of output features."""
        return int(self[-1].dim_output())

    def _spec(self) -> Spec | None:
        parts = [fused(module) for module in self]
        return None if None in parts else ("network", *parts)

    def _engine_parameters(self) -> dict[str, Tensor]:
        return {
            f"{i}.{k}": p
            for i, module in enumerate(self)
            for k, p in module._engine_parameters().items()
        }

    def _by_parts(self, u: Tensor, order: int) -> Triple:
        """One module after another, each continuing the derivatives of those before."""
        f, J, H = u, None, None
        for module in self:
            more: dict[str, Any] = {} if J is None else {"dudx": J, "d2ud2x": H}
            f, J, H = module(f, do_gradient=order > 0, do_Hessian=order > 1, **more)
        return f, J, H

    def setup_forward_mode(self, **kwargs: Any) -> bool | None:
        """``forward_mode`` of a call; where it is left out, hessQuik's guess from the widths.

        ``forward`` asks for it only where directions v leave both sides open. Without v, leaving
        ``forward_mode`` out means the cheapest order of multiplication.
        """
        guess = self.dim_input() < self.dim_output()
        return kwargs.get("forward_mode", guess)  # type: ignore[no-any-return]

    def forward(
        self,
        x: Tensor,
        do_gradient: bool = False,
        do_Hessian: bool = False,
        do_Laplacian: bool = False,
        dudx: Tensor | None = None,
        d2ud2x: Tensor | None = None,
        v: Tensor | None = None,
        **kwargs: Any,
    ) -> Triple:
        """(f, df, d2f), as of a layer.

        Parameters
        ----------
        x : torch.Tensor (n, d)
            Samples.
        do_gradient, do_Hessian, do_Laplacian : bool
            What to compute; Hessian wins over Laplacian, and comes with the gradient.
        dudx, d2ud2x : torch.Tensor, optional
            Derivatives of x with respect to something before it.
        v : torch.Tensor, optional
            Directions: (k, d) with ``forward_mode=True``, (m, k) with False.
        **kwargs
            ``forward_mode``: True and False name the order of multiplication; left out it is the
            cheapest one; None gives f alone, and the derivatives by a later ``backward``.

        Returns
        -------
        tuple
            f (n, m), df (n, d, m), d2f (n, d, d, m) or Laplacian (n, 1, m).
        """
        mode = kwargs.pop("forward_mode", LEFT_OUT)
        if kwargs:
            known = (
                "do_gradient",
                "do_Hessian",
                "do_Laplacian",
                "dudx",
                "d2ud2x",
                "v",
                "forward_mode",
            )
            hint = near_names(next(iter(kwargs)), known) or f"known are {', '.join(known)}"
            raise OptionError(f"unknown option '{next(iter(kwargs))}': {hint}")
        return self._evaluate(x, do_gradient, do_Hessian, do_Laplacian, mode, dudx, d2ud2x, v)


def _copies(act: hessQuikActivationFunction | None, count: int) -> list[Any]:
    return [softplusActivation() if act is None else deepcopy(act) for _ in range(count)]


class fullyConnectedNN(NN):
    """Single layers of these widths.

    Parameters
    ----------
    widths : sequence of int
        Of the features, input and output included.
    act : hessQuikActivationFunction, optional
        Copied for each layer; softplus where left out.
    device, dtype : optional
        Of the weights.
    """

    def __init__(
        self,
        widths: Sequence[int],
        act: hessQuikActivationFunction | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        acts = _copies(act, len(widths) - 1)
        super().__init__(
            *(
                singleLayer(a, b, act=s, device=device, dtype=dtype)
                for a, b, s in zip(widths, widths[1:], acts, strict=False)
            )
        )


class resnetNN(NN):
    """``depth`` residual layers of one width.

    Parameters
    ----------
    width, depth : int
        Number of features, number of layers.
    h : float
        Step size.
    act, device, dtype
        As in fullyConnectedNN.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        h: float = 1.0,
        act: hessQuikActivationFunction | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            *(
                resnetLayer(width, h=h, act=s, device=device, dtype=dtype)
                for s in _copies(act, depth)
            )
        )


class ICNN(NN):
    """Input-convex layers; the network returns its last features followed by x.

    Parameters
    ----------
    input_dim : int
        d, the length of x.
    widths : sequence of int
        Of the features, beginning with None.
    act, device, dtype
        As in fullyConnectedNN.
    """

    def __init__(
        self,
        input_dim: int,
        widths: Sequence[int | None],
        act: hessQuikActivationFunction | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        acts = _copies(act, len(widths) - 1)
        super().__init__(
            *(
                ICNNLayer(input_dim, a, b, act=s, device=device, dtype=dtype)  # type: ignore[arg-type]
                for a, b, s in zip(widths, widths[1:], acts, strict=False)
            )
        )


class NNPytorchAD(nn.Module):  # type: ignore[misc]
    """Derivatives by loops of ``torch.autograd.grad``, to compare with.

    Parameters
    ----------
    net : NN
        The network; its value is what is differentiated.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, x: Tensor, do_gradient: bool = False, do_Hessian: bool = False, **kwargs: Any
    ) -> Triple:
        """(f, df, d2f); gradients flow on to the parameters."""
        f, df, d2f = AutodiffNetwork(self.net)(x, do_gradient, do_Hessian)
        return f, df, d2f


class NNPytorchHessian(nn.Module):  # type: ignore[misc]
    """Derivatives by ``torch.autograd.functional.hessian``, to compare with; one output.

    Parameters
    ----------
    net : NN
        The network; its value is what is differentiated.

    Raises
    ------
    ShapeError
        On call, where there are several outputs (a ValueError).
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, x: Tensor, do_gradient: bool = False, do_Hessian: bool = False, **kwargs: Any
    ) -> Triple:
        """(f, df, d2f)."""
        f, df, d2f = HessianNetwork(self.net)(x, do_gradient, do_Hessian)
        return f, df, d2f
