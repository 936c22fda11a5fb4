"""CuPy: functional code on pooled device memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import array_api_compat.cupy as xp_cupy
import cupy
import cupyx.scipy.special
import numpy as np

from hessarray.backends._special import Extended
from hessarray.backends.protocol import Costs, Executable, FunctionalExecutable, Work

__all__ = ["CupyBackend"]


class CupyBackend:
    """Arrays on CUDA devices."""

    name = "cupy"
    costs = Costs(call=8e-6, flop=3e-14, entry=6e-12, row=1e-12, matrix=1e-9)
    in_place = False

    def __init__(self) -> None:
        self.xp = Extended(xp_cupy, erf=cupyx.scipy.special.erf, erfc=cupyx.scipy.special.erfc)

    def owns(self, array: Any) -> bool:
        return isinstance(array, cupy.ndarray)

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype)

    def device(self, array: Any) -> Any:
        return int(array.device.id)

    def asarray(self, array: Any, dtype: str | None, device: Any) -> Any:
        if device is None:
            return cupy.asarray(array, dtype=dtype, order="C")
        with cupy.cuda.Device(device):
            return cupy.asarray(array, dtype=dtype, order="C")

    def to_numpy(self, array: Any) -> Any:
        return np.asarray(cupy.asnumpy(array))

    def traced(self, arrays: Sequence[Any]) -> bool:
        return False

    def stamp(self, array: Any) -> Any:
        return None if self.owns(array) else id(array)  # its own can be written to, unseen

    def parameter(self, array: Any, dtype: str | None, device: Any) -> Any:
        return self.asarray(array, dtype, device)

    def compile(self, program: Any, source: str, layout: Any) -> Executable:
        return FunctionalExecutable(self.xp, source)

    def schedule(self, work: Work) -> tuple[int, int]:
        # half of what the pool and the card have free, where no limit is given
        return work.fitting(work.room or self.memory() // 2), 1

    def memory(self) -> int:
        pool = cupy.get_default_memory_pool().free_bytes()
        return int(cupy.cuda.runtime.memGetInfo()[0]) + int(pool)

    def synchronize(self) -> None:
        cupy.cuda.get_current_stream().synchronize()
