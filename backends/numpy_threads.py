"""Threads over chunks, with the BLAS library at one thread in each."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["cores", "in_threads", "one_blas_thread"]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(
    work: Callable[[Any], None],
    items: Iterable[Any],
    threads: int | None = None,
    after: Callable[[], None] | None = None,
) -> None:
    """Call ``work`` with every item, BLAS at one thread each; ``after`` follows the caller's."""
    threads = threads or cores()
    left = iter(items)

    def drain(then: Callable[[], None] | None) -> None:
        for item in left:
            work(item)
            if then is not None:
                then()

    with one_blas_thread:
        # The caller works too: it starts while the others wake up.
        others = [_pool(threads - 1, os.getpid()).submit(drain, None) for _ in range(threads - 1)]
        try:
            drain(after)
        finally:
            for _ in left:  # after an exception nobody takes another piece
                pass
            # Whoever has not woken up yet need not.
            failures = [other.exception() for other in others if not other.cancel()]
    for failure in failures:
        if failure is not None:
            raise failure


@lru_cache(maxsize=8)
def _pool(threads: int, pid: int) -> ThreadPoolExecutor:
    """Workers for this process (a fork must not inherit them)."""
    return ThreadPoolExecutor(threads, thread_name_prefix="hessarray")


class _OneBlasThread:
    """BLAS at one thread while anybody runs chunks.

    Where the library keeps one number for the whole process it is set directly, in a few
    microseconds. OpenBLAS then heeds only the thread that set it, so that thread restores it as it
    leaves, even if others go on. Elsewhere threadpoolctl's context does it, in a thread of ours.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.owner: int | None = None  # the thread that holds the direct limit
        self.before: Any = None
        self.inherited: Any = None  # of the process that was forked, in the middle of a limit

    def __enter__(self) -> None:
        libraries = _blas_libraries()
        with self.lock:
            if libraries is None:
                if not self.users:
                    self._governed(self._limit)
            elif self.owner is None:
                self.owner = threading.get_ident()
                now = [(lib, lib.get_num_threads()) for lib in libraries]
                self.before, self.inherited = self.inherited or now, None
                for lib in libraries:
                    lib.set_num_threads(1)
            self.users += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.users = max(self.users - 1, 0)  # a fork inside has forgotten them
            if self.owner is not None:
                if self.owner == threading.get_ident():
                    self.owner = None
                    for lib, threads in self.before:
                        lib.set_num_threads(threads)
            elif not self.users and _blas_libraries() is None:
                self._governed(self._restore)

    def forget(self) -> None:
        """In a forked child, where the threads that held it are not.

        Nothing is asked of the BLAS library: its own locks may have been held. It gets its threads
        back with the first evaluation.
        """
        self.lock = threading.Lock()
        self.users = 0
        self.inherited = self.before if self.owner is not None else None
        self.owner = None

    def _governed(self, call: Callable[[], None]) -> None:
        _governor(os.getpid()).submit(call).result()

    def _limit(self) -> None:
        self.before = _controller().limit(limits=1, user_api="blas")
        self.before.__enter__()

    def _restore(self) -> None:
        self.before.__exit__(None, None, None)


@lru_cache(maxsize=1)
def _blas_libraries() -> list[Any] | None:
    """The BLAS libraries, if each keeps its number of threads for the whole process."""
    found = [lib for lib in _controller().lib_controllers if lib.user_api == "blas"]
    whole = all(getattr(lib, "threading_layer", "") in ("pthreads", "disabled") for lib in found)
    return found if whole else None


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@lru_cache(maxsize=2)
def _governor(pid: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="hessarray-blas")


one_blas_thread = _OneBlasThread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=one_blas_thread.forget)
