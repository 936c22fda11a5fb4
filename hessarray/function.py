"""A function with exact derivatives: array API code, its parameters, and what to ask of it."""

from __future__ import annotations

import math
import operator
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from hessarray.backends import (
    Backend,
    backend_named,
    backend_of,
    known_backends,
    outside_compilers,
)
from hessarray.backends.protocol import Run, Work
from hessarray.errors import (
    BackendError,
    DTypeError,
    MemoryLimitError,
    ParameterError,
    ShapeError,
)
from hessarray.graph.array import TracedArray
from hessarray.graph.trace import Graph, inline, trace
from hessarray.plan.want import Want

if TYPE_CHECKING:  # the planner is loaded with the first plan, not with `import hessarray`
    from hessarray.plan.plan import Plan

__all__ = ["Derivatives", "Function"]

Shape = tuple[int, ...]
_DTYPES = ("float32", "float64")
_CACHED = ("_bound", "_checked", "_collected", "_graph", "_lock", "_plans", "_traced_for")
_SECOND = {
    "hessian": "hessian",
    "hessian_diagonal": "diagonal",
    "laplacian": "laplacian",
    "hvp": "hvp",
}


class Derivatives(NamedTuple):
    """Value, gradient and Hessian (or Laplacian); None where not asked for."""

    f: Any
    df: Any = None
    d2f: Any = None


@dataclass(frozen=True)
class _Job:
    """One evaluation, prepared: all that is left is the arithmetic."""

    want: Want
    batch: Shape
    xp: Any
    shapes: dict[str, Shape]
    compiled: Any = None
    bind: Any = None
    bound: Any = None
    inputs: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, Any] = field(default_factory=dict)
    run: Run | None = None
    zero: Any = None

    def results(self) -> dict[str, Any]:
        """Flat results by name."""
        if self.run is None:
            return {k: self.xp.reshape(self.zero, (0, *s)) for k, s in self.shapes.items()}
        bound = self.bound if self.bind is None else self.compiled.bind(*self.bind)
        values = self.compiled.run(bound, self.inputs, self.seeds, self.run)
        return dict(zip(self.shapes, values, strict=True))


