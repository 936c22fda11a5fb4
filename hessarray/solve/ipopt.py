"""Problems for IPOPT, through cyipopt: objective, constraints and the Hessian of the Lagrangian."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hessarray.errors import OptionError
from hessarray.function import Function
from hessarray.solve._arguments import bounds, missing, vector
from hessarray.solve._selected import Output, Weights, with_objective
from hessarray.solve._shared import JACOBIAN, VALUE, Shared

__all__ = ["IpoptProblem", "ipopt_problem"]


class IpoptProblem:
    """min f(x) with cl <= c(x) <= cu and lb <= x <= ub, as cyipopt calls it.

    Made by `ipopt_problem`. All methods but `solve` are cyipopt's callbacks, so that the object
    also serves as the ``problem_obj`` of a `cyipopt.Problem` of one's own.
    """

    def __init__(
        self, shared: Shared, boxes: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    ) -> None:
        self._shared, self._at = shared, shared.at  # of the objective, then the constraints
        self.lb, self.ub, self.cl, self.cu = boxes
        self.iterations = 0
        d, m = shared.d, shared.m
        self._lower = np.tril_indices(d)
        # The same entries, and those of the Jacobian, in the flat arrays: `take` is the quickest.
        self._flat_lower = np.ravel_multi_index(self._lower, (d, d))
        self._flat_rows = (np.arange(d) * m + np.arange(1, m)[:, None]).reshape(-1)

    def objective(self, x: Any) -> float:
        """f(x)."""
        return self._at(x, VALUE).item(0)  # type: ignore[no-any-return]

    def gradient(self, x: Any) -> np.ndarray:
        """df/dx_a, (d,)."""
        return self._at(x, JACOBIAN)[:, 0].copy()  # type: ignore[no-any-return]

    def constraints(self, x: Any) -> np.ndarray:
        """c(x), (k,)."""
        return self._at(x, VALUE)[1:].copy()  # type: ignore[no-any-return]

    def jacobian(self, x: Any) -> np.ndarray:
        """dc_k/dx_a, flat (k d,), in the order of `jacobianstructure`."""
        return self._at(x, JACOBIAN).take(self._flat_rows)  # type: ignore[no-any-return]

    def jacobianstructure(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of a full (k, d) matrix."""
        rows, columns = np.indices((len(self.cl), self._shared.d)).reshape(2, -1)
        return rows, columns

    def hessian(self, x: Any, lagrange: Any, obj_factor: float) -> np.ndarray:
        """Lower half of obj_factor d2f + sum_k lagrange_k d2c_k, in one weighted Hessian."""
        lam = np.empty(self._shared.m)
        lam[0], lam[1:] = obj_factor, lagrange
        entries: np.ndarray = self._shared.weighted_hessian(x, lam).take(self._flat_lower)
        return entries

    def hessianstructure(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the lower half of a (d, d) matrix."""
        return self._lower

    def intermediate(self, _algorithm: int, iteration: int, *_: float) -> bool:
        """Count iterations; IPOPT goes on."""
        self.iterations = iteration
        return True

    @property
    def evaluations(self) -> int:
        """How often the network was evaluated; a weighted Hessian by itself counts as one."""
        return self._shared.evaluations

    def solve(self, x0: Any, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Run IPOPT from x0 (d,), with IPOPT's own options by name.

        ``hessian_approximation="limited-memory"`` leaves the Hessian out.

        Returns
        -------
        x : array (d,)
            The last point.
        info : dict
            As cyipopt gives it (``status`` 0 is a solution, ``obj_val``, multipliers), and the
            number of ``iterations``.
        """
        try:
            import cyipopt
        except ImportError:
            raise missing("cyipopt", "ipopt") from None
        start = vector("x0", x0, self._shared.d)
        problem = cyipopt.Problem(
            n=self._shared.d,
            m=len(self.cl),
            problem_obj=self,
            lb=self.lb,
            ub=self.ub,
            cl=self.cl,
            cu=self.cu,
        )
        for name, value in options.items():
            if not any(_takes(problem, name, v) for v in _spelled(value)):
                raise OptionError(
                    f"IPOPT does not take {name}={value!r}: its options and their types are listed "
                    "at coin-or.github.io/Ipopt/OPTIONS.html"
                )
        self.iterations = 0
        try:
            x, info = problem.solve(start)
        finally:
            problem.close()
        return x, {**info, "iterations": self.iterations}


def _spelled(value: Any) -> Iterator[Any]:
    """An option as given and as IPOPT has it: 60 seconds are 60.0 there, True is "yes"."""
    if isinstance(value, (bool, np.bool_)):
        yield "yes" if value else "no"
    elif isinstance(value, (int, np.integer)):
        yield from (int(value), float(value))
    else:
        yield value


def _takes(problem: Any, name: str, value: Any) -> bool:
    try:
        problem.add_option(name, value)
    except TypeError:
        return False
    return True


def ipopt_problem(
    net: Function,
    output: Output | None = None,
    weights: Weights | None = None,
    *,
    constraints: Output | Sequence[Output] = (),
    cl: Any = None,
    cu: Any = None,
    lb: Any = None,
    ub: Any = None,
) -> IpoptProblem:
    r"""Some outputs of a network as objective and constraints of one problem for IPOPT.

    .. math:: \min_x f(x), \quad cl \le c(x) \le cu, \quad lb \le x \le ub

    f and c are outputs of one function: they share their evaluation, and the Hessian of the
    Lagrangian is one weighted Hessian. What comes from several networks, or from formulas, is
    joined in a `Function` first; linear outputs cost nothing in its Hessian.

    Parameters
    ----------
    net : Function
        A network or function of one input; its shape is flattened to x (d,).
    output, weights
        The objective, as in `scipy_objective`.
    constraints : int, str or sequence of them
        The k outputs that are bounded.
    cl, cu : float or array (k,), optional
        Bounds on the constraints; equal ones are equations, None is no bound.
    lb, ub : float or array (d,), optional
        Bounds on x.

    Returns
    -------
    IpoptProblem
        Its ``solve(x0, **options)`` runs IPOPT.

    Raises
    ------
    OptionError, SampleIndexError, ShapeError
        Outputs that the network does not have, or bounds that do not fit.

    Examples
    --------
    The point of a circle where x + y is least:

    >>> import numpy as np, hessarray as ha
    >>> fn = ha.Function(lambda x: np.stack([x[0] + x[1], x @ x]), in_shape=(2,))
    >>> problem = ha.ipopt_problem(fn, 0, constraints=1, cl=2.0, cu=2.0)
    >>> x, info = problem.solve([-1.0, -0.5], print_level=0, sb="yes")
    >>> x.round(6), info["status"]
    (array([-1., -1.]), 0)
    """
    shared = Shared(with_objective(net, output, weights, constraints))
    k = shared.m - 1
    return IpoptProblem(shared, (*bounds(lb, ub, shared.d), *bounds(cl, cu, k, "cl and cu")))
