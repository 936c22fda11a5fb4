"""Lowers a per-sample graph to array operations with the batch axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from hessarray.backends.protocol import Costs
from hessarray.graph.builder import Builder
from hessarray.graph.elementary import Elementary
from hessarray.graph.node import (
    SAMPLE,
    Add,
    Broadcast,
    Concat,
    Constant,
    Einsum,
    Elementwise,
    Eye,
    Flip,
    Input,
    Node,
    Pad,
    Parameter,
    Reshape,
    Seed,
    Select,
    Slice,
    Take,
    Test,
    topological,
)
from hessarray.graph.trace import code_node
from hessarray.plan.contract import Contractor
from hessarray.plan.fuse import expand, fuse, is_whole
from hessarray.plan.stack import stack
from hessarray.plan.step import Program, Step, Value

__all__ = ["lower", "with_code"]


def lower(builder: Builder, outputs: dict[str, Node], n: int, costs: Costs) -> Program:
    """The program for these outputs; ``n`` weighs the batch axis when paths are chosen."""
    nodes = expand(builder, list(outputs.values()), costs.whole)
    nodes = stack(builder, nodes, n, costs)
    nodes = fuse(builder, nodes)
    lowering = _Lowering(builder, n, costs, _ends(nodes))
    # Second derivatives first: each Jacobian meets its site while in the cache, and dies.
    names = list(outputs)
    found = {k: lowering.result(node) for k, node in reversed([*zip(names, nodes, strict=True)])}
    values = {k: found[k] for k in names}
    return _live(lowering, values)


def _ends(outputs: list[Node]) -> set[int]:
    """The results and the terms of their sums."""
    found: set[int] = set()
    todo = list(outputs)
    while todo:
        node = todo.pop()
        found.add(id(node))
        if isinstance(node.op, (Add, Reshape)):
            todo += node.args
    return found


def _live(lowering: _Lowering, outputs: dict[str, Value]) -> Program:
    """The program without steps that nothing uses."""
    needed = {id(v) for v in outputs.values()}
    steps: list[Step] = []
    for step in reversed(lowering.steps):
        if id(step.out) in needed:
            steps.append(step)
            needed.update(id(a) for a in step.args)
    steps.reverse()
    used = {s.attributes["key"] for s in steps if s.op == "constant"}
    constants = {k: v for k, v in lowering.constants.items() if k in used}
    paths = tuple(lowering.paths)
    return Program(tuple(steps), constants, outputs, paths, lowering.costs.joins)


def with_code(program: Program) -> Program:
    """The same program with the code of its activations, for who has no kernels for them."""
    if all(s.op != "activation" for s in program.steps):
        return program
    free = Costs(call=0.0, flop=0.0, entry=0.0, row=0.0, matrix=0.0)
    builder = Builder()
    lowering = _Lowering(builder, 1, free, set())
    lowering.constants.update(program.constants)
    new: dict[int, Value] = {}
    for s in program.steps:
        args = tuple(new[id(a)] if isinstance(a, Value) else a for a in s.args)
        hint = s.out.name.rstrip("0123456789")
        if s.op == "activation":
            (z,) = args
            assert isinstance(z, Value)
            leaf = builder.seed(z.name, z.shape, batched=True)
            lowering.values[id(leaf)] = z
            v = lowering.code(s.attributes["function"], leaf, hint)
            # Code may move the batch axis across axes of length one.
            new[id(s.out)] = lowering.reshape(v, s.out.rows, s.out.shape, s.out.lead)
        else:
            new[id(s.out)] = out = replace(s.out, name=f"{hint}{len(lowering.steps)}")
            lowering.steps.append(Step(s.op, out, args, s.attributes))
    return _live(lowering, {k: new[id(v)] for k, v in program.outputs.items()})


class _Lowering(Contractor):
    """Every node becomes one value."""

    def __init__(self, builder: Builder, n: int, costs: Costs, ends: set[int]) -> None:
        super().__init__(n, costs)
        self.builder, self.ends = builder, ends
        self.values: dict[int, Value] = {}

    def finished(self, node: Node, known: Sequence[Node] = ()) -> Value:
        """The node's value; those of ``known`` nodes are there."""
        for item in topological([node], known):
            if id(item) not in self.values:
                self.hint = self.builder.hints.get(id(item), "t")
                if item.size:
                    self.values[id(item)] = _RULES[type(item.op)](self, item, item.op)
                else:  # without entries there is nothing that differs from sample to sample
                    self.values[id(item)] = self.constant(
                        np.zeros(item.shape, bool if item.truth else float)
                    )
        return self.values[id(node)]

    def code(self, function: Elementary, z: Node, hint: str) -> Value:
        """s(z) by the function's own code."""
        node = code_node(self.builder, function, z)
        self.builder.hints.setdefault(id(node), hint)
        return self.finished(node, [z])

    def result(self, node: Node) -> Value:
        """A returned value: it has the batch axis, in front, even where all samples share it."""
        return self.batched(self.finished(node))

    def arg(self, node: Node, i: int) -> Value:
        return self.values[id(node.args[i])]

    def operand(self, node: Node) -> Value | float:
        """An argument of a broadcasting operation: grown axes and plain numbers stay implicit."""
        if isinstance(node.op, Broadcast):
            return self.operand(node.args[0])
        if (
            isinstance(node.op, Reshape)
            and node.size == 1
            and isinstance(node.args[0].op, Constant)
        ):
            node = node.args[0]
        if isinstance(node.op, Constant) and node.size == 1 and not node.truth:
            return float(node.op.value.reshape(()))
        return self.values[id(node)]

    def array(self, node: Node) -> Value:
        """The same where a plain number will not do."""
        v = self.operand(node)
        return self.scalar(v) if isinstance(v, float) else v

    def full(self, v: Value | float, node: Node) -> Value:
        """An operand that must have the node's whole shape."""
        if isinstance(v, float):
            v = self.scalar(v)
        return self.broadcast(v, node.shape)


