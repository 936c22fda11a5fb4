"""What the engine asks of an array library."""

from __future__ import annotations

import linecache
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from types import FunctionType
from typing import Any, Protocol

__all__ = ["Backend", "Costs", "Executable", "FunctionalExecutable", "Run", "Work", "load_source"]


@dataclass(frozen=True)
class Costs:
    """What the planner weighs, in seconds on one thread; docs/performance.md says how measured."""

    call: float  # an operation on next to nothing
    flop: float  # inside a large matrix product
    entry: float  # of an elementwise pass, per entry of the result
    row: float  # of an elementwise pass over rows that lie apart, per row
    matrix: float  # per product of a stack of small ones
    gram: bool = False  # J diag(w) J^T is one operation, of half the flops
    lanes: int = 8  # numbers in a vector of that operation, in float64
    placed: bool = False  # parts of a longer array are computed in their place, not copied there
    joins: bool = False  # T + (A . S) B is one operation, c + a b another (plan/join.py)
    whole: frozenset[str] = frozenset()  # activations that are one operation with their slopes


@dataclass(frozen=True)
class Run:
    """How one evaluation is carried out."""

    n: int  # samples
    chunk: int  # samples at a time
    threads: int
    progress: Any = None  # called with the number of samples done
    span: int = 0  # samples whose results are handed over at a time, where they are consumed


@dataclass(frozen=True)
class Work:
    """What there is to do, for a backend to divide."""

    n: int
    bytes_per_sample: int  # of intermediates
    flops_per_sample: int
    room: int | None  # bytes that intermediates may take in all
    threads: int | None  # as the caller wants
    bytes_read: int = 0  # of constants, for every chunk

    def fitting(self, room: int) -> int:
        """Samples whose intermediates fit into so many bytes; at least one."""
        return max(room // max(self.bytes_per_sample, 1), 1)


class Executable(Protocol):
    """A program compiled for one library."""

    source: str

    def bind(self, parameters: Mapping[str, Any], constants: Mapping[str, Any]) -> Any:
        """What depends on parameters only; computed once per binding."""

    def run(
        self, bound: Any, inputs: Mapping[str, Any], seeds: Mapping[str, Any], run: Run
    ) -> tuple[Any, ...]:
        """The results for all samples. Batched seeds are among the inputs.

        Where the backend works in place, a fifth argument maps names of results to arrays for them.
        """

    def prepared(
        self,
        bound: Any,
        inputs: Mapping[str, Any],
        run: Run,
        arrays: Sequence[Any],
        results: Mapping[str, Any],
    ) -> Any:
        """After such a run, two shorter ways to results like these, or None.

        From a sequence of flat inputs like these to a sequence; and from the caller's arrays to a
        mapping, or to None where they are not like these (or None instead of this way).
        """


class Backend(Protocol):
    """One array library: namespace, conversion, device, and how a program is made fast."""

    name: str
    xp: Any  # array API namespace with erf, erfc and reciprocal
    costs: Costs
    in_place: bool  # programs write into planned buffers, and chunks into the result

    def owns(self, array: Any) -> bool:
        """Whether this is an array of the library."""

    def dtype_name(self, array: Any) -> str:
        """'float64', 'float32', 'int64', ..."""

    def device(self, array: Any) -> Any:
        """The array's device; a hashable that ``asarray`` takes."""

    def asarray(self, array: Any, dtype: str | None, device: Any) -> Any:
        """A NumPy array or the library's own, as this dtype on this device."""

    def to_numpy(self, array: Any) -> Any:
        """A NumPy copy or view; detached from any gradient tape."""

    def traced(self, arrays: Sequence[Any]) -> bool:
        """Does a gradient tape or a compiler watch these arrays? Then nothing may be cached."""

    def stamp(self, array: Any) -> Any:
        """A key that changes when a parameter's values may have; None: never cache what uses it."""

    def parameter(self, array: Any, dtype: str | None, device: Any) -> Any:
        """A NumPy array or the library's own as a parameter that owns its memory."""

    def compile(self, program: Any, source: str, layout: Any) -> Executable:
        """Make a planned program run."""

    def schedule(self, work: Work) -> tuple[int, int]:
        """Samples at a time, and threads over such chunks."""

    def memory(self) -> int | None:
        """Bytes that results and intermediates may take where no limit is given, if known."""

    def synchronize(self) -> None:
        """Wait for the device."""


_numbers = count(1)


def load_source(source: str, name: str, scope: dict[str, Any]) -> dict[str, Any]:
    """Compile program text; tracebacks and debuggers show its lines, as long as it lives."""
    filename = f"<hessarray {name} {next(_numbers)}>"
    exec(compile(source, filename, "exec"), scope)
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    functions = (f for f in scope.values() if isinstance(f, FunctionType))
    one = next(f for f in functions if f.__code__.co_filename == filename)  # all live as long
    weakref.finalize(one, linecache.cache.pop, filename, None).atexit = False
    return scope


class FunctionalExecutable:
    """The program as plain functional code: autograd, jit and compilers see through it."""

    def __init__(self, xp: Any, source: str) -> None:
        self.xp = xp
        self.source = source
        scope = load_source(source, "program", {})
        self._bind, self._seed, self._run = scope["bind"], scope["seed"], scope["run"]

    def bind(self, parameters: Mapping[str, Any], constants: Mapping[str, Any]) -> Any:
        return self._bind(self.xp, parameters, constants)

    def prepared(self, *like: Any, **named: Any) -> None:
        """There is no shorter way."""

    def run(
        self, bound: Any, inputs: Mapping[str, Any], seeds: Mapping[str, Any], run: Run
    ) -> tuple[Any, ...]:
        b = self._seed(self.xp, bound, seeds)
        if run.chunk >= run.n:
            whole = tuple(self._run(self.xp, b, run.n, inputs, inputs))
            if run.progress is not None:
                run.progress(run.n)
            return whole
        parts = []
        for start in range(0, run.n, run.chunk):
            stop = min(start + run.chunk, run.n)
            piece = {k: a[start:stop, ...] for k, a in inputs.items()}
            parts.append(self._run(self.xp, b, stop - start, piece, piece))
            if run.progress is not None:
                run.progress(stop)
        return tuple(self.xp.concat(p, axis=0) for p in zip(*parts, strict=True))
