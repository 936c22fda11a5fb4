"""What others do: derivatives of a torch network by automatic differentiation, to compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hessarray.errors import ShapeError
from hessarray.function import Derivatives

__all__ = ["AutodiffNetwork", "HessianNetwork"]


def _value(net: Callable[..., Any], x: Any) -> Any:
    """The value (n, m), whether net returns it alone or with derivatives."""
    f = net(x)
    f = f[0] if isinstance(f, tuple) else f
    return f.reshape(x.shape[0], -1)


class AutodiffNetwork:
    """Gradient and Hessian by loops of ``torch.autograd.grad`` (hessQuik: NNPytorchAD).

    One backward pass for each output and one more for each entry of the Jacobian; the graph is
    kept, so that a loss of the derivatives can be trained.

    Parameters
    ----------
    net : callable
        f(x) of a torch tensor (n, d), the value or a tuple that begins with it; anything from a
        ``torch.nn.Module`` to a ``hessarray.Network``.

    Examples
    --------
    >>> import torch, hessarray as ha
    >>> f, df, d2f = AutodiffNetwork(torch.nn.Linear(3, 2))(torch.ones(5, 3), do_gradient=True)
    >>> df.shape
    torch.Size([5, 3, 2])
    """

    def __init__(self, net: Callable[..., Any]) -> None:
        self.net = net

    def __call__(
        self, x: Any, do_gradient: bool = False, do_Hessian: bool = False, **_: Any
    ) -> Derivatives:
        """(f, df, d2f) in the shapes of ``Network``; the Hessian comes with the gradient."""
        import torch

        if not (do_gradient or do_Hessian):
            return Derivatives(_value(self.net, x))
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_(True)
            f = _value(self.net, x)
            df = torch.stack([_slope(f[:, m], x) for m in range(f.shape[1])], dim=2)
            if not do_Hessian:
                return Derivatives(f, df)
            rows = [
                torch.stack([_slope(df[:, a, m], x) for m in range(f.shape[1])], dim=2)
                for a in range(x.shape[1])
            ]
            return Derivatives(f, df, torch.stack(rows, dim=1))


def _slope(y: Any, x: Any) -> Any:
    """d sum(y) / dx with its graph; zero where y is linear and so has lost its tie to x."""
    import torch

    if not y.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(y.sum(), x, create_graph=True, allow_unused=True)
    return torch.zeros_like(x) if found is None else found


class HessianNetwork:
    """The Hessian by ``torch.autograd.functional.hessian`` (hessQuik: NNPytorchHessian).

    That function sees the sum over the samples, and so takes an (n, d, n, d) block of which all
    but the diagonal is zero.

    Parameters
    ----------
    net : callable
        As for ``AutodiffNetwork``, with one output.

    Raises
    ------
    ShapeError
        On call, where there are several outputs.
    """

    def __init__(self, net: Callable[..., Any]) -> None:
        self.net = net

    def __call__(
        self, x: Any, do_gradient: bool = False, do_Hessian: bool = False, **_: Any
    ) -> Derivatives:
        """(f, df, d2f) in the shapes of ``Network``; without a graph to the parameters."""
        import torch

        leaf = x.detach().requires_grad_(True)
        with torch.enable_grad():
            f = _value(self.net, leaf)
            if f.shape[1] != 1:
                raise ShapeError(
                    f"the network has {f.shape[1]} outputs, torch.autograd.functional.hessian "
                    "takes one: use AutodiffNetwork"
                )
            df = torch.autograd.grad(f.sum(), leaf)[0].unsqueeze(-1) if do_gradient else None
        d2f = None
        if do_Hessian:
            full = torch.autograd.functional.hessian(lambda u: _value(self.net, u).sum(), leaf)
            d2f = full.sum(dim=2).unsqueeze(-1)
        return Derivatives(f, df, d2f)
