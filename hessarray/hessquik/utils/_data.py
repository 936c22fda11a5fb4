"""MATLAB's peaks on torch tensors."""

from __future__ import annotations

from torch import Tensor

from hessarray import data


def peaks(
    y: Tensor, do_gradient: bool = False, do_Hessian: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """``hessarray.data.peaks`` in contiguous tensors, of which scripts take views.

    Parameters
    ----------
    y : torch.Tensor (n, 2)
        Coordinates.
    do_gradient, do_Hessian : bool
        What to compute; the Hessian comes with the gradient.

    Returns
    -------
    tuple
        f (n, 1), gradient (n, 2, 1) or None, Hessian (n, 2, 2, 1) or None.
    """
    found = data.peaks(y, do_gradient, do_Hessian)
    f, df, d2f = (None if a is None else a.contiguous() for a in found)
    return f, df, d2f
