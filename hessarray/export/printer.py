"""Prints a program's steps with one library's own names, so that nothing else is imported."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from hessarray.plan.source import carried, literal, shape_text
from hessarray.plan.step import Program, Step, Value

__all__ = ["LIBRARIES", "bind_text", "run_text"]

# {0} and {1} are the operands, {all} all of them, the rest shape and attributes of the step.
_EVERYWHERE = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "matmul": "{0} @ {1}",
    "pow": "{0} ** {1}",
    "less": "{0} < {1}",
    "less_equal": "{0} <= {1}",
    "greater": "{0} > {1}",
    "greater_equal": "{0} >= {1}",
    "equal": "{0} == {1}",
    "not_equal": "{0} != {1}",
    "logical_and": "{0} & {1}",
    "logical_or": "{0} | {1}",
    "logical_xor": "{0} ^ {1}",
    "logical_not": "~{0}",
    "square": "{0} * {0}",
    "reciprocal": "1.0 / {0}",
    "copy": "{0}",
}
# Names that NumPy had before the array API: the module also runs where NumPy 1 is installed.
_ARRAYS = {
    **_EVERYWHERE,
    "reshape": "{np}.reshape({0}, {shape})",
    "permute": "{np}.transpose({0}, {axes})",
    "broadcast": "{np}.broadcast_to({0}, {shape})",
    "batch": "{np}.broadcast_to({0}, {shape})",
    "sum": "{np}.sum({0}, axis={axes})",
    "flip": "{np}.flip({0}, axis={axis})",
    "take": "{np}.take({0}, {1}, axis={axis})",
    "concat": "{np}.concatenate(({all},), axis={axis})",
    "gram": "({0} * {1}[:, None, :]) @ {np}.swapaxes({0}, -1, -2)",
    "round": "{np}.rint({0})",
    **{f"a{k}": f"{{np}}.arc{k}({{0}})" for k in "sin cos tan sinh cosh tanh".split()},
}
LIBRARIES: dict[str, dict[str, str]] = {
    "numpy": {**_ARRAYS, "np": "np", "erf": "erf(np, {0})", "erfc": "erfc(np, {0})"},
    "cupy": {**_ARRAYS, "np": "cp", "erf": "special.erf({0})", "erfc": "special.erfc({0})"},
    "torch": {
        **_EVERYWHERE,
        "np": "torch",
        "reshape": "torch.reshape({0}, {shape})",
        "permute": "torch.permute({0}, {axes})",
        "broadcast": "torch.broadcast_to({0}, {shape})",
        "batch": "torch.broadcast_to({0}, {shape})",
        "sum": "torch.sum({0}, dim={axes})",
        "flip": "torch.flip({0}, dims=({axis},))",
        "take": "torch.index_select({0}, {axis}, {1})",
        "concat": "torch.cat(({all},), dim={axis})",
        "gram": "({0} * {1}[:, None, :]) @ torch.transpose({0}, -1, -2)",
        "erf": "torch.special.erf({0})",
        "erfc": "torch.special.erfc({0})",
    },
}
_NAMED = {"input": "{name}", "seed": "{name}", "parameter": "w[{name!r}]"}


def bind_text(name: str, program: Program, library: str, constants: Mapping[str, str]) -> str:
    """``def name(w):`` what depends on the weights ``w`` alone.

    ``constants`` says how each of the program's constants is written.
    """
    kept = carried(program, 1)
    body = _lines(program.at(0), library, constants, kept)
    return "\n".join([f"def {name}(w):", *body, *_tuple("return ", kept)]) + "\n"


def run_text(name: str, program: Program, library: str, inputs: Sequence[str]) -> str:
    """``def name(constants, n, ...):`` the results for a chunk of n samples."""
    bound = carried(program, 1)
    results = [v.name for v in program.outputs.values()]
    head = f"def {name}(constants, n, {', '.join(inputs)}):"
    unpack = _tuple("", bound, " = constants") if bound else []
    body = _lines(program.at(2), library, {}, [*results, *bound])
    return "\n".join([head, *unpack, *body, *_tuple("return ", results)]) + "\n"


def _lines(
    steps: Sequence[Step], library: str, constants: Mapping[str, str], kept: Sequence[str]
) -> list[str]:
    """A line for each step; what nothing needs any more is deleted, so that its memory goes."""
    mine = {s.out.name for s in steps} - set(kept)
    found: list[str] = []
    for s in reversed(steps):
        used = dict.fromkeys(a.name for a in s.args if isinstance(a, Value))
        dying = [name for name in used if name in mine]
        mine.difference_update(dying)
        if dying:
            found += _tuple("del ", dying)[::-1]
        found.append(f"    {s.out.name} = {_expression(s, LIBRARIES[library], constants)}")
    return found[::-1]


def _expression(s: Step, table: Mapping[str, str], constants: Mapping[str, str]) -> str:
    at = s.attributes
    if s.op == "constant":
        return constants[at["key"]]
    args = [literal(a) for a in s.args]
    if s.op == "slice":
        return f"{args[0]}[{':, ' * at['axis']}{at['start']}:{at['stop']}]"
    pattern = _NAMED.get(s.op) or table.get(s.op, f"{{np}}.{s.op}({{all}})")
    shape = shape_text(s.out) if "{shape}" in pattern else ""
    return pattern.format(*args, np=table["np"], all=", ".join(args), shape=shape, **at)


def _tuple(before: str, names: Sequence[str], after: str = "") -> list[str]:
    """A tuple of names, on several lines where it is long."""
    text = ", ".join(names)
    if before == "del " and len(text) < 80:
        return [f"    del {text}"]
    if len(text) < 70:
        return [f"    {before}({text}{',' if names else ''}){after}"]
    rows = textwrap.wrap(f"{text},", 92)
    return [f"    {before}(", *(f"        {row}" for row in rows), f"    ){after}"]
