"""`hessarray bench`: what the command line chooses, progress, and the files that are written."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from hessarray.bench import plot
from hessarray.bench.cases import GROUPS, WANTS, Case, cases, model_case
from hessarray.bench.host import cores
from hessarray.bench.libraries import DEVICES, LIBRARIES, Library, library
from hessarray.bench.machine import describe, limits, speed, use_threads
from hessarray.bench.peers import PEERS, missing
from hessarray.bench.report import duration, table, write_json, write_markdown
from hessarray.bench.rows import Report, Row
from hessarray.bench.run import Settings, memory_rows, planning_rows, run_case
from hessarray.errors import OptionError

__all__ = ["HELP", "add_options", "run"]

HELP = "measure hessarray side by side with hessQuik, torch.func, JAX and folx"
_AGAINST = [name for name in PEERS if PEERS[name].install]
_BESIDES = {"memory": memory_rows, "planning": planning_rows}  # that are no cases of peers
_OWN = [name for name in GROUPS if name != "model"]


# ---- options ---------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``hessarray bench``."""
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--only",
        type=_names("group", _OWN),
        metavar="GROUP,...",
        help=f"some of the project's own cases: {', '.join(_OWN)} (default: all)",
    )
    what.add_argument(
        "--paper",
        action="store_true",
        help="the full grid of the hessQuik paper, d = 1..1024 and m = 1..64, instead of a part",
    )
    what.add_argument(
        "--model", type=Path, metavar="FILE", help="a network that hessarray.load reads"
    )
    what.add_argument("--act", metavar="NAME", help="activation of a --model of weights alone")
    what.add_argument("--samples", type=_positive, metavar="N", help="for --model (default: 1000)")
    what.add_argument(
        "--want",
        type=_names("result", WANTS, several=False),
        help=f"for --model: {', '.join(WANTS)} (default: hessian)",
    )
    what.add_argument(
        "--against",
        type=_names("peer", _AGAINST),
        default=_AGAINST,
        metavar="PEER,...",
        help=f"peers: {', '.join(_AGAINST)} (default: all)",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--backend",
        type=_names("backend", LIBRARIES),
        default=["numpy"],
        metavar="NAME,...",
        help=f"what hessarray runs on: {', '.join(LIBRARIES)} (default: numpy)",
    )
    how.add_argument("--device", choices=DEVICES, help="default: cuda for cupy, else cpu")
    how.add_argument(
        "--threads", type=_positive, default=cores(), metavar="N", help="for everyone (all cores)"
    )
    how.add_argument(
        "--seconds",
        type=_seconds,
        metavar="S",
        help="of measurement for each way of each peer (default: 2)",
    )
    how.add_argument(
        "--quick", action="store_true", help="small cases and few rounds: does everything run?"
    )
    files = parser.add_argument_group("files")
    files.add_argument("--json", type=_file, metavar="FILE", help="everything measured")
    files.add_argument("--plot", type=_folder, metavar="FOLDER", help="the paper's two figures")
    files.add_argument("--write", type=_file, metavar="FILE", help="a page of tables (Markdown)")


def _names(
    kind: str, known: Iterable[str], *, several: bool = True
) -> Callable[[str], list[str] | str]:
    """A parser of one name or of names with commas; an unknown one is told its near names."""
    names = list(known)

    def parse(text: str) -> list[str] | str:
        found = [name.strip() for name in text.split(",")] if several else [text]
        for name in found:
            if name not in names:
                near = difflib.get_close_matches(name, names)
                hint = f"did you mean {' or '.join(near)}" if near else f"use {', '.join(names)}"
                raise argparse.ArgumentTypeError(f"{kind} '{name}' is unknown: {hint}")
        return found if several else found[0]

    return parse


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no positive integer")
    return int(text)


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is no positive number of seconds")
    return found


def _file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent} to write into")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder, a file is expected")
    return path


