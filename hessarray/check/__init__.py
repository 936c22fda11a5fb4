"""Are the derivatives right? Taylor, finite difference, trace and direction tests of any function.

Every test evaluates the function on the array library, device and dtype of x, and compares in
float64 NumPy. A test takes anything with ``value``, ``gradient`` and ``hessian`` methods in the
shapes of ``hessarray.Function``; those of the Laplacian, of directions and of parameters need a
``Function``.
"""

from hessarray.check._compare import (
    check_directions,
    check_finite_differences,
    check_laplacian,
)
from hessarray.check._parameters import check_parameters
from hessarray.check._report import Comparison, ErrorCheck, TaylorCheck, convert_to_base
from hessarray.check._taylor import check_derivatives

__all__ = [
    "Comparison",
    "ErrorCheck",
    "TaylorCheck",
    "check_derivatives",
    "check_directions",
    "check_finite_differences",
    "check_laplacian",
    "check_parameters",
    "convert_to_base",
]
