"""Finds the backend of an array, without importing a library that its user has not imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from hessarray.backends.protocol import Backend

__all__ = ["backend_named", "backend_of", "known_backends", "outside_compilers"]

# The library's top module -> our module and class.
_BACKENDS = {
    "numpy": ("numpy_backend", "NumpyBackend"),
    "torch": ("torch_backend", "TorchBackend"),
    "jax": ("jax_backend", "JaxBackend"),
    "jaxlib": ("jax_backend", "JaxBackend"),
    "cupy": ("cupy_backend", "CupyBackend"),
    "array_api_strict": ("strict_backend", "StrictBackend"),
}


def known_backends() -> tuple[str, ...]:
    """Names of the array libraries that have a backend."""
    return tuple(k for k in _BACKENDS if k != "jaxlib")


@cache
def backend_named(name: str) -> Backend | None:
    """The backend of a library by its name, or None; imports that library."""
    found = _BACKENDS.get("jax" if name == "jaxlib" else name)
    if found is None:
        return None
    module = importlib.import_module(f"hessarray.backends.{found[0]}")
    backend: Backend = getattr(module, found[1])()
    return backend


def backend_of(array: Any) -> Backend | None:
    """The backend whose library this array's class, or a base of it, comes from; else None."""
    for cls in type(array).__mro__:
        name = cls.__module__.partition(".")[0]
        if name in _BACKENDS:
            backend = backend_named("jax" if name == "jaxlib" else name)
            if backend is not None and backend.owns(array):
                return backend
    return None


def outside_compilers(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, which torch.compile leaves alone: planning is no tensor code."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.compiler.is_compiling():
        return function(*args)
    return torch.compiler.disable(function)(*args)
