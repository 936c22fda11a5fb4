"""The Hessian is symmetric: only a <= b is computed, where that pays.

- *gram*: J diag(w) J^T as one operation, where the backend has one.
- *pairs*: J_a J_b for a <= b, packed along one axis of d (d + 1) / 2. It halves both the products
  and the contraction with G; for few directions and many outputs.
- *halves*: the directions in two halves; the block below the diagonal is the transpose of the one
  above. It saves a quarter of the contraction; for many directions and one output.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

from hessarray.backends.protocol import Costs
from hessarray.graph.builder import LETTERS, Builder
from hessarray.graph.node import Node

__all__ = ["Weighed", "assembled", "choose", "factors", "gram_pays", "gram_seconds", "weighed"]

_MOST_FILLED = 128  # directions up to which a vector is filled up
_NEAR = 1 << 17  # results that stay in the second cache
_HALVES = 64  # directions from which smaller products are still large ones

Factors = list[tuple[str, Node]]  # the direction axis in front of each factor, and the factor


class Weighed(NamedTuple):
    """J diag(w) J^T among contractions."""

    j: int  # which operand is J; another one is the same
    ends: str  # its direction in each of the two terms
    axes: str  # its other axes, which are summed
    factors: list[int]  # the operands that make w


def weighed(terms: Sequence[str], operands: Sequence[Any], output: str) -> Weighed | None:
    """A contraction as J diag(w) J^T, a w for each entry of the result's other axes, or None."""
    for p, q in combinations(range(len(terms)), 2):
        own, other = terms[p], terms[q]
        if operands[p] is not operands[q]:
            continue
        ends = "".join(c for c in own + other if own.count(c) + other.count(c) == 1)
        axes = "".join(c for c in own if c not in ends)
        rest = [k for k in range(len(terms)) if k not in (p, q)]
        inside = {*"".join(terms[k] for k in rest)}  # w may be a product itself, summed over others
        if (
            len(ends) == 2
            and axes
            and len(own) == len(set(own))
            and own.replace(ends[0], ends[1]) == other
            and {*ends} <= {*output}
            and not {*axes} & {*output}
            and {*axes, *output} - {*ends} <= inside
            and not {*ends} & inside
        ):
            return Weighed(p, ends, axes, rest)
    return None


def gram_seconds(a: int, m: int, width: int, costs: Costs) -> float:
    """J diag(w) J^T of one sample for m vectors w: ``backends/_gram.h`` and ``_grams.h``."""
    lanes = costs.lanes
    rest = m % lanes  # one by one, where they leave half of a vector empty
    if rest > lanes // 2 and a <= _MOST_FILLED:
        rest = 0
    many = -(-(m - rest) // lanes) * lanes
    pair = 2 * width * costs.flop + 1.2 * costs.entry
    seconds = many * (a * (a + 1) / 2 * pair + 0.8 * width * costs.entry)
    seconds += -(-many // (2 * lanes)) * a * 1.2 * costs.row  # tiles
    if a * a * many > _NEAR:  # rows and their mirror images leave for memory
        seconds += 2.5 * a * a * many * costs.entry
    blocks = -(-a // 5)  # of at most five directions
    tile = 1.6 * costs.row + 0.75 * 2 * (a / blocks) ** 2 * width * costs.flop
    spread = a * a * 2 * costs.entry if m > 1 else 0.0  # results of several w alternate in memory
    seconds += rest * (blocks * (blocks + 1) / 2 * tile + spread + costs.matrix / 6)
    return seconds + (costs.matrix / 3 if many else 0.0)


def gram_pays(a: int, m: int, width: int, costs: Costs, folded: bool = False) -> bool:
    """Whether that takes less than weighing J and multiplying it with its transpose.

    Of a constant J all J_a . J_b may be ``folded``: what is left is a product with them.
    """
    product = 2 * a * a * m * width * costs.flop
    if not folded or m > 1:  # a small product for each sample
        product *= 2
    if not folded:
        product += min(m * a * width, a * a * width) * costs.entry + costs.matrix
    return costs.gram and a > 1 and gram_seconds(a, m, width, costs) < product


def choose(a: int, m: int, width: int, sites: int, n: int, costs: Costs) -> str:
    """'pairs', 'halves' or '' for sites of this width, along a directions, for m outputs."""
    if a < 3 or not sites:
        return ""
    flops = 2 * a * a * width * m * costs.flop
    spread = min(m * a * width, a * a * width) * costs.entry
    once = costs.call / n  # a call, per sample
    full = sites * (flops + spread + min(m * a, a * a) * costs.row + 3 * once)
    if costs.gram:
        apart = sites * gram_seconds(a, m, width, costs)
        joined = gram_seconds(a, m, sites * width, costs) + sites * a * costs.row
        gram = min(apart, joined) + sites * once
        full = min(full, gram) if m > 1 else gram if gram_pays(a, m, width, costs) else full
    packed = a * (a + 1) / 2
    pairs = sites * (flops / 2 + packed * width * costs.entry + a * (once + costs.row))
    pairs += a * a * m * costs.entry + a * a * (once + costs.row)  # unpacked at the end
    # Smaller products run slower: of the quarter that is saved, a tenth is left.
    halves = sites * (0.9 * flops + spread + m * a * costs.row + 2 * costs.matrix + 8 * once)
    halves += 2 * a * a * m * costs.entry + 4 * once
    if a < _HALVES:
        halves = full
    best = min(full, pairs, halves)
    return "" if best == full else "pairs" if best == pairs else "halves"


def factors(b: Builder, j: Node, kind: str) -> list[Factors]:
    """The factors of the pieces of J^T ... J, each with the direction axes of its result."""
    d = j.shape[0]
    if kind == "halves":
        first, second = b.slice(j, 0, 0, d // 2), b.slice(j, 0, d // 2, d)
        return [
            [("A", first), ("B", first)],
            [("A", first), ("B", second)],
            [("A", second), ("B", second)],
        ]
    letters = [c for c in LETTERS if c not in "AB"][: len(j.shape) - 1]
    axes = "".join(letters)
    rows = [
        b.einsum(
            [axes, "B" + axes],
            "B" + axes,
            [b.reshape(b.slice(j, 0, a, a + 1), j.shape[1:]), b.slice(j, 0, a, d)],
        )
        for a in range(d)
    ]
    return [[("A", b.concat(rows, 0))]]


def assembled(b: Builder, pieces: Sequence[Node], d: int, kind: str) -> Node:
    """The whole Hessian, (d, d, ...), from its pieces."""
    if kind == "halves":
        upper, corner, lower = pieces
        below = b.permute(corner, (1, 0, *range(2, len(corner.shape))))
        return b.concat([b.concat([upper, corner], 1), b.concat([below, lower], 1)], 0)
    (packed,) = pieces
    # Row a of the packed triangle starts behind those of 0 .. a - 1, of lengths d, d - 1, ...
    start = [a * d - a * (a - 1) // 2 for a in range(d)]
    index = [start[min(p, q)] + abs(p - q) for p in range(d) for q in range(d)]
    whole = b.take(packed, 0, index)
    return b.reshape(whole, (d, d, *packed.shape[1:]))
