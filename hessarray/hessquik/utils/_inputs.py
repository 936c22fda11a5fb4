"""Tests of derivatives with respect to the input: Taylor, finite differences, directions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hessarray.check import TaylorCheck, check_derivatives
from hessarray.hessquik.activations import hessQuikActivationFunction

Flags = tuple[bool, bool | None]


class _Called:
    """What is called with ``do_gradient`` and ``do_Hessian``, as value, gradient and Hessian."""

    def __init__(self, f: Callable[..., Any], forward_mode: bool) -> None:
        self.f = f
        self.forward_mode = forward_mode
        # One entry of an activation's input is one sample of one variable.
        self.elementwise = isinstance(f, hessQuikActivationFunction)

    def value(self, x: Tensor) -> Any:
        return self.f(x)[0]

    def gradient(self, x: Tensor) -> Any:
        df = self.f(x, do_gradient=True, do_Hessian=False, forward_mode=self.forward_mode)[1]
        return df.unsqueeze(-1) if self.elementwise else df

    def hessian(self, x: Tensor) -> Any:
        d2f = self.f(x, do_gradient=True, do_Hessian=True, forward_mode=self.forward_mode)[2]
        return d2f[..., None, None] if self.elementwise else d2f


def input_derivative_check(
    f: Callable[..., Any],
    x: Tensor,
    do_Hessian: bool = False,
    forward_mode: bool = True,
    num_test: int = 15,
    base: float = 2.0,
    tol: float = 0.1,
    verbose: bool = False,
) -> Flags:
    """Taylor test of what f claims: ``hessarray.check.check_derivatives`` for hessQuik's calls.

    Parameters
    ----------
    f : callable
        Called as ``f(x, do_gradient=, do_Hessian=, forward_mode=)``.
    x : torch.Tensor (n, d)
        Where.
    do_Hessian : bool
        Test the Hessian, too.
    forward_mode : bool
        Passed on to f.
    num_test : int
        Number of steps.
    base : float
        Step k is base^-k.
    tol : float
        By how much an order may be low; at least a half is granted, as samples are judged singly.
    verbose : bool
        Print the table.

    Returns
    -------
    tuple
        Whether the gradient passed, and the Hessian (None where not tested).
    """
    called = _Called(f, forward_mode)
    found = check_derivatives(
        called,
        x.detach().reshape(-1, 1) if called.elementwise else x.detach(),
        do_hessian=do_Hessian,
        seed=int(torch.randint(2**31, (1,))),
        num_steps=num_test,
        base=base,
        tolerance=max(tol, 0.5),
    )
    return _told(found, do_Hessian, verbose)


def _told(found: TaylorCheck, do_Hessian: bool, verbose: bool) -> Flags:
    if verbose:
        print(found)
    return found.gradient_passed, found.hessian_passed if do_Hessian else None


def _differences(f: Callable[..., Any], x: Tensor, eps: float) -> Tensor:
    """Central differences (n, d, m) of the value."""
    columns = []
    for a in range(x.shape[1]):
        move = torch.zeros_like(x[:1])
        move[:, a] = eps
        columns.append((f(x + move)[0] - f(x - move)[0]) / (2.0 * eps))
    return torch.stack(columns, dim=1)


def _close(
    name: str, a: Tensor, b: Tensor, atol: float, rtol: float, eps: float, verbose: bool
) -> bool:
    error = float(torch.linalg.vector_norm(a - b))
    relative = error / max(float(torch.linalg.vector_norm(a)), eps)
    passed = error < atol and relative < rtol
    if verbose:
        print(f"{name}: Error = {error:.4e}, Relative Error = {relative:.4e}")
        print(f"{name.split()[0]} {'PASSED!' if passed else 'FAILED.'}")
    return passed


def input_derivative_check_finite_difference(
    f: Callable[..., Any],
    x: Tensor,
    do_Hessian: bool = False,
    forward_mode: bool = True,
    eps: float = 1e-4,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    verbose: bool = False,
) -> Flags:
    """Compare gradient and Hessian with central differences of the value.

    Parameters
    ----------
    f, x, do_Hessian, forward_mode, verbose
        As in ``input_derivative_check``.
    eps : float
        Step.
    atol, rtol : float
        Largest norm of the difference, absolute and relative; both must hold.

    Returns
    -------
    tuple
        Whether the gradient passed, and the Hessian (None where not tested).
    """
    with torch.no_grad():
        _, df, d2f = f(x, do_gradient=True, do_Hessian=do_Hessian, forward_mode=forward_mode)
        check = partial(_close, atol=atol, rtol=rtol, eps=eps, verbose=verbose)
        gradient = check("Gradient Finite Difference", df, _differences(f, x, eps))
        if not do_Hessian:
            return gradient, None

        def slopes(y: Tensor) -> tuple[Tensor]:
            return (_differences(f, y, eps),)

        return gradient, check("Hessian Finite Difference", d2f, _differences(slopes, x, eps))


def input_derivative_check_finite_difference_laplacian(
    f: Callable[..., Any],
    x: Tensor,
    do_Laplacian: bool = False,
    eps: float = 1e-4,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    verbose: bool = False,
) -> Flags:
    """Compare gradient and Laplacian with central differences of the value.

    Parameters
    ----------
    f, x, eps, atol, rtol, verbose
        As in ``input_derivative_check_finite_difference``.
    do_Laplacian : bool
        Test the Laplacian, too.

    Returns
    -------
    tuple
        Whether the gradient passed, and the Laplacian (None where not tested).
    """
    with torch.no_grad():
        value, df, lap = f(x, do_gradient=True, do_Laplacian=do_Laplacian)
        check = partial(_close, atol=atol, rtol=rtol, eps=eps, verbose=verbose)
        gradient = check("Gradient Finite Difference", df, _differences(f, x, eps))
        if not do_Laplacian:
            return gradient, None
        total = torch.zeros_like(value)
        for a in range(x.shape[1]):
            move = torch.zeros_like(x[:1])
            move[:, a] = 2.0 * eps
            total += (f(x + move)[0] - 2.0 * value + f(x - move)[0]) / (4.0 * eps**2)
        return gradient, check("Laplacian Finite Difference", lap, total.unsqueeze(1))


def _near(name: str, pairs: dict[str, tuple[Tensor, Tensor]], tol: float, verbose: bool) -> Any:
    """Whether each pair agrees to tol in norm; prints one line for all and one for each."""
    errors = {k: float(torch.linalg.vector_norm(a - b)) for k, (a, b) in pairs.items()}
    if verbose:
        print(f"{name}: " + "\t ".join(f"{k[:4].lower()} = {e:.4e}" for k, e in errors.items()))
        for k, e in errors.items():
            print(f"\t {k} {'PASSED!' if e < tol else 'FAILED.'}")
    return tuple(e < tol for e in errors.values())


def directional_derivative_check(
    f: Callable[..., Any], x: Tensor, k: int = 3, tol: float = 1e-8, verbose: bool = False
) -> tuple[bool, bool, bool, bool]:
    """Compare derivatives along random directions with full ones that are contracted afterwards.

    Parameters
    ----------
    f, x, verbose
        As in ``input_derivative_check``.
    k : int
        Number of directions.
    tol : float
        Largest norm of a difference.

    Returns
    -------
    tuple of bool
        Gradient and Hessian from the left, gradient and Hessian from the right.
    """
    with torch.no_grad():
        value, df, d2f = f(x, do_gradient=True, do_Hessian=True)
        v = torch.randn(k, x.shape[1], dtype=x.dtype, device=x.device)
        _, vdf, vd2fv = f(x, do_gradient=True, do_Hessian=True, v=v, forward_mode=True)
        left = {"Gradient": (v @ df, vdf), "Hessian": (_curved(v, d2f), vd2fv)}
        w = torch.randn(value.shape[1], k, dtype=x.dtype, device=x.device)
        _, dfw, d2fw = f(x, do_gradient=True, do_Hessian=True, v=w, forward_mode=False)
        right = {"Gradient": (df @ w, dfw), "Hessian": (d2f @ w, d2fw)}
        flags: tuple[bool, bool, bool, bool] = (
            *_near("FORWARD MODE", left, tol, verbose),
            *_near("BACKWARD MODE", right, tol, verbose),
        )
        return flags


def directional_derivative_laplacian_check(
    f: Callable[..., Any], x: Tensor, k: int = 3, tol: float = 1e-8, verbose: bool = False
) -> tuple[bool, bool]:
    """Compare sum_i v_i d2f v_i^T over random directions with the full Hessian.

    Parameters
    ----------
    f, x, k, tol, verbose
        As in ``directional_derivative_check``.

    Returns
    -------
    tuple of bool
        Gradient and Laplacian along the directions.
    """
    with torch.no_grad():
        _, df, d2f = f(x, do_gradient=True, do_Hessian=True)
        v = torch.randn(k, x.shape[1], dtype=x.dtype, device=x.device)
        _, vdf, lap = f(x, do_gradient=True, do_Laplacian=True, v=v, forward_mode=True)
        traced = torch.einsum("nkkm->nm", _curved(v, d2f)).unsqueeze(1)
        flags: tuple[bool, bool] = _near(
            "FORWARD MODE", {"Gradient": (v @ df, vdf), "Laplacian": (traced, lap)}, tol, verbose
        )
        return flags


def _curved(v: Tensor, d2f: Tensor) -> Tensor:
    return torch.einsum("ka,nabm,lb->nklm", v, d2f, v)
