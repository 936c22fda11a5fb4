"""A Gaussian process that somebody fitted: its mean and its variance, as a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hessarray.errors import OptionError, ShapeError
from hessarray.layers import Layer
from hessarray.surrogates.kernels import checked_kernel, covariance, own_variance
from hessarray.surrogates.scaling import real

__all__ = ["GaussianProcess"]

_OUTPUTS = ("mean", "variance")


class GaussianProcess(Layer):
    r"""Posterior mean and variance of Gaussian process regression.

    With k_i = k(x, X_i): mean = (k alpha) std + mean0, and variance =
    (k(x, x) - \|inverse_root k\|^2) std^2 (Rasmussen and Williams 2006, algorithm 2.1).

    Parameters
    ----------
    X : array (N, d)
        The training points.
    alpha : array (N, m) or (N,)
        (K + noise)^-1 y of the scaled targets.
    kernel : tuple
        ``("constant", c)``, ``("rbf", l)`` with one length or one for each column, ``("matern", nu,
        l)`` with nu 1.5 or 2.5, ``("rational_quadratic", alpha, l)``, ``("dot", sigma)``,
        ``("white", noise)``, and of these ``("sum", a, b)``, ``("product", a, b)``,
        ``("power", a, p)``.
    mean, std : array (m,) or float
        Of the targets, where these were scaled.
    inverse_root : array (N, N), optional
        L^-1 of L L^T = K + noise; the variance needs it.
    outputs : str or sequence of str
        ``"mean"``, ``"variance"`` or both, one after another. The variance is that of a new
        observation, with the noise of ``white`` in it, and is not held above zero where rounding
        makes it negative.

    Raises
    ------
    ShapeError
        The arrays do not fit; names both shapes.
    OptionError
        The kernel or an output is unknown, or the variance is asked for without ``inverse_root``.

    Notes
    -----
    Matern's kernels are written as functions of the squared distance, so that first and second
    derivatives are right at the training points too, where the distance itself has none.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> X = np.array([[0.0], [1.0]])
    >>> K = np.exp(-0.5 * (X - X.T) ** 2)
    >>> gp = ha.GaussianProcess(X, np.linalg.solve(K, [1.0, 2.0]), ("rbf", 1.0))
    >>> net = ha.Network(gp)
    >>> np.round(net.value(X), 12).tolist()
    [[1.0], [2.0]]
    """

    X: Any
    alpha: Any
    mean: Any
    std: Any
    inverse_root: Any

    def __init__(
        self,
        X: Any,
        alpha: Any,
        kernel: Any,
        mean: Any = 0.0,
        std: Any = 1.0,
        inverse_root: Any = None,
        outputs: str | Sequence[str] = "mean",
    ) -> None:
        X, alpha = real("GaussianProcess: X", X), real("GaussianProcess: alpha", alpha)
        alpha = alpha[:, None] if alpha.ndim == 1 else alpha
        if X.ndim != 2 or alpha.ndim != 2 or len(X) != len(alpha) or 0 in (X.size, alpha.size):
            raise ShapeError(
                f"GaussianProcess: X {X.shape} and alpha {alpha.shape}, (N, d) and (N, m) are "
                "expected"
            )
        n, m = alpha.shape
        wanted = (outputs,) if isinstance(outputs, str) else tuple(outputs)
        if not wanted or any(w not in _OUTPUTS for w in wanted):
            raise OptionError(
                f"GaussianProcess: outputs={outputs!r}, mean, variance or both are expected"
            )
        if "variance" in wanted and (inverse_root is None or np.shape(inverse_root) != (n, n)):
            raise OptionError(
                f"GaussianProcess: the variance needs inverse_root of shape ({n}, {n})"
            )
        super().__init__(X.shape[1], m * len(wanted))
        self.kernel = checked_kernel(kernel, X.shape[1])
        self.outputs = wanted
        self.X, self.alpha = X, alpha
        self.mean, self.std = (self._targets(k, v, m) for k, v in (("mean", mean), ("std", std)))
        self.inverse_root = np.asarray(inverse_root) if "variance" in wanted else None

    def _targets(self, name: str, value: Any, m: int) -> Any:
        value = real(f"GaussianProcess: {name}", value)
        if value.shape not in ((), (1,), (m,)):
            raise ShapeError(f"GaussianProcess: {name} has shape {value.shape}, ({m},) is expected")
        return np.array(np.broadcast_to(value, (m,)))

    def __call__(self, x: Any) -> Any:
        """The layer's value for the features of one sample."""
        xp = x.__array_namespace__()
        k = covariance(self.kernel, x, self.X)
        if isinstance(k, float):  # the same for all training points
            k = np.full(self.X.shape[0], k)
        parts = []
        for name in self.outputs:
            if name == "mean":
                parts.append((k @ self.alpha) * self.std + self.mean)
            else:
                explained = xp.sum(xp.square(self.inverse_root @ k))
                parts.append((own_variance(self.kernel, x) - explained) * xp.square(self.std))
        return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)
