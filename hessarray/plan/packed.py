"""Matrix products with packed constants, and (A . S) B in one operation.

A constant that many products meet is packed once, when it is bound, in the order in which they read
it. A Jacobian, times s'(z) of its sample, times the next layer's weights is one operation then: rows
are weighed while they are on their way into the product, which saves a pass through memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hessarray.plan.step import Program, Step, Value, dims, row_major

__all__ = ["packed"]

_SHORTEST = 8  # axis of a packed constant; with shorter ones there is nothing to gain


def packed(program: Program) -> Program:
    """The same program with such products, where the right matrix is bound once."""
    uses = Counter(id(a) for s in program.steps for a in s.args)
    uses.update(id(v) for v in program.outputs.values())
    made = {id(s.out): s for s in program.steps}
    steps: list[Step] = []
    gone: set[int] = set()
    ready: dict[int, Value] = {}
    for s in program.steps:
        if s.op != "matmul" or not _constant(s):
            steps.append(s)
            continue
        a, b = s.args
        assert isinstance(a, Value) and isinstance(b, Value)
        if id(b) not in ready:
            ready[id(b)] = replace(b, name=f"{b.name}_packed")
            steps.append(Step("pack", ready[id(b)], (b,)))
        found = _weighed(a, made, uses)
        if found is None:
            steps.append(Step("packed_matmul", s.out, (a, ready[id(b)])))
            continue
        between, product = found
        gone.update(id(v) for v in between)
        x = product.out
        shape = (*x.shape[:-1], b.shape[-1])
        strides = row_major(dims(x.rows, shape, x.lead))
        whole = Value(f"{s.out.name}_", x.rows, shape, s.out.stage, False, x.lead, strides)
        steps.append(Step("scaled_matmul", whole, (*product.args, ready[id(b)])))
        steps.append(Step("reshape", s.out, (whole,)))
    return replace(program, steps=tuple(s for s in steps if id(s.out) not in gone))


def _constant(s: Step) -> bool:
    """Whether samples' rows meet a matrix that all samples and calls share."""
    a, b = s.args
    assert isinstance(a, Value) and isinstance(b, Value)
    rows = a.rows and len(a.shape) == 1
    return bool(rows and not b.rows and not b.stage and min(b.shape) >= _SHORTEST)


def _weighed(
    a: Value, made: dict[int, Step], uses: Counter[int]
) -> tuple[list[Value], Step] | None:
    """The product of entries that a is, and what is not made any more when it is joined."""
    between, step = [a], made[id(a)]
    while step.op == "reshape" and uses[id(step.out)] == 1:
        inner = step.args[0]
        assert isinstance(inner, Value)
        between.append(inner)
        step = made[id(inner)]
    x = step.out
    alone = step.op == "multiply" and uses[id(x)] == 1 and x.lead < len(x.shape)
    if alone and x.dims[-1] == a.shape[0] and all(isinstance(v, Value) for v in step.args):
        return between, step
    return None