# ---- one rule per kind of operation -----------------------------------------------------------


def _leaf(low: _Lowering, node: Node, op: Any) -> Value:
    if isinstance(op, Constant):
        return low.constant(op.value)
    if isinstance(op, Eye):
        return low.recipe(f"eye{op.size}", partial(np.eye, op.size), node.shape)
    name = f"x{op.index}" if isinstance(op, Input) else op.name
    kind = type(op).__name__.lower()
    rows = 1 if node.level == SAMPLE else 0
    key = (kind, name)
    if key not in low._seen:
        low._seen[key] = low.emit(kind, [], rows, node.shape, name=name, stage=node.level)
    return low._seen[key]


def _contract(low: _Lowering, node: Node, op: Einsum) -> Value:
    low.returned = id(node) in low.ends
    return low.contract(op, [low.values[id(a)] for a in node.args], node)


def _add(low: _Lowering, node: Node, op: Add) -> Value:
    terms = [(c, low.operand(a)) for c, a in zip(op.coefficients, node.args, strict=True)]
    terms.sort(key=lambda t: (t[0] != 1.0, isinstance(t[1], float)))  # start from a plain term
    number = sum(c * v for c, v in terms if isinstance(v, float))
    arrays = [(c, v) for c, v in terms if not isinstance(v, float)]
    total: Value | None = None
    for c, v in arrays:
        if total is None:
            total = v if c == 1.0 else low.elementwise("multiply", (v, c))
        elif c == 1.0:
            total = low.elementwise("add", (total, v))
        elif c == -1.0:
            total = low.elementwise("subtract", (total, v))
        else:
            total = low.elementwise("add", (total, low.elementwise("multiply", (v, c))))
    if total is None:
        return low.full(number, node)
    if number or len(arrays) < len(terms):
        total = low.elementwise("add", (total, number))
    return low.full(total, node)


def _elementwise(low: _Lowering, node: Node, op: Elementwise) -> Value:
    function, v = op.function, low.array(node.args[0])
    if is_whole(node, low.costs.whole) and v.rows:
        out = low.elementwise("activation", (v,), function=function)
    elif not function.primitive:
        return low.code(function, node.args[0], low.hint)
    elif function.name == "power":
        out = low.elementwise("pow", (v, function.parameters[0]))
    elif function.name == "divisor":
        out = low.elementwise("reciprocal", (v,))
        low._divisors[id(out)] = v
    else:
        out = low.elementwise(function.name, (v,))
    return low.full(out, node)


