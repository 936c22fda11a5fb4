"""A network as an external grey box model of Pyomo, with exact Jacobian and Hessian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hessarray.errors import OptionError, ShapeError
from hessarray.function import Function
from hessarray.solve._arguments import missing
from hessarray.solve._selected import Output, output_names, selected

__all__ = ["pyomo_model"]


def pyomo_model(
    net: Function,
    outputs: Output | Sequence[Output] | None = None,
    *,
    input_names: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> Any:
    """A network as an ``ExternalGreyBoxModel``, for Pyomo's ``ExternalGreyBoxBlock``.

    Parameters
    ----------
    net : Function
        A network or function of one input; its shape is flattened to x (d,).
    outputs : int, str or sequence of them, optional
        The m outputs; all of them where left out.
    input_names : sequence of str, optional
        Names of the d inputs in Pyomo; x0, x1, ... where left out.
    names : sequence of str, optional
        Names of the m outputs in Pyomo; where left out those of the network, or f0, f1, ...

    Returns
    -------
    pyomo.contrib.pynumero.interfaces.external_grey_box.ExternalGreyBoxModel
        With outputs, their Jacobian (m, d), and the lower half of their Hessian (d, d) weighted by
        the multipliers, as full COO matrices.

    Raises
    ------
    BackendError
        Pyomo is not installed.
    OptionError, SampleIndexError, ShapeError
        Outputs that the network does not have, several inputs, or names that do not fit.

    Examples
    --------
    >>> import hessarray as ha
    >>> import pyomo.environ as pyo
    >>> from pyomo.contrib.pynumero.interfaces.external_grey_box import ExternalGreyBoxBlock
    >>> net = ha.fully_connected([2, 16, 1], act="tanh", seed=0)
    >>> model = pyo.ConcreteModel()
    >>> model.net = ExternalGreyBoxBlock()
    >>> model.net.set_external_model(ha.pyomo_model(net, input_names=["T", "p"], names=["rate"]))
    >>> model.objective = pyo.Objective(expr=model.net.outputs["rate"])
    >>> list(model.net.inputs), list(model.net.outputs)
    (['T', 'p'], ['rate'])
    """
    try:
        from hessarray.solve._pyomo_grey_box import GreyBox
    except ImportError:
        raise missing("pyomo and scipy", "pyomo") from None
    function = selected(net, outputs)
    (d,), (m,) = function.in_shape, function.out_shape
    inputs = [f"x{i}" for i in range(d)] if input_names is None else list(input_names)
    results = list(output_names(function)) if names is None else list(names)
    _check_names("input_names", inputs, d)
    _check_names("names", results, m)
    return GreyBox(function, inputs, results)


def _check_names(name: str, given: list[str], count: int) -> None:
    if len(given) != count:
        raise ShapeError(f"{name} has {len(given)} names, {count} are expected")
    twice = [s for i, s in enumerate(given) if s in given[:i]]
    if twice:
        raise OptionError(f"{name} holds '{twice[0]}' twice: names must differ")
