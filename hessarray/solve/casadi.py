"""A network as a CasADi function with exact first and second derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hessarray.function import Function
from hessarray.solve._arguments import missing
from hessarray.solve._selected import Output, selected

__all__ = ["casadi_function"]


def casadi_function(
    net: Function, outputs: Output | Sequence[Output] | None = None, *, name: str = "net"
) -> Any:
    """A network as a `casadi.Callback`, to be called with CasADi's symbols and numbers.

    CasADi gets the Jacobian, the adjoint, and the adjoint's own Jacobian, which is the weighted
    Hessian that ``nlpsol`` needs: an exact Hessian of the Lagrangian costs one pass.

    Parameters
    ----------
    net : Function
        A network or function of one input; its shape is flattened to x (d, 1).
    outputs : int, str or sequence of them, optional
        The m outputs; all of them where left out.
    name : str
        The name of the CasADi function.

    Returns
    -------
    casadi.Callback
        ``f(x)``, (m, 1). Keep it alive as long as any function or solver that was made of it: the
        call goes back into Python.

    Raises
    ------
    BackendError
        CasADi is not installed.
    OptionError, SampleIndexError, ShapeError
        Outputs that the network does not have; several inputs.

    Examples
    --------
    >>> import casadi, hessarray as ha
    >>> rosen = ha.Function(lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, (2,))
    >>> f = ha.casadi_function(rosen)
    >>> x = casadi.MX.sym("x", 2)
    >>> solver = casadi.nlpsol("s", "ipopt", {"x": x, "f": f(x)},
    ...                        {"ipopt.print_level": 0, "ipopt.sb": "yes", "print_time": False})
    >>> solver(x0=[-1.2, 1.0])["x"]
    DM([1, 1])
    """
    try:
        from hessarray.solve._casadi_callbacks import value_callback
    except ImportError:
        raise missing("casadi", "casadi") from None
    return value_callback(name, selected(net, outputs))
