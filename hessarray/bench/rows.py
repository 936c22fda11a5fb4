"""What a benchmark found, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Outcome", "Report", "Row"]


@dataclass
class Outcome:
    """One way of one peer: a ratio of times, or the reason why there is none.

    Attributes
    ----------
    peer, variant : str
        A key of ``peers.PEERS``, and which of its ways.
    seconds : float or None
        Median.
    ratio : float or None
        Median over rounds of its time in units of hessarray's in the same round.
    rounds : int
        How many.
    error : str or None
        Its results differ from hessarray's, or it failed; it was not timed.
    reason : str or None
        Why it was not measured.
    """

    peer: str
    variant: str = ""
    seconds: float | None = None
    ratio: float | None = None
    rounds: int = 0
    error: str | None = None
    reason: str | None = None


@dataclass
class Row:
    """One case on one library of ours.

    Attributes
    ----------
    group, name, want, n, d, m : str, int
        The case.
    backend : str
        The library of the arrays that hessarray ran on.
    seconds : float or None
        hessarray's median.
    flops, bytes : int or None
        Of the plan; bytes of inputs and results.
    share : float or None
        (flops / speed of GEMMs + bytes / copy bandwidth) / seconds, GEMMs and hessarray timed in
        turn, each at its best.
    outcomes : list of Outcome
        The peers.
    figures : dict
        Other numbers than times, such as MiB.
    error : str or None
        hessarray failed.
    reason : str or None
        Why hessarray was not measured.
    """

    group: str
    name: str
    want: str
    n: int
    backend: str
    d: int = 0
    m: int = 0
    seconds: float | None = None
    flops: int | None = None
    bytes: int | None = None
    share: float | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    reason: str | None = None

    @property
    def failed(self) -> bool:
        """Whether hessarray failed, or a peer did or gives other results."""
        return self.error is not None or any(o.error is not None for o in self.outcomes)

    def best(self, peer: str) -> Outcome | None:
        """The fastest of a peer's ways; one without a ratio where it has no other."""
        found = [o for o in self.outcomes if o.peer == peer]
        return min(found, key=lambda o: float("inf") if o.ratio is None else o.ratio, default=None)


@dataclass
class Report:
    """All rows of one run, on one machine.

    Attributes
    ----------
    machine : dict
        What ``machine.describe`` says.
    limits : dict
        By backend, what ``machine.limits`` measured.
    quick : bool
        Small cases and few rounds: the numbers say nothing about speed.
    rows : list of Row
        In the order of measurement.
    """

    machine: dict[str, Any]
    limits: dict[str, dict[str, float]]
    quick: bool
    rows: list[Row] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)
