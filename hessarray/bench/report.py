"""A report as text, as Markdown and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from hessarray._files import replacing
from hessarray.bench.cases import GROUPS, MEANS, TARGETS
from hessarray.bench.peers import PEERS
from hessarray.bench.rows import Outcome, Report, Row

__all__ = ["duration", "markdown", "table", "write_json", "write_markdown"]

Table = list[list[str]]
_NOT = "not measured"
# What groups show that compare nothing: figures, and their titles.
_FIGURES = {
    "memory": {"result_MiB": "result, MiB", "above_MiB": "above it, MiB"},
    "planning": {
        "first_ms": "first n, ms",
        "most_ms": "target, ms",
        "another_ms": "another n, ms",
        "few_ms": "one sample after many, ms",
    },
}


# ---- one group as a table of strings ---------------------------------------------------------


def _cells(group: str, rows: Sequence[Row]) -> Table:
    """Head and lines of one group's table."""
    if group in _FIGURES:
        return _figure_cells(group, rows)
    peers = [p for p in PEERS if any(o.peer == p for row in rows for o in row.outcomes)]
    targets = TARGETS.get(group, {})
    head = ["case", "n", "on", "time", "per sample"]
    head += [PEERS[p].title + _target(targets.get(p), "≥ ") for p in peers]
    lines = []
    for row in rows:
        line = [row.name, f"{row.n:,}", row.backend, duration(row.seconds)]
        line += [duration(None if row.seconds is None else row.seconds / row.n)]
        line += [_ratio(row.best(p), targets.get(p)) for p in peers]
        lines.append([*line, _NOT if row.share is None else f"{row.share:.0%}"])
    if peers and len(rows) > 1:
        means = [_mean([row.best(p) for row in rows], MEANS.get(group, {}).get(p)) for p in peers]
        lines.append(["geometric mean", "", "", "", "", *means, ""])
    return [[*head, "of the limit"], *lines]


def _figure_cells(group: str, rows: Sequence[Row]) -> Table:
    titles, targets = _FIGURES[group], TARGETS.get(group, {})
    head = ["case", "n", "on", *(t + _target(targets.get(k), "≤ ") for k, t in titles.items())]
    lines = []
    for row in rows:
        line = [row.name, f"{row.n:,}", row.backend]
        for name in titles:
            figure, most = row.figures.get(name), targets.get(name)
            text = _NOT if figure is None else f"{figure:.{figure < 10:d}f}"
            line.append(text + (" (missed)" if most and (figure or 0.0) > most else ""))
        lines.append(line)
    return [head, *lines]


def _target(target: float | None, sign: str) -> str:
    return "" if target is None else f" ({sign}{target:g})"


def _ratio(outcome: Outcome | None, target: float | None) -> str:
    if outcome is None or outcome.ratio is None:
        return "error" if outcome is not None and outcome.error else _NOT
    missed = target is not None and outcome.ratio < target
    return f"{outcome.ratio:.2f}" + (" (missed)" if missed else "")


def _mean(outcomes: Sequence[Outcome | None], target: float | None) -> str:
    """The geometric mean of what was measured, with its target."""
    logs = [math.log(o.ratio) for o in outcomes if o is not None and o.ratio is not None]
    if not logs:
        return _NOT
    mean = math.exp(sum(logs) / len(logs))
    missed = target is not None and mean < target
    return f"{mean:.2f}{_target(target, '≥ ')}" + (" (missed)" if missed else "")


def duration(seconds: float | None) -> str:
    """Three figures, in a unit that suits."""
    if seconds is None:
        return _NOT
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _reasons(rows: Sequence[Row]) -> list[str]:
    """Why something is not measured or wrong, each reason once."""
    found = [f"{row.name}: {why}" for row in rows if (why := row.error or row.reason)]
    for row in rows:
        for o in row.outcomes:
            if o.error:
                found.append(f"{row.name}, {PEERS[o.peer].title} {o.variant}: {o.error}")
            elif o.reason:
                found.append(o.reason)
    return list(dict.fromkeys(found))


def _groups(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    for group in GROUPS:
        found = [row for row in rows if row.group == group]
        if found:
            yield group, found


# ---- text ------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """All groups, for a terminal or a log."""
    parts = []
    for group, found in _groups(rows):
        cells = _cells(group, found)
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        parts.append(GROUPS[group])
        parts += [
            "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
            for line in cells
        ]
        parts += [f"  {reason}" for reason in _reasons(found)]
        parts.append("")
    return "\n".join(parts)


# ---- Markdown --------------------------------------------------------------------------------


def markdown(report: Report, command: str, figures: Sequence[str] = ()) -> str:
    """The page: machine, limits, a table for each group, figures by their paths from the page."""
    device = report.machine["device"]
    lines = [f"# Benchmarks{f' on {device}' if device else ''}", ""]
    lines += [f"Written by `{command}`; do not edit.", ""]
    if report.quick:
        lines += ["**Small cases and few rounds: these numbers say nothing about speed.**", ""]
    lines += [
        "Times are hessarray's medians, in float64. A peer's column is its time in units of",
        "hessarray's, so that more than 1 means that hessarray is faster: both run in turn in one",
        "process, and the figure is the median of the ratios within the rounds, for the better of",
        "a peer's ways. Results are compared before they are timed. In brackets: the target.",
        "",
        "The limit is the time that the plan's flops take at the speed of GEMMs, plus the time",
        "that inputs and results take at the speed of a copy. Large GEMMs, one in every thread,",
        "and hessarray are timed in turn, and each counts at its best.",
        "",
        *(["The targets were set for two threads of a CPU.", ""] if device else []),
        *_machine(report),
    ]
    for group, rows in _groups(report.rows):
        head, *body = _cells(group, rows)
        lines += [f"## {GROUPS[group]}", "", _line(head), _line(["---"] * len(head))]
        lines += map(_line, body)
        lines += ["", *(f"- {reason}" for reason in _reasons(rows))]
        lines += [""] if _reasons(rows) else []
        if group == "paper":
            lines += [line for path in figures for line in (f"![{Path(path).stem}]({path})", "")]
    return "\n".join(lines).rstrip() + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _machine(report: Report) -> list[str]:
    m = report.machine
    versions = ", ".join(f"{k} {v}" for k, v in m["versions"].items())
    pairs = [
        ("device", m["device"]),
        ("processor", f"{m['cpu']}, {m['cores']} cores, {m['memory_GiB']} GiB"),
        ("system", f"{m['system']}, Python {m['python']}"),
        ("versions", versions),
        ("settings", ", ".join(f"{k}={v}" for k, v in m.get("settings", {}).items())),
        ("threads", f"{m['threads']} for everyone"),
        ("date", m["date"]),
    ]
    for backend, limits in report.limits.items():
        flops = [f"{limits[f'{t}_flops'] / 1e9:,.0f} Gflop/s in {t}" for t in _DTYPES]
        pairs.append((f"GEMM by {backend}", ", ".join(flops)))
        pairs.append((f"copy by {backend}", f"{limits['bytes'] / 1e9:,.1f} GB/s"))
    return ["| | |", "|---|---|", *(_line([k, v]) for k, v in pairs if v), ""]


_DTYPES = ("float64", "float32")


# ---- files -----------------------------------------------------------------------------------


def write_json(report: Report, path: Path) -> None:
    """Everything measured; the file is replaced as a whole."""
    _write(path, json.dumps(report.data(), indent=1) + "\n")


def write_markdown(report: Report, path: Path, command: str, figures: Sequence[str] = ()) -> None:
    """The page; the file is replaced as a whole."""
    _write(path, markdown(report, command, figures))


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())
