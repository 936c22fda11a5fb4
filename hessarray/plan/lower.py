"""Lowers a per-sample graph to array operations with the batch axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from hessarray.graph.builder import Builder
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
from hessarray.plan.fuse import expand, fuse
from hessarray.plan.paths import BATCH, contraction_path
from hessarray.plan.step import Program, Step, Value

__all__ = ["lower"]


def lower(builder: Builder, outputs: dict[str, Node], n: int) -> Program:
    """The program for these outputs; ``n`` weighs the batch axis when paths are chosen."""
    nodes = expand(builder, list(outputs.values()))
    nodes = fuse(builder, nodes)
    lowering = _Lowering(n, builder.hints)
    # Second derivatives first: each Jacobian meets its site while in the cache, and dies.
    names = list(outputs)
    found = {k: lowering.result(node) for k, node in reversed([*zip(names, nodes, strict=True)])}
    values = {k: found[k] for k in names}
    return _live(lowering, values)


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
    return Program(tuple(steps), constants, outputs, tuple(lowering.paths))


class _Lowering:
    """Emits steps; every node becomes one value."""

    def __init__(self, n: int, hints: dict[int, str]) -> None:
        self.n = n
        self.hints = hints
        self.hint = "t"  # names of what is emitted now start with it
        self.steps: list[Step] = []
        self.values: dict[int, Value] = {}
        self.constants: dict[str, Any] = {}
        self.paths: list[str] = []
        self._seen: dict[Any, Value] = {}
        self._divisors: dict[int, Value] = {}  # a reciprocal that divides -> its argument
        self._reshaped: dict[int, Value] = {}  # a reshaped value -> what it was reshaped from

    # ---- emission ----------------------------------------------------------------------------

    def emit(
        self,
        op: str,
        args: Sequence[Value | float],
        rows: int,
        shape: tuple[int, ...],
        *,
        truth: bool = False,
        contiguous: bool = True,
        **attributes: Any,
    ) -> Value:
        key = (
            op,
            tuple(a if isinstance(a, float) else id(a) for a in args),
            repr(attributes),
            shape,
        )
        if args and key in self._seen:
            return self._seen[key]
        stage = max(
            (a.stage for a in args if isinstance(a, Value)), default=attributes.get("stage", 0)
        )
        stage = SAMPLE if rows else stage
        value = Value(f"{self.hint}{len(self.steps)}", rows, shape, stage, truth, contiguous)
        self.steps.append(Step(op, value, tuple(args), attributes))
        self._seen[key] = value
        return value

    def reshape(self, v: Value, rows: int, shape: tuple[int, ...]) -> Value:
        if v.rows == rows and v.shape == shape:
            return v
        origin = self._reshaped.get(id(v), v)
        if not origin.contiguous:
            origin = self.emit("copy", [v], v.rows, v.shape, truth=v.truth)
        if (origin.rows, origin.shape) == (rows, shape):
            return origin
        out = self.emit("reshape", [origin], rows, shape, truth=v.truth)
        self._reshaped[id(out)] = origin
        return out

    def permute(self, v: Value, axes: Sequence[int]) -> Value:
        """Permute the axes after the batch axis."""
        if list(axes) == list(range(len(axes))):
            return v
        shape = tuple(v.shape[a] for a in axes)
        moved = [a for a in axes if v.shape[a] != 1]
        contiguous = v.contiguous and moved == sorted(moved)
        if contiguous:
            return self.reshape(v, v.rows, shape)
        return self.emit(
            "permute", [v], v.rows, shape, truth=v.truth, contiguous=False, axes=tuple(axes)
        )

    def binary(self, op: str, a: Value | float, b: Value | float, *, truth: bool = False) -> Value:
        both = [v for v in (a, b) if isinstance(v, Value)]
        rows = max(v.rows for v in both)
        shape = np.broadcast_shapes(*(v.shape for v in both))
        aligned = [
            self._aligned(v, len(shape), rows) if isinstance(v, Value) else v for v in (a, b)
        ]
        return self.emit(op, aligned, rows, tuple(shape), truth=truth)

    def _aligned(self, v: Value, ndim: int, rows: int) -> Value:
        """Add the axes of length one that a batched value needs behind its batch axis."""
        if v.rows and len(v.shape) < ndim:
            return self.reshape(v, v.rows, (1,) * (ndim - len(v.shape)) + v.shape)
        return v

    # ---- nodes -------------------------------------------------------------------------------

    def finished(self, node: Node) -> Value:
        for item in topological([node]):
            if id(item) not in self.values:
                self.hint = self.hints.get(id(item), "t")
                self.values[id(item)] = self.lower_node(item)
        return self.values[id(node)]

    def result(self, node: Node) -> Value:
        """A returned value: it has the batch axis even where it is the same for all samples."""
        v = self.finished(node)
        return v if v.rows else self.emit("batch", [v], 1, v.shape, contiguous=False)

    def lower_node(self, node: Node) -> Value:
        return _RULES[type(node.op)](self, node, node.op)

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

    def full(self, v: Value | float, node: Node) -> Value:
        """An operand that must have the node's whole shape."""
        if (
            isinstance(v, Value)
            and v.shape == node.shape
            and (v.rows > 0) == (node.level == SAMPLE)
        ):
            return v
        if isinstance(v, float):
            v = self.scalar(v)
        return self.broadcast(v, node.shape)

    def scalar(self, number: float) -> Value:
        return self.constant(np.asarray(number))

    def constant(self, array: np.ndarray[Any, Any]) -> Value:
        key = f"c{len(self.constants)}"
        for k, known in self.constants.items():
            if callable(known):
                continue
            if (
                known.shape == array.shape
                and known.dtype == array.dtype
                and known.tobytes() == array.tobytes()
            ):
                key = k
        self.constants[key] = array
        truth = array.dtype.kind == "b"
        seen = self._seen.get(("constant", key))
        if seen is None:
            seen = self._seen["constant", key] = self.emit(
                "constant", [], 0, array.shape, truth=truth, key=key
            )
        return seen

    def recipe(self, key: str, make: Callable[[], Any], shape: tuple[int, ...]) -> Value:
        """A constant that is made when the program is bound: a plan takes no memory for it."""
        self.constants[key] = make
        if ("constant", key) not in self._seen:
            self._seen["constant", key] = self.emit("constant", [], 0, shape, key=key)
        return self._seen["constant", key]

    def broadcast(self, v: Value, shape: tuple[int, ...]) -> Value:
        if v.shape == shape:
            return v
        v = self._aligned(v, len(shape), v.rows)
        return self.emit("broadcast", [v], v.rows, shape, truth=v.truth, contiguous=False)

    # ---- contractions ------------------------------------------------------------------------

    def contract(self, node: Node, op: Einsum) -> Value:
        sizes = {
            c: s
            for t, a in zip(op.inputs, node.args, strict=True)
            for c, s in zip(t, a.shape, strict=True)
        }
        one = {c for c, s in sizes.items() if s == 1}
        terms, values = [], []
        for t, a in zip(op.inputs, node.args, strict=True):
            v = self.values[id(a)]
            terms.append("".join(c for c in t if c not in one))
            values.append(self.reshape(v, v.rows, tuple(s for s in v.shape if s != 1)))
        output = "".join(c for c in op.output if c not in one)
        self._apply_scalars(terms, values, op.scale)
        indexed = tuple((BATCH if v.rows else "") + t for t, v in zip(terms, values, strict=True))
        batched = BATCH if any(v.rows for v in values) else ""
        dims = tuple(sorted((*((c, s) for c, s in sizes.items() if s != 1), (BATCH, self.n))))
        path = contraction_path(indexed, batched + output, dims)
        if len(indexed) > 2:
            self.paths.append(f"{','.join(indexed)}->{batched}{output} {list(path)}")
        work = list(zip(terms, values, strict=True))
        for pair in path:
            picked = [work.pop(i) for i in sorted(pair, reverse=True)][::-1]
            rest = output + "".join(t for t, _ in work)
            last = not work
            if len(picked) == 1:
                work.append(self._reduce(*picked[0], rest))
            else:
                work.append(self._pair(picked[0], picked[1], rest, output if last else None))
        term, value = work[0]
        term, value = self._reduce(term, value, output)
        value = self.permute(value, [term.index(c) for c in output])
        return self.reshape(value, value.rows, node.shape)

    def _reduce(self, term: str, v: Value, needed: str) -> tuple[str, Value]:
        """Sum the axes that nothing else needs."""
        gone = [i for i, c in enumerate(term) if c not in needed]
        if not gone:
            return term, v
        shape = tuple(s for i, s in enumerate(v.shape) if i not in gone)
        v = self.emit("sum", [v], v.rows, shape, axes=tuple(i + (v.rows > 0) for i in gone))
        return "".join(c for i, c in enumerate(term) if i not in gone), v

    def _pair(
        self, x: tuple[str, Value], y: tuple[str, Value], needed: str, target: str | None
    ) -> tuple[str, Value]:
        x = self._reduce(*x, needed + y[0])
        y = self._reduce(*y, needed + x[0])
        gone = [c for c in x[0] if c in y[0] and c not in needed]
        if not gone:
            return self._multiply(x, y, target)
        shared = [c for c in x[0] if c in y[0] and c in needed]
        if not set(x[0]) ^ set(y[0]) and x[1].rows and y[1].rows:
            # No free axis on either side: a product and a sum beat n tiny dot products.
            term, value = self._multiply(x, y, None)
            return self._reduce(term, value, needed)
        return self._matmul(x, y, shared, gone, target)

    def _apply_scalars(self, terms: list[str], values: list[Value], scale: float) -> None:
        """Scale the operand that costs least: one without batch axis, or the smallest."""
        alone = [k for k, t in enumerate(terms) if not t and not values[k].rows]
        factors: list[Value | float] = [scale] if scale != 1.0 else []
        if len(alone) < len(terms):
            factors += [values[k] for k in alone]
            for k in reversed(alone):
                del terms[k], values[k]
        if factors:
            i = min(range(len(values)), key=lambda k: (values[k].stage, values[k].size))
            for f in factors:
                values[i] = self.times(values[i], f)

    def times(self, a: Value, b: Value | float) -> Value:
        """a b, or a / c where b was made as the reciprocal of a divisor c."""
        for x, y in ((a, b), (b, a)):
            if isinstance(x, Value) and isinstance(y, Value):
                divisor = self._divisors.get(id(self._reshaped.get(id(y), y)))
                if divisor is not None:
                    return self.binary("divide", x, self.reshape(divisor, y.rows, y.shape))
        return self.binary("multiply", a, b)

    def _multiply(
        self, x: tuple[str, Value], y: tuple[str, Value], target: str | None
    ) -> tuple[str, Value]:
        if x[1].size < y[1].size:
            x, y = y, x
        term = target or x[0] + "".join(c for c in y[0] if c not in x[0])
        values = []
        for t, v in (x, y):
            order = [c for c in term if c in t]
            v = self.permute(v, [t.index(c) for c in order])
            sizes = dict(zip(order, v.shape, strict=True))
            shape = tuple(sizes.get(c, 1) for c in term)
            first = next((i for i, s in enumerate(shape) if s != 1), len(shape))
            # Leading axes of length one may stay implicit unless the batch axis stands before them.
            values.append(self.reshape(v, v.rows, shape if v.rows else shape[first:]))
        return term, self.times(*values)

    def _matmul(
        self,
        x: tuple[str, Value],
        y: tuple[str, Value],
        shared: list[str],
        gone: list[str],
        target: str | None,
    ) -> tuple[str, Value]:
        def free(t: str) -> list[str]:
            return [c for c in t if c not in shared and c not in gone]

        # The batched operand goes left, so that samples and free axes are the rows of one GEMM;
        # with both batched, the order that gives the target without a permutation.
        swap = bool(y[1].rows) and not x[1].rows
        if bool(x[1].rows) == bool(y[1].rows) and target is not None:
            wanted = "".join(c for c in target if c not in shared)
            swap = wanted != "".join(free(x[0]) + free(y[0])) and wanted == "".join(
                free(y[0]) + free(x[0])
            )
        if swap:
            x, y = y, x
        left, right = free(x[0]), free(y[0])
        if target is not None and not y[1].rows:
            # An operand without batch axis is permuted once, at the binding: let the result come
            # out in the order that is wanted.
            right.sort(key=target.index)
        sizes = {c: s for t, v in (x, y) for c, s in zip(t, v.shape, strict=True)}

        def count(letters: list[str]) -> int:
            return math.prod(sizes[c] for c in letters)

        def matrix(operand: tuple[str, Value], rows: list[str], columns: list[str]) -> Value:
            t, v = operand
            v = self.permute(v, [t.index(c) for c in [*shared, *rows, *columns]])
            lead = (count(shared),) if shared else ()
            return self.reshape(v, v.rows, (*lead, count(rows), count(columns)))

        a, b = matrix(x, left, gone), matrix(y, gone, right)
        term = "".join([*shared, *left, *right])
        if a.rows and not b.rows and not shared:
            flat = self.reshape(a, a.rows * count(left), (count(gone),))
            out = self.emit("matmul", [flat, b], flat.rows, (count(right),))
        else:
            lead = (count(shared),) if shared else ()
            out = self.emit("matmul", [a, b], a.rows, (*lead, count(left), count(right)))
        return term, self.reshape(out, a.rows, tuple(sizes[c] for c in term))


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


