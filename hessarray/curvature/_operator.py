"""What the matrix-free methods know of a matrix: its products with blocks of vectors, counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np

from hessarray._arguments import DTYPES, dtype_name, plain, whole
from hessarray.errors import BackendError, CurvatureError, DTypeError, OptionError, ShapeError

__all__ = ["Products", "generator", "missing"]

Array = np.ndarray[Any, Any]

# Bytes of one block of vectors: the products of a block share what an operator computes for all.
_BLOCK = 1 << 25


class Products:
    """Products V -> A V of a square operator with float64 columns (n, k) on the host.

    Parameters
    ----------
    operator : LinearOperator, array (n, n) or callable
        Anything with ``shape`` and ``matmat`` or ``matvec``, SciPy's and CuPy's operators among
        them; a square array of NumPy, CuPy, torch or JAX, or a sparse one; or a function of one
        vector (n,), together with ``size``.
    size : int, optional
        n, for a function.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        The operator is not square, not real, or no operator.
    """

    def __init__(self, operator: Any, size: int | None = None) -> None:
        self.n = _size(operator, size)
        self.count = 0
        self.norm = 0.0  # the largest |A v| / |v| so far, which is at most the norm of A
        operator, dtype = _real(operator)
        self.eps = float(np.finfo(dtype).eps)
        self._apply = _application(operator, dtype)

    @property
    def block(self) -> int:
        """How many vectors are multiplied at a time."""
        return max(1, _BLOCK // (8 * self.n))

    def __call__(self, vectors: Array) -> Array:
        """A V, of the shape of V, (n, k) or (n,).

        Raises
        ------
        CurvatureError
            A product holds NaN or infinity.
        ShapeError
            A product has another shape.
        """
        columns = vectors.reshape(self.n, -1)
        product = np.empty(columns.shape)
        for i in range(0, columns.shape[1], self.block):
            product[:, i : i + self.block] = self._block(columns[:, i : i + self.block])
        return product.reshape(vectors.shape)

    def _block(self, columns: Array) -> Array:
        product = np.asarray(plain(self._apply(columns)), dtype=np.float64)
        if product.shape != columns.shape:
            raise ShapeError(
                f"a product of the operator with {columns.shape} has shape {product.shape}, "
                f"{columns.shape} is expected"
            )
        self.count += columns.shape[1]
        if not np.isfinite(product).all():
            raise CurvatureError(
                "a product with the operator holds NaN or infinity: look for them in the "
                "parameters and the samples that it was made of"
            )
        lengths = np.linalg.norm(columns, axis=0)
        ratios = np.linalg.norm(product, axis=0) / np.where(lengths > 0.0, lengths, 1.0)
        self.norm = max(self.norm, float(ratios.max(initial=0.0)))
        return product

    def dense(self) -> Array:
        """A itself, by n products."""
        return np.concatenate([self(e) for e in self.units()], axis=1)

    def units(self) -> Any:
        """The unit vectors, in blocks (n, k)."""
        for start in range(0, self.n, self.block):
            k = min(self.block, self.n - start)
            unit = np.zeros((self.n, k))
            unit[start + np.arange(k), np.arange(k)] = 1.0
            yield unit


def generator(seed: int | np.random.Generator) -> np.random.Generator:
    """Random numbers of this seed; a generator is drawn from as it stands."""
    if isinstance(seed, np.random.Generator):
        return seed
    # Not the stream of default_rng(seed), which the caller's matrix may have been drawn from.
    return np.random.default_rng((whole("seed", seed, 0), 0x43555256))


def missing(library: str, extra: str) -> BackendError:
    """The sentence for a library that is not installed."""
    return BackendError(f"this needs {library}: pip install 'hessarray[{extra}]'")


def _size(operator: Any, size: int | None) -> int:
    shape = getattr(operator, "shape", None)
    if shape is None:
        if not callable(operator):
            raise OptionError(
                f"operator is a {type(operator).__name__}: pass a LinearOperator, a square array, "
                "or a function of a vector together with size="
            )
        if size is None:
            raise OptionError("operator is a function: pass the length of its vector as size=")
        return whole("size", size, 1)
    shape = tuple(shape)
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise ShapeError(f"operator has shape {shape}, a square (n, n) is expected")
    n = int(shape[0])
    if size is not None and size != n:
        raise ShapeError(f"operator has shape {shape}, size={size!r} does not fit")
    return n


def _real(operator: Any) -> tuple[Any, np.dtype[Any]]:
    """The operator and its dtype; integers, and operators that name none, count as float64."""
    given = getattr(operator, "dtype", None)
    if given is None:
        return operator, np.dtype(np.float64)
    name = dtype_name(operator) if array_api_compat.is_array_api_obj(operator) else str(given)
    name = name.rsplit(".", 1)[-1]
    if name in DTYPES:
        return operator, np.dtype(name)
    if "int" in name:
        dense = array_api_compat.is_array_api_obj(operator)
        return (np.asarray(plain(operator), np.float64) if dense else operator), np.dtype(float)
    raise DTypeError(f"operator has dtype {name}, float32 or float64 is expected")


def _application(operator: Any, dtype: np.dtype[Any]) -> Callable[[Array], Any]:
    """A function of columns (n, k), which go to the operator's library, device and dtype."""
    there = _transfer(operator, dtype)
    if hasattr(operator, "matmat"):
        return lambda columns: operator.matmat(there(columns))
    if hasattr(operator, "matvec"):
        return lambda columns: _by_columns(operator.matvec, there, columns)
    if hasattr(operator, "shape"):  # an array, dense or sparse
        return lambda columns: operator @ there(columns)
    return lambda columns: _by_columns(operator, there, columns)


def _by_columns(matvec: Any, there: Any, columns: Array) -> Array:
    products = [np.ravel(plain(matvec(there(np.ascontiguousarray(v))))) for v in columns.T]
    return np.stack(products, axis=1)


def _transfer(operator: Any, dtype: np.dtype[Any]) -> Callable[[Array], Any]:
    name = dtype.name
    if array_api_compat.is_array_api_obj(operator) and not isinstance(operator, np.ndarray):
        xp = array_api_compat.array_namespace(operator)
        device = array_api_compat.device(operator)
        return lambda columns: xp.asarray(
            np.ascontiguousarray(columns), dtype=getattr(xp, name), device=device
        )
    if any(c.__module__.split(".")[0] in ("cupy", "cupyx") for c in type(operator).__mro__):
        import cupy

        return lambda columns: cupy.asarray(columns, dtype=name)
    return lambda columns: columns.astype(name, copy=False)
