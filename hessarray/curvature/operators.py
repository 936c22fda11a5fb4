r"""Products with Hessian, Gauss-Newton and Fisher matrices over parameters, never formed.

One product costs about two gradients: a forward sweep of the tangents du along the direction, a
reverse sweep of dG, and for each matrix one product over samples,

    (H d)_k = [u; du]^T [dG; G]        ([u; .]^T [dG; .] without the second term).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from hessarray.curvature._asked import Names, asked
from hessarray.curvature._data import Data, Options
from hessarray.curvature._gradients import product_sums
from hessarray.curvature._matrices import form_scale
from hessarray.curvature._outer_totals import OuterTotals, watched
from hessarray.curvature._problem import Problem
from hessarray.curvature._totals import parameters_at, psi_gradients, pulled_totals
from hessarray.errors import CurvatureError, DTypeError, ShapeError
from hessarray.function import Function
from hessarray.plan.parameter_products import product_of, seed_name

__all__ = [
    "ParameterOperator",
    "directions",
    "empirical_fisher_operator",
    "gauss_newton_operator",
    "loss_hessian_operator",
]


def directions(task: Problem, kind: str) -> list[str]:
    """Names of the seeds that come with a vector."""
    return [seed_name(i) for i in range(len(task.injected(kind).parameters))]


class ParameterOperator:
    """A symmetric operator on flat parameter vectors, (p, p), on any array library.

    Its attributes are those that SciPy's and CuPy's solvers ask for. Parameters and samples are
    those of the moment of its making, unless a tape or a compiler watches them.
    """

    def __init__(self, kind: str, task: Problem, data: Data, how: Options) -> None:
        self._watched = watched(task, data)
        if not self._watched:  # the caller may change his arrays meanwhile
            data = replace(data, arrays=tuple(data.xp.asarray(a, copy=True) for a in data.arrays))
        self._kind, self._task, self._data, self._how = kind, task, data, how
        self.names = task.names
        sizes = [math.prod(task.shapes[k]) for k in task.names]
        self._ends = np.cumsum([0, *sizes]).tolist()
        self.shape = (self._ends[-1], self._ends[-1])
        self.dtype = data.arrays[0].dtype
        form = task.form(kind)
        what = task.kept(("product", kind), lambda: product_sums(form, product_of(form)))
        self._made = task.compositions(kind)
        self._seeds = {"scale": np.asarray(form_scale(kind, task, data))}
        self._own = dict(task.model._parameters())
        self._stamps = self._stamped()
        # As the vectors have it, and as the sums.
        self._at, self._there = (parameters_at(task, data, o) for o in (Options(), how))
        self._totals = OuterTotals(
            task, ("product", kind), what, data, how, directions(task, kind), self._seeds
        )
        self._model = task.model  # alive as long as this is
        self._gradients = None if self._watched else self._psi_gradients()

    def _stamped(self) -> list[Any]:
        """torch counts changes in place; NumPy's parameters are read-only, JAX's never change."""
        return [getattr(a, "_version", None) for a in self._own.values()]

    def matvec(self, v: Any) -> Any:
        """The product with a vector (p,) or a column (p, 1), in its shape."""
        xp, shape = self._data.xp, tuple(getattr(v, "shape", ()))
        if shape not in ((self.shape[0],), (self.shape[0], 1)):
            raise ShapeError(
                f"the vector has shape {shape}, ({self.shape[0]},) is expected: all of "
                f"{', '.join(self.names)}, flattened and joined"
            )
        backend, x = self._data.backend, self._data.arrays[0]
        if "complex" in str(v.dtype):
            raise DTypeError(
                f"the vector has dtype {v.dtype}: multiply its real and its imaginary part"
            )
        flat = xp.reshape(backend.asarray(v, backend.dtype_name(x), backend.device(x)), (-1,))
        moved = {
            k: xp.reshape(flat[i:j], self._task.shapes[k])
            for k, i, j in zip(self.names, self._ends, self._ends[1:], strict=False)
        }
        found = self._product(moved)
        parts = [xp.reshape(found[k], (-1,)) for k in self.names]
        whole = xp.reshape(parts[0] if len(parts) == 1 else xp.concat(parts, axis=0), shape)
        return whole if whole.dtype == self.dtype else xp.astype(whole, self.dtype)

    def _product(self, moved: dict[str, Any]) -> dict[str, Any]:
        task, data, xp = self._task, self._data, self._data.xp
        seeds = dict(self._seeds)
        for i, c in enumerate(self._made):
            seeds[seed_name(i)] = c.pushed(xp, moved, self._at)
        sums = self._totals.sums(seeds, **self._as_made())
        found = pulled_totals(task, self._kind, sums, data, self._how, self._there)
        gradients = self._psi_gradients() if self._gradients is None else self._gradients
        for i, g in gradients.items():
            parts = self._made[i].curved_product(xp, g, moved, self._at)
            for name, part in parts.items():
                found[name] = found[name] + part
        return found

    def _as_made(self) -> dict[str, Any]:
        """The option that brings back the parameters of the making, where the model has others."""
        if not self._watched and self._stamped() != self._stamps:
            raise CurvatureError(
                "a parameter was changed in place since the operator was made: make it anew"
            )
        now = self._task.model._parameters()
        replaced = any(now[k] is not a for k, a in self._own.items())
        return {"parameters": self._at} if replaced else {}

    def _psi_gradients(self) -> dict[int, Any]:
        """What parameters that are made of others need besides, with the parameters of now."""
        if self._kind != "hessian" or all(c.plain for c in self._made):
            return {}
        how = replace(self._how, progress=None, accumulate=None)
        scale = float(self._seeds["scale"])
        return psi_gradients(self._task, self._kind, self._data, how, scale)

    def matmat(self, vectors: Any) -> Any:
        """The products with the columns of (p, k)."""
        shape = tuple(getattr(vectors, "shape", ()))
        if len(shape) != 2 or shape[0] != self.shape[0] or not shape[1]:
            raise ShapeError(f"the vectors have shape {shape}, ({self.shape[0]}, k) is expected")
        columns = [self.matvec(vectors[:, i]) for i in range(vectors.shape[1])]
        return self._data.xp.stack(columns, axis=1)

    rmatvec, rmatmat = matvec, matmat

    def __matmul__(self, other: Any) -> Any:
        return self.matmat(other) if len(getattr(other, "shape", ())) == 2 else self.matvec(other)


def loss_hessian_operator(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names = None,
    is_batch: bool = True,
    **options: Any,
) -> Any:
    """The loss's Hessian (p, p) as an operator; arguments as for ``loss_hessian_matrix``.

    Returns
    -------
    scipy.sparse.linalg.LinearOperator for NumPy arrays, CuPy's for CuPy's, and otherwise a
    ``ParameterOperator`` with ``matvec``, ``matmat`` and ``@`` on the library of the inputs.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> from scipy.sparse.linalg import eigsh
    >>> from hessarray.curvature import loss_hessian_matrix, loss_hessian_operator
    >>> net = ha.fully_connected([3, 8, 2], act="tanh")
    >>> x, t = np.random.default_rng(0).random((2, 40, 3))
    >>> H = loss_hessian_operator(net, "mse", x, t[:, :2])
    >>> top = eigsh(H, k=1, which="LA", return_eigenvectors=False)
    >>> matrix = loss_hessian_matrix(net, "mse", x, t[:, :2])
    >>> bool(np.isclose(top[0], np.linalg.eigvalsh(matrix)[-1]))
    True
    """
    return _operator("hessian", model, criterion, inputs, target, params, is_batch, options)


def gauss_newton_operator(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names = None,
    is_batch: bool = True,
    **options: Any,
) -> Any:
    """The Gauss-Newton matrix as an operator; see ``loss_hessian_operator``."""
    return _operator("gauss_newton", model, criterion, inputs, target, params, is_batch, options)


def empirical_fisher_operator(
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names = None,
    is_batch: bool = True,
    **options: Any,
) -> Any:
    """The empirical Fisher matrix as an operator; see ``loss_hessian_operator``."""
    return _operator("fisher", model, criterion, inputs, target, params, is_batch, options)


def _operator(
    kind: str,
    model: Function,
    criterion: Any,
    inputs: Any,
    target: Any,
    params: Names,
    is_batch: bool,
    options: dict[str, Any],
) -> Any:
    task, data, how = asked(model, criterion, inputs, target, params, is_batch, options)
    own = ParameterOperator(kind, task, data, how)
    try:
        if data.backend.name == "numpy":
            from scipy.sparse.linalg import LinearOperator
        elif data.backend.name == "cupy":
            from cupyx.scipy.sparse.linalg import LinearOperator
        else:
            return own
    except ImportError:
        return own
    return LinearOperator(
        own.shape,
        matvec=own.matvec,
        rmatvec=own.matvec,
        matmat=own.matmat,
        rmatmat=own.matmat,
        dtype=own.dtype,
    )
