"""The array libraries that the shared test bodies run on, and the report of what did not run.

A test that takes ``backend`` runs once for each entry of ``BACKENDS``; with
``@pytest.mark.backends("torch", "jax")`` on those named only. An entry whose library or device is
not there is skipped with its reason, and the terminal summary names it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

# JAX takes three quarters of a GPU's memory at its first array, and CuPy and torch want some too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

# A shared machine is now and then slow, so no deadline; in CI the same examples every time.
settings.register_profile("dev", deadline=None, max_examples=30)
settings.register_profile("ci", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


# ------------------------------------------------------------------------------------ libraries


class NotHere(Exception):
    """This library or device cannot be tested here; the message is the reason in the report."""


def _import(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise NotHere(f"{name} cannot be imported ({error})") from None


def _numpy() -> SimpleNamespace:
    import array_api_compat.numpy as xp

    return SimpleNamespace(xp=xp, device="cpu", to_numpy=np.array)


def _torch(device: str) -> SimpleNamespace:
    torch = _import("torch")
    import array_api_compat.torch as xp

    if device == "cuda" and not torch.cuda.is_available():
        raise NotHere("no CUDA device answers torch.cuda.is_available()")
    return SimpleNamespace(
        xp=xp,
        device=torch.device(device, 0) if device == "cuda" else torch.device(device),
        to_numpy=lambda a: np.array(a.detach().resolve_conj().cpu().numpy()),
    )


def _jax(platform: str) -> SimpleNamespace:
    jax = _import("jax")
    jax.config.update("jax_enable_x64", True)
    if platform == "cuda":  # where XLA would multiply float32 matrices in TF32
        jax.config.update("jax_default_matmul_precision", "highest")
    try:
        device = jax.devices(platform)[0]
    except RuntimeError:
        raise NotHere(f"no device answers jax.devices({platform!r})") from None
    return SimpleNamespace(xp=jax.numpy, device=device, to_numpy=np.array)


def _strict(device: str) -> SimpleNamespace:
    xp = _import("array_api_strict")
    newest = "2025.12"
    # As little as the standard promises: no linalg, no fft, no shape that depends on values.
    xp.set_array_api_strict_flags(
        api_version=newest,
        boolean_indexing=False,
        data_dependent_shapes=False,
        enabled_extensions=(),
    )
    cpu = xp.Device("CPU_DEVICE")
    return SimpleNamespace(
        xp=xp,
        device=xp.Device(device),
        to_numpy=lambda a: np.array(xp.asarray(a, device=cpu)),
    )


def _cupy() -> SimpleNamespace:
    try:
        cupy = _import("cupy")
    except NotHere:
        raise NotHere(
            "no CUDA device answers cupy.is_available() (CuPy is not installed)"
        ) from None
    if not cupy.is_available():
        raise NotHere("no CUDA device answers cupy.is_available()")
    import array_api_compat.cupy as xp

    return SimpleNamespace(xp=xp, device=cupy.cuda.Device(0), to_numpy=cupy.asnumpy)


BACKENDS: dict[str, Callable[[], SimpleNamespace]] = {
    "numpy": _numpy,
    "torch": lambda: _torch("cpu"),
    "jax": lambda: _jax("cpu"),
    "strict": lambda: _strict("CPU_DEVICE"),
    # A device that is not the default one, and whose default dtype is float32.
    "strict-device2": lambda: _strict("device2"),
    "cupy": _cupy,
    "torch-cuda": lambda: _torch("cuda"),
    "jax-cuda": lambda: _jax("cuda"),
}
ON_GPU = ("cupy", "torch-cuda", "jax-cuda")


@cache
def _library(name: str) -> SimpleNamespace | str:
    """What a test needs of an array library, or the reason why it cannot have it."""
    try:
        return BACKENDS[name]()
    except NotHere as reason:
        return str(reason)


@dataclass(frozen=True)
class Backend:
    """One array library on one device; looked up when a test first uses it."""

    name: str

    @property
    def missing(self) -> str | None:
        """Why it cannot be tested here; None where it can."""
        library = _library(self.name)
        return library if isinstance(library, str) else None

    @property
    def xp(self) -> Any:
        """The array namespace."""
        return self._here.xp

    @property
    def device(self) -> Any:
        return self._here.device

    def dtype(self, like: Any) -> Any:
        """The library's dtype of that name, for a name, a NumPy dtype or a NumPy scalar type."""
        name = np.dtype(like).name
        return getattr(self.xp, "bool" if name == "bool" else name)

    def asarray(self, array: Any, dtype: Any = None) -> Any:
        """The array on this device, in its own NumPy dtype unless another is asked for."""
        array = np.array(array, dtype=None if dtype is None else np.dtype(dtype))
        return self.xp.asarray(array, dtype=self.dtype(array.dtype), device=self.device)

    def to_numpy(self, array: Any) -> np.ndarray:
        """A NumPy copy, from whatever device."""
        copy: np.ndarray = self._here.to_numpy(array)
        return copy

    @property
    def _here(self) -> SimpleNamespace:
        library = _library(self.name)
        assert not isinstance(library, str), library
        return library


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" not in metafunc.fixturenames:
        return
    names = list(BACKENDS)
    for mark in metafunc.definition.iter_markers("backends"):
        unknown = set(mark.args) - set(BACKENDS)
        if unknown or not mark.args:
            raise pytest.UsageError(f"pytest.mark.backends{mark.args} names none of {names}")
        names = [name for name in names if name in mark.args]
    metafunc.parametrize(
        "backend",
        [
            pytest.param(Backend(name), id=name, marks=[pytest.mark.gpu] * (name in ON_GPU))
            for name in names
        ],
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    backend = _backend_of(item)
    if backend is None:
        return
    item.user_properties.append(("backend", backend.name))
    if backend.missing is not None:
        pytest.skip(f"{backend.name}: {backend.missing}")


def _backend_of(item: pytest.Item) -> Backend | None:
    callspec = getattr(item, "callspec", None)
    backend = callspec.params.get("backend") if callspec else None
    return backend if isinstance(backend, Backend) else None


# --------------------------------------------------------------------------------------- report

COLUMNS = {
    "passed": ("passed", "xpassed"),
    "failed": ("failed", "error"),
    "xfailed": ("xfailed",),
    "skipped": ("skipped",),
}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tests by array library, then everything that did not run, with its reason."""
    stats = terminalreporter.stats
    counts: dict[str, Counter[str]] = {}
    for column, outcomes in COLUMNS.items():
        for report in (report for outcome in outcomes for report in stats.get(outcome, [])):
            name = dict(getattr(report, "user_properties", ())).get("backend", "(none)")
            counts.setdefault(name, Counter())[column] += 1
    if set(counts) - {"(none)"}:
        terminalreporter.section("by array library")
        terminalreporter.line(f"{'':15}" + "".join(f"{column:>9}" for column in COLUMNS))
        for name in [*BACKENDS, "(none)"]:
            row = counts.get(name, Counter())
            terminalreporter.line(f"{name:15}" + "".join(f"{row[c]:9}" for c in COLUMNS))

    reasons = Counter(_reason(report) for report in stats.get("skipped", []))
    deselected = len(stats.get("deselected", []))
    if deselected:
        reasons["deselected on the command line"] += deselected
    if reasons:
        terminalreporter.section("did not run")
        for reason, count in sorted(reasons.items()):
            terminalreporter.line(f"{count:6}  {reason}")


def _reason(report: Any) -> str:
    longrepr = report.longrepr
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return str(reason).removeprefix("Skipped: ")
