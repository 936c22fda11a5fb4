"""A progress bar of samples on stderr, by tqdm or rich."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["bar"]


@contextmanager
def bar(show: bool, total: int | None) -> Iterator[Callable[[int], object]]:
    """A function that takes the number of samples just done.

    Raises
    ------
    ImportError
        A bar is wanted and neither tqdm nor rich is installed.
    """
    if not show:
        yield lambda count: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        with _rich(total) as advance:
            yield advance
        return
    with tqdm(total=total, unit="sample", unit_scale=True) as drawn:
        yield drawn.update


@contextmanager
def _rich(total: int | None) -> Iterator[Callable[[int], object]]:
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        raise ImportError("--progress needs tqdm or rich: pip install 'hessarray[cli]'") from None
    with Progress(console=Console(stderr=True), transient=False) as drawn:
        task = drawn.add_task("samples", total=total)
        yield lambda count: drawn.advance(task, count)
