"""Joins operations with those that follow them, for a backend whose kernels do both in one pass.

====================  ============================================================================
``packed_matmul``     A B, where B is bound once and then *packed*: in the order in which the kernel
                      reads it
... with ``scale``    (A . S) B: a Jacobian, times s'(z) of its sample, times the next weights
... with ``plus``     T + A B: a bias, another branch, the sum so far
``row_dots``          A B^T of one row for each of a few samples, with the same packed B
``gram_plus``         T + J diag(w) J^T: the next site of a sum
``multiply_add``      c + a b, entry by entry
``product_sum``       the sum of a b over one axis: squares of a Jacobian's columns
``activation``        s(z), s'(z) and s''(z), or some of them; ``room`` is made for all but the
                      first before
====================  ============================================================================

What is joined is not written and read again in between; sums are taken as soon as their terms are
there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from hessarray.plan.step import Program, Step, Value, dims, row_major, view_strides

__all__ = ["joined"]

_SHORTEST = 8  # axis of a packed constant; with shorter ones there is nothing to gain
_PRODUCTS = ("packed_matmul", "row_dots")
_FEW = 3  # samples: with one row each, the time of a product is that of reading the constant
_CACHED = 1 << 15  # entries of a constant that stays near a core between two products


def joined(program: Program, n: int) -> Program:
    """The same program with such operations, for about n samples."""
    program = replace(program, steps=tuple(_with_slopes(program.steps)))
    return replace(program, steps=tuple(_Kernels(program, n).steps()))


def _with_slopes(steps: Sequence[Step]) -> Iterator[Step]:
    """The steps with each activation and the slopes at its argument in one."""
    together: dict[tuple[str, int], list[Step]] = defaultdict(list)
    for s in steps:
        if s.op == "activation":
            together[_of(s)].append(s)
    for s in steps:
        if s.op != "activation":
            yield s
            continue
        found = together.pop(_of(s), [])  # with the first of them
        found.sort(key=lambda s: s.attributes["function"].order)
        functions = [s.attributes["function"] for s in found]
        if len(found) == 1 and functions[0].primitive:
            yield Step(functions[0].name, s.out, s.args)  # the library's own is as good
        elif found:
            first, *more = (s.out for s in found)
            for v in more:
                yield Step("room", v, ())
            name = functions[0].name + "_" + "".join(str(f.order) for f in functions)
            yield Step("activation", first, (*s.args, *more), {"name": name})


def _of(s: Step) -> tuple[str, int]:
    """An activation's name and argument."""
    return s.attributes["function"].name, id(s.args[0])


