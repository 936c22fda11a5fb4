"""Arrays without values, which know of each entry on which samples of a batch it depends.

A graph that runs over them, with a batch of two, tells whether it keeps the samples apart, and
which shapes it makes. Contractions and reductions are taken to depend on all that they read, so the
answer errs on the side of dependence only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["MAX_ENTRIES", "Samples", "check_entries", "check_product"]

MAX_ENTRIES = 1 << 26
_MAX_TERMS = 1 << 30
_MAX_WHOLE_TERMS = 1 << 26  # no BLAS multiplies whole numbers

Bits = Any  # an array of uint8


def check_entries(shape: Sequence[int]) -> None:
    """Refuse arrays that no network needs, before memory is taken.

    Raises
    ------
    ValueError
        The shape has more than ``MAX_ENTRIES`` entries, or a negative length.
    """
    if any(n < 0 for n in shape):
        raise ValueError(f"the shape {tuple(shape)} has a negative length")
    if math.prod(map(int, shape)) > MAX_ENTRIES:
        raise ValueError(f"an array of shape {tuple(shape)} has more than {MAX_ENTRIES:,} entries")


def check_product(lengths: Sequence[int], *args: Any) -> None:
    """Refuse products of constants that no network needs, before time is taken.

    Raises
    ------
    ValueError
        Axes of these lengths, those that are summed over too, make more terms than a second takes
        for arrays like ``args``.
    """
    most = _MAX_TERMS if any(a.dtype.kind == "f" for a in args) else _MAX_WHOLE_TERMS
    if math.prod(map(int, lengths)) > most:
        raise ValueError(f"a product of constants has more than {most:,} terms")


class Samples:
    """Bit i of ``bits`` is set where the entry depends on sample i."""

    __array_ufunc__ = None  # NumPy's arrays leave their operators to this class
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, bits: Bits, truth: bool = False) -> None:
        self.bits = bits
        self.dtype = np.dtype(bool if truth else np.float64)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return tuple(self.bits.shape)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """What the bits take; less where they are one number broadcast."""
        return self.size

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return _NAMESPACE

    def __getitem__(self, key: Any) -> Samples:
        return Samples(self.bits[key], self.dtype == bool)

    def __matmul__(self, other: Any) -> Samples:
        return _matmul(self, other)

    def __rmatmul__(self, other: Any) -> Samples:
        return _matmul(other, self)


def _bits(x: Any) -> Bits:
    return x.bits if isinstance(x, Samples) else np.broadcast_to(np.uint8(0), np.shape(x))


def _joined(*args: Any, truth: bool = False) -> Samples:
    """What depends on all of the arguments, broadcast."""
    arrays = [_bits(a) for a in args]
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    check_entries(shape)
    bits = np.broadcast_to(arrays[0], shape)
    for other in arrays[1:]:
        bits = bits | other
    return Samples(bits, truth)


def _elementwise(truth: bool) -> Callable[..., Samples]:
    return lambda *args: _joined(*args, truth=truth)


def _reduced(x: Samples, /, *, axis: Any = None, keepdims: bool = False) -> Samples:
    if x.size == 0:
        raise ValueError(f"an array of shape {x.shape} has no entries")
    either: Any = np.bitwise_or.reduce
    return Samples(either(x.bits, axis=axis, keepdims=keepdims))


def _matmul(x: Any, y: Any) -> Samples:
    a, b = _bits(x), _bits(y)
    if not a.ndim or not b.ndim:
        raise ValueError(f"matmul of shapes {a.shape} and {b.shape}")
    left = a[None] if a.ndim == 1 else a
    right = b[:, None] if b.ndim == 1 else b
    if left.shape[-1] != right.shape[-2]:
        raise ValueError(f"matmul of shapes {a.shape} and {b.shape}")
    rows = np.bitwise_or.reduce(left, axis=-1, keepdims=True)
    out = _joined(Samples(rows), Samples(np.bitwise_or.reduce(right, axis=-2, keepdims=True)))
    gone = ([-2] if a.ndim == 1 else []) + ([-1] if b.ndim == 1 else [])
    return Samples(np.squeeze(out.bits, axis=tuple(gone)))


def _einsum(subscripts: str, *args: Any) -> Samples:
    inputs, output = subscripts.split("->")
    sizes: dict[str, int] = {}
    terms = inputs.split(",")
    for term, x in zip(terms, args, strict=True):
        for letter, n in zip(term, x.shape, strict=True):
            if sizes.setdefault(letter, n) != n:
                raise ValueError(f"einsum {subscripts}: axis {letter} has two lengths")
    parts = []
    for term, x in zip(terms, args, strict=True):
        gone = tuple(i for i, c in enumerate(term) if c not in output)
        bits = np.bitwise_or.reduce(_bits(x), axis=gone) if gone else _bits(x)
        kept = [c for c in term if c in output]
        order = sorted(range(len(kept)), key=lambda i: output.index(kept[i]))
        shape = [sizes[c] if c in kept else 1 for c in output]
        parts.append(Samples(np.transpose(bits, order).reshape(shape)))
    out = _joined(*parts)
    return Samples(np.broadcast_to(out.bits, tuple(sizes[c] for c in output)))


def _concat(arrays: Sequence[Any], /, *, axis: int = 0) -> Samples:
    truth = all(a.dtype == bool for a in arrays)
    return Samples(np.concatenate([_bits(a) for a in arrays], axis=axis), truth)


def _shaped(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of NumPy that moves entries about, on the bits; constants stay constants."""

    def on_bits(x: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(x, Samples):
            return function(x, *args, **kwargs)
        return Samples(function(x.bits, *args, **kwargs), x.dtype == bool)

    return on_bits


def _take(x: Samples, indices: Any, /, *, axis: int) -> Samples:
    check_entries((*x.shape[:axis], np.size(indices), *x.shape[axis % x.ndim + 1 :]))
    return Samples(np.take(x.bits, np.asarray(indices), axis=axis), x.dtype == bool)


def _broadcast_to(x: Any, /, shape: Sequence[int]) -> Samples:
    check_entries(shape)
    return Samples(np.broadcast_to(_bits(x), shape), x.dtype == bool)


def _astype(x: Samples, dtype: Any) -> Samples:
    return Samples(x.bits, np.dtype(dtype) == bool)


_ELEMENTWISE = """
    abs acos acosh add asin asinh atan atanh ceil clip cos cosh divide exp expm1 floor log log1p
    maximum minimum multiply negative positive pow reciprocal round sign sin sinh sqrt square
    stop_gradient subtract tan tanh trunc where
""".split()
_TESTS = """
    equal greater greater_equal less less_equal logical_and logical_not logical_or logical_xor
    not_equal
""".split()
_SHAPES: dict[str, Callable[..., Any]] = {
    "expand_dims": np.expand_dims,
    "flip": np.flip,
    "matrix_transpose": lambda x: np.swapaxes(x, -1, -2),
    "permute_dims": np.permute_dims,
    "reshape": np.reshape,
    "squeeze": np.squeeze,
}
_NAMESPACE = SimpleNamespace(
    **dict.fromkeys(_ELEMENTWISE, _elementwise(False)),
    **dict.fromkeys(_TESTS, _elementwise(True)),
    **dict.fromkeys("max mean min prod sum".split(), _reduced),
    **{name: _shaped(function) for name, function in _SHAPES.items()},
    astype=_astype,
    broadcast_to=_broadcast_to,
    concat=_concat,
    einsum=_einsum,
    matmul=_matmul,
    take=_take,
)

for _dunder in "add sub mul truediv pow".split():
    for _name in (f"__{_dunder}__", f"__r{_dunder}__"):
        setattr(Samples, _name, lambda self, other: _joined(self, other))
for _dunder in "neg pos abs invert".split():
    setattr(Samples, f"__{_dunder}__", lambda self: self)
for _dunder in "lt le gt ge eq ne and or xor".split():
    for _name in (f"__{_dunder}__", f"__r{_dunder}__"):
        setattr(Samples, _name, lambda self, other: _joined(self, other, truth=True))
