"""What a test of derivatives found: tables of Taylor errors, and comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


def convert_to_base(values: Sequence[float], base: float = 2.0) -> tuple[float | int, ...]:
    """(c1, d1, c2, d2, ...) with value = c base^d and 1 <= c < base; (-1, 0) where value <= 0.

    Examples
    --------
    >>> convert_to_base((0.375, 8.0))
    (1.5, -2, 1.0, 3)
    """
    parts: list[float | int] = []
    for value in values:
        if not 0.0 < value < math.inf:
            parts += [-1, 0]
            continue
        d = math.floor(math.log(value) / math.log(base))
        c = value / base**d
        # The logarithm of a power of the base may be rounded to either side.
        if c >= base:
            c, d = c / base, d + 1
        elif c < 1.0:
            c, d = c * base, d - 1
        parts += [c, d]
    return tuple(parts)


@dataclass(frozen=True)
class TaylorCheck:
    """The outcome of a Taylor test; true where it passed, and printed as its table.

    ``E0 = |f(x + hp) - f(x)|``, ``E1`` takes h p.grad off, ``E2`` also h^2/2 p.H.p; norms over all
    samples and outputs. They are of order 1, 2 and 3 in h where the derivatives are right.

    Parameters
    ----------
    steps : tuple of float
        h, from the largest to the smallest.
    value_errors, gradient_errors, hessian_errors : tuple of float
        E0, E1 and E2 at each step; ``hessian_errors`` is None where there is no Hessian.
    gradient_order, hessian_order : float
        Orders of E1 and E2 as h falls: of the worst sample where some fail, otherwise the median
        over the samples. Infinite where the error is rounding only.
    gradient_failed, hessian_failed : tuple of int
        The samples whose order is too low, counted along the flattened batch.
    inconclusive : tuple of int
        Samples so near a kink that the function itself has no derivative for these steps.
    samples : int
        How many samples there are.
    base : float
        The factor between two steps.
    """

    steps: tuple[float, ...]
    value_errors: tuple[float, ...]
    gradient_errors: tuple[float, ...]
    hessian_errors: tuple[float, ...] | None
    gradient_order: float
    hessian_order: float | None
    gradient_failed: tuple[int, ...] = ()
    hessian_failed: tuple[int, ...] = ()
    inconclusive: tuple[int, ...] = ()
    samples: int = 1
    base: float = 2.0

    @property
    def gradient_passed(self) -> bool:
        """No sample contradicts the gradient, and at least one confirms it."""
        return not self.gradient_failed and len(self.inconclusive) < self.samples

    @property
    def hessian_passed(self) -> bool:
        """No sample contradicts the Hessian, and at least one confirms it."""
        return not self.hessian_failed and len(self.inconclusive) < self.samples

    @property
    def passed(self) -> bool:
        """Gradient and Hessian passed."""
        return self.gradient_passed and self.hessian_passed

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        columns = [self.value_errors, self.gradient_errors]
        if self.hessian_errors is not None:
            columns.append(self.hessian_errors)
        heads = ["h", *(f"E{i}" for i in range(len(columns)))]
        lines = ["".join(f"{head:<20}" for head in heads).rstrip()]
        for row in zip(self.steps, *columns, strict=True):
            parts = convert_to_base(row, self.base)
            cells = (f"{c:.2f} x {self.base:g}^({_digits(d)})" for c, d in _pairs(parts))
            lines.append("".join(f"{cell:<20}" for cell in cells).rstrip())
        lines.append(_verdict("Gradient", self.gradient_order, self.gradient_failed))
        if self.hessian_order is not None:
            lines.append(_verdict("Hessian", self.hessian_order, self.hessian_failed))
        if self.inconclusive:
            lines.append(
                f"{_some(self.inconclusive)} within {self.steps[-1]:.1e} of a kink, or where f is "
                "not finite: there is nothing to compare, move x or pass a smaller step"
            )
        return "\n".join(lines)


def _pairs(flat: Sequence[float | int]) -> Iterator[tuple[float, int]]:
    return ((float(c), int(d)) for c, d in zip(flat[::2], flat[1::2], strict=True))


def _digits(d: int) -> str:
    return f"{'-' if d < 0 else ''}{abs(d):02d}"


def _verdict(name: str, order: float, failed: tuple[int, ...]) -> str:
    if math.isnan(order):
        return f"{name} FAILED. (no sample can be tested)"
    seen = "exact to rounding" if math.isinf(order) else f"order {order:.2f}"
    if not failed:
        return f"{name} PASSED! ({seen})"
    return f"{name} FAILED. ({seen} in {_some(failed)})"


def _some(samples: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, samples[:5])) + (", ..." if len(samples) > 5 else "")
    return f"{len(samples)} sample{'s' * (len(samples) > 1)} ({shown})"


@dataclass(frozen=True)
class Comparison:
    """Two ways to the same number: their largest difference relative to the largest entry.

    ``skipped`` entries lie so near a kink that finite differences have nothing to say.
    """

    name: str
    error: float
    tolerance: float
    skipped: int = 0

    @property
    def passed(self) -> bool:
        """The error is within the tolerance; NaN is not."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        verdict = "PASSED!" if self.passed else "FAILED."
        note = f" ({self.skipped} entries at a kink left out)" if self.skipped else ""
        return (
            f"{self.name}: relative error {self.error:.2e}, "
            f"at most {self.tolerance:.0e} {verdict}{note}"
        )


@dataclass(frozen=True)
class ErrorCheck:
    """The outcome of a test that compares numbers; true where all comparisons passed."""

    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        """All comparisons passed."""
        return all(c.passed for c in self.comparisons)

    @property
    def errors(self) -> dict[str, float]:
        """Relative error by name."""
        return {c.name: c.error for c in self.comparisons}

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return "\n".join(map(str, self.comparisons))
