"""One evaluation for the value, Jacobian and Hessian that a solver asks for at the same x.

Solvers ask in three calls for what one pass gives. How much a pass computes is guessed from what
was asked for at the point before: Newton steps ask for all three at nearly every point, line
searches for values only. Over ten runs of SciPy's and IPOPT's methods that takes half the time of
answering each call by itself, and no more than always computing everything.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hessarray.solve._arguments import vector

__all__ = ["HESSIAN", "JACOBIAN", "VALUE", "Shared"]

VALUE, JACOBIAN, HESSIAN = range(3)
# Up to so many entries the Hessians of all outputs cost less together with value and gradient than
# a weighted one after them: 10 inputs and 8 outputs are at the border, with 3 layers of 64.
_SMALL = 1000


_ARRAY, _FLOAT64 = np.ndarray, np.dtype(np.float64)
# What is known at one x: f (m,), df (d, m), d2f (d, d, m), None where it is not, then the bytes of
# x, the version of the parameters, and the highest level known. Never changed, only replaced.
_Point = tuple[Any, Any, Any, bytes, int, int]
_NOWHERE: _Point = (None, None, None, b"", -1, VALUE)


class Shared:
    """f (m,), df (d, m) and weighted Hessians (d, d) of one function at one x (d,) after another.

    Two threads at different points cost each other evaluations, and never get mixed results.
    """

    def __init__(self, function: Any) -> None:
        # A Function of (d,) to (m,) or (), or what has its methods.
        self.function = function
        (self.d,), self.m = function.in_shape, math.prod(function.out_shape)
        self._version, self._shape = function._version, (self.d,)
        self._together = self.m == 1 or self.d * self.d * self.m <= _SMALL
        self._last = _NOWHERE
        # What repeats an evaluation of each level, and for which version of the parameters: a
        # fifth of a small evaluation is looking at its arguments.
        self._calls: list[tuple[int, Any]] = [(-1, None)] * 3
        self._asked = self._most = VALUE  # at this x, and ever
        self.evaluations = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_calls": [(-1, None)] * 3}

    def value(self, x: Any) -> Any:
        """f, (m,): a copy, so that a solver may write into it."""
        return self.at(x, VALUE).copy()

    def jacobian(self, x: Any) -> Any:
        """df_m/dx_a, (m, d), in C order, a copy."""
        return self.at(x, JACOBIAN).T.copy()

    def weighted_hessian(self, x: Any, lam: np.ndarray) -> Any:
        """sum_m lam_m d2f_m/dx_a dx_b, (d, d)."""
        if not self._together:
            self.evaluations += 1
            return self.function.weighted_hessian(self.point(x), lam)
        # A matrix times a vector takes a third of the time of the same product in three axes.
        return self.at(x, HESSIAN).reshape(-1, self.m).dot(lam).reshape(self.d, self.d)

    def point(self, x: Any) -> Any:
        """x as float64 (d,)."""
        return vector("x", x, self.d)

    def at(self, x: Any, level: int) -> Any:
        """The result of this level at x, to read from only: f, df or d2f."""
        # Before the bytes are compared: those of other dtypes and shapes mean something else.
        if type(x) is not _ARRAY or x.dtype is not _FLOAT64 or x.shape != self._shape:
            x = self.point(x)
        # Parameters may be replaced between two calls at the same x.
        last, key, version = self._last, x.tobytes(), self._version()
        if key == last[3] and version == last[4]:
            if level > self._asked:
                self._asked = level
            if level > last[5]:
                last = self._more(x, last, level)
            return last[level]
        before = self._asked
        return self._evaluate(x, key, version, level, level if level > before else before)[level]

    def _more(self, x: np.ndarray, last: _Point, level: int) -> _Point:
        """The same x, asked for more than is known."""
        self._most = max(self._most, level)
        f, df, d2f, key, version, known = last
        if known == VALUE and self._most == HESSIAN:  # which then follows the gradient
            return self._evaluate(x, key, version, level, HESSIAN)
        if level == JACOBIAN:
            df = self.function.gradient(x)
        else:
            d2f = self.function.hessian(x)
            d2f.setflags(False)
        self.evaluations += 1
        self._last = point = (f, df, d2f, key, version, level)
        return point

    def _evaluate(self, x: np.ndarray, key: bytes, version: int, asked: int, level: int) -> _Point:
        """Everything up to this level, in one pass."""
        df = d2f = None
        known, call = self._calls[level]
        if call is not None and known == version:
            if level == HESSIAN:
                f, df, d2f = call(x)
            elif level == JACOBIAN:
                f, df = call(x)
            else:
                (f,) = call(x)
        else:
            if level == HESSIAN:
                f, df, d2f = self.function.value_gradient_hessian(x)
            elif level == JACOBIAN:
                f, df, _ = self.function.derivatives(x, do_gradient=True)
            else:
                f = self.function.value(x)
            again = self.function._repeated(x, level >= JACOBIAN, level == HESSIAN)
            self._calls[level] = version, again
        if d2f is not None:
            d2f.setflags(False)
        self.evaluations += 1
        self._asked = asked
        if asked > self._most:
            self._most = asked
        self._last = point = (f, df, d2f, key, version, level)
        return point
