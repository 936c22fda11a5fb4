"""Objectives, constraints, residuals and Hessian products as scipy.optimize and scipy.sparse call.

None of them is approximated: SciPy gets the exact first and second derivatives, and one evaluation
serves all that it asks for at the same x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hessarray.errors import DTypeError, OptionError, ShapeError
from hessarray.function import Function
from hessarray.solve._arguments import bounds, missing, vector
from hessarray.solve._selected import Output, Weights, objective, selected
from hessarray.solve._shared import HESSIAN, JACOBIAN, VALUE, Shared

__all__ = [
    "Objective",
    "Residuals",
    "hvp_operator",
    "scipy_constraint",
    "scipy_objective",
    "scipy_residuals",
]


class Objective:
    """One number of x (d,), with the derivatives that `scipy.optimize.minimize` asks for.

    Made by `scipy_objective`.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self._shared = Shared(function)
        self._at = self._shared.at

    def __call__(self, x: Any) -> float:
        """f(x), as `fun`: `minimize` takes the objective itself."""
        return self._at(x, VALUE).item()  # type: ignore[no-any-return]

    def fun(self, x: Any) -> float:
        """f(x)."""
        return self._at(x, VALUE).item()  # type: ignore[no-any-return]

    def jac(self, x: Any) -> np.ndarray:
        """df/dx_a, (d,)."""
        return self._at(x, JACOBIAN).copy()  # type: ignore[no-any-return]

    def hess(self, x: Any) -> np.ndarray:
        """d2f/dx_a dx_b, (d, d): read-only, as a copy would cost a tenth of a small evaluation."""
        return self._at(x, HESSIAN)  # type: ignore[no-any-return]

    def hessp(self, x: Any, p: Any) -> np.ndarray:
        """sum_b d2f/dx_a dx_b p_b, (d,), without the d x d block."""
        x, d = self._shared.point(x), self._shared.d
        product: np.ndarray = self.function.hvp(x, vector("p", p, d))
        return product

    @property
    def evaluations(self) -> int:
        """How often the network was evaluated for `fun`, `jac` and `hess` together."""
        return self._shared.evaluations


def scipy_objective(
    net: Function, output: Output | None = None, weights: Weights | None = None
) -> Objective:
    r"""One output of a network, or :math:`\sum_m w_m f_m(x)`, as an objective for SciPy.

    Parameters
    ----------
    net : Function
        A network or function of one input; its shape is flattened to x (d,).
    output : int or str, optional
        The output to minimise; may be left out where there is only one.
    weights : sequence of float (m,), or mapping of outputs to float, optional
        Minimise this sum instead; ``{"CL": -1.0}`` maximises one output.

    Returns
    -------
    Objective
        Callable, with ``fun``, ``jac``, ``hess`` and ``hessp``: pass to `scipy.optimize.minimize`
        those that its method takes.

    Raises
    ------
    OptionError, SampleIndexError, ShapeError
        Outputs or weights that the network does not have; several inputs.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> from scipy.optimize import minimize
    >>> rosen = ha.Function(lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, (2,))
    >>> f = ha.scipy_objective(rosen)
    >>> found = minimize(f, [-1.2, 1.0], jac=f.jac, hess=f.hess, method="trust-exact")
    >>> found.x.round(6), found.success
    (array([1., 1.]), True)
    """
    return Objective(objective(net, output, weights))


def scipy_constraint(
    net: Function,
    lb: Any,
    ub: Any,
    outputs: Output | Sequence[Output] | None = None,
    *,
    keep_feasible: bool = False,
) -> Any:
    """Bounds on outputs, lb <= f(x) <= ub, as a `scipy.optimize.NonlinearConstraint`.

    Parameters
    ----------
    net : Function
        A network or function of one input.
    lb, ub : float or array (k,)
        Bounds; equal ones are equations, infinite ones none.
    outputs : int, str or sequence of them, optional
        The k outputs that are bounded; all of them where left out.
    keep_feasible : bool
        As in SciPy.

    Returns
    -------
    scipy.optimize.NonlinearConstraint
        ``jac(x)`` (k, d), and ``hess(x, v)``, sum_k v_k d2f_k (d, d).
    """
    library = _optimize()
    shared = Shared(selected(net, outputs))
    lower, upper = bounds(lb, ub, shared.m)

    def hess(x: Any, v: Any) -> Any:
        return shared.weighted_hessian(x, vector("v", v, shared.m, "one for each output"))

    return library.NonlinearConstraint(
        shared.value, lower, upper, jac=shared.jacobian, hess=hess, keep_feasible=keep_feasible
    )


