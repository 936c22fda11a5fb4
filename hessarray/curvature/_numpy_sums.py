"""Sums over samples on NumPy: written where they belong, a few rows at a time, in threads.

The products are large and come out in another order than the blocks have. So a thread multiplies a
few rows into a buffer that stays in its cache, and writes them from there into the block and its
mirror image; nothing of the size of a block is made besides the result.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations_with_replacement, product
from typing import Any

import numpy as np

from hessarray.backends.numpy_threads import in_threads
from hessarray.curvature._blocks import BlockSums, Second
from hessarray.plan.injection import Entry

__all__ = ["NumpySums"]

_CACHE = 2 << 20  # bytes of a product's rows
_PACKED = 256  # samples, below which half of the products save less than spreading them out costs
_Array = np.ndarray[Any, Any]


class NumpySums:
    """Adds up blocks into ``into[i, j]``: matrices (psi, chi), whatever is in them.

    A block and its mirror image may both be there, such as views of one symmetric matrix. What is
    written once for every piece is not zeroed before: that would touch its memory twice.
    """

    def __init__(
        self, what: BlockSums, into: Mapping[tuple[int, int], _Array], threads: int | None
    ) -> None:
        self.what, self.into, self.threads = what, into, threads
        self.products = [
            (k, l) for k, l in what.products if f"H{k},{l}" in what.nodes or (k, l) in what.second
        ]
        met = [
            (e, f)
            for k, l in self.products
            for e, f in (
                combinations_with_replacement(what.dense[k], 2)
                if k == l
                else product(what.dense[k], what.dense[l])
            )
        ]
        met += what.single.values()
        times = Counter(frozenset(what.key(e, f)) for e, f in met)
        # A parameter that enters twice meets itself in a block and its mirror image.
        times.update(frozenset(what.key(e, f)) for e, f in met if e is not f and e.psi is f.psi)
        # Blocks to which several parts of the sum are added, by whichever thread has one.
        self.shared = {key: threading.Lock() for key, count in times.items() if count > 1}
        self.written = {key for key, count in times.items() if count == 1}
        self.first = True

    def add(self, found: Mapping[str, _Array]) -> None:
        """The samples of one piece, by the names of ``what.nodes``."""
        if self.first:
            self._zero(lambda key: frozenset(key) not in self.written)
        calls: list[Callable[[], None]] = []
        for k, l in self.products:
            calls += self._products(found, k, l)
        calls += [
            partial(self._single, found[name], *pair) for name, pair in self.what.single.items()
        ]
        in_threads(lambda call: call(), calls, self.threads)
        self.first = False

    def finish(self) -> None:
        """Blocks of no sample are zero."""
        if self.first:
            self._zero(lambda key: True)

    def _zero(self, wanted: Callable[[tuple[int, int]], bool]) -> None:
        for key, view in self.into.items():
            if wanted(key):
                view[...] = 0.0

    def _single(self, a: _Array, e: Entry, f: Entry) -> None:
        part = a.sum(axis=0).reshape(e.psi.size, f.psi.size)
        self._put((e, f), part, slice(None), slice(None))
        if e is not f:
            self._put((f, e), part.T, slice(None), slice(None))

    def _put(self, pair: tuple[Entry, Entry], part: _Array, i: slice, j: slice) -> None:
        """Write (psi, chi), or (u, z, w, y) for rows i of u and j of w."""
        key = self.what.key(*pair)
        view = self.into.get(key)
        if view is None:
            return
        if part.ndim == 4:
            view = _factored(view, *pair)[i, :, j, :]
        lock = self.shared.get(frozenset(key))
        if lock is not None:
            with lock:
                view += part
        elif self.first:
            view[...] = part
        else:
            view += part

    # ---- products ----------------------------------------------------------------------------

    def _products(self, found: Mapping[str, _Array], k: int, l: int) -> list[Callable[[], None]]:
        """One call for every few rows of the factors of z_k."""
        z, y = (self.what.inj.variables[v].size for v in (k, l))
        middle = found.get(f"H{k},{l}")
        if middle is not None:
            middle = middle.reshape(len(middle), z * y)
            if k == l and len(middle) >= _PACKED:
                a, b = np.triu_indices(z)
                middle = middle[:, a * z + b]
        step = max(_CACHE // (8 * self.what.rows(l) * z * y), 1)
        return [
            partial(self._rows, found, middle, (k, l), e, start, slice(i, min(i + step, e.rows)))
            for e, start in self.what.spans(k)
            for i in range(0, e.rows, step)
        ]

    def _rows(
        self,
        found: Mapping[str, _Array],
        middle: _Array | None,
        pair: tuple[int, int],
        e: Entry,
        start: int,
        i: slice,
    ) -> None:
        """Rows i of the entry e of z_k, which begins at ``start``, against all factors of z_l."""
        k, l = pair
        z, y = (self.what.inj.variables[v].size for v in pair)
        same = k == l
        first = start + i.start if same else 0  # only pairs of rows i <= j
        u = found[f"u{k}"][:, start + i.start : start + i.stop]
        rows, count = u.shape[1], self.what.rows(l) - first
        if middle is None:
            rowed = np.zeros((rows, count, z, y), u.dtype)
        else:
            rowed = _outer(u, found[f"u{l}"][:, first:]).T @ middle
            if middle.shape[1] < z * y:
                rowed = _unpacked(rowed, z)
            rowed = rowed.reshape(rows, count, z, y)
        for second in self.what.second.get(pair, ()):
            _add_second(rowed, u, found[f"G{l}"], found[second.node], second)
        for f, low in self.what.spans(l):
            begin, end = max(low, first), low + f.rows
            if begin < end:
                j = slice(begin - low, f.rows)
                part = rowed[:, begin - first : end - first]
                self._put((e, f), part.transpose(0, 2, 1, 3), i, j)
                if same and e is f:  # the square of the rows among themselves is there already
                    part, j = part[:, rows:], slice(i.stop, f.rows)
                self._put((f, e), part.transpose(1, 3, 0, 2), j, i)


def _factored(matrix: _Array, e: Entry, f: Entry) -> _Array:
    """A view (u, z, w, y) of the matrix (psi, chi)."""
    shape: list[int] = []
    order: list[int] = []
    for entry in (e, f):
        rows, rest = entry.rows, entry.psi.size // entry.rows
        first = entry.p == entry.u + entry.z
        order += [len(shape), len(shape) + 1] if first else [len(shape) + 1, len(shape)]
        shape += [rows, rest] if first else [rest, rows]
    return matrix.reshape(shape).transpose(order)


def _add_second(product: _Array, u: _Array, g: _Array, p: _Array, second: Second) -> None:
    """Add u (x) P_{k->w} (x) G to the rows (u, w, z, y)."""
    rows, _, z, y = product.shape
    into = product[:, second.start : second.start + second.rows]
    part = _outer(u, g).T @ p.reshape(len(p), -1)
    if second.diagonal:
        diagonal = np.einsum("iaab->iab", into)
        diagonal += part.reshape(rows, y, z).transpose(0, 2, 1)
    else:
        into += part.reshape(rows, y, z, second.rows).transpose(0, 3, 2, 1)


def _outer(a: _Array, b: _Array) -> _Array:
    return (a[:, :, None] * b[:, None, :]).reshape(len(a), -1)


def _unpacked(pairs: _Array, size: int) -> _Array:
    """From entries (a, b) with a <= b to all of them, in the last axis."""
    full = np.empty((len(pairs), size, size), pairs.dtype)
    start = 0
    for a in range(size):
        part = pairs[:, start : start + size - a]
        full[:, a, a:] = full[:, a:, a] = part
        start += size - a
    return full