def _select(low: _Lowering, node: Node, op: Select) -> Value:
    test = node.args[0].op
    names = {"greater_equal": "maximum", "less_equal": "minimum"}
    a, b = (low.array(x) for x in node.args[1:])
    if isinstance(test, Test) and test.name in names and node.args[0].args == node.args[1:]:
        # maximum and minimum as one call: it also keeps NaN, which a comparison would drop
        return low.full(low.elementwise(names[test.name], (a, b)), node)
    return low.full(low.elementwise("where", (low.arg(node, 0), a, b)), node)


def _test(low: _Lowering, node: Node, op: Test) -> Value:
    if op.name.startswith("logical"):
        return low.elementwise(op.name, [low.values[id(a)] for a in node.args], truth=True)
    a, b = (low.operand(x) for x in node.args)
    if isinstance(a, float):
        a = low.scalar(a)
    return low.full(low.elementwise(op.name, (a, b), truth=True), node)


def _slice(low: _Lowering, node: Node, op: Slice) -> Value:
    return low.slice(low.arg(node, 0), op.axis, op.start, op.stop)


def _pad(low: _Lowering, node: Node, op: Pad) -> Value:
    v = low.arg(node, 0)
    parts = []
    for length in (op.before, None, op.after):
        shape = node.args[0].shape
        if length is None:
            parts.append(v)
        elif length:
            zero = low.scalar(0.0)
            parts.append(low.broadcast(zero, (*shape[: op.axis], length, *shape[op.axis + 1 :])))
    return _joined(low, parts, op.axis, node.shape)


def _concat(low: _Lowering, node: Node, op: Concat) -> Value:
    return _joined(low, [low.values[id(a)] for a in node.args], op.axis, node.shape)


def _joined(low: _Lowering, parts: list[Value], axis: int, shape: tuple[int, ...]) -> Value:
    rows = max(p.rows for p in parts)
    # The batch axis stands where the largest part has it: across axes of length one it moves free.
    lead = max((p for p in parts if p.rows), key=lambda p: p.size, default=parts[0]).lead
    if rows:  # concat does not broadcast: operands without batch axis are repeated along it
        parts = [low.batched(p, lead) for p in parts]
    place = axis + (rows > 0 and axis >= lead)
    return low.emit("concat", parts, rows, shape, lead=lead, truth=parts[0].truth, axis=place)


def _flip(low: _Lowering, node: Node, op: Flip) -> Value:
    v = low.arg(node, 0)
    place = v.place(op.axis)
    strides = tuple(-s if p == place else s for p, s in enumerate(v.strides))
    return low.emit(
        "flip", [v], v.rows, node.shape, lead=v.lead, truth=v.truth, strides=strides, axis=place
    )


def _take(low: _Lowering, node: Node, op: Take) -> Value:
    v = low.arg(node, 0)
    indices = low.constant(np.asarray(op.indices, dtype=np.int32))
    return low.emit(
        "take", [v, indices], v.rows, node.shape, lead=v.lead, truth=v.truth, axis=v.place(op.axis)
    )


def _reshape(low: _Lowering, node: Node, op: Reshape) -> Value:
    v = low.arg(node, 0)
    if op.shape[: v.lead] != v.shape[: v.lead]:
        v = low.samples_first(v)
    return low.reshape(v, v.rows, op.shape, v.lead)


def _broadcast(low: _Lowering, node: Node, op: Broadcast) -> Value:
    return low.broadcast(low.arg(node, 0), op.shape)


_RULES: dict[type, Callable[[_Lowering, Node, Any], Value]] = {
    Input: _leaf,
    Parameter: _leaf,
    Seed: _leaf,
    Constant: _leaf,
    Eye: _leaf,
    Einsum: _contract,
    Add: _add,
    Elementwise: _elementwise,
    Select: _select,
    Test: _test,
    Slice: _slice,
    Pad: _pad,
    Concat: _concat,
    Flip: _flip,
    Take: _take,
    Reshape: _reshape,
    Broadcast: _broadcast,
}
