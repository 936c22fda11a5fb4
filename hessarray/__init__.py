"""Exact values, gradients and Hessians of trained networks, on the arrays you already use."""

from typing import TYPE_CHECKING, Any

from hessarray.activations import ACTIVATIONS, activation, register_activation
from hessarray.errors import (
    BackendError,
    CurvatureError,
    DTypeError,
    HessarrayError,
    KinkWarning,
    LoadError,
    MemoryLimitError,
    OptionError,
    ParameterError,
    ShapeError,
    TraceError,
    UnknownActivationError,
)
from hessarray.export import export
from hessarray.function import Derivatives, Function
from hessarray.kinks import kinks
from hessarray.layers import (
    Dense,
    InputConvex,
    InputConvexQuadratic,
    Layer,
    Quadratic,
    Residual,
)
from hessarray.load import from_torch, load, save
from hessarray.networks import Network, fully_connected, icnn, resnet
from hessarray.surrogates import (
    Clip,
    Decode,
    Encode,
    Ensemble,
    GaussianProcess,
    Mean,
    Mirror,
    Polynomial,
    Scale,
    Softmax,
)

if TYPE_CHECKING:  # loaded when asked for, below
    from hessarray.check import (
        check_derivatives,
        check_directions,
        check_finite_differences,
        check_laplacian,
        check_parameters,
    )
    from hessarray.curvature import (
        loss_hessian_dict,
        loss_hessian_matrix,
        loss_sharpness,
        model_hessian_dict,
        model_hessian_matrix,
        model_sharpness,
    )
    from hessarray.load.jax_trees import from_equinox, from_flax
    from hessarray.load.keras_file import from_keras
    from hessarray.load.onnx_model import from_onnx
    from hessarray.load.sklearn_models import from_sklearn
    from hessarray.solve import (
        casadi_function,
        hvp_operator,
        ipopt_problem,
        pyomo_model,
        scipy_constraint,
        scipy_objective,
        scipy_residuals,
    )


__all__ = [
    "ACTIVATIONS",
    "BackendError",
    "Clip",
    "CurvatureError",
    "DTypeError",
    "Decode",
    "Dense",
    "Derivatives",
    "Encode",
    "Ensemble",
    "Function",
    "GaussianProcess",
    "HessarrayError",
    "InputConvex",
    "InputConvexQuadratic",
    "KinkWarning",
    "Layer",
    "LoadError",
    "Mean",
    "MemoryLimitError",
    "Mirror",
    "Network",
    "OptionError",
    "ParameterError",
    "Polynomial",
    "Quadratic",
    "Residual",
    "Scale",
    "ShapeError",
    "Softmax",
    "TraceError",
    "UnknownActivationError",
    "activation",
    "casadi_function",
    "check_derivatives",
    "check_directions",
    "check_finite_differences",
    "check_laplacian",
    "check_parameters",
    "export",
    "from_equinox",
    "from_flax",
    "from_keras",
    "from_onnx",
    "from_sklearn",
    "from_torch",
    "fully_connected",
    "hvp_operator",
    "icnn",
    "ipopt_problem",
    "kinks",
    "load",
    "loss_hessian_dict",
    "loss_hessian_matrix",
    "loss_sharpness",
    "model_hessian_dict",
    "model_hessian_matrix",
    "model_sharpness",
    "pyomo_model",
    "register_activation",
    "resnet",
    "save",
    "scipy_constraint",
    "scipy_objective",
    "scipy_residuals",
]

# By the module that has them: loaded when they are asked for.
_LATER = {
    "check": "check_derivatives check_directions check_finite_differences check_laplacian "
    "check_parameters",
    "curvature": "loss_hessian_dict loss_hessian_matrix loss_sharpness model_hessian_dict "
    "model_hessian_matrix model_sharpness",
    "load.jax_trees": "from_equinox from_flax",
    "load.keras_file": "from_keras",
    "load.onnx_model": "from_onnx",
    "load.sklearn_models": "from_sklearn",
    "solve": "casadi_function hvp_operator ipopt_problem pyomo_model scipy_constraint "
    "scipy_objective scipy_residuals",
}
_MODULES = {name: module for module, names in _LATER.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("hessarray")
    from importlib import import_module

    if name == "curvature":
        return import_module("hessarray.curvature")
    if name in _MODULES:
        return getattr(import_module(f"hessarray.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'hessarray' has no attribute '{name}'")