def _folder(text: str) -> Path:
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a file, a folder is expected")
    return path


# ---- the run ---------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    """Measure, show and write; what is measured so far is kept on Ctrl-C."""
    if options.plot is not None:
        plot.pyplot()  # what is missing is said before an hour of measuring
    chosen = _chosen(options)
    _say_what_is_missing(options.against, chosen)
    with use_threads(options.threads):
        report, status = _measure(options, chosen)
    print(table(report.rows), flush=True)
    if status == 0:
        drawn = [] if options.plot is None else plot.figures(report.rows, options.plot)
        if options.write is not None:
            here = options.write.parent.resolve()
            links = [Path(os.path.relpath(path.resolve(), here)).as_posix() for path in drawn]
            write_markdown(report, options.write, options.line, links)
    return status or int(any(row.failed for row in report.rows))


def _measure(options: argparse.Namespace, chosen: list[Case]) -> tuple[Report, int]:
    """All rows, and 0; those before Ctrl-C, and 130."""
    device = options.device or ("cuda" if "cupy" in options.backend else "cpu")
    libraries = [library(name, device, options.threads) for name in options.backend]
    _say("limits of the machine")
    found = {lib.name: limits(lib, options.threads, quick=options.quick) for lib in libraries}
    report = Report(describe(libraries[0], options.threads), found, options.quick)
    try:
        for row in _rows(options, libraries, chosen, found):
            report.rows.append(row)
            if options.json is not None:
                write_json(report, options.json)
    except KeyboardInterrupt:
        _say(f"\ninterrupted: {len(report.rows)} rows are kept")
        return report, 130
    return report, 0


def _chosen(options: argparse.Namespace) -> list[Case]:
    """The cases; a model alone unless groups are named beside it."""
    for name in ("act", "samples", "want"):
        if options.model is None and getattr(options, name) is not None:
            raise OptionError(f"--{name} is for a network of yours: name its file with --model")
    groups = options.only if options.only is not None else ([] if options.model else _OWN)
    every = cases(full_grid=options.paper, quick=options.quick)
    found = [case for case in every if case.group in groups]
    if options.model is not None:
        samples, want = options.samples or 1000, options.want or "hessian"
        found.append(model_case(options.model, options.act, samples, want))
    options.besides = [name for name in _BESIDES if name in groups]
    return found


def _rows(
    options: argparse.Namespace,
    libraries: list[Library],
    chosen: list[Case],
    found: dict[str, dict[str, float]],
) -> Iterator[Row]:
    quick = options.quick
    seconds = options.seconds or (0.02 if quick else 2.0)
    settings = Settings(options.against, options.threads, seconds, 2 if quick else 3)
    speeds = {lib.name: speed(lib, options.threads, quick=quick) for lib in libraries}
    jobs = [(case, lib) for case in chosen for lib in libraries if case.only_on in (None, lib.name)]
    for i, (case, lib) in enumerate(jobs, 1):
        start = time.perf_counter()
        _say(f"[{i}/{len(jobs)}] {case.group}: {case.name}, n = {case.n:,}, on {lib.name}", end="")
        limits_of = found[lib.name], speeds[lib.name]
        row = run_case(case, lib, *limits_of, settings, lambda name: _say(f", {name}", end=""))
        outcome = row.error or row.reason or duration(row.seconds)
        _say(f": {outcome} ({time.perf_counter() - start:.1f} s)")
        yield row
    for name in options.besides:
        for lib in libraries:
            _say(f"{name} on {lib.name}")
            yield from _BESIDES[name](lib, quick)


def _say_what_is_missing(against: list[str], chosen: list[Case]) -> None:
    wants = {case.want for case in chosen if case.peers is None}
    for name in against:
        reason = missing(name)
        if reason is not None and wants & set(PEERS[name].wants):
            _say(reason)


def _say(text: str, end: str = "\n") -> None:
    print(text, file=sys.stderr, end=end, flush=True)
