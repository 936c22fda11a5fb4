"""hessQuik's utilities: data, training, timing, derivative tests, parameters as one vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import hessarray.hessquik.activations as act
import hessarray.hessquik.layers as lay
import hessarray.hessquik.networks as net
from hessarray.check import TaylorCheck, check_derivatives, convert_to_base
from hessarray.data import peaks
from hessarray.timing import time_trials
from hessarray.training import evaluate_loss as test
from hessarray.training import print_headers, train_one_epoch

__all__ = [
    "convert_to_base",
    "directional_derivative_check",
    "directional_derivative_laplacian_check",
    "extract_data",
    "input_derivative_check",
    "input_derivative_check_finite_difference",
    "input_derivative_check_finite_difference_laplacian",
    "insert_data",
    "module_getattr",
    "module_setattr",
    "network_derivative_check",
    "peaks",
    "print_headers",
    "setup_fully_connected",
    "setup_icnn",
    "setup_network",
    "setup_resnet",
    "test",
    "timing_test",
    "train_one_epoch",
]

Flags = tuple[bool, bool | None]

# ---- parameters as one vector -----------------------------------------------------------------


def module_getattr(obj: Any, names: str | Sequence[str]) -> Any:
    """``obj.a.b`` for names ("a", "b"), or ``obj.a`` for "a"."""
    for name in [names] if isinstance(names, str) else names:
        obj = getattr(obj, name)
    return obj


def module_setattr(obj: Any, names: str | Sequence[str], val: Any) -> None:
    """``obj.a.b = val`` for names ("a", "b"), or ``obj.a = val`` for "a"."""
    *path, last = [names] if isinstance(names, str) else names
    setattr(module_getattr(obj, path), last, val)


def extract_data(net: nn.Module, attr: str = "data") -> Tensor:
    """The attribute ('data' or 'grad') of all parameters as one vector; zeros where it is None."""
    parts = []
    for p in net.parameters():
        found = getattr(p, attr)
        parts.append(torch.zeros_like(p.data) if found is None else found)
    return torch.cat([a.reshape(-1) for a in parts]) if parts else torch.empty(0)


def insert_data(net: nn.Module, theta: Tensor) -> None:
    """The inverse of ``extract_data``: parameters take their values from the vector."""
    parameters = list(net.parameters())
    parts = torch.split(theta.detach(), [p.numel() for p in parameters])
    for p, part in zip(parameters, parts, strict=True):
        p.data = part.reshape(p.shape).to(p).clone()


# ---- tests of derivatives with respect to the input -------------------------------------------


class _Called:
    """What is called with ``do_gradient`` and ``do_Hessian``, as value, gradient and Hessian."""

    def __init__(self, f: Callable[..., Any], forward_mode: bool) -> None:
        self.f = f
        self.forward_mode = forward_mode
        # One entry of an activation's input is one sample of one variable.
        self.elementwise = isinstance(f, act.hessQuikActivationFunction)

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


@torch.no_grad()
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
    _, df, d2f = f(x, do_gradient=True, do_Hessian=do_Hessian, forward_mode=forward_mode)
    check = partial(_close, atol=atol, rtol=rtol, eps=eps, verbose=verbose)
    gradient = check("Gradient Finite Difference", df, _differences(f, x, eps))
    if not do_Hessian:
        return gradient, None

    def slopes(y: Tensor) -> tuple[Tensor]:
        return (_differences(f, y, eps),)

    return gradient, check("Hessian Finite Difference", d2f, _differences(slopes, x, eps))


@torch.no_grad()
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


@torch.no_grad()
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


@torch.no_grad()
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


# ---- test of derivatives with respect to the weights ------------------------------------------


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
        By how much the order 2 may be missed, in the better half of the steps that tell.

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
    floor = 32.0 * torch.finfo(x.dtype).eps * max(abs(start.item()), 1e-30)
    passed, order = _second_order(e1, floor, base, tol)
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


def _second_order(errors: list[float], floor: float, base: float, tol: float) -> tuple[bool, float]:
    """Does the error fall as h^2 in most steps that stand out of the rounding?"""
    pairs = [(a, b) for a, b in zip(errors, errors[1:], strict=False) if min(a, b) > floor]
    if len(pairs) < 2:
        return errors[-1] <= floor, math.inf
    orders = sorted(math.log(a / b) / math.log(base) for a, b in pairs)
    median = orders[len(orders) // 2]
    return median > 2.0 - tol, median


# ---- timing -----------------------------------------------------------------------------------


def setup_resnet(in_features: int, out_features: int, width: int = 16, depth: int = 4) -> net.NN:
    """Single layer, residual network (h = 0.5, tanh), single layer."""
    return net.NN(
        lay.singleLayer(in_features, width, act=act.antiTanhActivation()),
        net.resnetNN(width, depth, h=0.5, act=act.tanhActivation()),
        lay.singleLayer(width, out_features, act=act.identityActivation()),
    )


def setup_fully_connected(
    in_features: int, out_features: int, width: int = 16, depth: int = 4
) -> net.NN:
    """Single tanh layers, ``depth`` of them hidden."""
    widths = [in_features, *[width] * depth, out_features]
    return net.fullyConnectedNN(widths, act=act.tanhActivation())


def setup_icnn(in_features: int, out_features: int, width: int = 16, depth: int = 4) -> net.NN:
    """Input-convex network with one output.

    Raises
    ------
    ValueError
        More than one output is asked for.
    """
    if out_features != 1:
        raise ValueError(f"an input-convex network has one output, not {out_features}")
    return net.NN(
        net.ICNN(in_features, [None, *[width] * depth], act=act.tanhActivation()),
        lay.quadraticICNNLayer(in_features, width, rank=2),
    )


_NETWORKS = {
    "resnet": setup_resnet,
    "fully_connected": setup_fully_connected,
    "icnn": setup_icnn,
}
_WRAPPERS: dict[str, Callable[[Any], nn.Module]] = {
    "hessQuik": lambda f: f,
    "PytorchAD": net.NNPytorchAD,
    "PytorchHessian": net.NNPytorchHessian,
}


def setup_network(
    in_features: int,
    out_features: int,
    width: int = 16,
    depth: int = 4,
    network_type: str = "resnet",
    network_wrapper: str = "hessQuik",
    device: Any = "cpu",
) -> nn.Module:
    """One of the networks by name, wrapped, on the device.

    Raises
    ------
    ValueError
        No network or wrapper has this name.
    """
    for kind, name, known in (
        ("network_type", network_type, _NETWORKS),
        ("network_wrapper", network_wrapper, _WRAPPERS),
    ):
        if name not in known:
            raise ValueError(f"{kind}={name!r}: use {', '.join(known)}")
    f = _NETWORKS[network_type](int(in_features), int(out_features), width, depth)
    return _WRAPPERS[network_wrapper](f.to(device))


def timing_test(
    in_feature_range: Any,
    out_feature_range: Any,
    nex: int = 10,
    num_trials: int = 10,
    width: int = 16,
    depth: int = 4,
    network_wrapper: str = "hessQuik",
    network_type: str = "resnet",
    device: Any = "cpu",
    clear_memory: bool = True,
) -> dict[str, Any]:
    """Time value, gradient and Hessian, as ``hessarray.timing.timing_test`` does, on torch modules.

    Parameters
    ----------
    in_feature_range, out_feature_range : torch.Tensor or sequence of int
        Numbers of inputs and outputs.
    nex, num_trials, width, depth, network_type, clear_memory
        As in ``hessarray.timing.timing_test``.
    network_wrapper : str
        'hessQuik' (the modules of this package), 'PytorchAD' or 'PytorchHessian'.
    device : str or torch.device
        Where the network and the samples are.

    Returns
    -------
    dict
        As of ``hessarray.timing.timing_test``, with torch tensors.
    """
    trials = torch.zeros(len(in_feature_range), len(out_feature_range), num_trials)
    for j, m in enumerate(out_feature_range):
        for i, d in enumerate(in_feature_range):
            f = setup_network(d, m, width, depth, network_type, network_wrapper, device)
            x = torch.randn(nex, int(d), device=device)
            call = partial(f, x, do_gradient=True, do_Hessian=True)
            trials[i, j] = torch.as_tensor(time_trials(call, num_trials, clear_memory=clear_memory))
            if clear_memory and torch.cuda.is_available():
                torch.cuda.empty_cache()
    return {
        "timing_trials": trials,
        "timing_trials_mean": trials.mean(dim=2),
        "timing_trials_std": trials.std(dim=2, correction=1 if num_trials > 1 else 0),
        "in_feature_range": in_feature_range,
        "out_feature_range": out_feature_range,
        "nex": nex,
        "num_trials": num_trials,
    }
