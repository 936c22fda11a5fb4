"""CUDA graphs for torch: a call that comes again with the same shapes is one launch.

A small program is some dozens of kernels, and launching each takes longer than what it does. The
graph of a program is captured on its third call, between buffers of its own: later calls copy
their inputs in, replay, and copy the results out. This is done on request only, by the environment
variable HESSARRAY_CUDA_GRAPHS=1, and never where autograd, a compiler, a transform or the caller's
own capture would have to see the operations.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.utils import _python_dispatch

__all__ = ["Graphs", "replayable", "wanted"]

MOST_BYTES = 64 << 20  # of one call: a graph keeps its memory, and larger calls gain little
_MOST_GRAPHS = 8  # of one program
_MOST_CAPTURES = (
    64  # where shapes or parameters never come back, capturing costs more than it saves
)
_CALLS_BEFORE = 2

Function = Callable[[Sequence[Any]], tuple[Any, ...]]


def wanted() -> bool:
    """Whether the user asked for graphs."""
    return os.environ.get("HESSARRAY_CUDA_GRAPHS", "0") not in ("", "0")


def replayable(tensors: Sequence[Any]) -> bool:
    """Plain tensors on one CUDA device, and nobody watches what is done with them."""
    return (
        not torch.compiler.is_compiling()
        and all(type(t) in (torch.Tensor, torch.nn.Parameter) for t in tensors)
        and not any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors)
        and not any(t.requires_grad for t in tensors)
        and len({t.device for t in tensors}) == 1
        and _on_cuda(tensors[0])
        and _python_dispatch._get_current_dispatch_mode() is None
        and forward_ad._current_level < 0
        and not torch.is_autocast_enabled("cuda")
        and not torch.cuda.is_current_stream_capturing()
    )


def _on_cuda(tensor: Any) -> bool:
    return bool(tensor.is_cuda)


@dataclass
class _Captured:
    """A graph between the tensors that it reads and those that it writes."""

    graph: Any
    inputs: list[Any]
    results: tuple[Any, ...]
    done: Any  # the event after which the buffers may be written again
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, cuda: Any, tensors: Sequence[Any]) -> tuple[Any, ...]:
        stream = cuda.current_stream()
        with self.lock:
            stream.wait_event(self.done)  # a call before this one may be on another stream
            for mine, given in zip(self.inputs, tensors, strict=True):
                mine.copy_(given)
            self.graph.replay()
            found = tuple(r.clone() for r in self.results)
            self.done.record(stream)
        return found


class Graphs:
    """The captured calls of one program, the least used of them given up first."""

    def __init__(self, cuda: Any = torch.cuda) -> None:
        self._cuda = cuda
        self._known: OrderedDict[Hashable, _Captured] = OrderedDict()
        self._calls: Counter[Hashable] = Counter()
        self._captures = 0
        self._lock = threading.Lock()

    def __call__(
        self, function: Function, tensors: Sequence[Any], constants: Any
    ) -> tuple[Any, ...] | None:
        """``function(tensors)`` by a graph, or None where it is to be called as it is.

        ``constants`` is what the function uses beside the tensors: another object, another graph.
        The function, and so its constants, live as long as the graph.
        """
        key = (id(constants), _settings(), *((tuple(t.shape), t.dtype, t.device) for t in tensors))
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
            elif not self._due(key):
                return None
            else:
                known = self._capture(function, tensors)
                if known is None:
                    return None
                self._known[key] = known
                if len(self._known) > _MOST_GRAPHS:
                    self._known.popitem(last=False)
        return known(self._cuda, tensors)

    def _due(self, key: Hashable) -> bool:
        if self._captures >= _MOST_CAPTURES:
            return False
        if len(self._calls) > _MOST_CAPTURES:
            self._calls.clear()
        self._calls[key] += 1
        return self._calls[key] > _CALLS_BEFORE

    def _capture(self, function: Function, tensors: Sequence[Any]) -> _Captured | None:
        cuda = self._cuda
        self._captures += 1
        try:
            with torch.no_grad():
                inputs = [t.clone() for t in tensors]
                aside = cuda.Stream()
                aside.wait_stream(cuda.current_stream())
                with cuda.stream(aside):  # libraries take their workspace at a first call
                    function(inputs)
                cuda.current_stream().wait_stream(aside)
                graph = cuda.CUDAGraph()
                # What other threads do with the device is no reason to fail.
                with cuda.graph(graph, capture_error_mode="thread_local"):
                    results = function(inputs)
                done = cuda.Event()
                done.record(cuda.current_stream())
        except RuntimeError:  # something cannot be captured, or memory is short
            self._captures = _MOST_CAPTURES
            return None
        return _Captured(_Alive(graph, function), inputs, results, done)


@dataclass(frozen=True)
class _Alive:
    """A graph with the function whose constants it reads."""

    graph: Any
    function: Function

    def replay(self) -> None:
        self.graph.replay()


def _settings() -> Hashable:
    """What torch would look at while it computes, and a graph has looked at once."""
    matmul = torch.backends.cuda.matmul
    precision = getattr(matmul, "fp32_precision", None)  # torch 2.9 and later
    return (
        torch.is_inference_mode_enabled(),
        matmul.allow_tf32 if precision is None else precision,
        torch.are_deterministic_algorithms_enabled(),
    )
