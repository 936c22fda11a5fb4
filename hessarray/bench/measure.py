"""Two computations timed in turn, A B A B ..., and compared before they are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np

from hessarray.bench.problem import Call

__all__ = ["alone", "difference", "in_turn", "median_ratio"]

Seconds = np.ndarray[Any, Any]
_TICK = 1e-2  # a reading of the clock covers at least this many seconds of calls
_MOST = 1000  # rounds


def difference(ours: Call, theirs: Call) -> float:
    """The largest difference in any result of the first call, relative to that result's largest."""
    mine = ours.results(ours.run(*ours.inputs[0]))
    other = theirs.results(theirs.run(*theirs.inputs[0]))
    if [a.shape for a in mine] != [b.shape for b in other]:
        return float("inf")
    return max(_relative(a, b) for a, b in zip(mine, other, strict=True))


def _relative(a: Any, b: Any) -> float:
    off, largest = float(np.max(np.abs(a - b))), float(np.max(np.abs(a)))
    if not np.isfinite(off):
        return float("inf")
    return off / largest if largest else off


def in_turn(calls: Sequence[Call], budget: float, *, least: int = 3) -> Seconds:
    """Seconds of one run of each call, (rounds, calls).

    Each round times every call once, so that whatever else the machine does hits all alike. Short
    calls are repeated within a round, on their inputs in turn.

    Parameters
    ----------
    calls : sequence of Call
        What to time; each has been run before.
    budget : float
        Seconds for all rounds together, if ``least`` rounds fit.
    least : int
        Rounds at least.
    """
    bursts = [_burst(call) for call in calls]
    rounds: list[list[float]] = []
    end = time.perf_counter() + budget
    while len(rounds) < least or (time.perf_counter() < end and len(rounds) < _MOST):
        rounds.append([_time(call, burst) for call, burst in zip(calls, bursts, strict=True)])
    return np.asarray(rounds)


def alone(call: Call, budget: float, *, least: int = 3) -> Seconds:
    """Seconds of each run, (rounds,)."""
    call.run(*call.inputs[0])
    found: Seconds = in_turn([call], budget, least=least)[:, 0]
    return found


def median_ratio(seconds: Seconds) -> float:
    """Median over rounds of the last call's time in units of the first one's."""
    return float(np.median(seconds[:, -1] / seconds[:, 0]))


def _burst(call: Call) -> list[tuple[Any, ...]]:
    """The arguments of as many runs as one reading of the clock covers."""
    once = min(_time(call, call.inputs[:1]) for _ in range(3))  # the first finds cold caches
    return list(islice(cycle(call.inputs), max(1, round(_TICK / once))))


def _time(call: Call, burst: Sequence[tuple[Any, ...]]) -> float:
    run = call.run
    start = time.perf_counter()
    for arguments in burst:
        run(*arguments)
    return (time.perf_counter() - start) / len(burst)
