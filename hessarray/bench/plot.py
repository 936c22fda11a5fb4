"""The two figures of the hessQuik paper: time over inputs, for one output and for many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hessarray._files import replacing
from hessarray.bench.peers import PEERS
from hessarray.bench.rows import Row

__all__ = ["FIGURES", "figures"]

#: File names, in the order in which `figures` writes them.
FIGURES = ("time-one-output.png", "time-many-outputs.png")

Curve = list[tuple[int, float]]


def figures(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draw the paper's grid into ``folder``; none where it was not measured.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    plt = pyplot()
    curves = _curves(rows)
    if not curves:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in FIGURES]
    for path, draw in zip(paths, (_one_output, _many_outputs), strict=True):
        figure = draw(plt, curves)
        with replacing(path) as file:
            figure.savefig(file, dpi=150, format="png")
        plt.close(figure)
    return paths


def pyplot() -> Any:
    """matplotlib.pyplot, drawing into files only."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise ImportError("figures need matplotlib: pip install 'hessarray[bench]'") from None
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _curves(rows: Sequence[Row]) -> dict[str, dict[int, Curve]]:
    """By library and number of outputs, (inputs, seconds)."""
    found: dict[str, dict[int, Curve]] = {}
    for row in rows:
        if row.group != "paper" or row.seconds is None:
            continue
        times = {f"hessarray ({row.backend})": row.seconds}
        for peer in PEERS:
            best = row.best(peer)
            if best is not None and best.seconds is not None:
                times[PEERS[peer].title] = best.seconds
        for name, seconds in times.items():
            found.setdefault(name, {}).setdefault(row.m, []).append((row.d, seconds))
    return found


def _one_output(plt: Any, curves: dict[str, dict[int, Curve]]) -> Any:
    """Every library, for the least number of outputs that was measured."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    m = min(m for by_m in curves.values() for m in by_m)
    for name, by_m in curves.items():
        axis.plot(*_sorted(by_m.get(m, [])), "o-", label=name)
    _label(axis, f"m = {m}")
    axis.set_ylabel("seconds")
    axis.legend(fontsize="small")
    return figure


def _many_outputs(plt: Any, curves: dict[str, dict[int, Curve]]) -> Any:
    """A panel for each library, a curve for each number of outputs."""
    size = (3.2 * len(curves), 4)
    figure, axes = plt.subplots(
        1, len(curves), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (name, by_m) in zip(axes[0], curves.items(), strict=True):
        colours = plt.colormaps["viridis"]
        for i, (m, curve) in enumerate(sorted(by_m.items())):
            colour = colours(i / max(1, len(by_m) - 1))
            axis.plot(*_sorted(curve), "o-", color=colour, label=f"m = {m}")
        _label(axis, name)
    axes[0, 0].set_ylabel("seconds")
    axes[0, -1].legend(fontsize="small")
    return figure


def _sorted(curve: Curve) -> tuple[list[int], list[float]]:
    """Inputs and seconds, by inputs; where peers are measured twice, the first measurement."""
    once = dict(reversed(curve))
    return sorted(once), [once[d] for d in sorted(once)]


def _label(axis: Any, title: str) -> None:
    axis.set_title(title)
    axis.set_xlabel("inputs d")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.grid(alpha=0.3)