class Residuals:
    """r (k,) of x, and its Jacobian, for `scipy.optimize.least_squares`.

    Made by `scipy_residuals`.
    """

    def __init__(self, shared: Shared, targets: np.ndarray, scale: np.ndarray) -> None:
        self._shared, self._targets, self._scale = shared, targets, scale

    def __call__(self, x: Any) -> np.ndarray:
        """r(x), as `fun`."""
        return self.fun(x)

    def fun(self, x: Any) -> np.ndarray:
        """r(x), (k,)."""
        residuals: np.ndarray = (self._shared.value(x) - self._targets) * self._scale
        return residuals

    def jac(self, x: Any) -> np.ndarray:
        """dr_k/dx_a, (k, d)."""
        jacobian: np.ndarray = self._shared.jacobian(x) * self._scale[:, None]
        return jacobian


def scipy_residuals(
    net: Function,
    targets: Any = 0.0,
    *,
    data: Any = None,
    free: Sequence[int] | None = None,
    outputs: Output | Sequence[Output] | None = None,
    scale: Any = 1.0,
) -> Residuals:
    r"""Residuals (f - targets) scale, for `scipy.optimize.least_squares`.

    Without `data` the unknowns are the input x itself, and the residuals the m outputs. With `data`
    they are those inputs that were not measured, the same ones in every sample: row i of `data`,
    with the columns `free` replaced by x, gives the m residuals of sample i.

    Parameters
    ----------
    net : Function
        A network or function of one input (d,).
    targets : array
        (m,), or (n, m) with `data`; what broadcasts to it will do, and (n,) where m = 1.
    data : array (n, d), optional
        The measured inputs; what stands in the columns `free` is not read.
    free : sequence of int, optional
        The inputs that are unknown, in the order in which x has them; needed with `data`.
    outputs : int, str or sequence of them, optional
        The outputs that were measured; all of them where left out.
    scale : array
        Weights of the residuals, of the shape of `targets`: 1 / standard deviation.

    Returns
    -------
    Residuals
        Callable, with ``fun`` (n m,) and ``jac`` (n m, d): in the order of samples, then outputs.

    Examples
    --------
    A decay a exp(-b t), of inputs (a, b, t), measured at three times:

    >>> import numpy as np, hessarray as ha
    >>> from scipy.optimize import least_squares
    >>> decay = ha.Function(lambda x: x[0] * np.exp(-x[1] * x[2]), in_shape=(3,))
    >>> data = np.array([[0, 0, t] for t in (0.0, 1.0, 2.0)])
    >>> r = ha.scipy_residuals(decay, [2.0, 1.0, 0.5], data=data, free=[0, 1])
    >>> least_squares(r, [1.0, 1.0], jac=r.jac).x.round(6)
    array([2.      , 0.693147])
    """
    function = selected(net, outputs)
    (m,) = function.out_shape
    if data is None:
        if free is not None:
            raise OptionError("free= is given without data=: pass the samples that it belongs to")
        shared, shape = Shared(function), [m]
    else:
        samples = _Samples(function, data, free)
        shared, shape = Shared(samples), [samples.n, m]
    flat = [_like_results(k, a, tuple(shape)) for k, a in (("targets", targets), ("scale", scale))]
    return Residuals(shared, *flat)


