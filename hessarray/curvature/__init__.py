"""Curvature: second derivatives in the parameters, and what only needs products with them."""

from hessarray.curvature.estimators import DiagonalEstimate, TraceEstimate, diagonal, trace
from hessarray.curvature.forms import (
    empirical_fisher_diagonal,
    empirical_fisher_dict,
    empirical_fisher_matrix,
    gauss_newton_diagonal,
    gauss_newton_dict,
    gauss_newton_matrix,
    kfac_factors,
    loss_hessian_diagonal,
)
from hessarray.curvature.gradients import loss_gradient, loss_value, model_gradient_dict
from hessarray.curvature.hessians import (
    loss_hessian_dict,
    loss_hessian_matrix,
    loss_sharpness,
    model_hessian_dict,
    model_hessian_matrix,
    model_sharpness,
)
from hessarray.curvature.inverse import Solution, solve
from hessarray.curvature.losses import LOSSES, Loss
from hessarray.curvature.mixed import mixed_hessian_dict, solution_sensitivity
from hessarray.curvature.operators import (
    ParameterOperator,
    empirical_fisher_operator,
    gauss_newton_operator,
    loss_hessian_operator,
)
from hessarray.curvature.pictures import (
    loss_along,
    plot_blocks,
    plot_loss_along,
    plot_spectrum,
)
from hessarray.curvature.plans import CurvaturePlan, curvature_plan
from hessarray.curvature.spectrum import (
    EigenPairs,
    SpectralDensity,
    eigenpairs,
    sharpness,
    spectral_density,
)

__all__ = [
    "CurvaturePlan",
    "DiagonalEstimate",
    "EigenPairs",
    "LOSSES",
    "Loss",
    "ParameterOperator",
    "Solution",
    "SpectralDensity",
    "TraceEstimate",
    "curvature_plan",
    "diagonal",
    "eigenpairs",
    "empirical_fisher_diagonal",
    "empirical_fisher_dict",
    "empirical_fisher_matrix",
    "empirical_fisher_operator",
    "gauss_newton_diagonal",
    "gauss_newton_dict",
    "gauss_newton_matrix",
    "gauss_newton_operator",
    "kfac_factors",
    "loss_along",
    "loss_gradient",
    "loss_hessian_diagonal",
    "loss_hessian_dict",
    "loss_hessian_matrix",
    "loss_hessian_operator",
    "loss_sharpness",
    "loss_value",
    "mixed_hessian_dict",
    "model_gradient_dict",
    "model_hessian_dict",
    "model_hessian_matrix",
    "model_sharpness",
    "plot_blocks",
    "plot_loss_along",
    "plot_spectrum",
    "sharpness",
    "solution_sensitivity",
    "solve",
    "spectral_density",
    "trace",
]
