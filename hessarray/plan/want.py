"""What a caller wants: which derivatives, along which directions, in which mode."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SECOND", "Want"]

SECOND = ("hessian", "diagonal", "laplacian", "hvp")


@dataclass(frozen=True)
class Want:
    """The signature of a plan, apart from shapes.

    ``left`` is the number of directions that seed J instead of the identity, ``right`` the number
    that seed G; 0 means a single weight vector without an axis of its own (the weighted Hessian).
    ``weighted`` directions carry the batch axis. ``forward`` is True for all left, False for all
    right, None for the cheapest bracket.
    """

    value: bool = True
    gradient: bool = False
    second: str | None = None
    left: int | None = None
    right: int | None = None
    batched_right: bool = False
    forward: bool | None = None

    def names(self) -> tuple[str, ...]:
        """The results, in the order in which a program returns them."""
        names = ["value"] if self.value else []
        names += ["gradient"] if self.gradient else []
        return (*names, *([self.second] if self.second else []))
