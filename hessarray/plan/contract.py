"""Lowers a contraction: opt_einsum's path, each pair as matmul, multiply or sum."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hessarray.backends.protocol import Costs
from hessarray.graph.node import Einsum, Node
from hessarray.plan.emit import Emitter
from hessarray.plan.paths import BATCH, MOST_FOLDED, contraction_path
from hessarray.plan.step import Value
from hessarray.plan.symmetry import gram_pays, weighed

__all__ = ["Contractor"]

Operand = tuple[str, Value]

_LONG_ROW = 32  # entries


class Contractor(Emitter):
    """An emitter that knows contractions; ``n`` and ``costs`` weigh their alternatives."""

    def __init__(self, n: int, costs: Costs) -> None:
        super().__init__()
        self.n, self.costs = n, costs
        self.paths: list[str] = []
        self.entries = 0  # entries of the contraction's result
        self.returned = False  # is it a result, or a term of one, which has samples in front?

    def contract(self, op: Einsum, arguments: Sequence[Value], node: Node) -> Value:
        sizes = op.sizes(node.args)
        one = {c for c, s in sizes.items() if s == 1}
        terms = ["".join(c for c in t if c not in one) for t in op.inputs]
        values = [self._squeezed(v) for v in arguments]
        output = "".join(c for c in op.output if c not in one)
        self.entries = node.size
        found = self._gram(terms, values, output, op.scale, sizes)
        if found is None:
            found = self._along_path(terms, values, output, op.scale, sizes)
        return self._unsqueezed(found, node.shape)

    def _gram(
        self,
        terms: list[str],
        values: list[Value],
        output: str,
        scale: float,
        sizes: dict[str, int],
    ) -> Value | None:
        """J diag(w) J^T as one operation, where the terms say that and it pays; else None."""
        found = weighed(terms, values, output) if self.costs.gram else None
        if found is None or not any(values[k].rows for k in (found.j, *found.factors)):
            return None
        j, own = values[found.j], terms[found.j]
        ends, axes, rest = found.ends, found.axes, found.factors
        outer = "".join(c for c in output if c not in ends)
        a, m, width = (self._count(letters, sizes) for letters in (ends[0], outer, axes))
        folded = not j.rows and a * a * width <= MOST_FOLDED
        if not gram_pays(a, m, width, self.costs, folded):
            return None
        w = self._along_path(
            [terms[k] for k in rest], [values[k] for k in rest], outer + axes, scale, sizes
        )
        w = self.reshape(self.samples_first(w), w.rows, (m, width) if outer else (width,))
        j = self.permute(j, [own.index(c) for c in own if c in ends] + [own.index(c) for c in axes])
        j = self.reshape(j, j.rows, (a, width))
        sums = self.emit("gram", [j, w], 1, (a, a, m) if outer else (a, a))
        sums = self.reshape(sums, 1, (a, a, *(sizes[c] for c in outer)))
        return self.permute(sums, [(ends + outer).index(c) for c in output])

    def _along_path(
        self,
        terms: list[str],
        values: list[Value],
        output: str,
        scale: float,
        sizes: dict[str, int],
    ) -> Value:
        self._apply_scalars(terms, values, scale)
        indexed = tuple((BATCH if v.rows else "") + t for t, v in zip(terms, values, strict=True))
        batched = BATCH if any(v.rows for v in values) else ""
        lengths = tuple(sorted((*((c, s) for c, s in sizes.items() if s != 1), (BATCH, self.n))))
        path = contraction_path(indexed, batched + output, lengths)
        if len(indexed) > 2:
            self.paths.append(f"{','.join(indexed)}->{batched}{output} {list(path)}")
        work: list[Operand] = list(zip(terms, values, strict=True))
        for pair in path:
            picked = [work.pop(i) for i in sorted(pair, reverse=True)][::-1]
            rest = output + "".join(t for t, _ in work)
            if len(picked) == 1:
                work.append(self._reduced(*picked[0], rest))
            else:
                work.append(self._pair(picked[0], picked[1], rest, output))
        term, v = self._reduced(*work[0], output)
        lead = v.lead if term[: v.lead] == output[: v.lead] else 0
        return self.permute(v, [term.index(c) for c in output], lead)

    def _squeezed(self, v: Value) -> Value:
        """v without axes of length one."""
        lead = sum(s != 1 for s in v.shape[: v.lead])
        return self.reshape(v, v.rows, tuple(s for s in v.shape if s != 1), lead)

    def _unsqueezed(self, v: Value, shape: tuple[int, ...]) -> Value:
        lead = passed = 0
        while passed < v.lead:
            passed += shape[lead] != 1
            lead += 1
        return self.reshape(v, v.rows, shape, lead)

    def _reduced(self, term: str, v: Value, needed: str) -> Operand:
        """Sum the axes that nothing else needs."""
        gone = [i for i, c in enumerate(term) if c not in needed]
        if not gone:
            return term, v
        shape = tuple(s for i, s in enumerate(v.shape) if i not in gone)
        lead = v.lead - sum(i < v.lead for i in gone)
        axes = tuple(v.place(i) for i in gone)
        v = self.emit("sum", [v], v.rows, shape, lead=lead, axes=axes)
        return "".join(c for i, c in enumerate(term) if i not in gone), v

    def _pair(self, x: Operand, y: Operand, needed: str, output: str) -> Operand:
        x = self._reduced(*x, needed + y[0])
        y = self._reduced(*y, needed + x[0])
        gone = [c for c in x[0] if c in y[0] and c not in needed]
        target = output if needed == output else None  # of the last pair
        if not gone:
            return self._product(x, y, target)
        shared = [c for c in x[0] if c in y[0] and c in needed]
        if not set(x[0]) ^ set(y[0]) and x[1].rows and y[1].rows:
            # No free axis on either side: a product and a sum beat n tiny dot products.
            return self._reduced(*self._product(x, y, None), needed)
        if shared or bool(x[1].rows) == bool(y[1].rows):
            return self._stacked_matrices(x, y, shared, gone, target)
        return self._matrix(*((x, y) if x[1].rows else (y, x)), gone, output)

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

    # ---- pairs -------------------------------------------------------------------------------

    def _product(self, x: Operand, y: Operand, target: str | None) -> Operand:
        """Nothing is summed: a product that broadcasts."""
        if x[1].size < y[1].size:
            x, y = y, x
        # Free axes first, common ones last: they run on in both operands.
        common = "".join(c for c in x[0] if c in y[0])
        free = "".join(c for c in x[0] + y[0] if c not in common)
        term = target or free + common
        lead = self._lead(term, x, y)
        sizes = {c: s for t, v in (x, y) for c, s in zip(t, v.shape, strict=True)}
        a, b = (self._spread(t, v, term, sizes, lead) for t, v in (x, y))
        op, *pair = self._divided(a, b)
        rows = max(a.rows, b.rows)
        return term, self.emit(op, pair, rows, tuple(sizes[c] for c in term), lead=lead)

    def _lead(self, term: str, x: Operand, y: Operand) -> int:
        """Where the batch axis stands in a product of x and the smaller y."""
        (a, v), (b, w) = x, y
        both = a[: v.lead] + b[: w.lead]
        if v.lead and w.lead and sorted(both) == sorted(term[: len(both)]) and not self.returned:
            return len(both)  # an outer product of directions: behind both sets of them
        if v.rows:
            outer = w.rows and any(c not in a for c in b)
            return v.lead if term[: v.lead] == a[: v.lead] and not outer else 0
        if not w.rows:
            return 0
        # Axes that only the constant has come first, where the others are short: they run on
        # without a gap then. Long rows do well by themselves, and products per sample prefer them.
        front = next((i for i, c in enumerate(term) if c in b), 0)
        if w.size > _LONG_ROW and not w.lead:
            return 0
        return front + w.lead if term[front : front + w.lead] == b[: w.lead] else 0

    def _spread(self, t: str, v: Value, term: str, sizes: dict[str, int], lead: int) -> Value:
        """An operand with its axes in the order of ``term``, and length one where it has none."""
        own = sum(c in t for c in term[:lead])
        v = self.permute(v, [t.index(c) for c in term if c in t], own if v.rows else 0)
        shape = tuple(sizes[c] if c in t else 1 for c in term)
        first = next((i for i, s in enumerate(shape) if s != 1), len(shape))
        if v.rows:
            drop = min(first, lead)  # nothing stands before these: they may stay implicit
            return self.reshape(v, v.rows, shape[drop:], lead - drop)
        if lead > first:
            return self.reshape(v, 0, (*shape[first:lead], 1, *shape[lead:]))
        return self.reshape(v, 0, shape[first:])

    def _matrix(self, x: Operand, y: Operand, gone: list[str], output: str) -> Operand:
        """A sample's value x times y, which has no batch axis.

        Either samples and free axes are the rows of one GEMM, or y stands on the left of many small
        products, whose results have y's axes in front. Which one depends on the copies that the
        order of the axes takes, now and at the end.
        """
        (a, v), (b, w) = x, y
        left = "".join(c for c in a if c not in gone)
        right = "".join(sorted((c for c in b if c not in gone), key=(output + b).index))
        sizes = {c: s for t, u in (x, y) for c, s in zip(t, u.shape, strict=True)}

        def count(letters: Sequence[str]) -> int:
            return self._count(letters, sizes)

        lead = v.lead if set(a[: v.lead]) <= set(left) else 0
        last = self.permute(v, [a.index(c) for c in [*left, *gone]], lead)
        flat = (count(left), (count(gone),))

        def seconds(copied: bool, term: str, each: float) -> float:
            kept = [c for c in output if c in term]
            wrong = kept != [c for c in term if c in output]
            end = self.entries if wrong else 0  # a copy with short rows
            # What is summed later stands in front or at the end, or the next product copies.
            later = [c not in output for c in term]
            between = later not in (sorted(later), sorted(later, reverse=True))
            middle = count(left + right) if between else 0
            return (copied * v.size + 5 * (end + middle)) * self.costs.entry + each

        best = seconds(not self.viewable(last, *flat), left + right, 0.0), ""
        choice: tuple[str, Value, tuple[int, ...]] | None = None
        heads = dict.fromkeys(("", a[: a.index(gone[0])]))  # axes of products
        for head in heads if right and best[0] else ():
            tail = "".join(c for c in left if c not in head)
            inside = self.permute(v, [a.index(c) for c in [*head, *gone, *tail]])
            block = (*(sizes[c] for c in head), count(gone), count(tail))
            copied = not self.viewable(inside, 1, block)
            time = seconds(copied, head + right + tail, count(head) * self.costs.matrix)
            if tail and time < best[0]:
                best, choice = (time, head), (tail, inside, block)
        if choice is not None:
            tail, inside, block = choice
            term = best[1] + right + tail
            m = self.permute(w, [b.index(c) for c in [*right, *gone]])
            m = self.reshape(m, 0, (count(right), count(gone)))
            shape = (*block[:-2], count(right), count(tail))
            product = self.emit("matmul", [m, self.reshape(inside, 1, block)], 1, shape)
            return term, self.reshape(product, 1, tuple(sizes[c] for c in term))
        term = left + right
        m = self.permute(w, [b.index(c) for c in [*gone, *right]])
        m = self.reshape(m, 0, (count(gone), count(right)))
        product = self.emit("matmul", [self.reshape(last, *flat), m], flat[0], (count(right),))
        return term, self.reshape(product, 1, tuple(sizes[c] for c in term), lead)

    def _stacked_matrices(
        self, x: Operand, y: Operand, shared: list[str], gone: list[str], target: str | None
    ) -> Operand:
        """One product of matrices for every sample and every shared axis."""

        def free(t: str) -> str:
            return "".join(c for c in t if c not in shared and c not in gone)

        swap = bool(y[1].rows) and not x[1].rows
        if bool(x[1].rows) == bool(y[1].rows) and target is not None:
            wanted = "".join(c for c in target if c not in shared)
            one, other = free(x[0]) + free(y[0]), free(y[0]) + free(x[0])
            swap = wanted not in (one,) and wanted == other
        if swap:
            x, y = y, x
        left, right = free(x[0]), free(y[0])
        sizes = {c: s for t, v in (x, y) for c, s in zip(t, v.shape, strict=True)}

        def matrix(operand: Operand, rows: str, columns: Sequence[str]) -> Value:
            t, v = operand
            v = self.permute(v, [t.index(c) for c in [*shared, *rows, *columns]])
            ends = (self._count(rows, sizes), self._count(columns, sizes))
            return self.reshape(v, v.rows, (*front, *ends))

        front = (self._count(shared, sizes),) if shared else ()
        a = matrix(x, left, gone)
        t, v = y
        b = self.permute(v, [t.index(c) for c in [*shared, *gone, *right]])
        b = self.reshape(b, b.rows, (*front, self._count(gone, sizes), self._count(right, sizes)))
        shape = (*front, self._count(left, sizes), self._count(right, sizes))
        rows = max(a.rows, b.rows)
        product = self.emit("matmul", [a, b], rows, shape)
        term = "".join([*shared, left, right])
        return term, self.reshape(product, rows, tuple(sizes[c] for c in term))

    @staticmethod
    def _count(letters: Sequence[str], sizes: dict[str, int]) -> int:
        return math.prod(sizes[c] for c in letters)
