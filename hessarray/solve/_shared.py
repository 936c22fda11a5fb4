"""One evaluation for the value, Jacobian and Hessian that a solver asks for at the same x.

Solvers ask in three calls for what one pass gives. How much a pass computes is guessed from what
was asked for at the point before: Newton steps ask for all three at nearly every point, line
searches for values only. Over ten runs of SciPy's and IPOPT's methods that takes half the time of
answering each call by itself, and no more than always computing everything.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hessarray.function import Function
from hessarray.solve._arguments import vector

__all__ = ["HESSIAN", "JACOBIAN", "VALUE", "Shared"]

VALUE, JACOBIAN, HESSIAN = range(3)
# Up to so many entries the Hessians of all outputs cost less together with value and gradient than
# a weighted one after them: 10 inputs and 8 outputs are at the border, with 3 layers of 64.
_SMALL = 1000


_FLOAT64 = np.dtype(np.float64)


class _Point:
    """What is known at one x. Results are never changed: a fuller point takes its place."""

    __slots__ = ("asked", "d2f", "df", "f", "key", "known", "version")

    def __init__(
        self, key: Any, version: int, asked: int, known: int, f: Any, df: Any, d2f: Any
    ) -> None:
        self.key, self.version, self.asked, self.known = key, version, asked, known
        self.f, self.df, self.d2f = f, df, d2f


class Shared:
    """f (m,), df (d, m) and weighted Hessians (d, d) of one function at one x (d,) after another.

    Two threads at different points cost each other evaluations, and never get mixed results.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        (self.d,), (self.m,) = function.in_shape, function.out_shape
        self._shape, self._version = (self.d,), function._version
        self._together = self.m == 1 or self.d * self.d * self.m <= _SMALL
        self._most = VALUE
        self._last = _Point(None, 0, VALUE, VALUE, None, None, None)
        self.evaluations = 0

    def value(self, x: Any) -> Any:
        """f, (m,): a copy, so that a solver may write into it."""
        return self.at(x, VALUE).f.copy()

    def jacobian(self, x: Any) -> Any:
        """df_m/dx_a, (m, d), in C order, a copy."""
        return self.at(x, JACOBIAN).df.T.copy()

    def weighted_hessian(self, x: Any, lam: np.ndarray) -> Any:
        """sum_m lam_m d2f_m/dx_a dx_b, (d, d)."""
        if self._together:
            d2f = self.at(x, HESSIAN).d2f
            return d2f[:, :, 0] * lam[0] if self.m == 1 else d2f @ lam
        return self.function.weighted_hessian(self.point(x), lam)

    def point(self, x: Any) -> Any:
        """x as float64 (d,)."""
        if type(x) is np.ndarray and x.dtype is _FLOAT64 and x.shape == self._shape:
            return x
        return vector("x", x, self.d)

    def at(self, x: Any, level: int) -> _Point:
        """Everything up to this level at x, to read from only: f, then df, then d2f."""
        # As `point`, without the call: this is the way of every call of a solver.
        if type(x) is not np.ndarray or x.dtype is not _FLOAT64 or x.shape != self._shape:
            x = vector("x", x, self.d)
        last = self._last
        key = x.tobytes()
        # Parameters may be replaced between two calls at the same x.
        if key == last.key and self._version() == last.version:
            return last if level <= last.asked else self._more(x, last, level)
        self._most = max(self._most, level)
        return self._evaluate(x, key, level, max(level, last.asked))

    def _more(self, x: np.ndarray, last: _Point, level: int) -> _Point:
        """The same x, asked for more than before."""
        self._most = max(self._most, level)
        if level <= last.known:
            last.asked = level
            return last
        if last.known == VALUE and self._most == HESSIAN:  # which then follows the gradient
            return self._evaluate(x, last.key, level, HESSIAN)
        if level == JACOBIAN:
            df, d2f = self.function.gradient(x), None
        else:
            df, d2f = last.df, self.function.hessian(x)
        self.evaluations += 1
        point = _Point(last.key, last.version, level, level, last.f, df, d2f)
        self._last = point
        return point

    def _evaluate(self, x: np.ndarray, key: bytes, asked: int, level: int) -> _Point:
        """All of it up to this level, in one pass."""
        df = d2f = None
        version = self._version()
        if level == VALUE:
            f = self.function.value(x)
        elif level == JACOBIAN:
            f, df, _ = self.function.derivatives(x, do_gradient=True)
        else:
            f, df, d2f = self.function.value_gradient_hessian(x)
        self.evaluations += 1
        point = _Point(key, version, asked, level, f, df, d2f)
        self._last = point
        return point
