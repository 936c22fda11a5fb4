"""What a caller wants: which derivatives, along which directions, in which mode."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

__all__ = ["Want", "wanted"]


@dataclass(frozen=True)
class Want:
    """The signature of a plan, apart from shapes.

    ``left`` is the number of directions that seed J instead of the identity, ``right`` the number
    that seed G; 0 means a single weight vector without an axis of its own (the weighted Hessian).
    ``batched_right``: those carry the batch axis. ``forward`` is True for all left, False for all
    right, None for the cheapest bracket.
    """

    value: bool = True
    gradient: bool = False
    second: str | None = None
    left: int | None = None
    right: int | None = None
    batched_right: bool = False
    forward: bool | None = None

    def __hash__(self) -> int:  # asked for in every evaluation, so ``wanted`` keeps it
        kept = self.__dict__.get("_hash")
        if kept is not None:
            return int(kept)
        fields = (self.value, self.gradient, self.second, self.left, self.right)
        return hash((*fields, self.batched_right, self.forward))

    def directions(self, inputs: int) -> int:
        """Rows of J, for so many inputs."""
        return inputs if self.left is None else self.left

    def outputs(self, outputs: int) -> int:
        """Columns of G, for so many outputs; at least one."""
        return max(outputs if self.right is None else self.right, 1)

    def names(self) -> tuple[str, ...]:
        """The results, in the order in which a program returns them."""
        names = ["value"] if self.value else []
        names += ["gradient"] if self.gradient else []
        return (*names, *([self.second] if self.second else []))


_wanted: dict[Any, Want] = {}


def wanted(**fields: Any) -> Want:
    """One object for equal wants: making it anew would be a tenth of a small evaluation."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.compiler.is_compiling():
        return Want(**fields)
    key = (*fields.items(), type(fields.get("forward")))
    want = _wanted.get(key)
    if want is None:
        want = Want(**fields)
        object.__setattr__(want, "_hash", hash(want))
        if len(_wanted) < 1024:
            _wanted[key] = want
    return want