class Function:
    r"""Exact value, gradient and Hessian of an array API function, on the caller's arrays.

    The function is traced for one sample: it sees x of shape ``in_shape`` and never the batch axis.

    Parameters
    ----------
    fn : callable
        ``fn(x)``, or ``fn(x, params)`` where ``params`` is given; with several inputs
        ``fn(x, y, ..., params)``. Array API standard code, ``xp = x.__array_namespace__()``.
    in_shape : tuple of int, or a sequence of such tuples
        The shape of one sample of each input.
    params : mapping of str to array, optional
        Named parameters, bound after planning: they may change without a new plan.

    Raises
    ------
    TraceError
        On first use, where ``fn`` does what has no derivative; names the call and the line.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> f = ha.Function(lambda x: x[0] ** 2 * x[1], in_shape=(2,))
    >>> f.hessian(np.asarray([3.0, 5.0]))
    array([[10.,  6.],
           [ 6.,  0.]])
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        in_shape: Sequence[int] | Sequence[Sequence[int]],
        params: Mapping[str, Any] | None = None,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"fn is {type(fn).__name__}: pass a function of one sample")
        self._fn = fn
        self._store: dict[str, Any] | None = None
        if params is not None:
            self._store = {str(k): frozen(k, v) for k, v in params.items()}
        self._setup(_shapes(in_shape))

    def _setup(self, in_shapes: tuple[Shape, ...]) -> None:
        self.in_shapes = in_shapes
        self.output_names: tuple[str, ...] | None = None
        self._pinned: tuple[str, Any] | None = None
        self._replaced = 0
        self._collected: tuple[int, dict[str, Any]] = (-1, {})  # parameters by version
        self._graph: Graph | None = None
        self._traced_for: dict[str, Shape] = {}
        self._checked = -1
        self._plans: dict[Any, Plan] = {}
        self._bound: dict[Any, tuple[tuple[Any, ...], Any]] = {}
        self._lock = threading.RLock()

    # ---- pickling and copying: everything cached is made again --------------------------------

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in _CACHED:
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        names, pinned = state.get("output_names"), state.get("_pinned")
        self.__dict__.update(state)
        self._setup(state["in_shapes"])
        self.output_names, self._pinned = names, pinned

    # ---- what subclasses supply --------------------------------------------------------------

    def _parameters(self) -> dict[str, Any]:
        """The parameters as they are now; callers must not change the mapping."""
        return self._store if self._store is not None else {}

    def _version(self) -> int:
        """Moves whenever a parameter is replaced."""
        return self._replaced

    def _replace(self, arrays: Mapping[str, Any]) -> None:
        if self._store is not None:
            self._store = {**self._store, **arrays}
            self._replaced += 1

    def _apply(self, inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
        """The forward code on traced inputs, with these parameters."""
        return self._fn(*inputs) if self._store is None else self._fn(*inputs, dict(params))

    # ---- shapes ------------------------------------------------------------------------------

    @property
    def in_shape(self) -> Shape:
        """Shape of one sample of the (first) input."""
        return self.in_shapes[0]

    @property
    def out_shape(self) -> Shape:
        """Shape of the value for one sample."""
        return self.graph().out_shape

    def graph(self) -> Graph:
        """The traced graph; traced again only when a parameter changes its shape."""
        version = self._version()
        if self._graph is None or self._checked != version:
            with self._lock:
                shapes = {k: tuple(map(int, v.shape)) for k, v in self._parameters().items()}
                if self._graph is None or self._traced_for != shapes:
                    self._graph = trace(
                        lambda *a: self._apply(a[:-1], a[-1]), self.in_shapes, shapes
                    )
                    self._traced_for = shapes
                    self._plans = {}
                    self._bound = {}
                self._checked = version
        return self._graph

    # ---- evaluation --------------------------------------------------------------------------

    def __call__(self, *x: Any, **options: Any) -> Any:
        """The value; on traced arrays the function composes into the caller's graph."""
        if any(isinstance(a, TracedArray) for a in x):
            return self._apply(x, {k: _plain(v) for k, v in self._parameters().items()})
        return self.value(*x, **options)

    def value(self, *x: Any, **options: Any) -> Any:
        """f(x): ``(..., *out)`` for x ``(..., *in)``.

        All evaluations take ``memory_limit=`` (bytes for result and intermediates together),
        ``threads=`` (NumPy: workers over chunks of samples), ``progress=`` (True for a bar, or a
        function of the number of samples done) and ``parameters=`` (a mapping used instead of the
        stored ones; gradients flow to it).
        """
        return self._evaluate(x, Want(), options)["value"]

    def gradient(self, *x: Any, forward_mode: bool | None = None, **options: Any) -> Any:
        """df_m/dx_a: ``(..., *in, *out)``; a tuple over the inputs where there are several."""
        want = Want(value=False, gradient=True, forward=forward_mode)
        return self._evaluate(x, want, options)["gradient"]

    def hessian(self, *x: Any, forward_mode: bool | None = None, **options: Any) -> Any:
        """d2f_m/dx_a dx_b: ``(..., *in, *in, *out)``; nested tuples for several inputs."""
        want = Want(value=False, second="hessian", forward=forward_mode)
        return self._evaluate(x, want, options)["hessian"]

    def hessian_diagonal(self, *x: Any, forward_mode: bool | None = None, **options: Any) -> Any:
        """d2f_m/dx_a^2: ``(..., *in, *out)``, without the d x d block."""
        want = Want(value=False, second="diagonal", forward=forward_mode)
        return self._evaluate(x, want, options)["diagonal"]

    def laplacian(self, *x: Any, forward_mode: bool | None = None, **options: Any) -> Any:
        """sum_a d2f_m/dx_a^2: ``(..., 1, *out)``, without the d x d block."""
        want = Want(value=False, second="laplacian", forward=forward_mode)
        return self._evaluate(x, want, options)["laplacian"]

    def hvp(self, *x_and_p: Any, **options: Any) -> Any:
        """sum_b d2f_m/dx_a dx_b p_b: ``(..., *in, *out)`` for p of x's shape or of one sample's.

        The cost of a few gradients, and never a d x d block. With several inputs
        ``hvp(x, y, ..., px, py, ...)``.
        """
        count = len(self.in_shapes)
        if len(x_and_p) != 2 * count:
            raise ShapeError(
                f"hvp takes {count} inputs and {count} directions, got {len(x_and_p)} arrays"
            )
        seeds = {"p": x_and_p[count:]}
        return self._evaluate(x_and_p[:count], Want(value=False, second="hvp"), options, seeds)[
            "hvp"
        ]

    def weighted_hessian(self, *x_and_lam: Any, **options: Any) -> Any:
        """sum_m lam_m d2f_m/dx_a dx_b, ``(..., *in, *in)``: lam ``(*out)`` or ``(..., *out)``."""
        *x, lam = x_and_lam
        want = Want(value=False, second="hessian", right=0)
        return self._evaluate(x, want, options, {"lam": lam})["hessian"]

    def value_gradient_hessian(
        self, *x: Any, forward_mode: bool | None = None, **options: Any
    ) -> Derivatives:
        """Value, gradient and Hessian from one pass."""
        want = Want(gradient=True, second="hessian", forward=forward_mode)
        found = self._evaluate(x, want, options)
        return Derivatives(found["value"], found["gradient"], found["hessian"])

    def derivatives(
        self,
        *x: Any,
        do_gradient: bool = False,
        do_Hessian: bool = False,
        do_Laplacian: bool = False,
        v: Any = None,
        forward_mode: bool | None = None,
        **options: Any,
    ) -> Derivatives:
        """hessQuik's call: ``(f, df, d2f)``, None where not asked; Hessian wins over Laplacian.

        ``v`` (k, d) with ``forward_mode=True`` gives v df (..., k, m) and v d2f v^T (..., k, k, m);
        ``v`` (m, k) with ``forward_mode=False`` gives df v (..., d, k) and d2f v (..., d, d, k).
        """
        second = "hessian" if do_Hessian else "laplacian" if do_Laplacian else None
        if v is not None and backend_of(v) is None:
            v = np.asarray(v)
        if v is not None and forward_mode is None:
            forward_mode = True if second == "laplacian" else self._side(v)
        left = right = None
        seeds = {}
        if v is not None:
            rows = self._check_directions(v, bool(forward_mode))
            left, right = (rows, None) if forward_mode else (None, rows)
            seeds = {"v": v}
        want = Want(
            gradient=do_gradient, second=second, left=left, right=right, forward=forward_mode
        )
        found = self._evaluate(x, want, options, seeds)
        return Derivatives(found["value"], found.get("gradient"), found.get(second or ""))

    def _side(self, v: Any) -> bool:
        d, m = sum(map(math.prod, self.in_shapes)), math.prod(self.out_shape)
        fits = [v.ndim == 2 and v.shape[1] == d, v.ndim == 2 and v.shape[0] == m]
        if fits[0] != fits[1]:
            return bool(fits[0])
        raise ShapeError(
            f"v has shape {tuple(v.shape)}: pass forward_mode=True with v (k, {d}), "
            f"or forward_mode=False with v ({m}, k)"
        )

    def _check_directions(self, v: Any, left: bool) -> int:
        size = sum(map(math.prod, self.in_shapes)) if left else math.prod(self.out_shape)
        shape = tuple(v.shape)
        if len(shape) != 2 or shape[1 if left else 0] != size or 0 in shape:
            need, mode = (f"(k, {size})", True) if left else (f"({size}, k)", False)
            raise ShapeError(f"v has shape {shape}, forward_mode={mode} expects {need}")
        return int(shape[0 if left else 1])

    # ---- the engine --------------------------------------------------------------------------

    def _evaluate(
        self,
        x: Sequence[Any],
        want: Want,
        options: dict[str, Any],
        seeds: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        if any(isinstance(a, TracedArray) for a in x):
            return self._compose(x, want, seeds or {})
        job = outside_compilers(self._prepare, x, want, options, seeds)
        return {
            k: self._shaped(k, a, job.batch, job.want, job.xp) for k, a in job.results().items()
        }

    def _prepare(
        self,
        x: Sequence[Any],
        want: Want,
        options: dict[str, Any],
        seeds: Mapping[str, Any] | None,
    ) -> _Job:
        """All of an evaluation but the arithmetic: checks, plan, program, bound constants."""
        limit, threads, progress, parameters = _options(options)
        backend, dtype, batch = self._check_inputs(x)
        xp = backend.xp
        n = math.prod(batch)
        inputs = {
            f"x{i}": xp.reshape(a, (n, math.prod(s)))
            for i, (a, s) in enumerate(zip(x, self.in_shapes, strict=True))
        }
        device = backend.device(x[0])
        own: dict[str, Any] = {}
        if seeds:
            want, own = self._seeds(seeds, want, backend, dtype, device, batch, inputs)
        plan = self._plan(want, n)
        itemsize = 4 if dtype == "float32" else 8
        self._check_memory(plan, n, itemsize, limit, backend)
        shapes = {k: v.shape for k, v in plan.program.outputs.items()}
        if n == 0:
            zero = xp.reshape(x[0], (-1,))[:0]
            return _Job(want, batch, xp, shapes, inputs=inputs, zero=zero)
        params = self._parameters() if parameters is None else self._given(parameters)
        arrays = [*inputs.values(), *own.values(), *params.values()]
        traced = backend.traced([a for a in arrays if backend.owns(a)])
        run = self._run(plan, n, itemsize, limit, threads, progress, backend, traced)
        compiled = plan.compiled(backend)
        keep = parameters is None and not traced
        bind, bound = self._bind(plan, compiled, backend, dtype, device, params, keep)
        return _Job(want, batch, xp, shapes, compiled, bind, bound, inputs, own, run)

    def _check_inputs(self, x: Sequence[Any]) -> tuple[Backend, str, Shape]:
        if len(x) != len(self.in_shapes):
            raise ShapeError(f"{len(self.in_shapes)} inputs are expected, got {len(x)}")
        found: tuple[Backend, str, Shape] | None = None
        for a, shape in zip(x, self.in_shapes, strict=True):
            backend = backend_of(a)
            if backend is None:
                raise BackendError(
                    f"x is a {type(a).__module__}.{type(a).__name__}: pass an array of "
                    f"{', '.join(known_backends())}"
                )
            if self._pinned is not None and self._pinned[0] != backend.name:
                raise BackendError(
                    f"x is a {backend.name} array, the parameters are pinned to {self._pinned[0]}: "
                    f"pass a {self._pinned[0]} array, or call to('{backend.name}') first"
                )
            dtype = backend.dtype_name(a)
            if dtype not in _DTYPES:
                raise DTypeError(
                    f"x has dtype {dtype}, float32 or float64 is expected: convert it, "
                    "for example x.astype('float64')"
                )
            got = tuple(int(s) for s in a.shape)
            k = len(shape)
            if len(got) < k or got[len(got) - k :] != shape:
                expected = ", ".join(["...", *map(str, shape)])
                raise ShapeError(
                    f"x has shape {got}, ({expected}) is expected: "
                    f"the last {'axis holds' if k == 1 else f'{k} axes hold'} one sample"
                )
            batch = got[: len(got) - k]
            if found is None:
                found = (backend, dtype, batch)
            elif (found[0].name, found[1]) != (backend.name, dtype):
                raise BackendError(
                    f"inputs are {found[0].name} {found[1]} and {backend.name} {dtype}: make them "
                    "of one array library and dtype"
                )
            elif found[2] != batch:
                raise ShapeError(
                    f"inputs have batch shapes {found[2]} and {batch}: make them equal"
                )
        assert found is not None
        return found

    def _seeds(
        self,
        seeds: Mapping[str, Any],
        want: Want,
        backend: Backend,
        dtype: str,
        device: Any,
        batch: Shape,
        inputs: dict[str, Any],
    ) -> tuple[Want, dict[str, Any]]:
        """Directions as the program takes them; batched ones join the inputs."""
        xp, n = backend.xp, math.prod(batch)
        if "v" in seeds:
            v = backend.asarray(_same_library(seeds["v"], backend), dtype, device)
            name = "v" if want.left is not None else "w"
            return want, {name: v if name == "v" else xp.permute_dims(v, (1, 0))}
        if "lam" in seeds:
            lam = backend.asarray(_same_library(seeds["lam"], backend), dtype, device)
            out = self.out_shape
            size = math.prod(out)
            got = tuple(int(s) for s in lam.shape)
            if got == out:
                return want, {"w": xp.reshape(lam, (size,))}
            if got == batch + out:
                inputs["w"] = xp.reshape(lam, (n, size))
                return Want(**{**want.__dict__, "batched_right": True}), {}
            raise ShapeError(f"lam has shape {got}, {out} or {batch + out} is expected")
        parts = []
        for p, shape in zip(seeds["p"], self.in_shapes, strict=True):
            p = backend.asarray(_same_library(p, backend), dtype, device)
            got = tuple(int(s) for s in p.shape)
            if got == shape:
                p = xp.broadcast_to(p, batch + shape)
            elif got != batch + shape:
                raise ShapeError(f"p has shape {got}, {shape} or {batch + shape} is expected")
            parts.append(xp.reshape(p, (n, math.prod(shape))))
        inputs["p"] = parts[0] if len(parts) == 1 else xp.concat(parts, axis=1)
        return want, {}

    def _plan(self, want: Want, n: int) -> Plan:
        """The cached plan for this signature and this magnitude of n."""
        from hessarray.plan.plan import make_plan

        graph = self.graph()
        bucket = 0 if n <= 1 else round(math.log10(n))
        key = (want, bucket)
        plan = self._plans.get(key)
        if plan is None:
            with self._lock:
                plan = self._plans.get(key)
                if plan is None:
                    plan = self._plans[key] = make_plan(graph, want, 10**bucket)
        return plan

    def _check_memory(
        self, plan: Plan, n: int, itemsize: int, limit: int | None, backend: Backend
    ) -> None:
        if limit is None:
            limit = backend.memory()
        if limit is None:
            return
        result = plan.result_entries * n * itemsize
        least = (plan.entries_once + plan.entries_per_sample) * itemsize
        if result + least > limit:
            wanted = " and ".join(plan.want.names())
            less = (
                "hvp(x, p), weighted_hessian(x, lam) or laplacian(x) need less"
                if plan.want.second == "hessian"
                else "pass fewer samples at a time"
            )
            raise MemoryLimitError(
                f"{wanted} of {n} samples would take {result + least:,} bytes "
                f"({result:,} for the result), the limit is {limit:,}: {less}, or raise "
                "memory_limit"
            )

    def _run(
        self,
        plan: Plan,
        n: int,
        itemsize: int,
        limit: int | None,
        threads: int | None,
        progress: Any,
        backend: Backend,
        traced: bool,
    ) -> Run:
        if traced:
            return Run(n, max(n, 1), 1, None)
        room = None
        if limit is not None:
            room = max(limit - (plan.result_entries * n + plan.entries_once) * itemsize, 1)
        each = plan.program.flops[1]
        work = Work(n, plan.entries_per_sample * itemsize, each, room, threads)
        chunk, threads = backend.schedule(work)
        return Run(n, chunk, threads, _progress(progress, n))

    def _bind(
        self,
        plan: Plan,
        compiled: Any,
        backend: Backend,
        dtype: str,
        device: Any,
        params: Mapping[str, Any],
        keep: bool,
    ) -> tuple[Any, Any]:
        """Constants folded from the parameters; kept until a parameter is replaced.

        Under a tape or a compiler they are folded anew inside it: then what to fold comes back.
        """
        stamps = tuple(backend.stamp(a) for a in params.values()) if keep else ()
        key = (id(plan), backend.name, dtype, device)
        keep = keep and None not in stamps
        if keep:
            known = self._bound.get(key)
            if known is not None and known[0] == stamps:
                return None, known[1]
        arrays = {
            k: backend.asarray(_same_library(a, backend), dtype, device) for k, a in params.items()
        }
        constants = {
            k: backend.asarray(a, dtype if a.dtype.kind == "f" else None, device)
            for k, a in plan.program.made_constants()
        }
        if not keep:
            return (arrays, constants), None
        bound = compiled.bind(arrays, constants)
        # Parameters and plan are kept alive with their ids: these must not be used again.
        self._bound[key] = (stamps, bound)
        self._bound[key, "alive"] = ((), (plan, *params.values()))
        return None, bound

    def _given(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        known = self._parameters()
        _check_names(parameters, known, complete=True)
        return {k: parameters[k] for k in known}

    def _shaped(self, name: str, a: Any, batch: Shape, want: Want, xp: Any) -> Any:
        """A flat result in the shapes of inputs and output; split over several inputs."""
        out = self.out_shape
        if want.right is not None and name != "value":
            out = (want.right,) if want.right else ()
        if name == "value":
            return xp.reshape(a, batch + out)
        if name == "laplacian":
            return xp.reshape(a, (*batch, 1, *out))
        if want.left is not None:
            k = (want.left,) * (2 if name == "hessian" else 1)
            return xp.reshape(a, batch + k + out)
        if len(self.in_shapes) == 1:
            times = 2 if name == "hessian" else 1
            return xp.reshape(a, batch + self.in_shape * times + out)
        ends = np.cumsum([0, *map(math.prod, self.in_shapes)]).tolist()
        spans = [(s, slice(i, j)) for s, i, j in zip(self.in_shapes, ends, ends[1:], strict=False)]
        every = () if isinstance(a, TracedArray) else (slice(None),)  # the batch axis
        if name != "hessian":
            return tuple(xp.reshape(a[*every, i, ...], batch + s + out) for s, i in spans)
        return tuple(
            tuple(xp.reshape(a[*every, i, k, ...], batch + s + t + out) for t, k in spans)
            for s, i in spans
        )

    # ---- derivatives as functions ------------------------------------------------------------

    def _compose(self, x: Sequence[Any], want: Want, seeds: Mapping[str, Any]) -> dict[str, Any]:
        if seeds:
            raise ShapeError(
                "directions cannot be traced: contract the gradient or Hessian with them instead"
            )
        builder = next(a.builder for a in x if isinstance(a, TracedArray))
        graph = self.graph()
        nodes = _derived_nodes(graph, want)
        params = {k: _plain(v) for k, v in self._parameters().items()}
        found = {}
        for name, node in nodes.items():
            flat = inline(graph, node, builder, x, params)
            found[name] = self._shaped(name, flat, (), want, flat.__array_namespace__())
        return found

    def _derived(self, name: str) -> Function:
        """The derivative of this name as a function that shares the parameters."""
        return _DerivedFunction(self, name)

    def gradient_function(self) -> Function:
        """x -> gradient, ``(*in, *out)`` for one sample: again a function with derivatives."""
        return self._derived("gradient")

    def hessian_function(self) -> Function:
        """x -> Hessian, ``(*in, *in, *out)`` for one sample; its gradient is the third."""
        return self._derived("hessian")

    def hessian_diagonal_function(self) -> Function:
        """x -> diagonal of the Hessian, ``(*in, *out)`` for one sample."""
        return self._derived("hessian_diagonal")

    def laplacian_function(self) -> Function:
        """x -> Laplacian, ``(1, *out)`` for one sample."""
        return self._derived("laplacian")

    # ---- plans -------------------------------------------------------------------------------

    def plan(
        self,
        n: int = 1000,
        want: str | Sequence[str] = ("value", "gradient", "hessian"),
        *,
        left: int | None = None,
        right: int | None = None,
        forward_mode: bool | None = None,
    ) -> Plan:
        """What an evaluation of n samples will do and cost; ``print`` it.

        ``want`` names value, gradient and one of hessian, hessian_diagonal, laplacian, hvp;
        ``left`` and ``right`` are numbers of directions (``right=0``: one weight vector).
        """
        names = [want] if isinstance(want, str) else list(want)
        seconds = [_SECOND[s] for s in names if s in _SECOND]
        unknown = [s for s in names if s not in _SECOND and s not in ("value", "gradient")]
        if unknown or len(seconds) > 1:
            raise ValueError(
                f"want={names}: expected value, gradient and at most one of {', '.join(_SECOND)}"
            )
        spec = Want(
            value="value" in names,
            gradient="gradient" in names,
            second=seconds[0] if seconds else None,
            left=left,
            right=right,
            forward=forward_mode,
        )
        plan = self._plan(spec, n)
        backend = backend_named(self._pinned[0] if self._pinned else "numpy")
        assert backend is not None
        run = self._run(plan, n, 8, None, None, None, backend, False)
        return replace(plan, n=n, chunk=run.chunk)

    # ---- parameters --------------------------------------------------------------------------

    def parameters(self) -> dict[str, Any]:
        """The named parameters, in order; arrays of the pinned library, else read-only NumPy."""
        return dict(self._parameters())

    def load_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Replace parameters by name; all of them are checked before any is replaced.

        Raises
        ------
        ParameterError
            A name is unknown or missing, or a shape differs.
        """
        known = self._parameters()
        _check_names(parameters, known, complete=True)
        self._replace({k: self._stored(k, v) for k, v in parameters.items()})

    def _stored(self, name: str, array: Any) -> Any:
        if self._pinned is None:
            return frozen(name, array)
        backend = backend_named(self._pinned[0])
        assert backend is not None
        dtype = backend.dtype_name(self._parameters()[name])
        return backend.parameter(_same_library(array, backend), dtype, self._pinned[1])

    def parameter_vector(self) -> Any:
        """All parameters, flattened and joined in order: (p,)."""
        arrays = list(self._parameters().values())
        if not arrays:
            return np.zeros(0)
        backend = backend_of(arrays[0])
        assert backend is not None
        return backend.xp.concat([backend.xp.reshape(a, (-1,)) for a in arrays], axis=0)

    def load_parameter_vector(self, theta: Any) -> None:
        """The inverse of ``parameter_vector``."""
        known = self._parameters()
        sizes = [math.prod(a.shape) for a in known.values()]
        if tuple(theta.shape) != (sum(sizes),):
            raise ParameterError(
                f"the vector has shape {tuple(theta.shape)}, ({sum(sizes)},) is expected"
            )
        ends = np.cumsum([0, *sizes]).tolist()
        backend = backend_of(theta)
        xp = np if backend is None else backend.xp
        self.load_parameters(
            {
                k: xp.reshape(theta[i:j], tuple(a.shape))
                for (k, a), i, j in zip(known.items(), ends, ends[1:], strict=False)
            }
        )

    def to(self, backend: str, device: Any = None, dtype: str | None = None) -> Self:
        """Move the parameters to an array library; x must then be of that library.

        On torch they become leaf tensors that require gradients, ready for an optimiser. Returns
        the function itself.
        """
        target = backend_named(backend)
        if target is None:
            raise BackendError(f"backend '{backend}' is unknown: use {', '.join(known_backends())}")
        if dtype is not None and dtype not in _DTYPES:
            raise DTypeError(f"dtype '{dtype}' is not supported: use float32 or float64")
        arrays = {}
        for k, a in self._parameters().items():
            kind = dtype or _dtype_name(a)
            if target.name == "numpy":
                arrays[k] = frozen(k, np.asarray(_plain(a), dtype=kind))
            else:
                arrays[k] = target.parameter(_same_library(a, target), kind, device)
        self._replace(arrays)
        self._pinned = (target.name, device)
        self._bound = {}
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters to ``path``: .npz, or .safetensors (needs that extra)."""
        from hessarray.load import save

        save(self, path)


class _DerivedFunction(Function):
    """A derivative of another function, over the same parameters."""

    def __init__(self, parent: Function, name: str) -> None:
        self._parent, self._name = parent, name
        self._store = None
        self._setup(parent.in_shapes)
        self._pinned = parent._pinned

    def _parameters(self) -> dict[str, Any]:
        return self._parent._parameters()

    def _version(self) -> int:
        return self._parent._version()

    def _replace(self, arrays: Mapping[str, Any]) -> None:
        self._parent._replace(arrays)

    def _apply(self, inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
        graph = self._parent.graph()
        second = _SECOND.get(self._name)
        want = Want(value=False, gradient=self._name == "gradient", second=second)
        nodes = _derived_nodes(graph, want)
        ((name, node),) = nodes.items()
        builder = next(a.builder for a in inputs if isinstance(a, TracedArray))
        flat = inline(graph, node, builder, inputs, params)
        shaped = self._parent._shaped(name, flat, (), want, flat.__array_namespace__())
        return _joined(shaped)


def _derived_nodes(graph: Graph, want: Want) -> dict[str, Any]:
    """The wanted derivatives as nodes of one sample."""
    from hessarray.plan.derive import Bracket, derive

    return derive(graph, want, Bracket())[1]


def _joined(shaped: Any) -> Any:
    """Several inputs' blocks as one flat array: a function has one output."""
    if not isinstance(shaped, tuple):
        return shaped
    parts = [_joined(s) for s in shaped]
    xp = parts[0].__array_namespace__()
    return xp.concat([xp.reshape(p, (-1,)) for p in parts], axis=0)


# ---- checks and conversions ------------------------------------------------------------------


def frozen(name: str, array: Any) -> np.ndarray[Any, Any]:
    """A read-only NumPy copy: a parameter changes by being replaced, never in place."""
    value = np.array(_plain(array), order="C", copy=True)
    if value.dtype.kind in "iu":
        value = value.astype(np.float64)
    if value.dtype.name not in _DTYPES:
        raise DTypeError(
            f"parameter '{name}' has dtype {value.dtype}, float32 or float64 is expected"
        )
    value.flags.writeable = False
    return value


def _plain(array: Any) -> Any:
    backend = backend_of(array)
    return array if backend is None else backend.to_numpy(array)


def _dtype_name(array: Any) -> str:
    backend = backend_of(array)
    return str(array.dtype) if backend is None else backend.dtype_name(array)


def _same_library(array: Any, backend: Backend) -> Any:
    """The array as it is, or through NumPy where it comes from another library."""
    return array if backend.owns(array) else np.asarray(_plain(array))


def _check_names(given: Mapping[str, Any], known: Mapping[str, Any], *, complete: bool) -> None:
    import difflib

    for k, v in given.items():
        if k not in known:
            near = difflib.get_close_matches(k, known, 3)
            hint = f"did you mean {' or '.join(near)}" if near else f"known are {', '.join(known)}"
            raise ParameterError(f"parameter '{k}' is unknown: {hint}")
        got, expected = tuple(np.shape(v)), tuple(known[k].shape)
        if got != expected:
            raise ParameterError(f"parameter '{k}' has shape {got}, {expected} is expected")
    missing = [k for k in known if k not in given]
    if complete and missing:
        raise ParameterError(f"parameters are missing: {', '.join(missing)}")


def _shapes(in_shape: Any) -> tuple[Shape, ...]:
    try:
        items = list(in_shape) if isinstance(in_shape, Sequence) else [in_shape]
        if all(isinstance(s, (int, np.integer)) for s in items):
            items = [items]
        shapes = tuple(tuple(operator.index(n) for n in s) for s in items)
    except TypeError:
        shapes = ()
    if not shapes or any(n < 1 for s in shapes for n in s):
        raise ShapeError(
            f"in_shape={in_shape!r}: expected positive lengths, such as (3,) or ((3,), (2,))"
        )
    return shapes


def _options(options: dict[str, Any]) -> tuple[int | None, int | None, Any, Any]:
    known = ("memory_limit", "threads", "progress", "parameters")
    unknown = [k for k in options if k not in known]
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}: evaluations take {', '.join(known)}")
    limit, threads = options.get("memory_limit"), options.get("threads")
    for name, number in (("memory_limit", limit), ("threads", threads)):
        if number is not None and number < 1:
            raise ValueError(f"{name}={number}: expected a positive number")
    return limit, threads, options.get("progress"), options.get("parameters")


def _progress(progress: Any, n: int) -> Callable[[int], None] | None:
    if progress is None or progress is False:
        return None
    if callable(progress):
        return progress  # type: ignore[no-any-return]
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError(
            "progress=True draws its bar with tqdm: pip install 'hessarray[progress]', or pass a "
            "function of the number of samples done"
        ) from None

    bar = tqdm(total=n, unit="sample", unit_scale=True)

    def show(done: int) -> None:
        bar.update(done - bar.n)
        if done >= n:
            bar.close()

    return show
