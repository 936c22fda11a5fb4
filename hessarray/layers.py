"""Layers, written once and forward only; nobody derives a Hessian by hand."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import numpy as np

from hessarray._arguments import dtype_option, frozen
from hessarray.activations import activation
from hessarray.backends import backend_of
from hessarray.errors import ShapeError

__all__ = [
    "Dense",
    "InputConvex",
    "InputConvexQuadratic",
    "Layer",
    "Quadratic",
    "Residual",
]

# Counts changes of any layer's attributes: networks keep what they collected until it moves, and
# the code that they traced until something else than an array changes (names and shapes of arrays
# are compared).
_edits = itertools.count(1)
latest_edit = [0]
latest_change = [0]

Activation = str | Callable[[Any], Any]
Shape = tuple[int, ...]


class Layer:
    """Base class of layers: a subclass sets its arrays as attributes and writes ``__call__``.

    Every real array that is set as an attribute is a parameter of that name; an attribute that is
    itself a layer, or a list of layers, contributes its parameters under ``name.``.

    Parameters
    ----------
    in_features, out_features : int
        Widths, checked where layers are composed.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> class Scale(ha.Layer):
    ...     def __init__(self, factor):
    ...         super().__init__(len(factor), len(factor))
    ...         self.factor = np.asarray(factor, dtype=float)
    ...     def __call__(self, u):
    ...         return u * self.factor
    >>> ha.Network(Scale([1.0, 2.0]), ha.Quadratic(2, 2)).out_features
    1
    """

    in_features: int
    out_features: int

    def __init__(self, in_features: int, out_features: int) -> None:
        self.in_features = self._width("in_features", in_features)
        self.out_features = self._width("out_features", out_features)

    def __repr__(self) -> str:
        # A subclass may be printed before it has called super().__init__.
        sizes = (str(getattr(self, name, "?")) for name in ("in_features", "out_features"))
        return f"{type(self).__name__}({', '.join(sizes)})"

    def _width(self, name: str, width: Any, least: int = 1) -> int:
        integer = isinstance(width, (int, np.integer)) and not isinstance(width, bool)
        if not integer or width < least:
            kind = "a positive integer" if least else "an integer from 0 on"
            raise ShapeError(f"{type(self).__name__}: {name}={width!r}, {kind} is expected")
        return int(width)

    def __call__(self, u: Any) -> Any:
        """The layer's value for the features of one sample."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, u)")

    # ---- parameters --------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
            value = frozen(name, value)
        elif isinstance(value, list) and any(map(_is_layer, value)):
            value = tuple(value)  # so that a change of the list cannot go unseen
        self._set(name, value)

    def _set(self, name: str, value: Any) -> None:
        before = vars(self).get(name, value)  # a new attribute is that of a layer being made
        object.__setattr__(self, name, value)
        latest_edit[0] = next(_edits)
        if before is not value and backend_of(before) is backend_of(value) is None:
            latest_change[0] = latest_edit[0]

    def _items(self) -> Iterator[tuple[str, Any]]:
        """(name, array or layer) in the order of definition."""
        for name, value in vars(self).items():
            if isinstance(value, tuple) and any(map(_is_layer, value)):
                yield from ((f"{name}.{i}", v) for i, v in enumerate(value))
            elif _is_layer(value) or backend_of(value) is not None:
                yield name, value

    def parameters(self) -> dict[str, Any]:
        """The named parameters, nested names joined by dots."""
        found: dict[str, Any] = {}
        for name, value in self._items():
            if _is_layer(value):
                found.update({f"{name}.{k}": v for k, v in value.parameters().items()})
            else:
                found[name] = value
        return found

    def _replace(self, arrays: Mapping[str, Any]) -> None:
        for name, value in list(self._items()):
            if _is_layer(value):
                value._replace(_below(arrays, name))
            elif name in arrays:
                self._set(name, arrays[name])

    def with_parameters(self, arrays: Mapping[str, Any]) -> Self:
        """A copy of the layer with other arrays in place of its parameters."""
        twin = copy.copy(self)
        for name, value in self._items():
            new = value.with_parameters(_below(arrays, name)) if _is_layer(value) else arrays[name]
            stem, dot, index = name.partition(".")
            if dot:
                siblings = list(getattr(twin, stem))
                siblings[int(index)] = new
                new = tuple(siblings)
            object.__setattr__(twin, stem, new)
        return twin

    def initialize(self, rng: np.random.Generator, dtype: str = "float64") -> None:
        """Draw new parameters; layers without an initialisation of their own keep theirs."""
        for _, value in self._items():
            if _is_layer(value):
                value.initialize(rng, dtype)


def _is_layer(value: Any) -> bool:
    return hasattr(value, "with_parameters") and not isinstance(value, type)


