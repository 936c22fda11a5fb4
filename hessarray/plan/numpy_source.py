"""Prints a program as in-place NumPy calls on planned buffers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hessarray.plan.memory import Layout
from hessarray.plan.source import carried, expression, literal, shape_text, tuple_text
from hessarray.plan.step import VIEWS, Program, Step, Value

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


def numpy_source(program: Program, layout: Layout) -> str:
    """``workspace`` lays views over an arena; ``run`` fills the results in a straight line."""
    space = _Workspace(program, layout)
    body: list[str] = []
    for s in program.at(2):
        out = s.out.name
        if s.op in VIEWS and space.holds(s.args[0]):
            space.lay(out, _view(s))
        elif s.op in VIEWS:
            body.append(f"{out} = {_view(s)}")
        elif s.op in ("input", "seed", "batch"):
            body.append(f"{out} = {expression(s)}")
        else:
            if out in layout.direct:
                body.append(f"{out} = out[{layout.direct[out]!r}].reshape({shape_text(s.out)})")
            else:
                space.lay_buffer(s.out)
            if s.op == "concat" and space.joins(s.out):
                body += space.copies(s)
            elif s.op != "room":
                body.append(_in_place(s))
    for name, value in program.outputs.items():
        if name not in layout.direct.values():
            body.append(f"copyto(out[{name!r}], {value.name})")
    words = set(re.findall(r"\w+", "\n".join(body)))
    views = [name for name in space.names if name in words]
    head = ["def workspace(xp, n, arena):", *space.lines, f"return {tuple_text(views)}"]
    start = ["def run(xp, b, n, x, v, w, out):"]
    unpacked = (carried(program, 1), "b"), (views, "w")
    start += [f"{tuple_text(names)} = {source}" for names, source in unpacked if names]
    return "\n    ".join(head) + "\n\n\n" + "\n    ".join([*start, *body]) + "\n"


class _Workspace:
    """The views over an arena, in the order in which they can be laid."""

    def __init__(self, program: Program, layout: Layout) -> None:
        self.layout = layout
        self.names: dict[str, None] = {}
        self.lines: list[str] = []
        self._laid: dict[str, str] = {}  # place -> the first name that lies there
        self._whole = {home.whole.name for home in layout.homes.values()}
        self._source: dict[str, str] = {}  # of a reshape: the name of what it shows
        for s in program.at(2):
            if s.op == "reshape" and isinstance(s.args[0], Value):
                first = s.args[0].name
                self._source[s.out.name] = self._source.get(first, first)

    def holds(self, v: Value | float) -> bool:
        return isinstance(v, Value) and v.name in self.names

    def joins(self, v: Value) -> bool:
        """Whether parts of v are written in their places by whoever makes them."""
        return v.name in self._whole

    def lay(self, name: str, place: str) -> None:
        """One view; the place of an overwritten operand is laid out once."""
        first = self._laid.setdefault(place, name)
        self.lines.append(f"{name} = {place if first == name else first}")
        self.names[name] = None

    def lay_buffer(self, v: Value) -> None:
        """The buffer of v, after the joined one that it is a part of."""
        if v.name in self.names:
            return
        if v.name in self.layout.homes:
            whole, axis, start, stop, *_ = self.layout.homes[v.name]
            self.lay_buffer(whole)
            place = _slice(whole.name, axis, start, stop)
        else:
            low = self.layout.offsets[v.name]
            masked = f".view(bool)[:n * {v.size}]" if v.truth else ""
            place = f"arena[n * {low}:n * {low + v.size}]{masked}"
        self.lay(v.name, f"{place}.reshape({shape_text(v)})")

    def copies(self, s: Step) -> Iterator[str]:
        """The lines that fill a joined buffer with those parts that are not written in place."""
        start, axis = 0, s.attributes["axis"]
        for k, part in enumerate(s.args):
            assert isinstance(part, Value)
            stop = start + part.dims[axis]
            home = self.layout.homes.get(self._source.get(part.name, part.name))
            if home is None or home.whole is not s.out or home.start != start:
                name = f"{s.out.name}_{k}"
                self.lay(name, _slice(s.out.name, axis, start, stop))
                yield f"copyto({name}, {part.name})"
            start = stop


def _slice(name: str, axis: int, start: int, stop: int) -> str:
    return f"{name}[{':, ' * axis}{start}:{stop}]"


def _view(s: Step) -> str:
    if s.op == "reshape":  # the method: np.reshape costs a microsecond more
        return f"{literal(s.args[0])}.reshape({shape_text(s.out)})"
    return expression(s)


def _in_place(s: Step) -> str:
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
        case "activation":
            return f"{at['name']}({', '.join([args[0], out, *args[1:]])})"
        case "product_sum":
            return f"product_sum({args[0]}, {args[1]}, axis={at['axis']}, out={out})"
        case "packed_matmul" | "row_dots":
            given = zip(at["given"], args[2:], strict=True)
            more = "".join(f"{name}={value}, " for name, value in given)
            return f"{s.op}({args[0]}, {args[1]}, {more}out={out})"
        case "gram" if len(s.out.shape) > 2:
            return f"grams({args[0]}, {args[1]}, out={out})"
    return f"{_UFUNCS.get(s.op, s.op)}({', '.join(args)}, out={out})"