class _Kernels:
    """One pass over the steps. What has a single use can be joined with that."""

    def __init__(self, program: Program, n: int) -> None:
        self.program, self.few = program, n <= _FEW
        self.made = {id(s.out): s for s in program.steps}
        uses = Counter(id(a) for s in program.steps for a in s.args)
        returned = {id(v) for v in program.outputs.values()}
        self.once = {key for key, count in uses.items() if count == 1} - returned
        self.user = {id(a): s for s in program.steps for a in s.args}
        self.found: list[Step] = []
        self.there: set[int] = set()  # values that ``found`` makes
        self.skipped: set[int] = set()  # those that are not made any more, or were made early
        self.packed: dict[int, Value] = {}

    def steps(self) -> list[Step]:
        products = [s for s in self.program.steps if _constant(s)]
        weighed = {id(s): self._weighed(s) for s in products}
        self.right = {id(_arrays(s)[1]) for s in products}
        for s in self.program.steps:
            if id(s.out) in self.skipped:
                continue
            if id(s) in weighed:
                self._product(s, weighed[id(s)])
            elif s.op == "multiply" and s.out.rows:
                self._entries(s)
            elif s.op == "gram" and len(s.out.shape) == 2:
                self._with_sum("gram_plus", s, s.args, s.out)
            else:
                self._emit(s)
        return self.found

    def _emit(self, s: Step) -> None:
        self.found.append(s)
        self.there.add(id(s.out))

    # ---- (A . S) B -------------------------------------------------------------------------------

    def _weighed(self, s: Step) -> Step | None:
        """The product of entries that a matrix product can take over; it is skipped then."""
        a, b = _arrays(s)
        between, step = [id(a)], self.made[id(a)]
        while step.op == "reshape" and id(step.out) in self.once:
            between.append(id(step.args[0]))
            step = self.made[between[-1]]
        x = step.out
        if (
            step.op != "multiply"
            or id(x) not in self.once
            or len(_arrays(step)) < 2
            or x.lead == len(x.shape)
            or x.shape[-1] != b.shape[0]
        ):
            return None
        self.skipped.update(between)
        return step

    def _product(self, s: Step, weighed: Step | None) -> None:
        a, b = _arrays(s)
        other = self._transposed(a, b)
        op, b = ("packed_matmul", b) if other is None else ("row_dots", other)
        if id(b) not in self.packed:
            self.packed[id(b)] = replace(b, name=f"{b.name}_packed")
            self._emit(Step("pack", self.packed[id(b)], (b,)))
        ready = self.packed[id(b)]
        if weighed is None:
            self._with_sum(op, s, (a, ready), s.out)
            return
        x, scale = weighed.args
        v = weighed.out
        out = _like(s.out, v.rows, (*v.shape[:-1], s.out.shape[-1]), v.lead)
        self._with_sum(op, s, (x, ready, scale), out, given=("scale",))

    def _transposed(self, a: Value, b: Value) -> Value | None:
        """The matrix whose transpose b is, if it is packed as well and a has few rows.

        One sample reads each constant once: what it reads in both directions stays in the cache.
        """
        turned = self.made[id(b)]
        if not self.few or a.rows != 1 or turned.op != "permute" or b.size > _CACHED:
            return None
        (other,) = _arrays(turned)
        alone = other.shape == b.shape[::-1] and not other.rows
        return other if alone and id(other) in self.right else None

    # ---- sums ------------------------------------------------------------------------------------

    def _entries(self, s: Step) -> None:
        """A product of entries, joined with the sum over one axis or the addition that follows."""
        follows = self.user[id(s.out)] if id(s.out) in self.once else s
        axes: tuple[int, ...] = follows.attributes["axes"] if follows.op == "sum" else ()
        if len(axes) == 1 and axes[0] < s.out.ndim - 1 and len(_arrays(s)) == 2:
            self._emit(Step("product_sum", follows.out, s.args, {"axis": axes[0]}))
            self.skipped.add(id(follows.out))
        else:
            self._with_sum("multiply_add", s, s.args, s.out)

    def _with_sum(
        self,
        op: str,
        s: Step,
        args: tuple[Value | float, ...],
        own: Value,
        given: tuple[str, ...] = (),
    ) -> None:
        """Emit s, which writes ``own``: joined with the addition that follows, if it can be."""
        end, between = s.out, []
        while id(end) in self.once and self.user[id(end)].op == "reshape":
            end = self.user[id(end)].out
            between.append(id(end))
        add = self.user.get(id(end)) if id(end) in self.once else None
        total = self._total(op, add, end, own) if add is not None else None
        if add is None or total is None:
            self._emit(s if op not in _PRODUCTS else Step(op, own, args, {"given": given}))
            if own is not s.out:
                self._emit(Step("reshape", s.out, (own,)))
            return
        out = _like(add.out, own.rows, own.shape, own.lead)
        attributes = {"given": (*given, "plus")} if op in _PRODUCTS else {}
        self._emit(Step(op, out, (*args, total), attributes))
        if out is not add.out:
            self._emit(Step("reshape", add.out, (out,)))
        self.skipped.update([*between, id(add.out)])

    def _total(self, op: str, add: Step, end: Value, own: Value) -> Value | None:
        """What is added to ``end``, as it is added to ``own``, whose entries end's are."""
        if add.op != "add" or add.out.dims != end.dims:
            return None
        (other,) = [a for a in add.args if a is not end]
        if not isinstance(other, Value) or (other.rows and id(other) not in self.there):
            return None
        if own.dims == end.dims:
            return None if op == "gram_plus" and other.dims != own.dims else other
        if other.dims != end.dims:
            return None
        strides = view_strides(other.dims, other.strides, own.dims)
        if strides is None:
            return None
        view = Value(f"{add.out.name}_t", own.rows, own.shape, own.stage, False, own.lead, strides)
        self._emit(Step("reshape", view, (other,)))
        return view


def _constant(s: Step) -> bool:
    """Whether samples' rows meet a matrix that all samples and calls share."""
    if s.op != "matmul":
        return False
    a, b = _arrays(s)
    rows = a.rows and len(a.shape) == 1
    return bool(rows and not b.rows and not b.stage and min(b.shape) >= _SHORTEST)


def _arrays(s: Step) -> list[Value]:
    return [a for a in s.args if isinstance(a, Value)]


def _like(v: Value, rows: int, shape: tuple[int, ...], lead: int) -> Value:
    """v, or what is reshaped to v."""
    lengths = dims(rows, shape, lead)
    if lengths == v.dims:
        return v
    return Value(f"{v.name}_", rows, shape, v.stage, False, lead, row_major(lengths))
