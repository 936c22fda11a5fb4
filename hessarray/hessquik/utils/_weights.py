"""The test of derivatives with respect to the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hessarray.check import check_derivatives


class _Phi:
    """Phi = (|f|^2 + |df|^2 + |d2f|^2) / 2 of the weights as one sample (1, p), for a Taylor test.

    Leaves the module with the weights at which it was last evaluated.
    """

    def __init__(self, f: nn.Module, x: Tensor, **options: Any) -> None:
        self.f, self.x, self.options = f, x, options
        self.parameters = [p for p in f.parameters() if p.requires_grad]

    @property
    def weights(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])[None]

    @weights.setter
    def weights(self, theta: Tensor) -> None:
        parts = torch.split(theta[0], [p.numel() for p in self.parameters])
        for p, part in zip(self.parameters, parts, strict=True):
            p.data = part.reshape(p.shape).to(p)

    def _at(self, theta: Tensor) -> Tensor:
        self.weights = theta
        parts = self.f(self.x, **self.options)
        return 0.5 * torch.stack([a.square().sum() for a in parts if a is not None]).sum()

    def value(self, theta: Tensor) -> Tensor:
        return self._at(theta).detach().reshape(1, 1)

    def gradient(self, theta: Tensor) -> Tensor:
        phi = self._at(theta)
        slopes = torch.autograd.grad(
            phi, self.parameters, allow_unused=True, materialize_grads=True
        )
        return torch.cat([g.reshape(-1) for g in slopes]).reshape(1, -1, 1)


def network_derivative_check(
    f: nn.Module,
    x: Tensor,
    do_Hessian: bool = False,
    forward_mode: bool = True,
    num_test: int = 15,
    base: float = 2.0,
    tol: float = 0.1,
    verbose: bool = False,
) -> bool:
    """Taylor test of the gradient in the weights of Phi = (|f|^2 + |df|^2 + |d2f|^2) / 2.

    The weights are put back afterwards, and ``grad`` of the parameters is not touched.

    Parameters
    ----------
    f : torch.nn.Module
        Called as ``f(x, do_gradient=, do_Hessian=, forward_mode=)``.
    x, do_Hessian, forward_mode, num_test, base, verbose
        As in ``input_derivative_check``; ``do_Hessian`` adds the last term.
    tol : float
        By how much the order 2 may be missed; at least a half is granted.

    Returns
    -------
    bool
        Whether it passed.
    """
    phi = _Phi(f, x, do_gradient=True, do_Hessian=do_Hessian, forward_mode=forward_mode)
    before = [p.data for p in phi.parameters]
    try:
        found = check_derivatives(
            phi,
            phi.weights,
            do_hessian=False,
            seed=int(torch.randint(2**31, (1,))),
            num_steps=num_test,
            base=base,
            tolerance=max(tol, 0.5),
        )
    finally:
        for p, data in zip(phi.parameters, before, strict=True):
            p.data = data
    if verbose:
        print(found)
    return found.gradient_passed
