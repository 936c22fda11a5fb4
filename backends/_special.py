"""erf and erfc in array API standard code, for libraries that lack them.

Both follow from one fit. With E(x) = exp(x^2) erfc(x) the scaled complementary error function,
(x + 1/2) E(x) is smooth and nearly constant on x >= 0, and a polynomial in
t = (k - m x) / (x + k), which maps the range [0, b] where erfc does not underflow onto [-1, 1]
(the idea of M. M. Shepherd and J. G. Laframboise, Math. Comp. 36 (1981) 249). For |x| < 1/2, erf(x)
is x times a polynomial in x^2. The coefficients, highest power first, are the Chebyshev
interpolants in 80 points, computed with mpmath to 50 digits and rounded; the last one of _ERFCX_64
is one ulp up, which makes erfc(0) exactly 1:

    float64  k = 3.5, m = 5/4, b = 28: degree 22, 1e-17 of the value
    float32  k = 3,   m = 3/2, b = 12: degree 10, 4e-9 of the value

The work arrays are updated with ``*=`` and ``+=``, which an immutable array library turns into new
arrays and every other one does in place, at half the time.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Extended", "erf", "erfc"]


class Extended:
    """An array namespace with the functions that the standard lacks: erf, erfc and reciprocal.

    Parameters
    ----------
    xp : namespace
        An array API namespace; every other attribute is looked up in it.
    erf, erfc, reciprocal : callable, optional
        The library's own functions of one array. Where left out: the ones of this module, and
        ``1.0 / x``.
    **others : callable
        What stands in for functions of the namespace.

    Examples
    --------
    >>> import numpy as np
    >>> xp = Extended(np)
    >>> xp.reciprocal(xp.asarray([2.0, 4.0])).tolist()
    [0.5, 0.25]
    """

    def __init__(
        self,
        xp: Any,
        *,
        erf: Any = None,
        erfc: Any = None,
        reciprocal: Any = None,
        **others: Any,
    ) -> None:
        self._xp = xp
        self.__dict__ |= others
        self.erf = erf if erf is not None else lambda x: _erf(xp, x)
        self.erfc = erfc if erfc is not None else lambda x: _erfc(xp, x)
        self.reciprocal = reciprocal if reciprocal is not None else lambda x: 1.0 / x

    def __getattr__(self, name: str) -> Any:
        if name == "_xp":  # asked for before __init__ ran, as copy and pickle do
            raise AttributeError(name)
        return getattr(self._xp, name)

    def __repr__(self) -> str:
        return f"Extended({self._xp!r})"


def erf(xp: Any, x: Any) -> Any:
    """The error function 2/sqrt(pi) times the integral of exp(-u^2) from 0 to x.

    Parameters
    ----------
    xp : namespace
        The array API namespace of ``x``.
    x : array
        Real floating; any shape and device.

    Returns
    -------
    array
        erf(x) in the dtype of ``x``, to 3 ulp; NaN where x is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> float(erf(np, np.asarray(0.5)).round(12))
    0.520499877813
    """
    double = x.dtype == xp.float64
    # erf(6) is 1 in float64 too; beyond, the branch that is not taken would overflow.
    w = xp.clip(x, -6.0, 6.0)
    a = xp.abs(w)
    outer = xp.exp(-(a * a))
    outer *= _erfcx(a, double)
    outer = 1.0 - outer
    outer = xp.where(x < 0.0, -outer, outer)
    inner = _horner(_ERF_64 if double else _ERF_32, a * a)
    inner *= w
    return xp.where(a < 0.5, inner, outer)


def erfc(xp: Any, x: Any) -> Any:
    """The complementary error function 1 - erf(x), without its cancellation for positive x.

    Parameters
    ----------
    xp : namespace
        The array API namespace of ``x``.
    x : array
        Real floating; any shape and device.

    Returns
    -------
    array
        erfc(x) in the dtype of ``x``, to 6 ulp down to where it underflows; NaN where x is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> f"{float(erfc(np, np.asarray(20.0))):.12e}"
    '5.395865611608e-176'
    """
    double = x.dtype == xp.float64
    a = xp.clip(xp.abs(x), 0.0, 28.0)  # erfc(28) underflows in float64 too
    # exp(-a^2) with a = q + r: q^2 is exact, so the rounding of a^2 is not amplified a^2 times.
    q = xp.round(a * 16.0)
    q *= 0.0625
    y = q - a
    y *= q + a
    y = xp.exp(y)
    y *= _erfcx(a, double)
    q *= q
    y *= xp.exp(-q)
    return xp.where(x < 0.0, 2.0 - y, y)


# The methods of Extended have parameters of these names.
_erf, _erfc = erf, erfc


def _erfcx(a: Any, double: bool) -> Any:
    """exp(a^2) erfc(a) for 0 <= a <= 28."""
    k, m, coefficients = (3.5, -1.25, _ERFCX_64) if double else (3.0, -1.5, _ERFCX_32)
    t = a * m
    t += k
    t /= a + k
    p = _horner(coefficients, t)
    p /= a + 0.5
    return p


def _horner(coefficients: tuple[float, ...], t: Any) -> Any:
    p = t * coefficients[0]
    for c in coefficients[1:-1]:
        p += c
        p *= t
    p += coefficients[-1]
    return p


_ERFCX_64 = (
    1.0354434723049714e-10,
    -1.8984680255044922e-10,
    -1.2758918266117577e-09,
    2.861244019947149e-09,
    1.0203632285589076e-08,
    -2.7967213967274495e-08,
    -8.119216084214587e-08,
    2.362510016847213e-07,
    7.759336789786684e-07,
    -1.7237059904535417e-06,
    -8.869193002466506e-06,
    5.891388585245115e-06,
    0.00010301844042733991,
    0.0001726012806794218,
    -0.0006967538683363891,
    -0.004957542806737911,
    -0.01605141712574824,
    -0.034904807317005945,
    -0.054304793227124205,
    -0.056529796057682165,
    -0.020903763785938775,
    0.059265738272913426,
    0.6288113029769733,
)
_ERFCX_32 = (
    -1.3699013834411744e-05,
    1.5647725376766175e-05,
    0.00024345540441572666,
    0.00015808327589184046,
    -0.0032388027757406235,
    -0.016053255647420883,
    -0.04143379256129265,
    -0.06561093032360077,
    -0.05120747163891792,
    0.03865157440304756,
    0.6384891867637634,
)
_ERF_64 = (
    -1.4621341491012844e-07,
    1.6371282597755977e-06,
    -1.4923005626894847e-05,
    0.00012055286259121393,
    -0.0008548326511566567,
    0.005223977622024224,
    -0.026866170645000076,
    0.1128379167095487,
    -0.3761263890318375,
    1.1283791670955126,
)
_ERF_32 = (
    0.004719505354359774,
    -0.02675794433264579,
    0.1128283473915142,
    -0.3761260917334063,
    1.1283791656147941,
)