def _add(low: _Lowering, node: Node, op: Add) -> Value:
    terms = [(c, low.operand(a)) for c, a in zip(op.coefficients, node.args, strict=True)]
    terms.sort(key=lambda t: (t[0] != 1.0, isinstance(t[1], float)))  # start from a plain term
    number = sum(c * v for c, v in terms if isinstance(v, float))
    arrays = [(c, v) for c, v in terms if not isinstance(v, float)]
    total: Value | None = None
    for c, v in arrays:
        if total is None:
            total = v if c == 1.0 else low.binary("multiply", v, c)
        elif c == 1.0:
            total = low.binary("add", total, v)
        elif c == -1.0:
            total = low.binary("subtract", total, v)
        else:
            total = low.binary("add", total, low.binary("multiply", v, c))
    if total is None:
        return low.full(number, node)
    if number or len(arrays) < len(terms):
        total = low.binary("add", total, number)
    return low.full(total, node)


def _elementwise(low: _Lowering, node: Node, op: Elementwise) -> Value:
    v = low.operand(node.args[0])
    v = low.scalar(v) if isinstance(v, float) else v
    if op.function.name == "power":
        out = low.emit("pow", [v, op.function.parameters[0]], v.rows, v.shape)
    elif op.function.name == "divisor":
        out = low.emit("reciprocal", [v], v.rows, v.shape)
        low._divisors[id(out)] = v
    else:
        out = low.emit(op.function.name, [v], v.rows, v.shape)
    return low.full(out, node)


