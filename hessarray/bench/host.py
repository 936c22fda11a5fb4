"""What the operating system says of this machine."""

from __future__ import annotations

import os
import platform

__all__ = ["cores", "cpu", "entry", "free_bytes", "total_bytes"]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu() -> str:
    """The processor's name."""
    return entry("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def free_bytes() -> int:
    """Memory that could be had now."""
    return _memory("MemAvailable")


def total_bytes() -> int:
    """Memory of the machine."""
    return _memory("MemTotal")


def _memory(name: str) -> int:
    found = entry("/proc/meminfo", name)
    if found is not None:
        return int(found.split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def entry(path: str, name: str) -> str | None:
    """The value of the first line ``name: value``; None where there is no such file or line."""
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip() == name:
                    return value.strip()
    except OSError:
        pass
    return None
