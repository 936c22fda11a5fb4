"""Networks inside solvers: SciPy, IPOPT, CasADi, Pyomo, with exact first and second derivatives."""

from hessarray.solve.casadi import casadi_function
from hessarray.solve.ipopt import ipopt_problem
from hessarray.solve.pyomo import pyomo_model
from hessarray.solve.scipy import hvp_operator, scipy_constraint, scipy_objective, scipy_residuals

__all__ = [
    "casadi_function",
    "hvp_operator",
    "ipopt_problem",
    "pyomo_model",
    "scipy_constraint",
    "scipy_objective",
    "scipy_residuals",
]
