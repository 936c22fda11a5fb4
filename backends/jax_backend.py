"""JAX: plain functional code, so that grad, vmap and jit see through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.special
import numpy as np

from hessarray.backends._special import Extended
from hessarray.backends.protocol import Costs, Executable, FunctionalExecutable, Work

__all__ = ["JaxBackend"]

_LIMIT = 256 << 20


class JaxBackend:
    """Arrays and tracers of JAX."""

    name = "jax"
    costs = Costs(call=1e-6, flop=2.5e-11, entry=6e-10, row=1e-9, matrix=3e-7)
    in_place = False

    def __init__(self) -> None:
        self.xp = Extended(jnp, erf=jax.scipy.special.erf, erfc=jax.scipy.special.erfc)

    def owns(self, array: Any) -> bool:
        return isinstance(array, jax.Array)

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype)

    def device(self, array: Any) -> Any:
        if isinstance(array, jax.core.Tracer):
            return None
        devices = array.devices()
        return next(iter(devices)) if len(devices) == 1 else array.sharding

    def asarray(self, array: Any, dtype: str | None, device: Any) -> Any:
        if isinstance(array, jax.core.Tracer):
            return array.astype(dtype) if dtype is not None else array
        out = jnp.asarray(array, dtype=dtype)
        return out if device is None else jax.device_put(out, device)

    def to_numpy(self, array: Any) -> Any:
        return np.asarray(array)

    def traced(self, arrays: Sequence[Any]) -> bool:
        return any(isinstance(a, jax.core.Tracer) for a in arrays)

    def stamp(self, array: Any) -> Any:
        return None if isinstance(array, jax.core.Tracer) else id(array)

    def parameter(self, array: Any, dtype: str | None, device: Any) -> Any:
        return self.asarray(array, dtype, device)

    def compile(self, program: Any, source: str, layout: Any) -> Executable:
        return _JaxExecutable(self.xp, source)

    def schedule(self, work: Work) -> tuple[int, int]:
        return work.fitting(work.room or _LIMIT), 1

    def memory(self) -> int | None:
        return None

    def synchronize(self) -> None:
        return None


class _JaxExecutable(FunctionalExecutable):
    """The program under jit: XLA would else compile every operation by itself."""

    def __init__(self, xp: Any, source: str) -> None:
        super().__init__(xp, source)
        for name, static in (("_bind", (0,)), ("_seed", (0,)), ("_run", (0, 2))):
            setattr(self, name, jax.jit(getattr(self, name), static_argnums=static))
