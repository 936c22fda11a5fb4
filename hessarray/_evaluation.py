"""How a function is evaluated: trace, plan, bind the parameters, run, and shape the results."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hessarray._arguments import (
    check_mode,
    check_names,
    evaluation_options,
    plain,
    result_arrays,
    same_library,
)
from hessarray._inputs import checked_inputs, real_array
from hessarray._kinked import warn_of_kinks
from hessarray._memory import check_memory, division
from hessarray.backends import Backend, outside_compilers
from hessarray.backends.protocol import Run
from hessarray.errors import OptionError, ShapeError
from hessarray.graph.array import TracedArray
from hessarray.graph.trace import Graph, inline, trace
from hessarray.plan.want import Want

if TYPE_CHECKING:  # the planner is loaded with the first plan, not with `import hessarray`
    from hessarray.plan.plan import Plan

__all__ = ["Evaluation", "derived_nodes", "planned_for"]

Shape = tuple[int, ...]
_MOST_READY = 64
_MOST_PLANS = 64
_HANDFUL = 3  # samples at most, whose plan is that for one sample
_MANY = 100  # samples, for which the plan for all others is made
_FEW = 64  # samples for which weights are repeated: a program of its own for them costs more
_CACHED = (
    "_bound",
    "_last",
    "_ready",
    "_checked",
    "_collected",
    "_graph",
    "_lock",
    "_plans",
    "_traced_for",
)


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
    out: dict[str, Any] | None = None  # the caller's arrays

    def results(self) -> dict[str, Any]:
        """Flat results by name."""
        if self.run is None:
            return {k: self.xp.reshape(self.zero, (0, *s)) for k, s in self.shapes.items()}
        if self.out is not None:
            n = self.run.n
            out = {k: a.reshape((n, *self.shapes[k])) for k, a in self.out.items()}
            values = self.compiled.run(self._bound(), self.inputs, self.seeds, self.run, out)
        else:
            values = self.compiled.run(self._bound(), self.inputs, self.seeds, self.run)
        return dict(zip(self.shapes, values, strict=True))

    def consume(self, take: Any) -> None:
        """Hand flat results over span by span: take(its number, its samples, results by name)."""
        if self.run is not None:
            self.compiled.consume(self._bound(), self.inputs, self.seeds, self.run, take)

    def _bound(self) -> Any:
        return self.bound if self.bind is None else self.compiled.bind(*self.bind)


@dataclass(frozen=True)
class _Ready:
    """An evaluation that was done before, for arrays of the same shapes: only arithmetic is left.

    Solvers call with one sample thousands of times; everything else would cost more than that.
    """

    version: int
    names: tuple[str, ...]
    shapes: list[Shape]  # of the flat inputs
    flat: bool  # as the arrays come
    call: Any
    exact: Any  # from the arrays themselves to results by name; gives None for others, or is None

    def __call__(self, arrays: Sequence[Any]) -> dict[str, Any]:
        known: dict[str, Any] | None = None if self.exact is None else self.exact(*arrays)
        if known is not None:
            return known
        found = self.call(arrays if self.flat else self._flattened(arrays))
        return dict(zip(self.names, found, strict=True))

    def _flattened(self, arrays: Sequence[Any]) -> list[Any]:
        # A direction or weight for all samples is repeated for each.
        return [
            a.reshape(s) if a.size == s[0] * s[1] else np.broadcast_to(a.reshape(-1), s)
            for a, s in zip(arrays, self.shapes, strict=True)
        ]


class Evaluation:
    """A traced function with its plans and bound programs; subclasses say what is traced."""

    in_shapes: tuple[Shape, ...]
    _consumed = False  # results are taken span by span and never held for all samples

    def _setup(self, in_shapes: tuple[Shape, ...]) -> None:
        self.in_shapes = in_shapes
        self.output_names: tuple[str, ...] | None = None
        self._pinned: tuple[str, Any] | None = None
        self._replaced = 0
        self._collected: tuple[int, dict[str, Any]] = (-1, {})  # parameters by version
        self._graph: Graph | None = None
        self._traced_for: tuple[int, dict[str, Shape]] = (0, {})
        self._checked = -1
        self._warned = False  # of kinks
        self._plans: dict[Any, Plan] = {}
        # By plan, library, dtype and device: of which arrays, the constants, what must stay alive.
        self._bound: dict[Any, tuple[tuple[Any, ...], Any, Any]] = {}
        self._ready: dict[Any, _Ready] = {}
        # By the identity of a want: it, the version, the exact call of its last evaluation.
        self._last: dict[int, tuple[Want, int, Any]] = {}
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
        raise NotImplementedError

    def _version(self) -> int:
        """Moves whenever a parameter is replaced."""
        raise NotImplementedError

    def _code_version(self) -> int:
        """Moves, and the version with it, whenever the forward code may compute something else."""
        return 0

    def _apply(self, inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
        """The forward code on traced inputs, with these parameters."""
        raise NotImplementedError

    # ---- tracing -----------------------------------------------------------------------------

    @property
    def in_shape(self) -> Shape:
        """Shape of one sample of the (first) input."""
        return self.in_shapes[0]

    @property
    def out_shape(self) -> Shape:
        """Shape of the value for one sample."""
        return self.graph().out_shape

    def graph(self) -> Graph:
        """The traced graph; traced again only when a parameter changes its shape, or the code."""
        version = self._version()
        if self._graph is None or self._checked != version:
            with self._lock:
                shapes = {k: tuple(map(int, v.shape)) for k, v in self._parameters().items()}
                traced_for = self._code_version(), shapes
                if self._graph is None or self._traced_for != traced_for:
                    self._graph = trace(
                        lambda *a: self._apply(a[:-1], a[-1]), self.in_shapes, shapes
                    )
                    self._traced_for = traced_for
                    self._plans = {}
                    self._bound = {}
                self._checked = version
        return self._graph

    # ---- evaluation --------------------------------------------------------------------------

    def _evaluate(
        self,
        x: Sequence[Any],
        want: Want,
        options: dict[str, Any],
        seeds: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        check_mode(want.forward)
        version = self._version()
        key = None
        if not options:
            arrays = x if seeds is None else (*x, *_flat(seeds))
            last = self._last.get(id(want))
            if last is not None and last[0] is want and last[1] == version:
                found: dict[str, Any] | None = last[2](*arrays)
                if found is not None:
                    return found
            key = (want, *[(type(a), a.shape, a.dtype) for a in arrays if type(a) is np.ndarray])
            if len(key) > len(arrays):
                known = self._ready.get(key)
                if known is not None and known.version == version:
                    if known.exact is not None:
                        if len(self._last) >= _MOST_READY:
                            self._last.clear()
                        self._last[id(want)] = want, version, known.exact
                    return known(arrays)
            else:
                key = None
        if any(isinstance(a, TracedArray) for a in x):
            return self._compose(x, want, options, seeds or {})
        job = outside_compilers(self._prepare, x, want, options, seeds)
        results = {
            k: self._shaped(k, a, job.batch, job.want, job.xp) for k, a in job.results().items()
        }
        if job.out is not None:
            return {k: job.out[k] for k in results}
        if key is not None:
            self._keep_ready(key, version, arrays, job, results)
        return results

    def _again(self, x: Any, want: Want) -> Any:
        """A call from an array to the list of results, without any look at the array.

        Its type, dtype and shape must be those of x: others give wrong numbers. Its values may be
        any, and may change in place between calls. The call holds until the version moves; None
        where no such evaluation is ready to be repeated.
        """
        known = self._ready.get((want, (type(x), x.shape, x.dtype)))
        if known is None or known.version != self._version():
            return None
        (shape,), call, exact = known.shapes, known.call, known.exact
        if exact is None:
            return lambda x: call((x.reshape(shape),))

        def again(x: Any) -> Any:
            found = exact(x)
            return call((x.reshape(shape),)) if found is None else [*found.values()]

        return again

    def _keep_ready(
        self, key: Any, version: int, arrays: Sequence[Any], job: _Job, found: dict[str, Any]
    ) -> None:
        """Remember how to repeat this evaluation for other arrays of the same shapes."""
        run, flat = job.run, list(job.inputs.values())
        if run is None or job.bind is not None or job.seeds:
            return
        if len(self.in_shapes) > 1 or len(flat) != len(arrays):
            return
        if any(
            a.dtype != flat[0].dtype or a.size not in (b.size, b.shape[1])
            for a, b in zip(arrays, flat, strict=True)
        ):
            return
        prepared = job.compiled.prepared(job.bound, job.inputs, run, arrays, found)
        if prepared is not None:
            if len(self._ready) >= _MOST_READY:
                self._forget_ready()
            shapes = [a.shape for a in flat]
            as_is = shapes == [a.shape for a in arrays]
            self._ready[key] = _Ready(version, tuple(found), shapes, as_is, *prepared)

    def _forget_ready(self) -> None:
        self._ready.clear()
        self._last.clear()

    def _prepare(
        self,
        x: Sequence[Any],
        want: Want,
        options: dict[str, Any],
        seeds: Mapping[str, Any] | None,
    ) -> _Job:
        """All of an evaluation but the arithmetic: checks, plan, program, bound constants."""
        limit, threads, progress, parameters = evaluation_options(options)
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
        plan = self._plan(want, n, backend)
        itemsize = 4 if dtype == "float32" else 8
        shapes = {k: v.shape for k, v in plan.program.outputs.items()}
        out = self._out(options.get("out"), shapes, want, batch, dtype, backend)
        elsewhere = out is not None or self._consumed
        check_memory(plan, n, itemsize, limit, backend, elsewhere)
        if n == 0:
            none = xp.reshape(backend.asarray(x[0], dtype, device), (-1,))[:0]
            zero = none + none  # an array of its own
            return _Job(want, batch, xp, shapes, inputs=inputs, zero=zero)
        params = self._parameters() if parameters is None else self._given(parameters)
        arrays = [*inputs.values(), *own.values(), *params.values()]
        traced = backend.traced([a for a in arrays if backend.owns(a)])
        run = Run(n, n, 1)  # in one piece, where somebody traces it
        if not traced:
            run = division(
                plan,
                n,
                itemsize,
                backend,
                limit=limit,
                threads=threads,
                progress=progress,
                given=elsewhere,
                consumed=self._consumed,
            )
        compiled = plan.compiled(backend)
        keep = parameters is None and not traced
        bind, bound = self._bind(plan, compiled, backend, dtype, device, params, keep)
        return _Job(want, batch, xp, shapes, compiled, bind, bound, inputs, own, run, out=out)

    def _out(
        self,
        out: Any,
        shapes: Mapping[str, Shape],
        want: Want,
        batch: Shape,
        dtype: str,
        backend: Backend,
    ) -> dict[str, Any] | None:
        """The caller's arrays by name."""
        if out is None:
            return None
        if len(self.in_shapes) > 1:
            raise OptionError("out= is for functions of one input: join the inputs to one array")
        final = {k: self._result_shape(k, want, batch) for k in shapes}
        return result_arrays(out, final, dtype, backend.in_place)

    def _check_inputs(self, x: Sequence[Any]) -> tuple[Backend, str, Shape]:
        """Library, dtype and batch shape of the inputs."""
        return checked_inputs(x, self.in_shapes, self._pinned[0] if self._pinned else None)

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
            v = backend.asarray(real_array("v", seeds["v"], backend), dtype, device)
            name = "v" if want.left is not None else "w"
            return want, {name: v if name == "v" else xp.permute_dims(v, (1, 0))}
        if "lam" in seeds:
            lam = backend.asarray(real_array("lam", seeds["lam"], backend), dtype, device)
            out = self.out_shape
            size = math.prod(out)
            got = tuple(int(s) for s in lam.shape)
            if got == out and (n > _FEW):
                return want, {"w": xp.reshape(lam, (size,))}
            if got == out:
                inputs["w"] = xp.broadcast_to(xp.reshape(lam, (size,)), (n, size))
                return replace(want, batched_right=True), {}
            if got == batch + out:
                inputs["w"] = xp.reshape(lam, (n, size))
                return replace(want, batched_right=True), {}
            raise ShapeError(f"lam has shape {got}, {out} or {batch + out} is expected")
        parts = []
        for p, shape in zip(seeds["p"], self.in_shapes, strict=True):
            p = backend.asarray(real_array("p", p, backend), dtype, device)
            got = tuple(int(s) for s in p.shape)
            if got == shape:
                p = xp.broadcast_to(p, batch + shape)
            elif got != batch + shape:
                raise ShapeError(f"p has shape {got}, {shape} or {batch + shape} is expected")
            parts.append(xp.reshape(p, (n, math.prod(shape))))
        inputs["p"] = parts[0] if len(parts) == 1 else xp.concat(parts, axis=1)
        return want, {}

    def _plan(self, want: Want, n: int, backend: Backend) -> Plan:
        """The cached plan for this signature, about so many samples and this library's costs."""
        self.graph()  # traced again, the plans are gone
        about = planned_for(n, backend)

        def make() -> Plan:
            from hessarray.plan.plan import make_plan

            return make_plan(self.graph(), want, about, backend.costs)

        key = (want, about, backend.name)
        if not self._warned and key not in self._plans:
            self._warned = warn_of_kinks(self, want)
        return self._kept_plan(key, make)

    def _kept_plan(self, key: Any, make: Callable[[], Plan]) -> Plan:
        """The plan for this key; of many, the oldest goes with what is bound for it."""
        plan = self._plans.get(key)
        if plan is None:
            with self._lock:
                plan = self._plans.get(key)
                if plan is None:
                    plan = make()
                    while len(self._plans) >= _MOST_PLANS:
                        oldest = id(self._plans.pop(next(iter(self._plans))))
                        for bound in [k for k in [*self._bound] if k[0] == oldest]:
                            self._bound.pop(bound, None)
                    self._plans[key] = plan
        return plan

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
            k: backend.asarray(same_library(a, backend), dtype, device) for k, a in params.items()
        }
        constants = {
            k: backend.asarray(a, dtype if a.dtype.kind == "f" else None, device)
            for k, a in plan.in_place.made_constants()
        }
        if not keep:
            return (arrays, constants), None
        bound = compiled.bind(arrays, constants)
        # Parameters and plan are kept alive with their ids: these must not be used again.
        self._bound[key] = (stamps, bound, (plan, *params.values()))
        return None, bound

    def _given(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        known = self._parameters()
        check_names(parameters, known, complete=True)
        return {k: parameters[k] for k in known}

    def _result_shape(self, name: str, want: Want, batch: Shape) -> Shape:
        """Shape of a result for one input."""
        out = self.out_shape
        if want.right is not None and name != "value":
            out = (want.right,) if want.right else ()
        if name == "value":
            return batch + out
        if name == "laplacian":
            return (*batch, 1, *out)
        times = 2 if name == "hessian" else 1
        if want.left is not None:
            return batch + (want.left,) * times + out
        return batch + self.in_shape * times + out

    def _shaped(self, name: str, a: Any, batch: Shape, want: Want, xp: Any) -> Any:
        """A flat result in the shapes of inputs and output; split over several inputs."""
        whole = name in ("value", "laplacian") or want.left is not None
        if whole or len(self.in_shapes) == 1:
            return xp.reshape(a, self._result_shape(name, want, batch))
        out = self.out_shape
        if want.right is not None:
            out = (want.right,) if want.right else ()
        ends = np.cumsum([0, *map(math.prod, self.in_shapes)]).tolist()
        spans = [(s, slice(i, j)) for s, i, j in zip(self.in_shapes, ends, ends[1:], strict=False)]
        every = () if isinstance(a, TracedArray) else (slice(None),)  # the batch axis
        if name != "hessian":
            return tuple(xp.reshape(a[*every, i, ...], batch + s + out) for s, i in spans)
        return tuple(
            tuple(xp.reshape(a[*every, i, k, ...], batch + s + t + out) for t, k in spans)
            for s, i in spans
        )

    def _compose(
        self, x: Sequence[Any], want: Want, options: dict[str, Any], seeds: Mapping[str, Any]
    ) -> dict[str, Any]:
        if evaluation_options(options)[3] is not None:
            raise OptionError(
                "parameters= is given where x is traced: name them in the params of the function "
                "that is being traced instead"
            )
        if seeds:
            raise ShapeError(
                "directions cannot be traced: contract the gradient or Hessian with them instead"
            )
        builder = next(a.builder for a in x if isinstance(a, TracedArray))
        graph = self.graph()
        nodes = derived_nodes(graph, want)
        params = {k: plain(v) for k, v in self._parameters().items()}
        found = {}
        for name, node in nodes.items():
            flat = inline(graph, node, builder, x, params)
            found[name] = self._shaped(name, flat, (), want, flat.__array_namespace__())
        return found


def _flat(seeds: Mapping[str, Any]) -> tuple[Any, ...]:
    """The arrays among the seeds: one tangent for each input, one array for everything else."""
    return tuple(a for k, s in seeds.items() for a in (s if k == "p" else (s,)))


def planned_for(n: int, backend: Backend) -> int:
    """How many samples a plan for n is made for: few plans serve every n.

    Where chunks are computed in place, a hundred samples stand for all but a handful: more of them
    come in more chunks of the same kind. Elsewhere calls are dear, and there are two plans for each
    power of ten: 1, 3, 10, 32, ...
    """
    if backend.in_place:
        return _MANY if n > _HANDFUL else 1
    return round(10 ** (round(2 * math.log10(max(n, 1))) / 2))


def derived_nodes(graph: Graph, want: Want) -> dict[str, Any]:
    """The wanted derivatives as nodes of one sample."""
    from hessarray.plan.derive import Bracket, derive

    return derive(graph, want, Bracket())[1]
