"""Contraction paths, chosen by opt_einsum."""

from __future__ import annotations

import math
from functools import lru_cache

import opt_einsum

__all__ = ["MOST_FOLDED", "contraction_path"]

BATCH = "."  # the batch axis as an index; no einsum letter


# Entries of an operand without batch axis that still pays: a longer one is fetched from memory for
# every chunk of samples, which costs more than multiplying its factors one after the other.
MOST_FOLDED = 1 << 16


@lru_cache(maxsize=4096)
def contraction_path(
    terms: tuple[str, ...], output: str, sizes: tuple[tuple[str, int], ...]
) -> tuple[tuple[int, ...], ...]:
    """Pairs of positions to contract one after another, with the fewest flops.

    ``dp`` copes with the shared batch index, where ``greedy`` and ``auto`` can be ten times worse.
    Beyond eight operands dp's exponential search does not pay and ``branch-2`` takes its place.
    """
    if len(terms) <= 2:
        return (tuple(range(len(terms))),)
    path = _searched(terms, output, sizes)
    if _largest_folded(path, terms, output, dict(sizes)) > MOST_FOLDED:
        # As if everything carried the batch axis: then folding saves nothing.
        path = _searched(tuple(t if BATCH in t else BATCH + t for t in terms), output, sizes)
    return path


def _searched(
    terms: tuple[str, ...], output: str, sizes: tuple[tuple[str, int], ...]
) -> tuple[tuple[int, ...], ...]:
    search = (
        opt_einsum.DynamicProgramming(minimize="flops")
        if len(terms) <= 8
        else opt_einsum.BranchBound(nbranch=2)
    )
    inputs = [frozenset(t) for t in terms]
    path = search(inputs, frozenset(output), dict(sizes))
    return tuple(tuple(sorted(p)) for p in path)


def _largest_folded(
    path: tuple[tuple[int, ...], ...], terms: tuple[str, ...], output: str, sizes: dict[str, int]
) -> int:
    """Entries of the largest product of operands without batch axis."""
    work, largest = list(terms), 0
    for pair in path:
        picked = [work.pop(i) for i in sorted(pair, reverse=True)]
        needed = output + "".join(work)
        kept = "".join(c for c in dict.fromkeys("".join(picked)) if c in needed)
        if BATCH not in kept:
            largest = max(largest, math.prod(sizes[c] for c in kept))
        work.append(kept)
    return largest
