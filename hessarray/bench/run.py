"""The benchmark itself: cases times libraries times peers."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from hessarray.bench import memory
from hessarray.bench.cases import Case
from hessarray.bench.host import cores
from hessarray.bench.libraries import Library
from hessarray.bench.machine import Speed
from hessarray.bench.measure import alone, difference, in_turn, median_ratio
from hessarray.bench.peers import PEERS, NotMeasured, missing
from hessarray.bench.planning import NETWORKS, planning
from hessarray.bench.problem import Call, Problem, costs, ours, problem
from hessarray.bench.rows import Outcome, Row
from hessarray.errors import BackendError, LoadError

__all__ = ["Settings", "memory_rows", "planning_rows", "run_case"]

AGREE = 1e-8  # relative to a result's largest entry
_HELD = 8  # results of one size at a time: ours, theirs, their intermediates, differences


@dataclass(frozen=True)
class Settings:
    """What all cases share.

    Attributes
    ----------
    peers : sequence of str
        Keys of ``peers.PEERS``.
    threads : int
        For hessarray and for every peer.
    seconds : float
        Of measurement, for each way of each peer.
    least : int
        Rounds at least, whatever they take.
    """

    peers: Sequence[str]
    threads: int
    seconds: float
    least: int


def run_case(
    case: Case,
    library: Library,
    limits: dict[str, float],
    speed: Speed,
    settings: Settings,
    say: Callable[[str], None] = lambda text: None,
) -> Row:
    """One row: hessarray next to every peer that knows what is wanted.

    ``limits`` and ``speed`` are those of the machine; its GEMMs are timed in turn with hessarray.
    ``say`` is told which peer is measured next. What fails is written into the row.
    """
    row = Row(case.group, case.name, case.want, case.n, library.name)
    try:
        made = problem(case)
    except LoadError as error:
        row.reason = str(error)
        return row
    row.d, row.m = made.network.in_features, made.network.out_features
    row.flops, row.bytes = costs(made, library)
    if _HELD * row.bytes > library.free():
        row.reason = f"the result takes {row.bytes / 2**30:.1f} GiB, and there is no room for more"
        return row
    # hessarray takes all cores unless it is told otherwise.
    options = {} if settings.threads == cores() else {"threads": settings.threads}
    mine = ours(made, library, **options)
    try:
        mine.run(*mine.inputs[0])
    except Exception as error:
        row.error = _first_line(error)
        return row
    seconds: list[np.ndarray] = []
    for name in _chosen(case, settings, library):
        say(PEERS[name].title)
        for outcome, found in _outcomes(name, made, mine, library, settings):
            row.outcomes.append(outcome)
            seconds += [found[:, 0]] if found is not None else []
        gc.collect()
    if not seconds:
        seconds = [alone(mine, settings.seconds, least=settings.least)]
    row.seconds = float(np.median(np.concatenate(seconds)))
    try:
        row.share = _share(row, mine, limits, speed, settings)
    except Exception as error:
        row.reason = f"the limit: {_first_line(error)}"
    return row


def _share(
    row: Row, mine: Call, limits: dict[str, float], speed: Speed, settings: Settings
) -> float:
    """Seconds at the machine's limit in units of ours, GEMMs and ours timed in turn."""
    gemm = Call(speed.run, [()], lambda found: ())
    took, products = in_turn([mine, gemm], settings.seconds, least=settings.least).min(axis=0)
    assert row.flops is not None
    assert row.bytes is not None
    products = speed.undisturbed(float(products))
    return float((row.flops / speed.flops * products + row.bytes / limits["bytes"]) / took)


def _chosen(case: Case, settings: Settings, library: Library) -> list[str]:
    asked = settings.peers if case.peers is None else case.peers
    numpy = library.name == "numpy"  # hessarray itself is a peer there
    asked = [name for name in asked if numpy or PEERS[name].install]
    return [name for name in asked if case.want in PEERS[name].wants]


def _outcomes(
    name: str, made: Problem, mine: Call, library: Library, settings: Settings
) -> Iterator[tuple[Outcome, np.ndarray | None]]:
    """Each way of one peer, with the seconds (rounds, 2) where it was timed."""
    reason = missing(name)
    if reason is not None:
        yield Outcome(name, reason=reason), None
        return
    try:
        calls = PEERS[name].prepare(made, library.device, settings.threads)
    except (NotMeasured, BackendError) as why:
        yield Outcome(name, reason=str(why)), None
        return
    except Exception as error:
        yield Outcome(name, error=_first_line(error)), None
        return
    for variant, theirs in calls.items():
        try:
            off = difference(mine, theirs)
            if off > AGREE:
                yield Outcome(name, variant, error=f"results differ by {off:.1e}"), None
                continue
            seconds = in_turn([mine, theirs], settings.seconds, least=settings.least)
        except Exception as error:  # a peer may fail in any way, and the others are still measured
            yield Outcome(name, variant, error=_first_line(error)), None
            continue
        ratio, median = median_ratio(seconds), float(np.median(seconds[:, -1]))
        yield Outcome(name, variant, median, ratio, len(seconds)), seconds


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def memory_rows(library: Library, quick: bool) -> Iterator[Row]:
    """Peaks of many samples: results in memory and, on NumPy, results streamed to files."""
    ways: list[tuple[str, int, Callable[[int], dict[str, float]]]] = []
    if library.name == "numpy":
        ways = [
            ("in memory", 200_000, memory.peak),
            ("streamed to files", 2_000_000, partial(memory.peak, stream=True)),
        ]
    elif library.peak is not None:
        ways = [("in memory", 200_000, partial(memory.peak_on, library))]
    for name, n, measure in ways:
        row = Row("memory", name, "hessian", n // 200 if quick else n, library.name)
        try:
            row.figures = measure(row.n)
        except Exception as error:
            row.reason = str(error)
        yield row


def planning_rows(library: Library, quick: bool) -> Iterator[Row]:
    """What comes before the first result, and before one for another number of samples."""
    for name, make, most in NETWORKS[:1] if quick else NETWORKS:
        row = Row("planning", name, "hessian", 100, library.name)
        row.figures = {"most_ms": most} | planning(make, library, 1 if quick else 7)
        yield row
