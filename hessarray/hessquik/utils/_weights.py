"""The test of derivatives with respect to the weights."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from hessarray.check import TaylorCheck
from hessarray.check._taylor import orders_of


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

    def phi() -> Tensor:
        parts = f(x, do_gradient=True, do_Hessian=do_Hessian, forward_mode=forward_mode)
        return 0.5 * torch.stack([a.square().sum() for a in parts if a is not None]).sum()

    parameters = [p for p in f.parameters() if p.requires_grad]
    start = phi()
    slopes = torch.autograd.grad(start, parameters, allow_unused=True)
    p = [torch.randn_like(a) for a in parameters]
    length = math.sqrt(sum(float(a.square().sum()) for a in p))
    p = [a / length for a in p]
    slope = sum(float((g * a).sum()) for g, a in zip(slopes, p, strict=True) if g is not None)
    here = [a.detach().clone() for a in parameters]
    steps = [base**-k for k in range(num_test)]
    e0, e1 = [], []
    try:
        for h in steps:
            for a, origin, move in zip(parameters, here, p, strict=True):
                a.data = origin + h * move
            moved = phi().item() - start.item()
            e0.append(abs(moved))
            e1.append(abs(moved - h * slope))
    finally:
        for a, origin in zip(parameters, here, strict=True):
            a.data = origin
    errors, width = np.array(e1)[:, None], np.array(steps)[:, None]
    floor = 32.0 * torch.finfo(x.dtype).eps * (abs(start.item()) + np.array(e0)[:, None])
    order = float(orders_of(errors, width, floor, np.isfinite(errors), 2.0)[0])
    passed = order >= 2.0 - max(tol, 0.5)
    if verbose:
        found = TaylorCheck(
            steps=tuple(steps),
            value_errors=tuple(e0),
            gradient_errors=tuple(e1),
            hessian_errors=None,
            gradient_order=order,
            hessian_order=None,
            gradient_failed=() if passed else (0,),
            base=base,
        )
        print(found)
    return passed
