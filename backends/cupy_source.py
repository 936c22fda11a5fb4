"""Prints a program for CuPy: runs of elementwise operations become one kernel each.

A kernel reads its operands once, whatever they are used for, and writes what is needed outside of
it. So an activation with its derivatives is one pass over the pre-activation, where call by call
every operation would read and write the device's memory. Everything else stays array API code.

An operation joins a group whose results have the same shape. The group runs where its first
operation stood: what joins it comes forward, which is sound where all other operands were there
before. A group that nothing has used yet may instead wait for a later operation, unless that would
keep more arrays alive than the one that it saves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

__all__ = ["Grouping", "cupy_source"]

_CODE = {
    "abs": "fabs({0})",
    "add": "{0} + {1}",
    "divide": "{0} / {1}",
    "equal": "{0} == {1}",
    "greater": "{0} > {1}",
    "greater_equal": "{0} >= {1}",
    "less": "{0} < {1}",
    "less_equal": "{0} <= {1}",
    "logical_and": "{0} && {1}",
    "logical_not": "!{0}",
    "logical_or": "{0} || {1}",
    "logical_xor": "{0} != {1}",
    # The first operand where it is NaN, the second where that is: the comparison is false then.
    "maximum": "({0} >= {1} || {0} != {0}) ? {0} : {1}",
    "minimum": "({0} <= {1} || {0} != {0}) ? {0} : {1}",
    "multiply": "{0} * {1}",
    "negative": "-{0}",
    "not_equal": "{0} != {1}",
    "reciprocal": "T(1) / {0}",
    "round": "rint({0})",
    "sign": "{0} != {0} ? {0} : T(({0} > T(0)) - ({0} < T(0)))",
    "square": "{0} * {0}",
    "subtract": "{0} - {1}",
    "where": "{0} ? {1} : {2}",
}
_CODE |= {
    name: f"{name}({{0}})"
    for name in (
        "acos acosh asin asinh atan atanh ceil cos cosh erf erfc exp expm1 floor log log10 log1p "
        "log2 sin sinh sqrt tan tanh trunc"
    ).split()
}
_CODE |= {"pow": "pow({0}, {1})"}

_VIEWS = ("reshape", "permute", "slice", "flip", "broadcast", "batch")  # nothing is computed
_MOST_ARRAYS = 24  # of one kernel: their shapes and strides travel with each launch, 4 KiB at most
_MOST_STEPS = 96


@dataclass(eq=False)
class Group:
    """Operations that run as one kernel, where operation number ``place`` stood."""

    place: int
    dims: tuple[int, ...]
    steps: dict[int, Any] = field(default_factory=dict)  # by number
    inputs: dict[str, Any] = field(default_factory=dict)
    open: dict[str, set[int]] = field(default_factory=dict)  # results, and who outside needs them
    used: bool = False  # by an operation outside, so far

    def add(self, i: int, s: Any, users: Iterable[int]) -> None:
        for a in _arrays(s):
            if a.name in self.open:
                self.open[a.name].discard(i)
                if not self.open[a.name]:
                    del self.open[a.name]
            else:
                self.inputs.setdefault(a.name, a)
        self.steps[i] = s
        self.open[s.out.name] = set(users)

    def absorb(self, other: Group) -> None:
        """Nothing outside has used the other; neither uses anything of the other."""
        self.steps |= other.steps
        self.inputs |= other.inputs
        self.open |= other.open


def _arrays(step: Any) -> list[Any]:
    """The operands that are arrays, each once."""
    return list(dict.fromkeys(a for a in step.args if hasattr(a, "name")))


def _fusable(step: Any) -> bool:
    # Infinities and NaN have no literal in C++.
    return step.op in _CODE and all(hasattr(a, "name") or isfinite(a) for a in step.args)


# ---- which operations run together ------------------------------------------------------------


class Grouping:
    """Every fusable operation of a program, alone or with others.

    It goes through the program once, and keeps for each value where it is made.
    """

    def __init__(self, steps: Sequence[Any], outputs: Iterable[str]) -> None:
        self.found: list[Group] = []
        self._owner: dict[str, Group] = {}
        self._place: dict[str, int] = {}  # of what no group makes
        self._readers: dict[str, Group] = {}  # the last group that reads a value
        self._users: dict[str, list[int]] = {}
        for i, s in enumerate(steps):
            for a in _arrays(s):
                self._users.setdefault(a.name, []).append(i)
        for name in outputs:
            self._users.setdefault(name, []).append(len(steps))
        # Operations before this one that are neither views nor fusable.
        self._heavy = [0]
        for s in steps:
            self._heavy.append(self._heavy[-1] + (s.op not in _VIEWS and not _fusable(s)))
        for i, s in enumerate(steps):
            group = self._joined(i, s) if _fusable(s) else None
            for a in _arrays(s):
                if a.name in self._owner and self._owner[a.name] is not group:
                    self._owner[a.name].used = True
            if group is None:
                self._place[s.out.name] = i

    def _joined(self, i: int, s: Any) -> Group:
        """The group of this operation, which is now a member."""
        dims = s.out.dims
        mine = _alike((self._owner.get(a.name) for a in _arrays(s)), dims)
        beside = _alike((self._readers.get(a.name) for a in _arrays(s)), dims)
        group = self._earlier(s, mine, beside) or self._later(i, s, mine)
        if group is None:
            group = Group(i, dims)
            self.found.append(group)
        group.add(i, s, self._users.get(s.out.name, ()))
        self._owner[s.out.name] = group
        self._readers |= {a.name: group for a in _arrays(s) if a.dims == dims}
        return group

    def _earlier(self, s: Any, mine: Sequence[Group], beside: Sequence[Group]) -> Group | None:
        """A group that the operation can join where that stands, with others that can wait."""
        for group in dict.fromkeys((*mine, *beside)):
            waiting = [h for h in mine if h.place < group.place and self._may_wait(h, group.place)]
            outside = (a for a in _arrays(s) if self._owner.get(a.name) not in (group, *waiting))
            if all(self._made(a) < group.place for a in outside) and _fit([group, *waiting], s):
                self._merge(group, waiting)
                return group
        return None

    def _later(self, i: int, s: Any, mine: Sequence[Group]) -> Group | None:
        """The groups of the operands where they can wait for the operation, as one."""
        waiting = [g for g in mine if self._may_wait(g, i)]
        if not waiting or not _fit(waiting, s):
            return None
        waiting[0].place = i
        self._merge(waiting[0], waiting[1:])
        return waiting[0]

    def _made(self, value: Any) -> int:
        owner = self._owner.get(value.name)
        return owner.place if owner is not None else self._place.get(value.name, -1)

    def _may_wait(self, group: Group, place: int) -> bool:
        """Nothing uses it before, and it keeps no more alive than it makes."""
        if group.used:
            return False
        if self._heavy[place] == self._heavy[group.place]:
            return True
        held = [a for a in group.inputs.values() if a.dims == group.dims and not a.truth]
        return sum(self._users[a.name][-1] < place for a in held) <= 1

    def _merge(self, group: Group, others: Iterable[Group]) -> None:
        for other in others:
            group.absorb(other)
            self.found.remove(other)
            self._owner |= {s.out.name: group for s in other.steps.values()}
            self._readers |= {k: group for k, g in self._readers.items() if g is other}


def _alike(groups: Iterable[Group | None], dims: tuple[int, ...]) -> list[Group]:
    """The groups of this shape, the last one first."""
    found = dict.fromkeys(g for g in groups if g is not None and g.dims == dims)
    return sorted(found, key=lambda g: -g.place)


def _fit(groups: Sequence[Group], s: Any) -> bool:
    arrays = sum(len(g.inputs) + len(g.open) for g in groups) + len(s.args) + 1
    return sum(len(g.steps) for g in groups) < _MOST_STEPS and arrays <= _MOST_ARRAYS


# ---- text ------------------------------------------------------------------------------------


def cupy_source(program: Any, source: str) -> str:
    """The functional ``source`` of a program, with kernels in place of what runs together.

    It expects ``kernel(inputs, outputs, body)`` in its scope, which makes a callable of them as
    ``cupy.ElementwiseKernel`` does, with T for the floating-point type.
    """
    steps = program.at(2)
    results = [v.name for v in program.outputs.values()]
    fused = {g.place: g for g in Grouping(steps, results).found if len(g.steps) > 1}
    inside = {i for g in fused.values() for i in g.steps}
    numbers = _numbers(program)
    once, head, unpack, printed = _parts(source)
    kernels: dict[tuple[str, str, str], str] = {}
    lines: list[tuple[str, list[str], list[str]]] = []  # text, what it makes, what it uses
    for i, s in enumerate(steps):
        if i in fused:
            members = [s for _, s in sorted(fused[i].steps.items())]
            out = [s.out.name for s in members if s.out.name in fused[i].open]
            names = dict.fromkeys(a.name for s in members for a in _arrays(s))
            used = [k for k in names if k in fused[i].inputs and k not in numbers]
            code = _kernel(members, used, out, numbers)
            name = kernels.setdefault(code, f"fused{len(kernels)}")
            lines.append((f"{', '.join(out)} = {name}({', '.join(used)})", out, used))
        elif i not in inside:
            text = f"{s.out.name} = {printed[s.out.name]}"
            lines.append((text, [s.out.name], [a.name for a in _arrays(s)]))
    body = [*head, *unpack, *_with_deletions(lines, results)]
    body.append(f"    return ({', '.join(results)},)")
    defined = [_definition(name, code) for code, name in kernels.items()]
    return "\n\n".join([*defined, once + "\n\n" + "\n".join(body) + "\n"])


def _parts(source: str) -> tuple[str, list[str], list[str], dict[str, str]]:
    """Bind and seed, the head of run and what it unpacks, and each of its expressions by name."""
    once, _, run = source.partition("def run(")
    head, *lines = ("def run(" + run).splitlines()
    unpack = [line for line in lines[:1] if line.endswith(" = b")]
    printed = dict(re.findall(r"^    (\w+) = (.+)$", "\n".join(lines), re.MULTILINE))
    return once.rstrip() + "\n", [head], unpack, printed


def _numbers(program: Any) -> dict[str, float]:
    """Constants of one entry: numbers inside a kernel, nothing to be read."""
    found = {}
    for s in program.steps:
        value: Any = program.constants[s.attributes["key"]] if s.op == "constant" else None
        if getattr(value, "ndim", None) == 0 and value.dtype.kind == "f" and isfinite(value):
            found[s.out.name] = float(value)
    return found


def _kernel(
    members: Sequence[Any], used: Sequence[str], out: Sequence[str], numbers: dict[str, float]
) -> tuple[str, str, str]:
    """Inputs, outputs and body; names are counted through, so that equal layers have equal ones."""
    values = {v.name: v for s in members for v in (*_arrays(s), s.out)}

    def kind(name: str) -> str:
        return "bool" if values[name].truth else "T"

    names = {name: f"i{k}" for k, name in enumerate(used)}
    names |= {name: f"T({x!r})" for name, x in numbers.items()}
    lines = []
    for k, s in enumerate(members):
        args = [names[a.name] if hasattr(a, "name") else f"T({a!r})" for a in s.args]
        names[s.out.name] = f"t{k}"
        lines.append(f"const {kind(s.out.name)} t{k} = {_CODE[s.op].format(*args)};")
    lines += [f"o{k} = {names[name]};" for k, name in enumerate(out)]
    inputs = ", ".join(f"{kind(name)} i{k}" for k, name in enumerate(used))
    outputs = ", ".join(f"{kind(name)} o{k}" for k, name in enumerate(out))
    return inputs, outputs, "\n".join(lines)


def _definition(name: str, code: tuple[str, str, str]) -> str:
    inputs, outputs, body = code
    text = "\n".join(f"    {line}" for line in body.splitlines())
    return f'{name} = kernel(\n    "{inputs}",\n    "{outputs}",\n    """\n{text}\n    """,\n)\n'


def _with_deletions(
    lines: Sequence[tuple[str, Sequence[str], Sequence[str]]], results: Iterable[str]
) -> list[str]:
    """The lines, each followed by the end of what nothing needs after it."""
    mine = {name for _, made, _ in lines for name in made} - set(results)
    found: list[str] = []
    for text, _, used in reversed(lines):
        dying = [name for name in dict.fromkeys(used) if name in mine]
        mine.difference_update(dying)
        found += [f"    del {', '.join(dying)}"] * bool(dying) + [f"    {text}"]
    return found[::-1]
