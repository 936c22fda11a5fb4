"""torch: plain functional code, so that autograd and torch.compile see through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import array_api_compat.torch as xp_torch
import numpy as np
import torch

from hessarray.backends import torch_graphs
from hessarray.backends._special import Extended
from hessarray.backends.protocol import Costs, Executable, FunctionalExecutable, Run, Work

__all__ = ["TorchBackend"]

_LIMIT = 256 << 20  # bytes of intermediates where no memory_limit is given


class TorchBackend:
    """Tensors on any of torch's devices."""

    name = "torch"
    costs = Costs(call=3e-6, flop=2.5e-11, entry=6e-10, row=1e-9, matrix=3e-7)
    in_place = False

    def __init__(self) -> None:
        special = torch.special
        self.xp = Extended(xp_torch, erf=special.erf, erfc=special.erfc, matmul=_matmul)

    def owns(self, array: Any) -> bool:
        return isinstance(array, torch.Tensor)

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype).removeprefix("torch.")

    def device(self, array: Any) -> Any:
        return array.device

    def asarray(self, array: Any, dtype: str | None, device: Any) -> Any:
        kind = getattr(torch, dtype) if dtype is not None else None
        if isinstance(array, torch.Tensor):
            return array.to(dtype=kind, device=device)
        return torch.tensor(np.asarray(array), dtype=kind, device=device)

    def to_numpy(self, array: Any) -> Any:
        return array.detach().cpu().numpy()

    def traced(self, arrays: Sequence[Any]) -> bool:
        if torch.compiler.is_compiling():
            return True
        taped = torch.is_grad_enabled() and any(a.requires_grad for a in arrays)
        return taped or any(torch._C._functorch.is_functorch_wrapped_tensor(a) for a in arrays)

    def stamp(self, array: Any) -> Any:
        if isinstance(array, torch.Tensor):
            return None if array.requires_grad else (id(array), array._version)
        return id(array)

    def parameter(self, array: Any, dtype: str | None, device: Any) -> Any:
        if isinstance(array, torch.Tensor) and array.requires_grad and not array.is_leaf:
            return array  # a value under way in somebody's tape
        out = self.asarray(array, dtype, device).detach().clone()
        return out.requires_grad_(True)

    def compile(self, program: Any, source: str, layout: Any) -> Executable:
        return _TorchExecutable(self.xp, program, source, layout)

    def schedule(self, work: Work) -> tuple[int, int]:
        return work.fitting(work.room or _LIMIT), 1

    def memory(self) -> int | None:
        return None

    def synchronize(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def _matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b; torch takes one product of a stack after another where BLAS cannot read the matrices.

    A sum of permuted operands keeps their order of axes, so a stack of small matrices may have
    consecutive entries along none of its last two.
    """
    return torch.matmul(_readable(a), _readable(b))


def _readable(a: torch.Tensor) -> torch.Tensor:
    return a if a.ndim < 3 or 1 in a.stride()[-2:] else a.contiguous()


class _TorchExecutable(FunctionalExecutable):
    """Results are contiguous: torch scripts call ``view`` on what they get."""

    def __init__(self, xp: Any, program: Any, source: str, layout: Any) -> None:
        super().__init__(xp, source)
        self._graphs = torch_graphs.Graphs() if torch_graphs.wanted() else None
        # Functional code holds up to twice what the program needs in place.
        self._entries = 2 * layout.entries + sum(v.size for v in program.outputs.values())

    def run(
        self, bound: Any, inputs: Mapping[str, Any], seeds: Mapping[str, Any], run: Run
    ) -> tuple[Any, ...]:
        found = None if self._graphs is None else self._replayed(bound, inputs, seeds, run)
        if found is None:
            found = super().run(bound, inputs, seeds, run)
        return tuple(a.contiguous() for a in found)

    def _replayed(
        self, bound: Any, inputs: Mapping[str, Any], seeds: Mapping[str, Any], run: Run
    ) -> tuple[Any, ...] | None:
        """The results by a CUDA graph; None where there is none, or should be none."""
        tensors = [*inputs.values(), *seeds.values()]
        size = run.n * self._entries * tensors[0].element_size()
        if (
            self._graphs is None
            or run.chunk < run.n
            or size > torch_graphs.MOST_BYTES
            or not torch_graphs.replayable([*tensors, *bound])
        ):
            return None

        names, directions, once = tuple(inputs), tuple(seeds), Run(run.n, run.n, 1)

        def whole(given: Sequence[Any]) -> tuple[Any, ...]:  # keeps none of this call's arrays
            x = dict(zip(names, given, strict=False))
            v = dict(zip(directions, given[len(x) :], strict=True))
            found = super(_TorchExecutable, self).run(bound, x, v, once)
            return tuple(a.contiguous() for a in found)

        found = self._graphs(whole, tensors, bound)
        if found is not None and run.progress is not None:
            run.progress(run.n)
        return found
