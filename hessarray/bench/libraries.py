"""The array libraries that a benchmark runs on: arrays in, arrays out, and when they are there."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessarray.bench.host import free_bytes
from hessarray.errors import BackendError

__all__ = ["DEVICES", "LIBRARIES", "Library", "jax_on", "library", "torch_on"]

DEVICES = ("cpu", "cuda")
_INSTALL = {
    "torch": "pip install 'hessarray[torch]'",
    "jax": "pip install 'hessarray[jax]'",
    "cupy": "pip install 'hessarray[cuda12]' or 'hessarray[cuda13]'",
}


@dataclass(frozen=True)
class Library:
    """An array library on one device.

    Attributes
    ----------
    name, device : str
        As on the command line.
    hardware : str
        The device's own name; empty for a CPU, which `machine` describes.
    array, numpy : callable
        From NumPy, and to NumPy.
    wait : callable
        Returns when the arrays of a result are there.
    copy : callable
        ``copy(target, source)``: one read and one write of every byte, in the target if it can be.
    free : callable
        Bytes that could be had now, on the device.
    peak : callable or None
        ``peak(call)``: the most bytes of the device that arrays took while ``call()`` ran, above
        those before it; None where the library cannot tell.
    """

    name: str
    device: str
    hardware: str
    array: Callable[[Any], Any]
    numpy: Callable[[Any], Any]
    wait: Callable[[Any], Any]
    copy: Callable[[Any, Any], Any]
    free: Callable[[], int]
    peak: Callable[[Callable[[], Any]], int] | None = None


def library(name: str, device: str, threads: int) -> Library:
    """The library of this name, on this device, with this many threads on a CPU.

    Raises
    ------
    BackendError
        The library is not installed, or has no such device.
    """
    if name in _INSTALL and importlib.util.find_spec(name) is None:
        raise BackendError(f"{name} is not installed: {_INSTALL[name]}")
    return LIBRARIES[name](device, threads)


def _numpy(device: str, threads: int) -> Library:
    if device != "cpu":
        raise BackendError(f"numpy has no device '{device}': choose cupy, torch or jax")
    return Library("numpy", "cpu", "", np.asarray, np.asarray, lambda a: a, np.copyto, free_bytes)


def torch_on(device: str, threads: int) -> Any:
    """The torch module, set up for this device.

    Raises
    ------
    BackendError
        There is no such device.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise BackendError("no CUDA device answers torch.cuda.is_available()")
    torch.set_num_threads(threads)
    return torch


def _torch(device: str, threads: int) -> Library:
    torch = torch_on(device, threads)
    cuda = device == "cuda"

    def free() -> int:
        torch.cuda.empty_cache()  # of what earlier cases left
        return int(torch.cuda.mem_get_info()[0])

    def peak(call: Callable[[], Any]) -> int:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return int(torch.cuda.max_memory_allocated() - before)

    return Library(
        "torch",
        device,
        torch.cuda.get_device_name() if cuda else "",
        lambda a: torch.tensor(a, device=device),
        lambda a: a.detach().cpu().numpy(),
        (lambda a: torch.cuda.synchronize()) if cuda else (lambda a: a),
        lambda target, source: target.copy_(source),
        free if cuda else free_bytes,
        peak if cuda else None,
    )


def jax_on(device: str) -> Any:
    """The jax module in float64, with this device as its default.

    Raises
    ------
    BackendError
        There is no such device.
    """
    import jax

    try:
        chosen = jax.devices(device)[0]
    except RuntimeError:
        raise BackendError(f"no device answers jax.devices('{device}')") from None
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_device", chosen)
    jax.config.update("jax_default_matmul_precision", "highest")
    return jax


def _jax(device: str, threads: int) -> Library:
    jax = jax_on(device)
    chip = jax.devices(device)[0]

    def free() -> int:
        stats = chip.memory_stats()
        return int(stats["bytes_limit"] - stats["bytes_in_use"])

    return Library(
        "jax",
        device,
        chip.device_kind if device == "cuda" else "",
        jax.numpy.asarray,
        np.asarray,
        jax.block_until_ready,
        lambda target, source: jax.numpy.copy(source),
        free if device == "cuda" else free_bytes,
    )


def _cupy(device: str, threads: int) -> Library:
    import cupy

    if device != "cuda" or not cupy.is_available():
        raise BackendError("cupy needs device 'cuda', and one that answers cupy.is_available()")
    pool = cupy.get_default_memory_pool()

    def free() -> int:
        pool.free_all_blocks()
        return int(cupy.cuda.runtime.memGetInfo()[0])

    def peak(call: Callable[[], Any]) -> int:
        pool.free_all_blocks()  # so that what the pool takes is what it needs
        before = pool.total_bytes()
        call()
        return int(pool.total_bytes() - before)

    return Library(
        "cupy",
        device,
        cupy.cuda.runtime.getDeviceProperties(0)["name"].decode(),
        cupy.asarray,
        cupy.asnumpy,
        lambda a: cupy.cuda.Stream.null.synchronize(),
        cupy.copyto,
        free,
        peak,
    )


#: Every library by the name that it has on the command line.
LIBRARIES: dict[str, Callable[[str, int], Library]] = {
    "cupy": _cupy,
    "jax": _jax,
    "numpy": _numpy,
    "torch": _torch,
}