class _Samples:
    """A function of many samples as one of the inputs x (k,) that they share."""

    def __init__(self, function: Function, data: Any, free: Sequence[int] | None) -> None:
        (d,), (m,) = function.in_shape, function.out_shape
        self._function = function
        self._data = _real("data", data)
        if self._data.ndim != 2 or self._data.shape[1] != d or not len(self._data):
            raise ShapeError(f"data has shape {self._data.shape}, (n, {d}) is expected")
        columns = [] if free is None else np.atleast_1d(np.asarray(free)).tolist()
        if any(type(i) is not int for i in columns):
            columns = []
        wrong = [i for i in columns if not -d <= i < d]
        if wrong or not columns or len({i % d for i in columns}) < len(columns):
            raise OptionError(
                f"free={free!r}: name the inputs that are unknown, each once, by numbers "
                f"from 0 to {d - 1}"
            )
        self._free, self.n = columns, len(self._data)
        self._unit = np.eye(d)[columns]
        self.in_shape, self.out_shape = (len(columns),), (self.n * m,)

    def _rows(self, x: np.ndarray) -> np.ndarray:
        rows = self._data.copy()
        rows[:, self._free] = x
        return rows

    def _version(self) -> int:
        return self._function._version()

    def value(self, x: np.ndarray) -> np.ndarray:
        value: np.ndarray = self._function.value(self._rows(x)).reshape(-1)
        return value

    def gradient(self, x: np.ndarray) -> Any:
        return self.derivatives(x, do_gradient=True)[1]

    def derivatives(self, x: np.ndarray, do_gradient: bool) -> tuple[Any, Any, None]:
        # Derivatives in the directions of the unknowns only.
        f, df, _ = self._function.derivatives(
            self._rows(x), do_gradient=do_gradient, v=self._unit, forward_mode=True
        )
        return f.reshape(-1), np.moveaxis(df, 1, 0).reshape(len(self._free), -1), None

    def _repeated(self, x: np.ndarray, do_gradient: bool, do_Hessian: bool) -> None:
        return None  # many samples are work enough


def hvp_operator(
    net: Function, x: Any, output: Output | None = None, weights: Weights | None = None
) -> Any:
    """The Hessian at x as a `scipy.sparse.linalg.LinearOperator` (d, d), never formed.

    A product costs a few gradients. For ``eigsh``, ``cg``, ``minres`` and the like; `output` and
    `weights` choose the scalar as in `scipy_objective`.

    Examples
    --------
    >>> import numpy as np, hessarray as ha
    >>> from scipy.sparse.linalg import eigsh
    >>> f = ha.Function(lambda x: x[0] ** 2 + 3 * x[1] ** 2 + x[2] ** 4, in_shape=(3,))
    >>> H = ha.hvp_operator(f, np.ones(3))
    >>> eigsh(H, k=1, return_eigenvectors=False)
    array([12.])
    """
    try:
        from scipy.sparse.linalg import LinearOperator
    except ImportError:
        raise missing("scipy", "scipy") from None
    function = objective(net, output, weights)
    (d,) = function.in_shape
    point = vector("x", x, d).copy()

    def matvec(p: Any) -> Any:
        return function.hvp(point, np.asarray(p, dtype=np.float64).reshape(d))

    def matmat(p: Any) -> Any:
        directions = np.ascontiguousarray(np.asarray(p, dtype=np.float64).T)
        points = np.broadcast_to(point, directions.shape)
        return function.hvp(np.ascontiguousarray(points), directions).T

    return LinearOperator(
        (d, d), matvec=matvec, rmatvec=matvec, matmat=matmat, rmatmat=matmat, dtype=np.float64
    )


def _real(name: str, values: Any) -> np.ndarray:
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DTypeError(f"{name} is no array of real numbers: pass floats") from None


def _like_results(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Values broadcast to the residuals and flattened; (n,) serves for (n, 1)."""
    array = _real(name, values)
    if shape[-1] == 1 and array.ndim == 1 and len(shape) == 2:
        array = array[:, None]
    try:
        return np.broadcast_to(array, shape).reshape(-1)
    except ValueError:
        raise ShapeError(f"{name} has shape {array.shape}, {shape} is expected") from None


def _optimize() -> Any:
    try:
        import scipy.optimize
    except ImportError:
        raise missing("scipy", "scipy") from None
    return scipy.optimize
