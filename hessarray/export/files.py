"""`hessarray.export`: derivatives as a module of their own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from hessarray._arguments import plain, whole
from hessarray._files import replacing
from hessarray.errors import OptionError, OverwriteError
from hessarray.function import Function

__all__ = ["export"]

_LIBRARIES = ("numpy", "cupy", "torch")
_PLACES = ("beside", "inside")


def export(
    function: Function,
    path: str | os.PathLike[str],
    want: str | Sequence[str] = ("value", "gradient", "hessian", "value_gradient_hessian"),
    *,
    backend: str = "numpy",
    weights: str = "beside",
    n: int = 1000,
    force: bool = False,
) -> Function:
    """Write value and derivatives as a module that needs NumPy, CuPy or torch, and nothing else.

    The module has functions of the names in ``want``, which take and return what the methods of
    those names do: x ``(..., *in)`` with any batch, in chunks whose intermediates stay small.

    Parameters
    ----------
    function : Function
        A network, or any function.
    path : path
        The module, a .py file. ``weights="beside"`` also writes ``<name>_weights.npz`` there.
    want : str, or sequence of str
        Some of value, gradient, hessian, hessian_diagonal, laplacian, hvp, weighted_hessian,
        value_gradient_hessian.
    backend : str
        The library that the module imports: "numpy", "cupy" or "torch".
    weights : str
        "beside" the module in an npz file, or "inside" it as base64; exact either way.
    n : int
        The number of samples to plan for; any number can be evaluated.
    force : bool
        Replace files that exist.

    Returns
    -------
    Function
        The same network, evaluated by the programs that were written: on NumPy its results are
        those of the module bit for bit. Those of ``function`` itself may differ by rounding.

    Raises
    ------
    OptionError
        An option has a value that it cannot take.
    OverwriteError
        A file exists, and ``force`` is not True.

    Examples
    --------
    >>> import hessarray as ha
    >>> net = ha.fully_connected([3, 16, 1], act="tanh")
    >>> ha.export(net, "model.py", want=("value", "gradient"))  # doctest: +SKIP
    """
    path = Path(path)
    _check(function, path, backend, weights)
    n = whole("n", n, 1)
    file = path.with_name(f"{path.stem}_weights.npz") if weights == "beside" else None
    for each in (path, file):
        if each is not None and each.exists() and not force:
            raise OverwriteError(f"{each} exists: pass force=True to replace it")

    # The planner, the printer and npz are loaded with the first export.
    from hessarray.export.module import module_text
    from hessarray.export.programs import names_of, plan_for
    from hessarray.export.reference import Exported
    from hessarray.export.weights import Store
    from hessarray.load.npz import write_npz

    names = names_of(want)
    plans = {name: plan_for(function, name, n, backend) for name in names}
    parameters = {k: np.array(plain(a), order="C") for k, a in function.parameters().items()}
    store = Store(parameters)
    text = module_text(function, plans, store, backend, None if file is None else file.name)
    with ExitStack() as both:  # renamed when everything is written
        both.enter_context(replacing(path)).write(text.encode())
        if file is not None:
            write_npz(both.enter_context(replacing(file)), store.arrays, None)
    return Exported(function, parameters, plans)


def _check(function: Function, path: Path, backend: str, weights: str) -> None:
    if not isinstance(function, Function):
        raise OptionError(
            f"function is a {type(function).__name__}: pass a network or a hessarray.Function"
        )
    if path.suffix != ".py":
        raise OptionError(f"{path} is no name of a module: let it end in .py")
    if backend not in _LIBRARIES:
        raise OptionError(f"backend={backend!r}: expected one of {', '.join(_LIBRARIES)}")
    if weights not in _PLACES:
        raise OptionError(f"weights={weights!r}: expected one of {', '.join(_PLACES)}")
