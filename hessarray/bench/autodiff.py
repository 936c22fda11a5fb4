"""The programs that a user of automatic differentiation writes, in JAX or torch.func alike.

Both offer jacrev, jacfwd, jvp and vmap. Where two orders of differentiation are customary, both
are here, so that the better one can be compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["LOSSES", "in_our_axes", "loss_programs", "programs"]

Fn = Callable[..., Any]

#: What is wanted of a loss over parameters.
LOSSES = ("loss_hessian", "loss_hvp")

FORWARD_REVERSE = "forward over reverse"
REVERSE_REVERSE = "reverse over reverse"


def programs(ad: Any, xp: Any, f: Fn, want: str, m: int, eye: Any) -> dict[str, Fn]:
    """What is wanted of f, (d,) -> (m,), for one sample: order of differentiation -> program.

    ``ad`` has jacrev, jacfwd, jvp and vmap, ``xp`` einsum; ``eye`` is (d, d). The programs take
    (u,), or (u, p) for a Hessian-vector product, or (u, lam) for a weighted Hessian.
    """
    return {
        "hessian": _hessian,
        "laplacian": _laplacian,
        "hvp": _hvp,
        "weighted": _weighted,
    }[want](ad, xp, f, m, eye)


def _hessian(ad: Any, xp: Any, f: Fn, m: int, eye: Any) -> dict[str, Fn]:
    def all_three(hessian: Fn) -> Fn:
        return lambda u: (f(u), ad.jacrev(f)(u), hessian(u))

    found = {FORWARD_REVERSE: all_three(ad.jacfwd(ad.jacrev(f)))}
    if m == 1:  # for each output it pulls back through the gradients of all m: 17 s at m = 32
        found[REVERSE_REVERSE] = all_three(ad.jacrev(ad.jacrev(f)))
    return found


def _laplacian(ad: Any, xp: Any, f: Fn, m: int, eye: Any) -> dict[str, Fn]:
    def along(u: Any, e: Any) -> Any:
        return ad.jvp(lambda t: ad.jvp(f, (t,), (e,))[1], (u,), (e,))[1]

    hessian = ad.jacfwd(ad.jacrev(f))
    return {
        "trace of forward over reverse": lambda u: (xp.einsum("maa->m", hessian(u)),),
        "forward over forward": lambda u: (ad.vmap(along, (None, 0))(u, eye).sum(0),),
    }


def _hvp(ad: Any, xp: Any, f: Fn, m: int, eye: Any) -> dict[str, Fn]:
    return {
        FORWARD_REVERSE: lambda u, p: (ad.jvp(ad.jacrev(f), (u,), (p,))[1],),
        "reverse over forward": lambda u, p: (ad.jacrev(lambda t: ad.jvp(f, (t,), (p,))[1])(u),),
    }


def _weighted(ad: Any, xp: Any, f: Fn, m: int, eye: Any) -> dict[str, Fn]:
    def g(u: Any, lam: Any) -> Any:
        return (lam * f(u)).sum()

    return {
        FORWARD_REVERSE: lambda u, lam: (ad.jacfwd(ad.jacrev(g))(u, lam),),
        REVERSE_REVERSE: lambda u, lam: (ad.jacrev(ad.jacrev(g))(u, lam),),
    }


def loss_programs(ad: Any, loss: Fn, want: str) -> dict[str, Fn]:
    """Of a loss(theta, x, t) of all samples: its Hessian, or its product with a vector."""
    gradient = ad.grad(loss)
    if want == "loss_hvp":

        def product(theta: Any, x: Any, t: Any, v: Any) -> tuple[Any]:
            return (ad.jvp(lambda p: gradient(p, x, t), (theta,), (v,))[1],)

        return {FORWARD_REVERSE: product}
    return {FORWARD_REVERSE: lambda theta, x, t: (ad.jacfwd(gradient)(theta, x, t),)}


def in_our_axes(want: str, results: tuple[Any, ...]) -> tuple[Any, ...]:
    """NumPy arrays with output axes first, as autodiff gives them, in hessarray's order."""
    if want in LOSSES:
        return results
    if want == "hessian":
        f, df, d2f = results
        return f, np.moveaxis(df, -2, -1), np.moveaxis(d2f, -3, -1)
    (a,) = results
    if want == "laplacian":
        return (a[..., None, :],)
    return (np.moveaxis(a, -2, -1),) if want == "hvp" else (a,)
