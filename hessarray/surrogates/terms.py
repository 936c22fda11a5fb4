"""Layers of several columns at once: monomials, and probabilities that sum to one."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from hessarray.errors import OptionError, ShapeError
from hessarray.layers import Layer
from hessarray.surrogates.columns import taken

__all__ = ["Polynomial", "Softmax"]

_MOST = 64  # degree


class Polynomial(Layer):
    """Monomials: f_j(u) = prod_k u_k ** powers[j][k].

    Parameters
    ----------
    powers : array_like of int, (m, d)
        The exponents, from 0 to 64 in sum; a row of zeros is the constant 1.

    Raises
    ------
    ShapeError
        powers is no matrix.
    OptionError
        An exponent is negative or not whole, or a degree is above 64.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> ha.Polynomial([[0, 0], [1, 0], [1, 1], [0, 3]])(np.array([2.0, 3.0])).tolist()
    [1.0, 2.0, 6.0, 27.0]
    """

    def __init__(self, powers: Any) -> None:
        table = np.asarray(powers)
        if table.ndim != 2 or not table.size:
            raise ShapeError(f"Polynomial: powers has shape {table.shape}, (m, d) is expected")
        whole = table.astype(np.int64)
        if np.any(whole != table) or np.any(whole < 0) or np.any(whole.sum(axis=1) > _MOST):
            raise OptionError(
                f"Polynomial: powers must be whole numbers from 0 on, {_MOST} at most in a row"
            )
        super().__init__(table.shape[1], table.shape[0])
        self.powers: tuple[tuple[int, ...], ...] = tuple(map(tuple, whole.tolist()))

    def __call__(self, u: Any) -> Any:
        """The layer's value for the features of one sample."""
        xp = u.__array_namespace__()
        factors = [[k for k, p in enumerate(row) for _ in range(p)] for row in self.powers]
        degree = max(map(len, factors))
        if any(len(f) < degree for f in factors) or degree == 0:
            u = xp.concat([u, xp.ones((1,), dtype=u.dtype)], axis=0)
        one = u.shape[0] - 1
        padded = [f + [one] * (max(degree, 1) - len(f)) for f in factors]
        parts = [taken(u, column) for column in zip(*padded, strict=True)]
        return functools.reduce(lambda a, b: a * b, parts)


class Softmax(Layer):
    """f_j(u) = exp(u_j) / sum_k exp(u_k), or its logarithm.

    Parameters
    ----------
    features : int
        Number of features in and out.
    log : bool
        Give log f_j instead.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> net = ha.Network(ha.Softmax(2))
    >>> net.value(np.array([1000.0, 1000.0])).tolist()
    [0.5, 0.5]
    """

    def __init__(self, features: int, log: bool = False) -> None:
        super().__init__(features, features)
        self.log = bool(log)

    def __call__(self, u: Any) -> Any:
        """The layer's value for the features of one sample."""
        xp = u.__array_namespace__()
        # A number that cancels exactly, so that it may be held constant.
        z = u - xp.stop_gradient(xp.max(u))
        e = xp.exp(z)
        total = xp.sum(e)
        return z - xp.log(total) if self.log else e / total