def _select(low: _Lowering, node: Node, op: Select) -> Value:
    test = node.args[0].op
    names = {"greater_equal": "maximum", "less_equal": "minimum"}
    a, b = (low.operand(x) for x in node.args[1:])
    if isinstance(test, Test) and test.name in names and node.args[0].args == node.args[1:]:
        # maximum and minimum as one call: it also keeps NaN, which a comparison would drop
        pair = [low.scalar(v) if isinstance(v, float) else v for v in (a, b)]
        return low.full(low.binary(names[test.name], pair[0], pair[1]), node)
    mask = low.arg(node, 0)
    args = [low.scalar(v) if isinstance(v, float) else v for v in (a, b)]
    rows = max(v.rows for v in (mask, *args))
    ndim = len(node.shape)
    aligned = [low._aligned(v, ndim, rows) for v in (mask, *args)]
    return low.full(low.emit("where", aligned, rows, node.shape), node)


def _test(low: _Lowering, node: Node, op: Test) -> Value:
    if op.name.startswith("logical"):
        masks = [low.values[id(a)] for a in node.args]
        if len(masks) == 1:
            return low.emit(op.name, masks, masks[0].rows, masks[0].shape, truth=True)
        return low.binary(op.name, masks[0], masks[1], truth=True)
    a, b = (low.operand(x) for x in node.args)
    if isinstance(a, float):
        a = low.scalar(a)
    return low.full(low.binary(op.name, a, b, truth=True), node)


