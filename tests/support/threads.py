"""Several threads at the same time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def run_all(work: Callable[[int], Any], count: int) -> None:
    """work(0), ..., work(count - 1), each in a thread of its own; what one raises is raised."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))
