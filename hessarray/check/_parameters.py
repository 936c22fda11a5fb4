"""The Taylor test in the parameters, through the automatic differentiation of torch or JAX."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import array_api_compat
import numpy as np

from hessarray.check._probe import Array, Probe, to_numpy
from hessarray.check._report import TaylorCheck
from hessarray.check._taylor import defaults, noise_of, orders_of
from hessarray.errors import BackendError, ParameterError


def check_parameters(
    net: Any,
    x: Any,
    *,
    do_hessian: bool = True,
    seed: int = 0,
    step: float = 1.0,
    base: float = 2.0,
    num_steps: int | None = None,
    tolerance: float | None = None,
) -> TaylorCheck:
    r"""Taylor test in the parameters, of a loss that holds value, gradient and Hessian.

        Phi(theta) = (|f(x)|^2 + |df(x)|^2 + |d2f(x)|^2) / 2

    Its gradient comes from the automatic differentiation of torch or JAX, whichever x belongs to,
    through the exact derivatives: what a training by gradients and Hessians relies on.

    Parameters
    ----------
    net : Function
        With parameters.
    x : array, or a tuple of arrays where there are several inputs
        torch or JAX; ``(..., *in)``.
    do_hessian : bool
        Whether Phi has its last term.
    seed, step, base, num_steps, tolerance
        As in ``check_derivatives``; p is a direction of all parameters together.

    Returns
    -------
    TaylorCheck
        Without a Hessian.

    Raises
    ------
    BackendError
        x belongs to a library without automatic differentiation.
    ParameterError
        There are no parameters.
    """
    probe = Probe(net, x)
    names = list(net.parameters())
    if not names:
        raise ParameterError("the function has no parameters to check: use check_derivatives")
    start = {k: probe.rounded(to_numpy(a)) for k, a in net.parameters().items()}
    inputs = probe.inputs(probe.x)

    def phi(parameters: dict[str, Any]) -> Any:
        second = net.value_gradient_hessian if do_hessian else net.derivatives
        more = {} if do_hessian else {"do_gradient": True}
        terms: list[Any] = []
        for part in second(*inputs, parameters=parameters, **more):
            terms += [] if part is None else _leaves(part)
        return 0.5 * sum((a * a).sum() for a in terms)

    if array_api_compat.is_jax_array(probe.like[0]):
        import jax

        phi = jax.jit(phi)  # which is called for each step
    theta = {k: probe.to_library(a) for k, a in start.items()}
    slopes = _autodiff(probe.like[0], phi, theta)
    rng = np.random.default_rng(seed)
    p = {k: rng.standard_normal(a.shape) for k, a in start.items()}
    length = _length(p)
    steps, tolerance = defaults(probe, step, base, num_steps, tolerance)
    at_start = float(to_numpy(phi(theta)))
    e0, e1, floors, widths = [], [], [], []
    for h in steps:
        there = {k: probe.rounded(a + h / length * p[k]) for k, a in start.items()}
        delta = {k: there[k] - a for k, a in start.items()}
        moved = float(to_numpy(phi({k: probe.to_library(a) for k, a in there.items()}))) - at_start
        slope = sum(float(np.sum(slopes[k] * delta[k])) for k in names)
        e0.append(abs(moved))
        e1.append(abs(moved - slope))
        floors.append(4.0 * probe.eps * (abs(at_start) + abs(moved) + abs(slope)))
        widths.append(_length(delta))
    errors, width, floor = (np.array(a)[:, None] for a in (e1, widths, floors))
    usable = np.isfinite(np.array(e0)[:, None]) & (width > 0.0)
    floor = np.maximum(floor, 4.0 * noise_of(errors, usable))
    order = float(orders_of(errors, width, floor, usable, 2.0)[0])
    return TaylorCheck(
        steps=tuple(steps.tolist()),
        value_errors=tuple(e0),
        gradient_errors=tuple(e1),
        hessian_errors=None,
        gradient_order=order,
        hessian_order=None,
        gradient_failed=() if order >= 2.0 - tolerance else (0,),
        base=base,
    )


def _length(arrays: Mapping[str, Any]) -> float:
    return math.sqrt(sum(float(np.sum(np.square(a))) for a in arrays.values()))


def _leaves(part: Any) -> list[Any]:
    return [a for p in part for a in _leaves(p)] if isinstance(part, tuple) else [part]


def _autodiff(
    like: Any, phi: Callable[[dict[str, Any]], Any], theta: dict[str, Any]
) -> dict[str, Array]:
    """d phi / d theta by the library of ``like``."""
    if array_api_compat.is_torch_array(like):
        import torch

        leaves = {k: a.detach().requires_grad_(True) for k, a in theta.items()}
        with torch.enable_grad():
            found = torch.autograd.grad(phi(leaves), list(leaves.values()), allow_unused=True)
        return {
            k: np.zeros(tuple(a.shape)) if g is None else to_numpy(g)
            for (k, a), g in zip(theta.items(), found, strict=True)
        }
    if array_api_compat.is_jax_array(like):
        import jax

        return {k: to_numpy(g) for k, g in jax.grad(phi)(theta).items()}
    raise BackendError(
        f"{type(like).__name__} has no automatic differentiation: pass x as a torch or JAX array"
    )
