"""Prints a program as readable Python: functional array API code."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hessarray.plan.step import Program, Step, Value

__all__ = ["functional_source", "literal", "shape_text"]

_OPERATORS = {
    "add": "+",
    "subtract": "-",
    "multiply": "*",
    "divide": "/",
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
    "equal": "==",
    "not_equal": "!=",
    "logical_and": "&",
    "logical_or": "|",
    "logical_xor": "^",
    "pow": "**",
}


def literal(x: Value | float) -> str:
    if isinstance(x, Value):
        return x.name
    return repr(x) if x == x and abs(x) != float("inf") else f'float("{x}")'


def shape_text(v: Value) -> str:
    dims = [str(n) for n in v.shape]
    if v.rows:
        dims.insert(v.lead, "n" if v.rows == 1 else f"n * {v.rows}")
    return f"({', '.join(dims)}{',' if len(dims) == 1 else ''})"


def expression(s: Step) -> str:
    """One operation as array API code."""
    args = [literal(a) for a in s.args]
    at = s.attributes
    if s.op in _OPERATORS:
        return f"{args[0]} {_OPERATORS[s.op]} {args[1]}"
    match s.op:
        case "reshape":
            return f"xp.reshape({args[0]}, {shape_text(s.out)})"
        case "permute":
            return f"xp.permute_dims({args[0]}, {at['axes']})"
        case "broadcast" | "batch":
            return f"xp.broadcast_to({args[0]}, {shape_text(s.out)})"
        case "slice":
            return f"{args[0]}[{':, ' * at['axis']}{at['start']}:{at['stop']}, ...]"
        case "sum":
            return f"xp.sum({args[0]}, axis={at['axes']})"
        case "flip":
            return f"xp.flip({args[0]}, axis={at['axis']})"
        case "take":
            return f"xp.take({args[0]}, {args[1]}, axis={at['axis']})"
        case "concat":
            return f"xp.concat([{', '.join(args)}], axis={at['axis']})"
        case "copy":
            return args[0]
        case "gram":
            (j, w), many = args, len(s.out.shape) > 2
            j = f"{j}[:, None, ...]" if many and s.args[0].rows else j  # type: ignore[union-attr]
            product = f"({j} * {w}[..., None, :]) @ xp.matrix_transpose({j})"
            return f"xp.permute_dims({product}, (0, 2, 3, 1))" if many else product
        case "pack":
            return f"pack({args[0]})"
        case "square":
            return f"{args[0]} * {args[0]}"
        case "reciprocal":
            return f"1.0 / {args[0]}"
        case "logical_not":
            return f"~{args[0]}"
        case "input" | "parameter" | "seed":
            return f"{ {'input': 'x', 'parameter': 'p', 'seed': 'v'}[s.op] }[{at['name']!r}]"
        case "constant":
            return f"c[{at['key']!r}]"
    return f"xp.{s.op}({', '.join(args)})"


def carried(program: Program, stage: int) -> list[str]:
    """Names made before or at ``stage`` and used after it, in order."""
    later = {
        a.name for s in program.steps if s.out.stage > stage for a in s.args if isinstance(a, Value)
    }
    later |= {v.name for v in program.outputs.values()}
    return [s.out.name for s in program.steps if s.out.stage <= stage and s.out.name in later]


def _last_uses(steps: Sequence[Step], result: str) -> list[list[str]]:
    """For each step the names made here that nothing needs after it: their memory can go."""
    kept = set(re.findall(r"\w+", result))
    mine = {s.out.name for s in steps} - kept
    found: list[list[str]] = []
    for s in reversed(steps):
        used = dict.fromkeys(a.name for a in s.args if isinstance(a, Value))
        dying = [name for name in used if name in mine]
        mine.difference_update(dying)
        found.append(dying)
    return found[::-1]


def function(
    name: str, arguments: str, unpack: Sequence[str], steps: Sequence[Step], result: str
) -> str:
    lines = [f"def {name}({arguments}):"]
    if unpack:
        lines.append(f"    ({', '.join(unpack)},) = b")
    for s, dying in zip(steps, _last_uses(steps, result), strict=True):
        lines.append(f"    {s.out.name} = {expression(s)}")
        if dying:
            lines.append(f"    del {', '.join(dying)}")
    lines.append(f"    return {result}")
    return "\n".join(lines) + "\n"


def tuple_text(names: Sequence[str]) -> str:
    return f"({', '.join(names)},)" if names else "()"


def once_source(program: Program) -> str:
    """``bind`` (parameters and constants) and ``seed`` (directions of a call): no batch axis."""
    bound, seeded = carried(program, 0), carried(program, 1)
    return (
        function("bind", "xp, p, c", (), program.at(0), tuple_text(bound))
        + "\n\n"
        + function("seed", "xp, b, v", bound, program.at(1), tuple_text(seeded))
    )


def functional_source(program: Program) -> str:
    """The whole program: ``run(xp, seed(xp, bind(xp, p, c), v), n, x, v)`` gives the results."""
    return (
        once_source(program)
        + "\n\n"
        + function(
            "run",
            "xp, b, n, x, v",
            carried(program, 1),
            program.at(2),
            tuple_text([v.name for v in program.outputs.values()]),
        )
    )
