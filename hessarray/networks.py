"""Networks: layers, and networks of layers, one after another."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np

from hessarray._arguments import dtype_option, frozen, plain
from hessarray.errors import ShapeError
from hessarray.function import Function
from hessarray.graph.array import TracedArray
from hessarray.layers import (
    Activation,
    Dense,
    InputConvex,
    Layer,
    Residual,
    _below,
    latest_change,
    latest_edit,
)

__all__ = ["Network", "fully_connected", "icnn", "resnet"]


class Network(Function):
    """Layers in sequence, with exact derivatives with respect to the input.

    Parameters
    ----------
    *layers : Layer or Network
        Neighbours must agree in width.
    seed : int, optional
        Draw all parameters anew from this seed.
    dtype : str, optional
        'float64' or 'float32' for the stored parameters.
    backend : str, optional
        Pin the parameters to an array library, as ``to(backend)`` does.

    Raises
    ------
    ShapeError
        No layer is given, or neighbours do not fit; names both.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> net = ha.Network(ha.Dense(10, 32, act="antitanh"),
    ...                  ha.Residual(32, h=1.0, act="softplus"),
    ...                  ha.Dense(32, 64, act="quadratic"))
    >>> f, df, d2f = net(np.zeros((20, 10)), do_gradient=True, do_Hessian=True)
    >>> f.shape, df.shape, d2f.shape
    ((20, 64), (20, 10, 64), (20, 10, 10, 64))
    """

    def __init__(
        self,
        *layers: Any,
        seed: int | None = None,
        dtype: str | None = None,
        backend: str | None = None,
    ) -> None:
        if not layers:
            raise ShapeError("a network needs at least one layer: Network(Dense(3, 1))")
        for i, layer in enumerate(layers):
            if not isinstance(layer, (Layer, Network)):
                raise TypeError(
                    f"layer {i} is {type(layer).__name__}: pass layers, such as Dense(3, 1); "
                    "wrap a plain function with hessarray.Function"
                )
        for i, (a, b) in enumerate(pairwise(layers)):
            if a.out_features != b.in_features:
                raise ShapeError(
                    f"layer {i + 1} ({type(b).__name__}) expects {b.in_features} features, "
                    f"layer {i} ({type(a).__name__}) gives {a.out_features}: make the widths equal"
                )
        self.layers = tuple(layers)
        self._store = None
        self._setup(((self.in_features,),))
        dtype = None if dtype is None else dtype_option(dtype)
        if seed is not None:
            self.initialize(np.random.default_rng(seed), dtype or "float64")
        if dtype is not None:
            self._replace({k: np.asarray(v, dtype=dtype) for k, v in self._parameters().items()})
        if backend is not None:
            self.to(backend, dtype=dtype)

    @property
    def in_features(self) -> int:
        """d, the number of input features."""
        return int(self.layers[0].in_features)

    @property
    def out_features(self) -> int:
        """m, the number of output features."""
        return int(self.layers[-1].out_features)

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.layers)

    def __getitem__(self, i: int) -> Any:
        return self.layers[i]

    def __repr__(self) -> str:
        inner = ", ".join(
            f"{type(a).__name__}({a.in_features}, {a.out_features})" for a in self.layers
        )
        return f"Network({inner})"

    def __call__(self, x: Any, **options: Any) -> Any:
        """(f, df, d2f) of x (..., d): see ``derivatives``; composes when x is traced."""
        if isinstance(x, TracedArray) and not options:
            return self._apply([x], {k: plain(v) for k, v in self._parameters().items()})
        return self.derivatives(x, **options)

    # ---- a network is also a layer -----------------------------------------------------------

    def _parameters(self) -> dict[str, Any]:
        version = self._version()
        if self._collected[0] != version:
            found = {
                f"{i}.{k}": v for i, a in enumerate(self.layers) for k, v in a.parameters().items()
            }
            self._collected = (version, found)
        return self._collected[1]

    def _version(self) -> int:
        return latest_edit[0]

    def _code_version(self) -> int:
        return latest_change[0]

    def _replace(self, arrays: Mapping[str, Any]) -> None:
        for i, layer in enumerate(self.layers):
            layer._replace({k: _frozen_if_numpy(k, v) for k, v in _below(arrays, str(i)).items()})

    def with_parameters(self, arrays: Mapping[str, Any]) -> Self:
        """A copy with other arrays in place of the parameters; the layers are not touched."""
        twin = copy.copy(self)
        twin.layers = tuple(
            a.with_parameters(_below(arrays, str(i))) for i, a in enumerate(self.layers)
        )
        twin.__setstate__(twin.__getstate__())
        return twin

    def initialize(self, rng: np.random.Generator, dtype: str = "float64") -> None:
        """Draw the parameters of all layers anew."""
        for layer in self.layers:
            layer.initialize(rng, dtype)

    def _apply(self, inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
        u = inputs[0]
        for i, layer in enumerate(self.layers):
            out = layer.with_parameters(_below(params, str(i)))(u)
            if not isinstance(out, TracedArray) or out.shape != (layer.out_features,):
                shape = getattr(out, "shape", type(out).__name__)
                raise ShapeError(
                    f"layer {i} ({type(layer).__name__}) returned {shape} for one sample, its "
                    f"out_features say ({layer.out_features},)"
                )
            u = out
        return u


def _frozen_if_numpy(name: str, array: Any) -> Any:

    return frozen(name, array) if isinstance(array, np.ndarray) else array


def _count(widths: Any) -> int:
    return len(widths) if hasattr(widths, "__len__") else 0


def fully_connected(widths: Sequence[int], act: Activation = "softplus", **options: Any) -> Network:
    """Dense layers of these widths, the last one included (hessQuik: fullyConnectedNN).

    Examples
    --------
    >>> import hessarray as ha
    >>> ha.fully_connected([3, 16, 1], act="tanh")
    Network(Dense(3, 16), Dense(16, 1))
    """
    if _count(widths) < 2:
        raise ShapeError(f"widths={widths!r}: expected two or more, such as [3, 16, 1]")
    return Network(*(Dense(a, b, act=act) for a, b in pairwise(widths)), **options)


def resnet(
    width: int, depth: int, h: float = 1.0, act: Activation = "softplus", **options: Any
) -> Network:
    """``depth`` residual layers of one width (hessQuik: resnetNN)."""
    if not isinstance(depth, (int, np.integer)) or depth < 1:  # type: ignore[redundant-expr]
        raise ShapeError(f"depth={depth!r}: expected a whole number, one or more")
    return Network(*(Residual(width, h=h, act=act) for _ in range(depth)), **options)


def icnn(
    d: int, widths: Sequence[int | None], act: Activation = "softplus", **options: Any
) -> Network:
    """Input-convex layers; ``widths`` may start with None, as in hessQuik's ICNN.

    The network returns its last features followed by x.
    """
    chain = [None, *widths[widths[0] is None :]] if _count(widths) else []
    if len(chain) < 2:
        raise ShapeError(f"widths={widths!r}: expected one or more, such as [16, 1]")
    return Network(
        *(InputConvex(d, a, b, act=act) for a, b in pairwise(chain)),  # type: ignore[arg-type]
        **options,
    )
