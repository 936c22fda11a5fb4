"""Records the NumPy program once, to be run without the interpreter between its calls.

The program text is executed with stand-ins for NumPy's functions that note, instead of computing,
which inner loop runs on which entries: operands as byte offsets into the arrays that every run
brings along (work buffer, inputs, constants, results). ``_loops.c`` performs the notes.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from hessarray.backends import _special
from hessarray.backends.numpy_kernels import KERNELS, _loops, called
from hessarray.backends.numpy_parts import Operation, core_axes, cut

__all__ = ["NUMPY_UFUNCS", "Recording", "Tape", "Unsupported", "available", "record", "specials"]

NUMPY_UFUNCS = {name: f for name, f in vars(np).items() if isinstance(f, np.ufunc)}
_MOST_COPIES = 4096  # of one gather
_THREADS_IN_BLAS = 8192  # multiplications: no BLAS library uses threads for fewer


class Recording(NamedTuple):
    """A program with its last array, the literals."""

    program: Any
    literals: tuple[Any]
    blas: bool  # whether a product in it may be worth threads to the BLAS library

    @classmethod
    def of(
        cls, operations: Sequence[Operation], bases: int, literals: Any, groups: Any = ()
    ) -> Recording:
        """These operations on so many arrays, the literals the last of them."""
        worth = (math.prod(o.core) >= _THREADS_IN_BLAS for o in operations if o.ufunc is np.matmul)
        return cls(_loops.Program(operations, bases, groups), (literals,), any(worth))


class Unsupported(Exception):
    """An operation that is no loop of NumPy's; the program runs call by call."""


def available() -> bool:
    """Whether the compiled part is there."""
    return _loops is not None


_COMPOSED = {"erf": _special.erf, "erfc": _special.erfc}


def specials() -> dict[str, Any]:
    """What NumPy lacks, as functions of arrays and ``out``: compiled, or out of NumPy's calls."""
    found = {name: getattr(_loops, name, None) or _composed(f) for name, f in _COMPOSED.items()}
    return found | {name: called(kernel) for name, kernel in KERNELS.items()}


def _composed(function: Any) -> Any:
    def composed(*arrays: Any, out: Any = None) -> Any:
        found = function(np, *arrays)
        if out is None:
            return found
        np.copyto(out, found)
        return out

    return composed


def record(
    run: Callable[..., Any],
    arrays: Sequence[Any],
    arguments: Sequence[Any],
    tape: Tape,
    parts: int = 1,
) -> Recording | None:
    """What ``run(*arguments)`` does with ``arrays``; None where it cannot be noted.

    ``run`` must have been compiled with the functions of ``tape``; its arguments are those that
    ``numpy_source`` prints, ``arrays`` the arena, inputs, constants and results among them. With
    ``parts``, large operations are cut for so many threads.
    """
    if _loops is None:
        return None
    xp, b, n, x, _, w, out = arguments
    # Apart: inputs and constants that share memory in this call need not in the next. Only indices
    # are looked at.
    x = {k: np.empty_like(a) for k, a in x.items()}
    b = tuple(np.empty_like(a) if a.dtype.kind == "f" else a.copy() for a in b)
    tape.start([arrays[0], *x.values(), *b, *out.values()])
    try:
        run(xp, b, n, x, x, w, out)
        operations, groups = tape.operations, ()
        if parts > 1:
            operations, groups = cut(operations, parts)
        return Recording.of(operations, len(arrays) + 1, tape.numbers(), groups)
    except (Unsupported, LookupError, ValueError):
        return None


