"""Affine scalers and bounds, column by column."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from hessarray.errors import OptionError, ShapeError
from hessarray.layers import Layer

__all__ = ["Clip", "Scale"]


class Scale(Layer):
    """f(u) = (u - mean) / std, or with ``inverse=True`` its inverse u std + mean.

    The scaler of the inputs and, inverted, that of the outputs are then inside the derivatives,
    which are those in physical units.

    Parameters
    ----------
    mean, std : array_like (d,) or float
        What is taken off, and what it is divided by, for each column. They are parameters: leave
        them out of what an optimiser may change.
    inverse : bool
        From scaled to physical: for outputs.
    features : int, optional
        d, where mean and std are both plain numbers.

    Raises
    ------
    ShapeError
        mean and std are no numbers or vectors of one length.
    OptionError
        A std is zero, or not finite.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> net = ha.Network(ha.Scale([300.0, 1e5], [50.0, 2e4]), ha.Dense(2, 1, act="tanh"),
    ...                  ha.Scale(12.0, 3.0, inverse=True, features=1))
    >>> net.hessian(np.array([310.0, 1.1e5])).shape
    (2, 2, 1)
    """

    mean: Any
    std: Any

    def __init__(
        self, mean: Any, std: Any, inverse: bool = False, features: int | None = None
    ) -> None:
        mean, std = columns_of("Scale", features, mean=mean, std=std)
        if not (np.all(np.isfinite(std)) and np.all(std != 0.0)):
            bad = int(np.argmax(~np.isfinite(std) | (std == 0.0)))
            raise OptionError(
                f"Scale: std[{bad}] is {std[bad]}, a finite number other than 0 is expected: use 1 "
                "for a column that is constant"
            )
        super().__init__(len(mean), len(mean))
        self.inverse = bool(inverse)
        self.mean, self.std = mean, std

    @classmethod
    def between(
        cls,
        low: Any,
        high: Any,
        to: tuple[float, float] = (0.0, 1.0),
        inverse: bool = False,
        features: int | None = None,
    ) -> Self:
        """The scaler that takes [low, high] to the interval ``to``, or back.

        Examples
        --------
        >>> import numpy as np, hessarray as ha
        >>> scale = ha.Scale.between([0.0, -1.0], [10.0, 1.0], to=(-1.0, 1.0))
        >>> scale(np.array([5.0, 1.0])).tolist()
        [0.0, 1.0]
        """
        low, high = columns_of("Scale.between", features, low=low, high=high)
        start, end = map(float, to)
        if start == end:
            raise OptionError(f"Scale.between: to=({start}, {end}) is no interval: give two ends")
        std = (high - low) / (end - start)
        return cls(low - start * std, std, inverse)

    def __call__(self, u: Any) -> Any:
        """The layer's value for the features of one sample."""
        if self.inverse:
            return u * self.std + self.mean
        return (u - self.mean) / self.std


class Clip(Layer):
    """f(u) = min(max(u, low), high), column by column; an infinite bound is none.

    At a bound the slope is 1, outside it is 0, and the second derivative is zero everywhere: see
    `hessarray.kinks`.

    Parameters
    ----------
    low, high : array_like (d,) or float
        The bounds.
    features : int, optional
        d, where both are plain numbers.

    Raises
    ------
    ShapeError
        low and high are no numbers or vectors of one length.
    OptionError
        A low is above its high, or NaN.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> ha.Clip([0.0, -np.inf], 1.0)(np.array([-3.0, -3.0])).tolist()
    [0.0, -3.0]
    """

    def __init__(self, low: Any, high: Any, features: int | None = None) -> None:
        low, high = columns_of("Clip", features, low=low, high=high)
        if not np.all(low <= high):
            bad = int(np.argmax(~(low <= high)))
            raise OptionError(f"Clip: low[{bad}] is {low[bad]}, high[{bad}] is {high[bad]}")
        super().__init__(len(low), len(low))
        # Tuples: an array would be a parameter, which training changes.
        self.low, self.high = tuple(low.tolist()), tuple(high.tolist())

    def __call__(self, u: Any) -> Any:
        """The layer's value for the features of one sample."""
        xp = u.__array_namespace__()
        low, high = np.asarray(self.low), np.asarray(self.high)
        if np.any(low > -np.inf):
            u = xp.maximum(u, low)
        return xp.minimum(u, high) if np.any(high < np.inf) else u


def real(name: str, value: Any) -> np.ndarray[Any, Any]:
    """The value as an array of float32, if it is one, or float64."""
    try:
        array = np.asarray(value)
        return array if array.dtype == np.float32 else array.astype(np.float64)
    except (TypeError, ValueError):
        raise OptionError(f"{name} is {value!r:.80}: real numbers are expected") from None


def columns_of(name: str, features: int | None, **given: Any) -> list[np.ndarray[Any, Any]]:
    """The values for each column, all of one length."""
    arrays = {k: real(f"{name}: {k}", v) for k, v in given.items()}
    lengths = {a.shape[0] for a in arrays.values() if a.ndim == 1}
    if features is not None:
        lengths.add(features)
    shown = ", ".join(f"{k} {a.shape}" for k, a in arrays.items())
    if any(a.ndim > 1 for a in arrays.values()) or len(lengths) > 1 or 0 in lengths:
        raise ShapeError(
            f"{name}: {shown}{'' if features is None else f' for {features} features'}: numbers or "
            "vectors of one length are expected"
        )
    if not lengths:
        raise ShapeError(f"{name}: numbers alone do not say how many columns: give features=")
    (length,) = lengths
    return [np.array(np.broadcast_to(a, (length,))) for a in arrays.values()]