def _below(arrays: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {k[len(name) + 1 :]: v for k, v in arrays.items() if k.startswith(name + ".")}


class _Drawn(Layer):
    """A layer whose parameters are drawn uniformly: name -> (shape, low, high)."""

    def _ranges(self) -> dict[str, tuple[Shape, float, float]]:
        raise NotImplementedError

    def _start(self, seed: Any, dtype: str) -> None:
        """First parameters; ``seed=...`` leaves them out, for a reader that brings its own."""
        dtype = dtype_option(dtype)
        if seed is not Ellipsis:
            self.initialize(np.random.default_rng(seed), dtype)

    def _given(self, input_dim: Any, in_features: Any) -> tuple[int, int | None]:
        """Lengths of x and of u, which the first layer does not have."""
        d = self._width("input_dim", input_dim)
        return d, None if in_features is None else self._width("in_features", in_features)

    def initialize(self, rng: np.random.Generator, dtype: str = "float64") -> None:
        for name, (shape, low, high) in self._ranges().items():
            setattr(self, name, rng.uniform(low, high, shape).astype(dtype))


def _symmetric(shape: Shape, bound: float) -> tuple[Shape, float, float]:
    return shape, -bound, bound


def _kaiming(fan: int, a: float) -> float:
    """Bound of torch's kaiming_uniform_, which hessQuik draws from (He et al. 2015)."""
    return math.sqrt(6.0 / ((1.0 + a * a) * fan))


class Dense(_Drawn):
    r"""f(u) = act(u K + b), with K (in, out) and b (out,) (hessQuik: singleLayer).

    Parameters
    ----------
    in_features, out_features : int
        Widths.
    act : str or callable
        A name of the table of activations, an activation, or array API code of one array.
    bias : bool
        Whether there is a b.
    seed : int or numpy.random.Generator, optional
        For the initial parameters, uniform in +-1/sqrt(out) as in hessQuik.
    dtype : str
        'float64' or 'float32', of the stored parameters.

    Examples
    --------
    >>> import hessarray as ha
    >>> ha.Dense(3, 2, act="tanh").parameters()["K"].shape
    (3, 2)
    """

    K: Any
    b: Any

    def __init__(
        self,
        in_features: int,
        out_features: int,
        act: Activation = "identity",
        bias: bool = True,
        seed: Any = None,
        dtype: str = "float64",
    ) -> None:
        super().__init__(in_features, out_features)
        self.act = activation(act)
        self.bias = bias
        self.K = self.b = None  # in the order of hessQuik's parameters
        self._start(seed, dtype)

    def _ranges(self) -> dict[str, tuple[Shape, float, float]]:
        n, m = self.in_features, self.out_features
        # torch counts the second axis of K, which is the output here, as the fan-in.
        ranges = {"K": _symmetric((n, m), _kaiming(m, math.sqrt(5.0)))}
        if self.bias:
            ranges["b"] = _symmetric((m,), 1.0 / math.sqrt(m))
        return ranges

    def __call__(self, u: Any) -> Any:
        """The layer's value for the features of one sample."""
        z = u @ self.K
        return self.act(z if self.b is None else z + self.b)


class Residual(_Drawn):
    """f(u) = u + h act(u K + b), with K (w, w) and b (w,) (hessQuik: resnetLayer).

    Parameters
    ----------
    width : int
        Number of features in and out.
    h : float
        Step size.
    act, bias, seed, dtype
        As in Dense.
    """

    K: Any
    b: Any

    def __init__(
        self,
        width: int,
        h: float = 1.0,
        act: Activation = "identity",
        bias: bool = True,
        seed: Any = None,
        dtype: str = "float64",
    ) -> None:
        super().__init__(width, width)
        self.h = float(h)
        self.act = activation(act)
        self.bias = bias
        self.K = self.b = None  # in the order of hessQuik's parameters
        self._start(seed, dtype)

    _ranges = Dense._ranges

    def __call__(self, u: Any) -> Any:
        """The layer's value for the features of one sample."""
        z = u @ self.K
        return u + self.h * self.act(z if self.b is None else z + self.b)


class InputConvex(_Drawn):
    """f([u, x]) = [act(u softplus(L) + x K + b), x] (hessQuik: ICNNLayer; Amos et al. 2017).

    Convex in x where act is convex and non-decreasing, as the weights of u are kept non-negative.

    Parameters
    ----------
    input_dim : int
        d, the length of x, which the layer passes on behind its features.
    in_features : int or None
        Length of u; None for the first layer, which sees x only.
    out_features : int
        Number of new features; the layer returns ``out_features + input_dim``.
    act, bias, seed, dtype
        As in Dense; L (in, out), K (d, out), b (out,).
    """

    L: Any
    K: Any
    b: Any

    def __init__(
        self,
        input_dim: int,
        in_features: int | None,
        out_features: int,
        act: Activation = "softplus",
        bias: bool = True,
        seed: Any = None,
        dtype: str = "float64",
    ) -> None:
        d, w = self._given(input_dim, in_features)
        m = self._width("out_features", out_features)
        super().__init__(d + (w or 0), m + d)
        self.input_dim, self.width_in, self.width_out = d, w, m
        self.act = activation(act)
        self.bias = bias
        self.K = self.L = self.b = None
        self._start(seed, dtype)

    def _ranges(self) -> dict[str, tuple[Shape, float, float]]:
        d, w, m = self.input_dim, self.width_in, self.width_out
        ranges = {"K": _symmetric((d, m), _kaiming(m, math.sqrt(d)))}
        if w is not None:
            ranges["L"] = _symmetric((w, m), _kaiming(m, math.sqrt(w)))
        if self.bias:
            ranges["b"] = _symmetric((m,), 1.0 / math.sqrt(m))
        return ranges

    def __call__(self, ux: Any) -> Any:
        """The layer's value for the features [u, x] of one sample."""
        xp = ux.__array_namespace__()
        w = self.width_in or 0
        x = ux[w:]
        z = x @ self.K
        if self.L is not None:
            z = ux[:w] @ _nonnegative(self.L) + z
        return xp.concat([self.act(z if self.b is None else z + self.b), x], axis=0)


class Quadratic(_Drawn):
    """f(u) = u v + |A u|^2 / 2 + mu, one output (hessQuik: quadraticLayer).

    Parameters
    ----------
    in_features : int
        Length of u.
    rank : int
        Rows of A (rank, in); v is (in,), mu (1,).
    seed, dtype
        As in Dense.
    """

    v: Any
    A: Any
    mu: Any

    def __init__(
        self, in_features: int, rank: int, seed: Any = None, dtype: str = "float64"
    ) -> None:
        super().__init__(in_features, 1)
        self.rank = self._width("rank", rank, 0)
        self.v = self.mu = self.A = None
        self._start(seed, dtype)

    def _ranges(self) -> dict[str, tuple[Shape, float, float]]:
        n = self.in_features
        bound = 1.0 / math.sqrt(n)
        return {
            "v": _symmetric((n,), bound),
            "mu": ((1,), 0.0, 1.0),
            "A": _symmetric((self.rank, n), bound),
        }

    def __call__(self, u: Any) -> Any:
        """The layer's value for the features of one sample."""
        return _quadratic(u, self.A) + u @ self.v + self.mu


class InputConvexQuadratic(_Drawn):
    """f([u, x]) = u softplus(w) + x v + |A x|^2 / 2 + mu (hessQuik: quadraticICNNLayer).

    Parameters
    ----------
    input_dim : int
        d, the length of x at the end of the features.
    in_features : int or None
        Length of u; None where there is only x.
    rank : int
        Rows of A (rank, d); w is (in,), v (d,), mu (1,).
    seed, dtype
        As in Dense.
    """

    w: Any
    v: Any
    A: Any
    mu: Any

    def __init__(
        self,
        input_dim: int,
        in_features: int | None,
        rank: int,
        seed: Any = None,
        dtype: str = "float64",
    ) -> None:
        d, w = self._given(input_dim, in_features)
        super().__init__(d + (w or 0), 1)
        self.input_dim, self.width_in = d, w
        self.rank = self._width("rank", rank, 0)
        self.w = self.v = self.mu = self.A = None
        self._start(seed, dtype)

    def _ranges(self) -> dict[str, tuple[Shape, float, float]]:
        d, w = self.input_dim, self.width_in
        ranges = {}
        if w is not None:
            ranges["w"] = _symmetric((w,), 1.0 / math.sqrt(w))
        ranges["v"] = _symmetric((d,), 1.0 / math.sqrt(w if w is not None else d))
        ranges["mu"] = ((1,), 0.0, 1.0)
        ranges["A"] = _symmetric((self.rank, d), 1.0 / math.sqrt(d))
        return ranges

    def __call__(self, ux: Any) -> Any:
        """The layer's value for the features [u, x] of one sample."""
        split = self.width_in or 0
        x = ux[split:]
        f = _quadratic(x, self.A) + x @ self.v
        if self.w is not None:
            f = f + ux[:split] @ _nonnegative(self.w)
        return f + self.mu


def _quadratic(x: Any, A: Any) -> Any:
    """|A x|^2 / 2: an elementwise square between two linear maps."""
    xp = x.__array_namespace__()
    return 0.5 * xp.sum(xp.square(A @ x))


_nonnegative = activation("softplus")
