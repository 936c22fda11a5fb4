"""Contraction paths, chosen by opt_einsum."""

from __future__ import annotations

from functools import lru_cache

import opt_einsum

__all__ = ["contraction_path"]

BATCH = "."  # the batch axis as an index; no einsum letter


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
    search = (
        opt_einsum.DynamicProgramming(minimize="flops")
        if len(terms) <= 8
        else opt_einsum.BranchBound(nbranch=2)
    )
    inputs = [frozenset(t) for t in terms]
    path = search(inputs, frozenset(output), dict(sizes))
    return tuple(tuple(sorted(p)) for p in path)