def _slice(low: _Lowering, node: Node, op: Slice) -> Value:
    v = low.arg(node, 0)
    axis = op.axis + (v.rows > 0)
    whole = all(s == 1 for s in v.shape[: op.axis]) and not v.rows
    return low.emit(
        "slice",
        [v],
        v.rows,
        node.shape,
        truth=v.truth,
        contiguous=v.contiguous and whole,
        axis=axis,
        start=op.start,
        stop=op.stop,
    )


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
    if rows:  # concat does not broadcast: operands without batch axis are repeated along it
        parts = [
            p if p.rows else low.emit("batch", [p], 1, p.shape, contiguous=False) for p in parts
        ]
    return low.emit("concat", parts, rows, shape, truth=parts[0].truth, axis=axis + (rows > 0))


def _flip(low: _Lowering, node: Node, op: Flip) -> Value:
    v = low.arg(node, 0)
    return low.emit(
        "flip",
        [v],
        v.rows,
        node.shape,
        truth=v.truth,
        contiguous=False,
        axis=op.axis + (v.rows > 0),
    )


def _take(low: _Lowering, node: Node, op: Take) -> Value:
    v = low.arg(node, 0)
    indices = low.constant(np.asarray(op.indices, dtype=np.int32))
    return low.emit(
        "take", [v, indices], v.rows, node.shape, truth=v.truth, axis=op.axis + (v.rows > 0)
    )


def _reshape(low: _Lowering, node: Node, op: Reshape) -> Value:
    v = low.arg(node, 0)
    return low.reshape(v, v.rows, op.shape)


def _broadcast(low: _Lowering, node: Node, op: Broadcast) -> Value:
    return low.broadcast(low.arg(node, 0), op.shape)


_RULES: dict[type, Callable[[_Lowering, Node, Any], Value]] = {
    Input: _leaf,
    Parameter: _leaf,
    Seed: _leaf,
    Constant: _leaf,
    Eye: _leaf,
    Einsum: _Lowering.contract,
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
