"""How much memory an evaluation may take, and so how many samples are evaluated at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hessarray._arguments import progress_callback
from hessarray.backends import Backend
from hessarray.backends.protocol import Run, Work
from hessarray.errors import MemoryLimitError

if TYPE_CHECKING:
    from hessarray.plan.plan import Plan

__all__ = ["check_memory", "division"]

_SPAN_BYTES = 16 << 20  # of results that are consumed at a time (docs/decisions/0018)


def check_memory(
    plan: Plan, n: int, itemsize: int, limit: int | None, backend: Backend, given: bool
) -> None:
    """Refuse what would not fit; ``given``: the memory of the results is the caller's."""
    if limit is None:
        limit = backend.memory()
    if limit is None:
        return
    result = 0 if given else plan.result_entries * n * itemsize
    least = (plan.entries_once + plan.intermediates(backend.in_place)) * itemsize
    if result + least > limit:
        wanted = " and ".join(plan.want.names())
        less = (
            "hvp(x, p), weighted_hessian(x, lam) or laplacian(x) need less"
            if plan.want.second == "hessian"
            else "pass fewer samples at a time"
        )
        raise MemoryLimitError(
            f"{wanted} of {n} samples would take {result + least:,} bytes "
            f"({result:,} for the result), the limit is {limit:,}: {less}, or raise "
            "memory_limit"
        )


def division(
    plan: Plan,
    n: int,
    itemsize: int,
    backend: Backend,
    *,
    limit: int | None = None,
    threads: int | None = None,
    progress: Any = None,
    given: bool = False,
    consumed: bool = False,
) -> Run:
    """n samples in chunks over threads, within the limit.

    ``given``: the memory of the results is the caller's; ``consumed``: they are taken span by span.
    """
    room = None
    if limit is not None:
        # Functional chunks are joined at the end: the result stands in memory twice.
        results = 0 if given else plan.result_entries * n * (1 if backend.in_place else 2)
        room = max(limit - (results + plan.entries_once) * itemsize, 1)
    per_sample = plan.intermediates(backend.in_place) * itemsize
    results = plan.result_entries * itemsize
    if consumed and room is not None:
        per_sample += results
    constants = plan.entries_read * itemsize
    work = Work(n, per_sample, plan.program.flops[1], room, threads, constants)
    chunk, threads = backend.schedule(work)
    span = chunk if room is not None else max(_SPAN_BYTES // max(results, 1), chunk)
    spans = max(-(-n // (span * threads)), 1) * threads  # as many for every thread
    return Run(n, chunk, threads, progress_callback(progress, n), max(-(-n // spans), 1))
