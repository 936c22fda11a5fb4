"""Sums over samples on any array library: out of place, so that tapes and compilers see them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hessarray.backends import backend_of
from hessarray.curvature._blocks import BlockSums
from hessarray.plan.injection import Entry

__all__ = ["FunctionalSums", "outer", "placed", "transposed_product"]


class FunctionalSums:
    """Adds up blocks (psi, chi), by their places; ``dtype`` is that of the sums."""

    def __init__(self, what: BlockSums, xp: Any, dtype: str | None = None) -> None:
        self.what, self.xp = what, xp
        self.dtype = None if dtype is None else getattr(xp, dtype)
        self.totals: dict[Any, Any] = {}

    def add(self, found: Mapping[str, Any]) -> None:
        """The samples of one piece, by the names of ``what.nodes``."""
        xp = self.xp
        for pair in self.what.products:
            part = self._product(found, *pair)
            if part is not None:
                self._add(pair, part)
        for name in self.what.single:
            self._add(name, xp.sum(found[name], axis=0))

    def _add(self, key: Any, part: Any) -> None:
        if self.dtype is not None:
            part = self.xp.astype(part, self.dtype)
        self.totals[key] = self.totals[key] + part if key in self.totals else part

    def _product(self, found: Mapping[str, Any], k: int, l: int) -> Any:
        """(rows of u, z_k, rows of w, z_l), both terms; None where zero."""
        xp, rows = self.xp, (self.what.rows(k), self.what.rows(l))
        size = [self.what.inj.variables[v].size for v in (k, l)]
        whole = None
        if f"H{k},{l}" in found:
            h = found[f"H{k},{l}"]
            pairs = outer(xp, found[f"u{k}"], found[f"u{l}"])
            whole = transposed_product(xp, pairs, xp.reshape(h, (h.shape[0], size[0] * size[1])))
            whole = xp.permute_dims(xp.reshape(whole, (*rows, *size)), (0, 2, 1, 3))
        for second in self.what.second.get((k, l), ()):
            u, p = found[f"u{k}"], found[second.node]
            part = transposed_product(
                xp, outer(xp, u, found[f"G{l}"]), xp.reshape(p, (p.shape[0], -1))
            )
            if second.diagonal:
                part = xp.reshape(part, (rows[0], size[1], size[0], 1))
                eye = placed(np.eye(second.rows), part)
                part = part * xp.reshape(eye, (1, 1, second.rows, second.rows))
            part = xp.reshape(part, (rows[0], size[1], size[0], second.rows))
            part = xp.permute_dims(part, (0, 2, 3, 1))
            if second.rows < rows[1]:  # zeros for the factors that do not depend on z_k
                hot = np.zeros((second.rows, rows[1]))
                hot[:, second.start : second.start + second.rows] = np.eye(second.rows)
                part = xp.tensordot(part, placed(hot, part), axes=((2,), (0,)))
                part = xp.permute_dims(part, (0, 1, 3, 2))
            whole = part if whole is None else whole + part
        return whole

    def blocks(self) -> dict[tuple[int, int], Any]:
        """The wanted blocks; absent means zero."""
        found: dict[tuple[int, int], Any] = {}
        for pair in self.what.products:
            if pair in self.totals:
                for e, f, part in self._split(self.totals[pair], *pair):
                    self._put(found, e, f, part, mirror=pair[0] != pair[1])
        for name, (e, f) in self.what.single.items():
            if name in self.totals:
                self._put(found, e, f, self.totals[name], mirror=e is not f)
        return found

    def _put(self, found: dict[Any, Any], e: Entry, f: Entry, part: Any, mirror: bool) -> None:
        """Add a block and, of two different entries, its mirror image."""
        turned = (*range(len(e.p), len(e.p) + len(f.p)), *range(len(e.p)))
        for key, flip in ((self.what.key(e, f), False), (self.what.key(f, e), True)):
            if key in self.what.wanted and (mirror or not flip):
                new = self.xp.permute_dims(part, turned) if flip else part
                found[key] = found[key] + new if key in found else new

    def _split(self, whole: Any, k: int, l: int) -> Iterator[tuple[Entry, Entry, Any]]:
        for e, i in self.what.spans(k):
            for f, j in self.what.spans(l):
                part = whole[i : i + e.rows, :, j : j + f.rows, :]
                yield e, f, self._ordered(part, e, f)

    def _ordered(self, part: Any, e: Entry, f: Entry) -> Any:
        """(u, z, w, y) as (psi, chi)."""
        shape: list[int] = []
        order: list[int] = []
        for entry in (e, f):
            lengths = dict(zip(entry.p, entry.psi.shape, strict=True))
            letters = entry.u + entry.z
            order += [len(shape) + letters.index(c) for c in entry.p]
            shape += [lengths[c] for c in letters]
        return self.xp.permute_dims(self.xp.reshape(part, tuple(shape)), tuple(order))


def placed(array: np.ndarray[Any, Any], like: Any) -> Any:
    """A NumPy array in the library, dtype and device of another."""
    backend = backend_of(like)
    assert backend is not None
    return backend.asarray(array, backend.dtype_name(like), backend.device(like))


def outer(xp: Any, a: Any, b: Any) -> Any:
    """(n, i j) of (n, i) and (n, j)."""
    product = xp.expand_dims(a, axis=2) * xp.expand_dims(b, axis=1)
    return xp.reshape(product, (a.shape[0], a.shape[1] * b.shape[1]))


def transposed_product(xp: Any, a: Any, b: Any) -> Any:
    """a^T b."""
    return xp.matmul(xp.permute_dims(a, (1, 0)), b)
