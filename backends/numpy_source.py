"""Prints a program as in-place NumPy calls on planned buffers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["numpy_source"]

_UFUNCS = {
    "acos": "arccos",
    "acosh": "arccosh",
    "asin": "arcsin",
    "asinh": "arcsinh",
    "atan": "arctan",
    "atanh": "arctanh",
    "abs": "absolute",
    "pow": "power",
    "round": "rint",
}
_VIEWS = ("reshape", "permute", "slice", "flip", "broadcast")


def numpy_source(
    program: Any,
    layout: Any,
    expression: Callable[[Any], str],
    literal: Callable[[Any], str],
    shape_text: Callable[[Any], str],
    carried: Sequence[str],
) -> str:
    """``workspace`` lays views over an arena; ``run`` fills the results in a straight line."""
    steps = program.at(2)
    outputs = program.outputs
    roots = {s.out.name: s.out.name for s in steps}
    for s in steps:
        if s.op == "reshape":
            roots[s.out.name] = roots.get(s.args[0].name, s.args[0].name)
    placed: set[str] = set()
    arena = ["def workspace(xp, n, arena):"]
    views: list[str] = []
    body: list[str] = []
    for s in steps:
        out = s.out.name
        first = s.args[0].name if s.args and hasattr(s.args[0], "name") else None
        if s.op in _VIEWS:
            if first in placed:
                placed.add(out)
                arena.append(f"    {out} = {_view(s, expression, shape_text)}")
                views.append(out)
            else:
                body.append(f"{out} = {_view(s, expression, shape_text)}")
        elif s.op in ("input", "seed") or s.op == "batch":
            body.append(f"{out} = {expression(s)}")
        else:
            if out in layout.direct:
                body.append(f"{out} = out[{layout.direct[out]!r}].reshape({shape_text(s.out)})")
            else:
                arena += _buffers(s.out, layout, shape_text, placed, views)
            if s.op == "concat" and any(h.whole is s.out for h in layout.homes.values()):
                start, axis = 0, s.attributes["axis"]
                for k, part in enumerate(s.args):
                    if not _at_home(part, s, start, roots, layout):
                        name = f"{out}_{k}"
                        views.append(name)
                        place = _slice(out, axis, start, start + part.dims[axis])
                        arena.append(f"    {name} = {place}")
                        body.append(f"copyto({name}, {part.name})")
                    start += part.dims[axis]
            elif s.op != "room":
                body.append(_in_place(s, literal))
    for name, value in outputs.items():
        if name not in layout.direct.values():
            body.append(f"copyto(out[{name!r}], {value.name})")
    used = _used(body, views)
    arena.append(f"    return ({', '.join(used)}{',' if used else ''})")
    head = ["def run(xp, b, n, x, v, w, out):"]
    if carried:
        head.append(f"    ({', '.join(carried)},) = b")
    if used:
        head.append(f"    ({', '.join(used)},) = w")
    return (
        "\n".join(arena) + "\n\n\n" + "\n".join([*head, *(f"    {line}" for line in body)]) + "\n"
    )


def _buffers(
    v: Any,
    layout: Any,
    shape_text: Callable[[Any], str],
    placed: set[str],
    views: list[str],
) -> list[str]:
    """The lines that lay v over the arena, after the joined buffer that it is a part of."""
    if v.name in placed:
        return []
    lines: list[str] = []
    if v.name in layout.homes:
        whole, axis, start, stop, *_ = layout.homes[v.name]
        lines += _buffers(whole, layout, shape_text, placed, views)
        place = f"{_slice(whole.name, axis, start, stop)}.reshape({shape_text(v)})"
    else:
        low, high = layout.offsets[v.name], layout.offsets[v.name] + v.size
        masked = f".view(bool)[:n * {v.size}]" if v.truth else ""
        place = f"arena[n * {low}:n * {high}]{masked}.reshape({shape_text(v)})"
    placed.add(v.name)
    views.append(v.name)
    return [*lines, f"    {v.name} = {place}"]


def _at_home(part: Any, s: Any, start: int, roots: dict[str, str], layout: Any) -> bool:
    home = layout.homes.get(roots.get(part.name, part.name))
    return home is not None and home.whole is s.out and home.start == start


def _slice(name: str, axis: int, start: int, stop: int) -> str:
    return f"{name}[{':, ' * axis}{start}:{stop}]"


def _view(s: Any, expression: Callable[[Any], str], shape_text: Callable[[Any], str]) -> str:
    if s.op == "reshape":  # the method: np.reshape costs a microsecond more
        return f"{s.args[0].name}.reshape({shape_text(s.out)})"
    return expression(s)


def _used(body: Sequence[str], names: Sequence[str]) -> list[str]:
    import re

    words = {w for line in body for w in re.findall(r"\w+", line)}
    return [n for n in names if n in words]


def _in_place(s: Any, literal: Callable[[Any], str]) -> str:
    out = s.out.name
    args = [literal(a) for a in s.args]
    at = s.attributes
    match s.op:
        case "where":
            return f"copyto({out}, {args[2]}); copyto({out}, {args[1]}, where={args[0]})"
        case "sum":
            return f"add.reduce({args[0]}, axis={at['axes']}, out={out})"
        case "concat":
            return f"concatenate(({', '.join(args)},), axis={at['axis']}, out={out})"
        case "take":
            return f"take({args[0]}, {args[1]}, axis={at['axis']}, out={out}, mode='clip')"
        case "copy":
            return f"copyto({out}, {args[0]})"
        case "tanh_sech2":
            return f"tanh_sech2({args[0]}, {out}, {args[1]})"
        case "product_sum":
            return f"product_sum({args[0]}, {args[1]}, axis={at['axis']}, out={out})"
        case "packed_matmul" | "row_dots":
            given = zip(at["given"], args[2:], strict=True)
            more = "".join(f"{name}={value}, " for name, value in given)
            return f"{s.op}({args[0]}, {args[1]}, {more}out={out})"
        case "gram" if len(s.out.shape) > 2:
            return f"grams({args[0]}, {args[1]}, out={out})"
    return f"{_UFUNCS.get(s.op, s.op)}({', '.join(args)}, out={out})"
