"""Test functions with exact derivatives."""

from __future__ import annotations

from typing import Any

from hessarray.function import Derivatives, Function

__all__ = ["peaks", "peaks_function"]


def _peaks(u: Any) -> Any:
    xp = u.__array_namespace__()
    x, y = u[0], u[1]
    x2, y2 = xp.square(x), xp.square(y)
    hill = 3.0 * xp.square(1.0 - x) * xp.exp(-x2 - xp.square(y + 1.0))
    waves = 10.0 * (x / 5.0 - x2 * x - xp.square(y2) * y) * xp.exp(-x2 - y2)
    dent = xp.exp(-xp.square(x + 1.0) - y2) / 3.0
    return xp.reshape(hill - waves - dent, (1,))


#: MATLAB's peaks as a function of one sample (2,) with one output: all derivatives of a Function.
peaks_function = Function(_peaks, in_shape=(2,))


def peaks(y: Any, do_gradient: bool = False, do_Hessian: bool = False) -> Derivatives:
    r"""MATLAB's peaks function of two variables, on [-3, 3]^2.

        f(x, y) = 3 (1 - x)^2 exp(-x^2 - (y + 1)^2)
                  - 10 (x/5 - x^3 - y^5) exp(-x^2 - y^2) - exp(-(x + 1)^2 - y^2) / 3

    Parameters
    ----------
    y : array (n, 2)
        Coordinates, of any array library.
    do_gradient, do_Hessian : bool
        What to compute; the Hessian comes with the gradient, as in hessQuik.

    Returns
    -------
    Derivatives
        f (n, 1), gradient (n, 2, 1), Hessian (n, 2, 2, 1); None where not asked for.

    Examples
    --------
    >>> import numpy as np
    >>> f, df, d2f = peaks(np.zeros((4, 2)), do_gradient=True, do_Hessian=True)
    >>> f.shape, df.shape, d2f.shape
    ((4, 1), (4, 2, 1), (4, 2, 2, 1))
    """
    return peaks_function.derivatives(
        y, do_gradient=do_gradient or do_Hessian, do_Hessian=do_Hessian
    )
