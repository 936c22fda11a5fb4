"""What a sum over samples will take, before it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hessarray.curvature._asked import Names, asked
from hessarray.curvature._blocks import BlockSums
from hessarray.curvature._gradients import OuterSums, diagonal_sums, product_sums
from hessarray.curvature._matrices import pairs_of
from hessarray.curvature._outer_totals import kept_apart, outer_samples
from hessarray.curvature._samples import Consumed
from hessarray.curvature._totals import block_sums, result_bytes
from hessarray.curvature.operators import directions
from hessarray.errors import OptionError
from hessarray.function import Function
from hessarray.plan.parameter_products import product_of
from hessarray.plan.parameters import Form
from hessarray.plan.plan import Plan
from hessarray.plan.want import wanted

__all__ = ["CurvaturePlan", "curvature_plan"]

FORMS = {"hessian": "hessian", "gauss_newton": "gauss_newton", "empirical_fisher": "fisher"}
WANTS = ("matrix", "diagonal", "product")


@dataclass(frozen=True)
class CurvaturePlan:
    """Bytes and flops of a matrix, a diagonal or one product; ``print`` it."""

    form: str
    want: str
    parameters: int
    n: int
    variables: int  # pre-activations at which parameters enter
    result_bytes: int
    kept_bytes: int  # between products: what does not depend on the vector
    sample_bytes: int  # held for each sample of a piece
    piece: int  # samples at a time
    flops: int
    program: Plan  # for each sample

    @property
    def peak_bytes(self) -> int:
        """The result, what is kept, and one piece of samples."""
        return self.result_bytes + self.kept_bytes + self.piece * self.sample_bytes

    def __str__(self) -> str:
        lines = [
            f"{self.form} {self.want} of {self.parameters:,} parameters over {self.n:,} samples",
            f"  enters at        {self.variables} pre-activations",
            f"  result           {self.result_bytes:,} bytes",
            f"  kept             {self.kept_bytes:,} bytes",
            f"  per sample       {self.sample_bytes:,} bytes",
            f"  piece            {self.piece:,} samples; peak {self.peak_bytes:,} bytes",
            f"  flops            {self.flops:,}",
        ]
        return "\n".join(lines)


def curvature_plan(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names = None,
    form: str = "hessian",
    want: str = "matrix",
    diagonal_only: bool = False,
    is_batch: bool = True,
    **options: Any,
) -> CurvaturePlan:
    """Bytes and flops before the work; arguments as for ``loss_hessian_matrix``.

    Parameters
    ----------
    form : str
        'hessian', 'gauss_newton' or 'empirical_fisher'.
    want : str
        'matrix', 'diagonal' or 'product' (one product of an operator).

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> from hessarray.curvature import curvature_plan
    >>> net = ha.fully_connected([10, 32, 32, 1], act="tanh")
    >>> plan = curvature_plan(net, "mse", np.zeros((1000, 10)), np.zeros((1000, 1)))
    >>> plan.parameters, plan.result_bytes
    (1441, 16611848)
    """
    if form not in FORMS:
        raise OptionError(f"form={form!r}: use {', '.join(FORMS)}")
    if want not in WANTS:
        raise OptionError(f"want={want!r}: use {', '.join(WANTS)}")
    kind = FORMS[form]
    rest = dict(options)
    per_layer = rest.pop("per_layer", False)
    task, data, how = asked(model, criterion, inputs, target, params, is_batch, rest)
    count = sum(math.prod(task.shapes[k]) for k in task.names)
    pairs = pairs_of(task.names, diagonal_only, per_layer)
    what: BlockSums | OuterSums
    if want == "matrix":
        what, samples = block_sums(task, kind, pairs)
        size, extra, kept = result_bytes(task, pairs, data, how), what.made, 0
    else:
        changing = directions(task, kind) if want == "product" else ()
        what = outer = task.kept((want, kind), lambda: _outer_sums(task.form(kind), want))
        parts = kept_apart(task, (want, kind), outer, data, how, changing)
        samples = outer_samples(task, (want, kind), outer, data, parts)
        size, extra = count * data.itemsize, 0
        kept = 0 if parts is None else parts.entries * data.itemsize * data.n
    program = samples._plan(wanted(), max(data.n, 1), data.backend)
    sample_bytes = (samples.entries + extra) * data.itemsize
    piece = how.piece(max(sample_bytes, 1), data.n, size)
    if isinstance(samples, Consumed):
        job = samples.scheduled(
            program, max(data.n, 1), data.itemsize, how.memory_limit, how.threads
        )
        piece = min(job.span * job.threads, data.n)
    return CurvaturePlan(
        form,
        want,
        count,
        data.n,
        len(what.inj.variables),
        size,
        kept,
        sample_bytes,
        piece,
        (program.program.flops[1] + what.flops) * data.n,
        program,
    )


def _outer_sums(form: Form, want: str) -> OuterSums:
    return product_sums(form, product_of(form)) if want == "product" else diagonal_sums(form)