class Tape:
    """Stand-ins for NumPy's functions, and the notes that they take."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._bounds: list[tuple[int, int]] = []
        self._order: list[int] = []  # of the bounds
        self._lows: list[int] = []
        self._numbers: dict[str, float] = {}  # by their bits: -0.0 is not 0.0
        self._dtype = np.dtype(np.float64)
        self.scope: dict[str, Any] = {name: self._ufunc(f) for name, f in NUMPY_UFUNCS.items()}
        self.scope |= {
            "add": _Add(self),
            "matmul": self.matmul,
            "copyto": self.copyto,
            "concatenate": self.concatenate,
            "take": self.take,
            "erf": self._ufunc(_loops.erf),
            "erfc": self._ufunc(_loops.erfc),
        }
        self.scope |= {name: self._kernel(kernel) for name, kernel in KERNELS.items()}
        self._rows: dict[Any, Any] = {}
        if hasattr(_loops, "add_rows"):
            self._rows = {
                np.add: _loops.add_rows,
                np.multiply: _loops.multiply_rows,
                _loops.multiply_add: _loops.multiply_add_rows,
            }

    def start(self, arrays: Sequence[Any]) -> None:
        self.operations, self._numbers = [], {}
        self._dtype = arrays[0].dtype
        self._bounds = [np.lib.array_utils.byte_bounds(a) for a in arrays]
        self._order = sorted(range(len(arrays)), key=lambda k: self._bounds[k])
        self._lows = [self._bounds[k][0] for k in self._order]

    def numbers(self) -> Any:
        """The literals of the program, the last of its arrays."""
        with np.errstate(all="ignore"):
            return np.array([*self._numbers.values(), 0.0], self._dtype)

    # ---- operands ----------------------------------------------------------------------------

    def _place(self, a: Any) -> tuple[int, int]:
        """Base and offset of an operand."""
        if isinstance(a, float):
            self._numbers.setdefault(a.hex(), a)
            return len(self._bounds), list(self._numbers).index(a.hex()) * self._dtype.itemsize
        if not a.size:
            raise Unsupported
        address = _loops.address(a)
        start = address if min(a.strides, default=0) >= 0 else np.lib.array_utils.byte_bounds(a)[0]
        i = bisect_right(self._lows, start) - 1
        if i < 0:
            raise Unsupported
        k = self._order[i]
        low, high = self._bounds[k]
        if start >= high:
            raise Unsupported
        return k, address - low

    def _note(
        self,
        kind: int,
        ufunc: Any,
        operands: Sequence[Any],
        shape: Sequence[int],
        strides: Sequence[Sequence[int]],
        core: tuple[int, ...] = (),
        core_strides: tuple[int, ...] = (),
    ) -> None:
        chars = "".join(
            self._dtype.char if isinstance(a, float) else a.dtype.char for a in operands
        )
        bases, offsets = zip(*(self._place(a) for a in operands), strict=True)
        if len(shape) > 8:
            raise Unsupported
        # The result's largest strides outside: rows run on as long as they can.
        order = sorted(range(len(shape)), key=lambda k: -abs(strides[-1][k]))
        lengths = tuple(shape[k] for k in order)
        steps = tuple(tuple(s[k] for k in order) for s in strides)
        self.operations.append(
            Operation(kind, ufunc, chars, bases, offsets, lengths, steps, core, core_strides)
        )

    # ---- stand-ins -----------------------------------------------------------------------------

    def _ufunc(self, ufunc: Any) -> Callable[..., None]:
        def noted(*args: Any, out: Any) -> None:
            self.elementwise(ufunc, args, out)

        return noted

    def elementwise(self, ufunc: Any, args: Sequence[Any], out: Any) -> None:
        operands = [*args, out]
        strides = [_strides(a, out.shape) for a in operands]
        rows = self._rows.get(ufunc)
        if (
            rows is None
            or out.ndim < 2
            or all(s in (strides[-1], (0,) * out.ndim) for s in strides)
        ):
            self._note(_loops.ELEMENTWISE, ufunc, operands, out.shape, strides)
            return
        # The shortest way from entry to entry is inside; rows follow one another in one call.
        last = min(range(out.ndim), key=lambda k: (out.shape[k] == 1, abs(strides[-1][k])))
        outside = [s[:last] + s[last + 1 :] for s in map(tuple, strides)]
        shape = out.shape[:last] + out.shape[last + 1 :]
        inside = tuple(s[last] for s in strides)
        self._note(_loops.GENERALISED, rows, operands, shape, outside, (out.shape[last],), inside)

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        core = (out.shape[-2], a.shape[-1], out.shape[-1])
        self._generalised(np.matmul, (a, b, out), (2, 2, 2), core)

    def _generalised(
        self, ufunc: Any, operands: Sequence[Any], ranks: Sequence[int], core: Sequence[int]
    ) -> None:
        """A ufunc whose operands have so many axes inside, of these lengths."""
        outer = operands[-1].shape[: -ranks[-1]]
        strides, inside = [], []
        for a, rank in zip(operands, ranks, strict=True):
            strides.append(_strides(a, (*outer, *a.shape[a.ndim - rank :]))[: len(outer)])
            inside += a.strides[a.ndim - rank :]
        self._note(_loops.GENERALISED, ufunc, operands, outer, strides, tuple(core), tuple(inside))

    def _kernel(self, kernel: Callable[..., tuple[Any, ...]]) -> Callable[..., None]:
        def noted(*args: Any, **options: Any) -> None:
            ufunc, *operands = kernel(*args, **options)
            if ufunc.signature is None:
                self.elementwise(ufunc, operands[:-1], operands[-1])
                return
            axes = core_axes(ufunc)
            lengths: dict[str, int] = {}  # in the order in which the signature names them
            for names, a in zip(axes, operands, strict=True):
                lengths |= dict(zip(names, a.shape[a.ndim - len(names) :], strict=True))
            self._generalised(ufunc, operands, [len(names) for names in axes], [*lengths.values()])

        return noted

    def sum(self, a: Any, axes: tuple[int, ...], out: Any) -> None:
        self.copyto(out, 0.0)
        kept = [k for k in range(a.ndim) if k not in axes]
        # As NumPy's iterator goes: the same additions in the same order.
        order = sorted(range(a.ndim), key=lambda k: -abs(a.strides[k]))
        place = dict(zip(kept, out.strides, strict=True))
        to = [place.get(k, 0) for k in order]
        source = [a.strides[k] for k in order]
        shape = [a.shape[k] for k in order]
        self._note(_loops.ELEMENTWISE, np.add, [out, a, out], shape, [to, source, to])
        steps = (tuple(to), tuple(source), tuple(to))
        self.operations[-1] = self.operations[-1]._replace(shape=tuple(shape), strides=steps)

    def copyto(self, out: Any, a: Any, where: Any = None) -> None:
        if where is not None:
            operands = [where, a, out]
            strides = [_strides(v, out.shape) for v in operands]
            core = (out.dtype.itemsize,)
            self._note(_loops.MASKED_COPY, None, operands, out.shape, strides, core)
        elif out.dtype.kind != "f":
            raise Unsupported
        else:
            self.elementwise(np.positive, [a], out)

    def concatenate(self, parts: Sequence[Any], axis: int, out: Any) -> None:
        start = 0
        for part in parts:
            stop = start + part.shape[axis]
            self.copyto(out[(slice(None),) * axis + (slice(start, stop),)], part)
            start = stop

    def take(self, a: Any, indices: Any, axis: int, out: Any, mode: str) -> None:
        if math.prod(indices.shape) > _MOST_COPIES:
            raise Unsupported
        before = (slice(None),) * axis
        k, found = 0, indices.tolist()
        while k < len(found):  # neighbours are copied together
            stop = k + 1
            while stop < len(found) and found[stop] == found[stop - 1] + 1:
                stop += 1
            i = found[k]
            self.copyto(out[(*before, slice(k, stop))], a[(*before, slice(i, i + stop - k))])
            k = stop


class _Add:
    """np.add with its ``reduce``."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape

    def __call__(self, *args: Any, out: Any) -> None:
        self.tape.elementwise(np.add, args, out)

    def reduce(self, a: Any, axis: tuple[int, ...], out: Any) -> None:
        self.tape.sum(a, axis, out)


def _strides(a: Any, shape: Sequence[int]) -> Sequence[int]:
    """Bytes along the axes of ``shape``, to which the operand is broadcast."""
    if isinstance(a, float):
        return (0,) * len(shape)
    own: tuple[int, ...] = a.strides
    if a.shape == shape:
        return own
    new = len(shape) - len(own)  # axes in front
    return (0,) * new + tuple(0 if n == 1 else s for n, s in zip(a.shape, own, strict=True))
