"""NumPy: in-place calls on planned buffers, chunks in threads, BLAS at one thread each."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from hessarray.backends._special import Extended
from hessarray.backends.numpy_buffers import scratch
from hessarray.backends.numpy_kernels import (
    ACTIVATIONS,
    LINE,
    _loops,
    aligned,
    has_gram,
    has_products,
    pack,
)
from hessarray.backends.numpy_loops import (
    NUMPY_UFUNCS,
    Recording,
    Tape,
    available,
    record,
    specials,
)
from hessarray.backends.numpy_sizes import Sizes
from hessarray.backends.numpy_threads import cores, in_threads, one_blas_thread
from hessarray.backends.protocol import Costs, Executable, Run, Work, load_source

__all__ = ["NumpyBackend"]

# Intermediates of one chunk: small enough to stay in a core's own cache (docs/performance.md has
# the measurement).
_CACHE_BYTES = 1 << 19
# Every chunk reads the constants: its arithmetic should take several times as long as that. A few
# tens of samples do, even where each is one row of every product. Constants that fill the second
# cache alone come from further away.
_FLOPS_PER_BYTE, _FLOPS_PER_FAR_BYTE, _FAR_BYTES = 25, 50, 2 << 20
_LEAST_CHUNK, _MOST_BYTES = 32, 24 << 20
# Rows of a product at a time, with AVX-512: one or two that are left take as long as four.
_TILE, _MANY_PIECES = 8, 16
_WORTH_A_THREAD = 2_000_000  # flops of a thread's share: for less, handing it over costs more
_WORTH_HELP = 200_000  # the same where helpers look for work (_helpers.h)
_WORTH_PARTS = 5_000_000  # the same of one sample: who takes parts of operations has to wait often
_MOST_CHUNKS = 256  # of a thread, before Ctrl-C is heard
_MOST_SEEN = 4096  # numbers of samples to remember
_MOST_RECORDINGS = 64  # of a program
_OWN_BYTES = 1 << 18  # of a work buffer that one prepared evaluation may keep for itself


class NumpyBackend:
    """The array library of last resort and of most scientific scripts."""

    name = "numpy"
    in_place = True

    def __init__(self) -> None:
        # One by one from the interpreter, or one after another in C.
        call = 1.5e-7 if available() else 1.0e-6
        self.costs = Costs(
            call=call,
            flop=2.5e-11,
            entry=6e-10,
            row=2.5e-8,
            matrix=3e-7,
            gram=has_gram(),
            lanes=_loops.VECTOR // 8 if has_gram() else 8,
            placed=True,
            joins=has_products(),
            whole=frozenset(ACTIVATIONS if has_products() else ()),
        )
        own = specials()
        self.xp = Extended(np, erf=own["erf"], erfc=own["erfc"])

    def owns(self, array: Any) -> bool:
        return isinstance(array, (np.ndarray, np.floating))

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype)

    def device(self, array: Any) -> str:
        return "cpu"

    def asarray(self, array: Any, dtype: str | None, device: Any) -> Any:
        return np.asarray(array, dtype=dtype, order="C")

    def to_numpy(self, array: Any) -> Any:
        return np.asarray(array)

    def traced(self, arrays: Sequence[Any]) -> bool:
        return False

    def stamp(self, array: Any) -> Any:
        return None if array.flags.writeable else id(array)

    def parameter(self, array: Any, dtype: str | None, device: Any) -> Any:
        return np.array(array, dtype=dtype, order="C", copy=True)

    def compile(self, program: Any, source: str, layout: Any) -> Executable:
        return _NumpyExecutable(self.xp, program, source, layout)

    def schedule(self, work: Work) -> tuple[int, int]:
        threads = work.threads or cores()
        each = _WORTH_A_THREAD
        if available():
            each = _WORTH_HELP if work.n > 1 else _WORTH_PARTS
            threads = min(threads, _loops.MOST_HELPERS + 1)
        threads = min(threads, max(work.n * work.flops_per_sample // each, 1))
        worth = _FLOPS_PER_FAR_BYTE if work.bytes_read > _FAR_BYTES else _FLOPS_PER_BYTE
        least = -(-worth * work.bytes_read // max(work.flops_per_sample, 1))
        least = min(least, _LEAST_CHUNK, work.fitting(_MOST_BYTES))
        chunk = max(work.fitting(_CACHE_BYTES), least)
        if work.room is not None:
            threads = min(threads, work.fitting(work.room))  # a sample for each
            chunk = min(chunk, work.fitting(work.room // threads))
        # As many chunks for every thread: the last one must not leave the others waiting.
        pieces = -(-work.n // (chunk * threads)) * threads
        chunk = max(-(-work.n // pieces), 1)
        if pieces >= _MANY_PIECES and chunk > _TILE and chunk % _TILE in (1, 2):
            chunk -= chunk % _TILE  # one more piece among many
        return chunk, threads

    def memory(self) -> int | None:
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):
            return None

    def synchronize(self) -> None:
        return None


@dataclass(frozen=True)
class _Task:
    """An evaluation as ``_loops`` performs it."""

    helpers: int
    room: int  # bytes of work buffer for each thread
    turns: list[Any]  # of runs: programs on chunks
    blas: bool  # whether products in it must be kept from taking threads of their own

    def call(self, bound: Any, inputs: Any, arrays: Any, results: Any) -> Any:
        """A function of arrays like these, with a work buffer of its own; None if it is large."""
        size = self.room * (self.helpers + 1)
        alike = all(a.size == b.size for a, b in zip(arrays, inputs.values(), strict=True))
        if self.blas or size > _OWN_BYTES or len(self.turns) > 1 or not alike:
            return None
        memory = aligned((size,), np.dtype(np.uint8))
        given = tuple(np.empty(a.shape, a.dtype) for a in arrays)
        task = (self.helpers, self.room, self.turns[0])
        return _loops.Call(task, (memory,), given, bound, dict(results))


def _performing(task: _Task, b: Any) -> Callable[[tuple[Any, ...], tuple[Any, ...]], None]:
    """The task with these constants as a function of inputs and results, without a look at them."""
    guard = one_blas_thread if task.blas else nullcontext()

    def perform(x: tuple[Any, ...], out: tuple[Any, ...]) -> None:
        with scratch as buffer, guard:
            memory = (buffer.room(task.room * (task.helpers + 1)),)
            for runs in task.turns:
                _loops.perform(task.helpers, task.room, runs, memory, x, b, out)

    return perform


class _Size(NamedTuple):
    """What a recording is for."""

    n: int
    char: str  # of the dtype
    shared: bool  # whether threads share its operations


class _NumpyExecutable:
    """A program on NumPy. Work buffers belong to a thread; everything else is shared."""

    def __init__(self, xp: Any, program: Any, source: str, layout: Any) -> None:
        self.xp = xp
        self.source = source
        self.layout = layout
        self.shapes = {k: v.shape for k, v in program.outputs.items()}
        scope = NUMPY_UFUNCS | {k: getattr(np, k) for k in ("copyto", "concatenate", "take")}
        scope |= specials() | {"pack": pack}
        scope = load_source(source, "program", scope)
        self._bind, self._seed = scope["bind"], scope["seed"]
        self._workspace, self._run = scope["workspace"], scope["run"]
        self._seeded = any(s.op == "seed" for s in program.at(1))
        self._recordings: dict[_Size, Recording | None] = {}  # None: it cannot be recorded
        self._sizes: dict[str, Sizes] = {}  # by dtype
        self._run_once: set[_Size] = set()  # call by call: recording pays from then on
        self._tape: Any = None
        self._lock = threading.Lock()

    def bind(self, parameters: Mapping[str, Any], constants: Mapping[str, Any]) -> Any:
        with np.errstate(all="ignore"):
            bound = self._bind(self.xp, parameters, constants)
        return bound if self._seeded else self._with_seeds(bound, {})

    def _with_seeds(self, bound: Any, seeds: Mapping[str, Any]) -> Any:
        with np.errstate(all="ignore"):
            return _contiguous(self._seed(self.xp, bound, seeds))

    def run(
        self,
        bound: Any,
        inputs: Mapping[str, Any],
        seeds: Mapping[str, Any],
        run: Run,
        results: Mapping[str, Any] | None = None,
    ) -> tuple[Any, ...]:
        b = self._with_seeds(bound, seeds) if self._seeded else bound
        n = run.n
        x = {k: _plain(a) for k, a in inputs.items()}
        dtype = next(iter(x.values())).dtype
        if results is not None:
            # What is overwritten while samples are still to come would spoil them.
            x = {k: _apart(a, results.values()) for k, a in x.items()}
            b = tuple(_apart(a, results.values()) for a in b)
        out = dict(results) if results is not None else self._empty(n, dtype)
        task = self._task(run, b, x)
        if task is not None:
            _performing(task, b)(tuple(x.values()), tuple(out.values()))
        elif run.chunk >= n:
            self._piece(b, n, x, out, dtype, run.threads > 1)
            if run.progress is not None:
                run.progress(n)
        else:

            def work(i: slice) -> None:
                part = {k: a[i] for k, a in out.items()}
                piece = {k: a[i] for k, a in x.items()}
                self._piece(b, i.stop - i.start, piece, part, dtype)

            self._each(work, run, [*range(run.chunk, n, run.chunk), n])
        return tuple(out.values())

    def consume(
        self,
        bound: Any,
        inputs: Mapping[str, Any],
        seeds: Mapping[str, Any],
        run: Run,
        take: Callable[[int, slice, dict[str, Any]], None],
    ) -> None:
        """Hand over a span of results at a time: take(its number, samples, results), in its thread.

        Results are never there for all samples, and those of a span are still in the cache of
        whoever takes them; their memory is used again.
        """
        b = self._with_seeds(bound, seeds) if self._seeded else bound
        x = {k: _plain(a) for k, a in inputs.items()}
        dtype = next(iter(x.values())).dtype
        free: list[dict[str, Any]] = []

        def work(span: slice) -> None:
            first, stop = span.start, span.stop
            try:
                out = free.pop()
            except IndexError:
                out = self._empty(min(run.span, run.n), dtype)
            found = {k: a[: stop - first] for k, a in out.items()}
            self._chunks(b, run.chunk, {k: a[span] for k, a in x.items()}, found, dtype)
            take(first // run.span, span, found)
            free.append(out)

        self._each(work, run, [*range(run.span, run.n, run.span), run.n])

    def prepared(
        self,
        bound: Any,
        inputs: Mapping[str, Any],
        run: Run,
        arrays: Sequence[Any],
        results: Mapping[str, Any],
    ) -> Any:
        """A call from flat inputs like these to results like these, and one from arrays like these.

        None until all of the run was recorded; the second may be None.
        """
        task = None if self._seeded else self._task(run, bound, inputs)
        if task is None:
            return None
        perform, dtype = _performing(task, bound), next(iter(inputs.values())).dtype
        shapes = tuple(a.shape for a in results.values())

        def call(inputs: Sequence[Any]) -> tuple[Any, ...]:
            out: tuple[Any, ...] = _loops.empty(shapes, dtype)
            perform(tuple(_plain(a) for a in inputs), out)
            return out

        return call, task.call(bound, inputs, arrays, results)

    def _task(self, run: Run, b: Any, like: Mapping[str, Any]) -> _Task | None:
        """Such a run on inputs of these shapes and type; None until all of it was recorded."""
        if run.progress is not None:
            return None
        dtype, whole = next(iter(like.values())).dtype, run.chunk >= run.n
        shared = whole and run.threads > 1
        first = self._recording(_Size(min(run.chunk, run.n), dtype.char, shared))
        if first is None:
            return None
        sizes = [math.prod(a.shape[1:]) for a in like.values()]
        results = [math.prod(s) for s in self.shapes.values()]
        bytes_of = [k * dtype.itemsize for k in (0, *sizes, *(0 for _ in b), *results, 0)]
        turn = run.chunk * run.threads * _MOST_CHUNKS  # Ctrl-C is heard in between
        turns = [
            self._runs(k, min(k + turn, run.n), run.chunk, bytes_of, dtype, shared)
            for k in range(0, run.n, turn)
        ]
        if None in turns:
            return None
        room = self._room(min(run.chunk, run.n), dtype)
        return _Task(run.threads - 1, room, turns, first.blas and not whole)

    def _runs(
        self,
        first: int,
        stop: int,
        chunk: int,
        bytes_of: Sequence[int],
        dtype: Any,
        shared: bool,
    ) -> Any:
        """Samples in chunks, as ``_loops.perform`` takes them; None until they were recorded.

        ``bytes_of``: a sample in each array of the program.
        """
        runs = []
        for size, times in ((chunk, (stop - first) // chunk), ((stop - first) % chunk, 1)):
            if size * times > 0:
                known = self._recording(_Size(size, dtype.char, shared))
                if known is None:
                    return None
                program, literals, _ = known
                starts, steps = (tuple(k * i for i in bytes_of) for k in (first, size))
                runs.append((program, times, starts, steps, literals))
                first += size * times
        return tuple(runs)

    def _room(self, n: int, dtype: Any) -> int:
        """Bytes of a work buffer for n samples, in whole cache lines."""
        size: int = n * self.layout.entries * dtype.itemsize
        return -(-size // LINE) * LINE

    def _empty(self, n: int, dtype: Any) -> dict[str, Any]:
        shapes = tuple((n, *shape) for shape in self.shapes.values())
        return dict(zip(self.shapes, _empty_arrays(shapes, dtype), strict=True))

    def _chunks(self, b: Any, chunk: int, x: Any, out: Any, dtype: Any) -> None:
        """Samples in chunks, in this thread; whoever calls has seen to the BLAS library's."""
        n = len(next(iter(x.values())))
        task = self._task(Run(n, chunk, 1, None), b, x)
        if task is not None:
            _performing(replace(task, blas=False), b)(tuple(x.values()), tuple(out.values()))
            return
        for start in range(0, n, chunk):
            i = slice(start, min(start + chunk, n))
            part = {k: a[i] for k, a in out.items()}
            self._piece(b, i.stop - start, {k: a[i] for k, a in x.items()}, part, dtype)

    def _each(self, work: Callable[[slice], None], run: Run, ends: Sequence[int]) -> None:
        """In threads: ``work`` takes the samples up to the first end, then to the next, ..."""
        done: list[int] = []  # sizes of pieces, from all threads
        total = 0

        def report() -> None:
            nonlocal total
            while done:
                total += done.pop()
            run.progress(total)

        def each(i: slice) -> None:
            work(i)
            done.append(i.stop - i.start)

        spans = [slice(a, min(b, run.n)) for a, b in pairwise([0, *ends])]
        after = report if run.progress is not None else None
        if len(spans) == 1:  # BLAS may use its own threads
            each(spans[0])
        else:
            in_threads(each, spans, run.threads, after)
        if run.progress is not None and total < run.n:
            report()

    def _piece(self, b: Any, n: int, x: Any, out: Any, dtype: Any, shared: bool = False) -> None:
        """Samples at once; recorded at the second time, where no record of others tells."""
        key = _Size(n, dtype.char, shared)
        known = self._recording(key)
        if known is None and key not in self._recordings:
            first = key not in self._run_once
            if len(self._run_once) >= _MOST_SEEN:
                self._run_once.clear()
            self._run_once.add(key)
            skip = first or not available()
            known = None if skip else self._make_recording(key, b, x, out, dtype)
        with scratch as buffer:
            if known is not None:
                program, literals, _ = known
                memory = buffer.room(self._room(n, dtype))
                program.run(0, (memory,), tuple(x.values()), b, tuple(out.values()), literals)
            else:
                w = buffer.views(self._workspace, self.xp, n, self.layout.entries, dtype)
                with np.errstate(all="ignore"):
                    self._run(self.xp, b, n, x, x, w, out)

    def _recording(self, key: _Size) -> Recording | None:
        """The program for so many samples, recorded or made of those for others."""
        found = self._recordings.get(key)
        sizes = None if key.shared else self._sizes.get(key.char)
        if found is None and sizes is not None and key not in self._recordings:
            operations = sizes.at(key.n)
            if operations is not None:
                with self._lock:
                    found = self._remember(key, Recording.of(operations, *sizes.shared))
        return found

    def _make_recording(self, key: _Size, b: Any, x: Any, out: Any, dtype: Any) -> Recording | None:
        n = key.n
        with self._lock:
            if key not in self._recordings:
                if self._tape is None:
                    tape = Tape()
                    # The same function with other names in its reach.
                    self._tape = tape, FunctionType(self._run.__code__, dict(tape.scope))
                tape, run = self._tape
                arena = aligned((n * self.layout.entries,), dtype)  # only its addresses are noted
                w = self._workspace(self.xp, n, arena)
                arrays = [arena, *x.values(), *b, *out.values()]
                parts = cores() if key.shared else 1
                found = record(run, arrays, (self.xp, b, n, x, x, w, out), tape, parts)
                if found is not None and not key.shared:
                    sizes = self._sizes.setdefault(key.char, Sizes())
                    sizes.learn(n, tape.operations, (len(arrays) + 1, found.literals[0]))
                self._remember(key, found)
            return self._recordings[key]

    def _remember(self, key: _Size, found: Recording | None) -> Recording | None:
        if len(self._recordings) >= _MOST_RECORDINGS:
            self._recordings.clear()
        self._recordings[key] = found
        return found


def _empty_arrays(shapes: tuple[tuple[int, ...], ...], dtype: Any) -> Sequence[Any]:
    if _loops is not None:
        return _loops.empty(shapes, dtype)
    return [np.empty(shape, dtype) for shape in shapes]


def _plain(a: Any) -> Any:
    """Contiguous and aligned, as the recorded loops take it."""
    a = np.ascontiguousarray(a)
    return a if a.flags.aligned else a.copy()


def _apart(a: Any, results: Iterable[Any]) -> Any:
    if not any(np.may_share_memory(a, r) for r in results):
        return a
    copy = aligned(a.shape, a.dtype)
    copy[...] = a
    return copy


def _contiguous(values: Any) -> tuple[Any, ...]:
    """On cache lines too: a product with a small matrix takes half as long again from elsewhere."""
    found = []
    for v in values:
        if not v.flags.carray or v.ctypes.data % LINE:
            copy = aligned(v.shape, v.dtype)
            copy[...] = v
            v = copy
        found.append(v)
    return tuple(found)
