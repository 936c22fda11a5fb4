"""A function with exact derivatives: array API code, its parameters, and what to ask of it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from hessarray._arguments import (
    check_mode,
    check_names,
    dtype_name,
    dtype_option,
    frozen,
    plain,
    same_library,
    sample_shapes,
    whole,
)
from hessarray._evaluation import Evaluation, derived_nodes
from hessarray._memory import division
from hessarray.backends import backend_named, backend_of, known_backends
from hessarray.errors import BackendError, OptionError, ParameterError, ShapeError
from hessarray.graph.array import TracedArray
from hessarray.graph.trace import inline
from hessarray.plan.want import Want, wanted

if TYPE_CHECKING:
    from hessarray.plan.plan import Plan

__all__ = ["Derivatives", "Function"]

Shape = tuple[int, ...]
_SECOND = {
    "hessian": "hessian",
    "hessian_diagonal": "diagonal",
    "laplacian": "laplacian",
    "hvp": "hvp",
}


_ALL = wanted(gradient=True, second="hessian", forward=None)


class Derivatives(NamedTuple):
    """Value, gradient and Hessian (or Laplacian); None where not asked for."""

    f: Any
    df: Any = None
    d2f: Any = None


class Function(Evaluation):
    r"""Exact value, gradient and Hessian of an array API function, on the caller's arrays.

    The function is traced for one sample: it sees x of shape ``in_shape`` and never the batch axis.
    Arrays that its code carries, the parameters of another function called inside it among them,
    are constants from the first use on; what shall change later is named in ``params``.

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
            if not isinstance(params, Mapping):
                raise OptionError(
                    f"params is a {type(params).__name__}: pass a mapping from names to arrays, "
                    "such as {'a': np.ones(3)}"
                )
            self._store = {str(k): frozen(k, v) for k, v in params.items()}
        self._setup(sample_shapes(in_shape))

    def __repr__(self) -> str:
        shapes = self.in_shapes if len(self.in_shapes) > 1 else self.in_shapes[0]
        count = sum(math.prod(a.shape) for a in self._parameters().values())
        return f"{type(self).__name__}(in_shape={shapes}, {count:,} parameters)"

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

    # ---- evaluation --------------------------------------------------------------------------

    def __call__(self, *x: Any, **options: Any) -> Any:
        """The value; on traced arrays the function composes into the caller's graph."""
        if not options and any(isinstance(a, TracedArray) for a in x):
            return self._apply(x, {k: plain(v) for k, v in self._parameters().items()})
        return self.value(*x, **options)

    def value(self, *x: Any, **options: Any) -> Any:
        """f(x): ``(..., *out)`` for x ``(..., *in)``.

        All evaluations take ``memory_limit=`` (bytes for result and intermediates together),
        ``threads=`` (NumPy: workers over chunks of samples), ``progress=`` (True for a bar, or a
        function of the number of samples done), ``parameters=`` (a mapping used instead of the
        stored ones; gradients flow to it) and ``out=`` (NumPy: an array for the result, or a tuple
        of arrays for the results in their order; memory-mapped ones stream to disk).
        """
        return self._evaluate(x, wanted(), options)["value"]

    def gradient(self, *x: Any, forward_mode: bool | None = None, **options: Any) -> Any:
        """df_m/dx_a: ``(..., *in, *out)``; a tuple over the inputs where there are several."""
        want = wanted(value=False, gradient=True, forward=forward_mode)
        return self._evaluate(x, want, options)["gradient"]

    def hessian(self, *x: Any, forward_mode: bool | None = None, **options: Any) -> Any:
        """d2f_m/dx_a dx_b: ``(..., *in, *in, *out)``; nested tuples for several inputs."""
        want = wanted(value=False, second="hessian", forward=forward_mode)
        return self._evaluate(x, want, options)["hessian"]

    def hessian_diagonal(self, *x: Any, forward_mode: bool | None = None, **options: Any) -> Any:
        """d2f_m/dx_a^2: ``(..., *in, *out)``, without the d x d block."""
        want = wanted(value=False, second="diagonal", forward=forward_mode)
        return self._evaluate(x, want, options)["diagonal"]

    def laplacian(self, *x: Any, forward_mode: bool | None = None, **options: Any) -> Any:
        """sum_a d2f_m/dx_a^2: ``(..., 1, *out)``, without the d x d block."""
        want = wanted(value=False, second="laplacian", forward=forward_mode)
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
        return self._evaluate(x_and_p[:count], wanted(value=False, second="hvp"), options, seeds)[
            "hvp"
        ]

    def weighted_hessian(self, *x_and_lam: Any, **options: Any) -> Any:
        """sum_m lam_m d2f_m/dx_a dx_b, ``(..., *in, *in)``: lam ``(*out)`` or ``(..., *out)``."""
        *x, lam = x_and_lam
        want = wanted(value=False, second="hessian", right=0)
        return self._evaluate(x, want, options, {"lam": lam})["hessian"]

    def value_gradient_hessian(
        self, *x: Any, forward_mode: bool | None = None, **options: Any
    ) -> Derivatives:
        """Value, gradient and Hessian from one pass."""
        want = _ALL
        if forward_mode is not None:
            want = wanted(gradient=True, second="hessian", forward=forward_mode)
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
        want = wanted(
            gradient=do_gradient, second=second, left=left, right=right, forward=forward_mode
        )
        found = self._evaluate(x, want, options, seeds)
        return Derivatives(found["value"], found.get("gradient"), found.get(second or ""))

    def _repeated(self, x: Any, do_gradient: bool, do_Hessian: bool) -> Any:
        """``derivatives`` of vectors like x as a bare call for solvers, or None: see ``_again``."""
        return self._again(
            x, wanted(gradient=do_gradient, second="hessian" if do_Hessian else None)
        )

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

    # ---- derivatives as functions ------------------------------------------------------------

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
        n = whole("n", n, 1)
        left = None if left is None else whole("left", left, 1)
        right = None if right is None else whole("right", right, 0)
        check_mode(forward_mode)
        names = list(want) if isinstance(want, (list, tuple)) else [want]
        seconds = [_SECOND[s] for s in names if s in _SECOND]
        unknown = [s for s in names if s not in _SECOND and s not in ("value", "gradient")]
        if unknown or len(seconds) > 1 or not names:
            raise OptionError(
                f"want={want!r}: expected value, gradient and at most one of {', '.join(_SECOND)}"
            )
        spec = Want(
            value="value" in names,
            gradient="gradient" in names,
            second=seconds[0] if seconds else None,
            left=left,
            right=right,
            forward=forward_mode,
        )
        backend = backend_named(self._pinned[0] if self._pinned else "numpy")
        assert backend is not None
        plan = self._plan(spec, n, backend)
        return replace(plan, n=n, chunk=division(plan, n, 8, backend).chunk)

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
        check_names(parameters, known, complete=True)
        self._replace({k: self._stored(k, v) for k, v in parameters.items()})

    def _stored(self, name: str, array: Any) -> Any:
        if self._pinned is None:
            return frozen(name, array)
        backend = backend_named(self._pinned[0])
        assert backend is not None
        dtype = backend.dtype_name(self._parameters()[name])
        return backend.parameter(same_library(array, backend), dtype, self._pinned[1])

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
        if tuple(np.shape(theta)) != (sum(sizes),):
            raise ParameterError(
                f"the vector has shape {tuple(np.shape(theta))}, ({sum(sizes)},) is expected"
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

    def to(self, backend: str | None, device: Any = None, dtype: str | None = None) -> Self:
        """Move the parameters to an array library; x must then be of that library.

        On torch they become leaf tensors that require gradients, ready for an optimiser.
        ``to(None)`` brings them back to NumPy and lets x be of any library again. Returns the
        function itself.
        """
        target = backend_named(backend or "numpy")
        if target is None:
            raise BackendError(f"backend '{backend}' is unknown: use {', '.join(known_backends())}")
        dtype = None if dtype is None else dtype_option(dtype)
        arrays = {}
        for k, a in self._parameters().items():
            kind = dtype or dtype_name(a)
            if target.name == "numpy":
                arrays[k] = frozen(k, np.asarray(plain(a), dtype=kind))
            else:
                arrays[k] = target.parameter(same_library(a, target), kind, device)
        self._replace(arrays)
        self._pinned = None if backend is None else (target.name, device)
        self._forget_ready()  # arrays of other libraries are refused from now on
        self._bound = {}
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters to ``path``: .npz, or .safetensors (needs that extra).

        A network's architecture is written too. A function's code is not: its parameters come back
        by ``hessarray.load(path, architecture=function)``.
        """
        from hessarray.load import save

        save(self, path)


class _DerivedFunction(Function):
    """A derivative of another function, over the same parameters."""

    def __init__(self, parent: Function, name: str) -> None:
        self._parent, self._name = parent, name
        self._store = None
        self._setup(parent.in_shapes)
        self._pinned = parent._pinned

    def __repr__(self) -> str:
        return f"{self._parent!r}.{self._name}_function()"

    def _parameters(self) -> dict[str, Any]:
        return self._parent._parameters()

    def _version(self) -> int:
        return self._parent._version()

    def _code_version(self) -> int:
        return self._parent._code_version()

    def _replace(self, arrays: Mapping[str, Any]) -> None:
        self._parent._replace(arrays)

    def _apply(self, inputs: Sequence[Any], params: Mapping[str, Any]) -> Any:
        graph = self._parent.graph()
        second = _SECOND.get(self._name)
        want = Want(value=False, gradient=self._name == "gradient", second=second)
        nodes = derived_nodes(graph, want)
        ((name, node),) = nodes.items()
        builder = next(a.builder for a in inputs if isinstance(a, TracedArray))
        flat = inline(graph, node, builder, inputs, params)
        shaped = self._parent._shaped(name, flat, (), want, flat.__array_namespace__())
        return _joined(shaped)


def _joined(shaped: Any) -> Any:
    """Several inputs' blocks as one flat array: a function has one output."""
    if not isinstance(shaped, tuple):
        return shaped
    parts = [_joined(s) for s in shaped]
    xp = parts[0].__array_namespace__()
    return xp.concat([xp.reshape(p, (-1,)) for p in parts], axis=0)
