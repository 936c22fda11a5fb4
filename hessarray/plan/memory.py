"""Plans the memory of a program: which buffer holds which value, in entries per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hessarray.plan.step import VIEWS, Step, Value, view_strides

__all__ = ["ELEMENTWISE", "Layout", "plan_memory"]

# Operations that may write over a dying operand of the same layout.
ELEMENTWISE = frozenset(
    """abs acos acosh add asin asinh atan atanh ceil cos cosh divide exp expm1 floor log log10 log1p
    log2 maximum minimum multiply multiply_add pow reciprocal round sign sin sinh sqrt square
    subtract tan tanh trunc""".split()
)


class Home(NamedTuple):
    """The place inside a joined buffer where a part of it is written at once."""

    whole: Value
    axis: int
    start: int
    stop: int
    part: Value  # as it is joined, a view of
    base: Value  # the buffer that is written


@dataclass(frozen=True)
class Layout:
    """Where the batched values of a program live.

    ``offsets`` gives, by name, the place of each buffer in an arena of ``entries`` numbers per
    sample; ``direct`` maps a buffer's name to the result whose memory it is; ``homes`` maps the
    name of what a concat joins to its place in the joined buffer.
    """

    offsets: dict[str, int]
    direct: dict[str, str]
    homes: dict[str, Home]
    entries: int


def plan_memory(steps: Sequence[Step], outputs: dict[str, Value], in_place: bool = True) -> Layout:
    """First-fit placement in the order of the program, with reuse of dead buffers.

    Functional code does not write over its operands: ``in_place=False`` gives its peak.
    """
    root: dict[str, Value] = {}
    for s in steps:
        is_view = s.op in VIEWS and isinstance(s.args[0], Value) and s.args[0].name in root
        root[s.out.name] = root[s.args[0].name] if is_view else s.out  # type: ignore[union-attr]
    made = {
        s.out.name for s in steps if s.op not in VIEWS and s.op not in ("input", "seed", "batch")
    }
    last: dict[str, int] = {}
    for i, s in enumerate(steps):
        for a in s.args:
            if isinstance(a, Value) and a.name in root:
                last[root[a.name].name] = i
    direct: dict[str, str] = {}
    for name, v in outputs.items():
        base = root[v.name]
        last[base.name] = len(steps)
        if base.name in made and v.contiguous and base.size == v.size and base.name not in direct:
            direct[base.name] = name
    homes = _homes(steps, root, made, direct) if in_place else {}
    for view, base in root.items():
        root[view] = whole = _whole(base, homes)
        last[whole.name] = max(last.get(whole.name, -1), last.get(base.name, -1))
    offsets: dict[str, int] = {}
    holes: list[tuple[int, int]] = []  # (offset, size), sorted
    end = 0
    for i, s in enumerate(steps):
        if s.out.name not in made:
            continue
        out = _whole(s.out, homes)
        if out.name not in direct and out.name not in offsets:
            place = _overwritten(s, i, root, last, offsets) if in_place and out is s.out else None
            if place is not None:
                offsets[out.name] = offsets[place]
                last[place] = -1  # its memory lives on as the new value's
            else:
                size = _rounded(out.size)
                offset = _fit(holes, size)
                if offset is None:
                    offset, end = end, end + size
                offsets[out.name] = offset
        for used in {root[a.name] for a in s.args if isinstance(a, Value) and a.name in root}:
            if last.get(used.name) == i and used.name in offsets:
                _free(holes, offsets[used.name], _rounded(used.size))
        if s.out.name in offsets and last.get(s.out.name, -1) < 0:
            _free(holes, offsets[s.out.name], _rounded(s.out.size))
    return Layout(offsets, direct, homes, end)


def _homes(
    steps: Sequence[Step], root: dict[str, Value], made: set[str], direct: dict[str, str]
) -> dict[str, Home]:
    """What a concat joins is written in its place by whoever makes it, where its views allow."""
    views: dict[str, list[Step]] = {}
    for s in steps:
        if s.op in VIEWS and s.out.name in root:
            views.setdefault(root[s.out.name].name, []).append(s)
    homes: dict[str, Home] = {}
    for s in steps:
        if s.op != "concat" or s.out.name in direct:
            continue
        axis, start = s.attributes["axis"], 0
        for part in s.args:
            assert isinstance(part, Value)
            base, length = root.get(part.name), part.dims[axis]
            if (
                base is not None
                and base.name in made
                and base.name not in homes
                and base.name not in direct
                and part.contiguous
                and part.truth == base.truth is False
                and base.size == part.size
            ):
                apart = tuple(
                    0 if n == 1 else t for n, t in zip(part.dims, s.out.strides, strict=True)
                )
                strides = view_strides(part.dims, apart, base.dims)
                if strides is not None and _fits(base, strides, views, homes):
                    homes[base.name] = Home(s.out, axis, start, start + length, part, base)
            start += length
    return homes


def _fits(
    base: Value, apart: tuple[int, ...], views: dict[str, list[Step]], homes: dict[str, Home]
) -> bool:
    """Whether a buffer can lie so far apart: its views, and those of the parts inside it."""
    if not _still_views(base, apart, views.get(base.name, [])):
        return False
    for home in homes.values():
        if home.whole is base:
            part = home.part
            inside = tuple(0 if n == 1 else t for n, t in zip(part.dims, apart, strict=True))
            own = view_strides(part.dims, inside, home.base.dims)
            if own is None or not _fits(home.base, own, views, homes):
                return False
    return True


def _still_views(base: Value, apart: tuple[int, ...], views: Sequence[Step]) -> bool:
    """Whether the views of a buffer take no copy when its entries lie so far apart."""
    strides = {base.name: apart}
    for s in views:
        source = s.args[0]
        assert isinstance(source, Value)
        own = strides[source.name]
        if s.op == "reshape":
            found = view_strides(source.dims, own, s.out.dims)
            if found is None:
                return False
            strides[s.out.name] = found
        elif s.op == "permute":
            strides[s.out.name] = tuple(own[p] for p in s.attributes["axes"])
        elif s.op == "slice":
            axis = s.attributes["axis"]
            one = s.out.dims[axis] == 1
            strides[s.out.name] = tuple(0 if one and p == axis else t for p, t in enumerate(own))
        else:
            return False
    return True


def _whole(v: Value, homes: dict[str, Home]) -> Value:
    """The buffer that v is written into: joints may be parts of longer ones."""
    while v.name in homes:
        v = homes[v.name].whole
    return v


def _overwritten(
    s: Step, i: int, root: dict[str, Value], last: dict[str, int], offsets: dict[str, int]
) -> str | None:
    """The buffer of an operand that dies here and that the result can overwrite."""
    arrays = [a for a in s.args if isinstance(a, Value)]
    if s.op == "gram_plus" or "plus" in s.attributes.get("given", ()):
        # What is added to may be overwritten entry by entry, unless it is multiplied as well.
        candidates = [a for a in arrays[-1:] if a not in arrays[:-1]]
    elif s.op == "activation":
        candidates = arrays[:1]
    else:
        candidates = arrays if s.op in ELEMENTWISE else []
    for a in candidates:
        if a.name not in root:
            continue
        base = root[a.name]
        same = a.contiguous and a.size == base.size == s.out.size and a.truth == s.out.truth
        alone = all(b is a or b.name not in root or root[b.name] is not base for b in arrays)
        if same and alone and last.get(base.name) == i and base.name in offsets:
            return base.name
    return None


def _rounded(size: int) -> int:
    """Whole cache lines of float64: BLAS takes half as long again from elsewhere."""
    return -(-size // 8) * 8 if size > 1 else size


def _fit(holes: list[tuple[int, int]], size: int) -> int | None:
    """The smallest hole that is large enough."""
    best = min((h for h in holes if h[1] >= size), key=lambda h: h[1], default=None)
    if best is None:
        return None
    holes.remove(best)
    if best[1] > size:
        holes.append((best[0] + size, best[1] - size))
        holes.sort()
    return best[0]


def _free(holes: list[tuple[int, int]], offset: int, size: int) -> None:
    holes.append((offset, size))
    holes.sort()
    merged: list[tuple[int, int]] = []
    for o, s in holes:
        if merged and merged[-1][0] + merged[-1][1] == o:
            merged[-1] = (merged[-1][0], merged[-1][1] + s)
        else:
            merged.append((o, s))
    holes[:] = merged
