"""How a torch module is evaluated by hessarray: its twin network, and the chain rule around it.

A module describes itself by a ``spec``, a tuple of names and sizes from which a ``Network`` of the
same architecture is built once. Each call hands the module's own ``nn.Parameter``s to that twin, so
gradients flow to them, and optimisers, ``to`` and ``load_state_dict`` need nothing more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hessarray._arguments import check_mode
from hessarray.activations import activation
from hessarray.layers import Dense, InputConvex, InputConvexQuadratic, Quadratic, Residual
from hessarray.networks import Network

__all__ = ["LEFT_OUT", "Evaluated", "Spec", "Triple", "fused"]

Triple = tuple[Tensor, Tensor | None, Tensor | None]
Spec = tuple[Any, ...]

#: forward_mode of a call that does not name it: None has a meaning of its own.
LEFT_OUT: Any = object()


def build(spec: Spec) -> Any:
    """The hessarray layer or network that a spec describes; its own parameters are never used."""
    kind, *rest = spec
    if kind == "network":
        return Network(*(build(s) for s in rest))
    if kind == "quadratic":
        return Quadratic(*rest)
    if kind == "quadratic_icnn":
        return InputConvexQuadratic(*rest)
    *sizes, (name, parameters), bias = rest
    act = activation(name, **dict(parameters))
    layer = {"single": Dense, "resnet": Residual, "icnn": InputConvex}[kind]
    return layer(*sizes, act=act, bias=bias)


class Evaluated(nn.Module):  # type: ignore[misc]
    """What layers and networks share: forward, the later backward, and the engine behind them."""

    ctx: tuple[Tensor, ...] | None = None
    _twin: tuple[Spec, Network] | None = None

    def dim_input(self) -> int:
        """Number of input features."""
        raise NotImplementedError(f"{type(self).__name__} must define dim_input")

    def dim_output(self) -> int:
        """Number of output features."""
        raise NotImplementedError(f"{type(self).__name__} must define dim_output")

    def _spec(self) -> Spec | None:
        """What ``build`` needs; None where a part is torch code of the user."""
        return None

    def _engine_parameters(self) -> dict[str, Tensor]:
        """The parameters under the names that the twin has for them."""
        raise NotImplementedError

    def _by_parts(self, u: Tensor, order: int) -> Triple:
        """(f, J, H) with respect to u, by torch code, where ``_spec`` is None."""
        raise NotImplementedError(
            f"{type(self).__name__} defines neither forward nor an engine description"
        )

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles make their own twin, and forget the last evaluation.
        return {k: v for k, v in self.__dict__.items() if k not in ("ctx", "_twin")}

    def _network(self) -> Network | None:
        """The network of hessarray with this architecture, or None."""
        spec = self._spec()
        if spec is None:
            return None
        if self._twin is None or self._twin[0] != spec:
            found = build(spec)
            self._twin = (spec, found if spec[0] == "network" else Network(found))
        return self._twin[1]

    # ---- derivatives with respect to the module's own input ------------------------------------

    def _plain(
        self,
        u: Tensor,
        gradient: bool,
        hessian: bool,
        laplacian: bool,
        forward_mode: bool | None,
        v: Tensor | None,
    ) -> Triple:
        """(f, df, d2f) with nothing before and nothing behind."""
        twin = self._network()
        if twin is None:
            f, J, H = self._by_parts(u, 2 if hessian or laplacian else int(gradient))
            return _directed(f, J, H, gradient, hessian, laplacian, forward_mode, v)
        parameters = self._engine_parameters()
        if not isinstance(self, nn.Sequential):
            parameters = {f"0.{k}": p for k, p in parameters.items()}
        found = twin.derivatives(
            u,
            do_gradient=gradient,
            do_Hessian=hessian,
            do_Laplacian=laplacian,
            forward_mode=forward_mode,
            v=v,
            parameters=parameters,
        )
        # Scripts call view() on the results.
        f, df, d2f = (None if a is None else a.contiguous() for a in found)
        return f, df, d2f

    def _evaluate(
        self,
        u: Tensor,
        do_gradient: bool,
        do_Hessian: bool,
        do_Laplacian: bool,
        forward_mode: Any,
        dudx: Tensor | None,
        d2ud2x: Tensor | None,
        v: Tensor | None,
    ) -> Triple:
        """hessQuik's forward."""
        laplacian = do_Laplacian and not do_Hessian
        # hessQuik gives the gradient along with the Hessian.
        gradient = do_gradient or do_Hessian
        if laplacian:
            forward_mode = True
        if forward_mode is not LEFT_OUT:
            check_mode(forward_mode)
        if forward_mode is LEFT_OUT:
            forward_mode = None if v is None else self._side(v)
        elif forward_mode is not True:
            self.ctx = (u,)
            if forward_mode is None:
                return self._plain(u, False, False, False, None, None)
        if not (gradient or laplacian):
            return self._plain(u, False, False, False, None, None)
        if dudx is None:
            if d2ud2x is not None:
                raise ValueError("d2ud2x is given without dudx: pass both")
            return self._plain(u, gradient, do_Hessian, laplacian, forward_mode, v)
        if v is not None:
            raise ValueError("v and dudx are both given: pass v @ dudx and v d2ud2x v^T instead")
        f, J, H = self._plain(u, True, do_Hessian or laplacian, False, None, None)
        return (f, *push_forward(J, H, dudx, d2ud2x, gradient, laplacian))

    def _side(self, v: Tensor) -> bool:
        d, m = self.dim_input(), self.dim_output()
        left, right = v.shape[-1] == d, v.shape[0] == m
        return d < m if left == right else left

    def backward(
        self,
        do_Hessian: bool = False,
        dgdf: Tensor | None = None,
        d2gd2f: Tensor | None = None,
        v: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Derivatives of g(f(u)) at the u of the last ``forward(..., forward_mode=None)``.

        Parameters
        ----------
        do_Hessian : bool
            Compute the Hessian, too.
        dgdf : torch.Tensor (n, out, m), optional
            Gradient of g with respect to f; the identity where left out.
        d2gd2f : torch.Tensor (n, out, out, m), optional
            Hessian of g with respect to f; zero where left out.
        v : torch.Tensor (m, k), optional
            Directions, applied from the right.

        Returns
        -------
        tuple
            dg/du (n, in, m) and d2g/du2 (n, in, in, m) or None.
        """
        if self.ctx is None:
            raise RuntimeError(
                f"{type(self).__name__}.backward needs a call with forward_mode=None first: it "
                "remembers x"
            )
        (u,) = self.ctx
        if dgdf is None:
            _, J, H = self._plain(u, True, do_Hessian, False, False, v)
            assert J is not None
            return J, H
        _, J, H = self._plain(u, True, do_Hessian, False, None, None)
        assert J is not None
        gradient = J @ dgdf
        hessian = None
        if do_Hessian:
            assert H is not None
            hessian = torch.einsum("nabi,nim->nabm", H, dgdf)
            if d2gd2f is not None:
                hessian = hessian + torch.einsum("nai,nijm,nbj->nabm", J, d2gd2f, J)
        if v is not None:
            gradient = gradient @ v
            hessian = None if hessian is None else hessian @ v
        return gradient, hessian


def fused(module: nn.Module) -> Spec | None:
    """The spec of a part, or None where it must be called as a module: it has hooks or own code."""
    own = type(module).forward
    if not isinstance(module, Evaluated) or not own.__module__.startswith(__package__):
        return None
    hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    return None if hooked else module._spec()


def push_forward(
    J: Tensor | None,
    H: Tensor | None,
    dudx: Tensor,
    d2ud2x: Tensor | None,
    gradient: bool,
    laplacian: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Derivatives of f(u(x)): d2ud2x is (n, d, d, in), or (n, 1, in) for the Laplacian."""
    assert J is not None
    df = dudx @ J if gradient else None
    if H is None:
        return df, None
    if laplacian:
        d2f = torch.einsum("nai,nijm,naj->nm", dudx, H, dudx).unsqueeze(1)
        return df, d2f if d2ud2x is None else d2f + d2ud2x @ J
    d2f = torch.einsum("nai,nijm,nbj->nabm", dudx, H, dudx)
    return df, d2f if d2ud2x is None else d2f + torch.einsum("nabi,nim->nabm", d2ud2x, J)


def _directed(
    f: Tensor,
    J: Tensor | None,
    H: Tensor | None,
    gradient: bool,
    hessian: bool,
    laplacian: bool,
    forward_mode: bool | None,
    v: Tensor | None,
) -> Triple:
    """Directions and traces of full derivatives."""
    if v is not None and forward_mode is not False:
        J = None if J is None else v @ J
        H = None if H is None else torch.einsum("ka,nabm,lb->nklm", v, H, v)
    elif v is not None:
        J, H = (None if a is None else a @ v for a in (J, H))
    if laplacian and H is not None:
        H = torch.einsum("naam->nm", H).unsqueeze(1)
    return f, J if gradient else None, H if hessian or laplacian else None
