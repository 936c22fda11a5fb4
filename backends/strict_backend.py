"""array-api-strict: no library's favour, only the standard; finds device and dtype mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import array_api_strict
import numpy as np

from hessarray.backends._special import Extended, erf, erfc
from hessarray.backends.protocol import Costs, Executable, FunctionalExecutable, Work

__all__ = ["StrictBackend"]


class StrictBackend:
    """Arrays of array-api-strict, on its simulated devices."""

    name = "array_api_strict"
    costs = Costs(call=1e-5, flop=2.5e-11, entry=6e-10, row=1e-8, matrix=3e-7)
    in_place = False

    def __init__(self) -> None:
        xp = array_api_strict
        self.xp = Extended(xp, erf=lambda x: erf(xp, x), erfc=lambda x: erfc(xp, x))

    def owns(self, array: Any) -> bool:
        return type(array).__module__.startswith("array_api_strict")

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype).rpartition(".")[2]

    def device(self, array: Any) -> Any:
        return array.device

    def asarray(self, array: Any, dtype: str | None, device: Any) -> Any:
        kind = getattr(array_api_strict, dtype) if dtype is not None else None
        if self.owns(array):
            out = array if device is None else array.to_device(device)
            return out if kind is None else array_api_strict.astype(out, kind)
        array = np.asarray(array) if dtype is None else np.asarray(array).astype(dtype)
        return array_api_strict.asarray(array, device=device)

    def to_numpy(self, array: Any) -> Any:
        array = array.to_device(array_api_strict.Device("CPU_DEVICE"))
        return np.asarray(array)

    def traced(self, arrays: Sequence[Any]) -> bool:
        return False

    def stamp(self, array: Any) -> Any:
        return None if self.owns(array) else id(array)  # its own can be written to, unseen

    def parameter(self, array: Any, dtype: str | None, device: Any) -> Any:
        return self.asarray(array, dtype, device)

    def compile(self, program: Any, source: str, layout: Any) -> Executable:
        return FunctionalExecutable(self.xp, source)

    def schedule(self, work: Work) -> tuple[int, int]:
        return (work.n if work.room is None else work.fitting(work.room)), 1

    def memory(self) -> int | None:
        return None

    def synchronize(self) -> None:
        return None
