"""Arguments of a model's steps: trees in which references stand for the results of other steps."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Ref", "joined", "ordered", "references", "resolved"]


@dataclass(frozen=True)
class Ref:
    """The result that has this name."""

    name: Any


def resolved(tree: Any, values: Mapping[Any, Any]) -> Any:
    """The tree with values in place of its references."""
    if isinstance(tree, Ref):
        return values[tree.name]
    if isinstance(tree, (list, tuple)):
        return type(tree)(resolved(t, values) for t in tree)
    if isinstance(tree, dict):
        return {k: resolved(t, values) for k, t in tree.items()}
    return tree


def references(tree: Any) -> Iterator[Ref]:
    """All references of a tree, from left to right."""
    if isinstance(tree, Ref):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for t in tree:
            yield from references(t)
    elif isinstance(tree, dict):
        yield from references(tuple(tree.values()))


def ordered(needs: Mapping[Hashable, Collection[Any]], known: Collection[Any]) -> list[Any]:
    """The steps as they are given, but each behind those that it needs.

    Raises
    ------
    LookupError
        A step waits for itself or for what nothing gives; its argument is the step.
    """
    done, waited, order = set(known), set(), []
    for first in needs:
        stack: list[Any] = [first]
        while stack:
            step = stack[-1]
            waiting = [] if step in done else [k for k in needs[step] if k not in done]
            if any(k not in needs for k in waiting) or (waiting and step in waited):
                raise LookupError(step)
            waited.add(step)
            stack += reversed(waiting)
            if not waiting:
                stack.pop()
                if step not in done:
                    done.add(step)
                    order.append(step)
    return order


def joined(xp: Any, outputs: list[Any]) -> Any:
    """Several outputs of one sample, flattened and joined along the features."""
    parts = [xp.reshape(x, (-1,)) for x in outputs]
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)
