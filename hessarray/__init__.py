"""Exact values, gradients and Hessians of trained networks, on the arrays you already use."""

from typing import TYPE_CHECKING, Any

from hessarray.activations import ACTIVATIONS, activation, register_activation
from hessarray.errors import (
    BackendError,
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
    "pyomo_model",
    "register_activation",
    "resnet",
    "save",
    "scipy_constraint",
    "scipy_objective",
    "scipy_residuals",
]

_SOLVERS = (  # of hessarray.solve
    "casadi_function",
    "hvp_operator",
    "ipopt_problem",
    "pyomo_model",
    "scipy_constraint",
    "scipy_objective",
    "scipy_residuals",
)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("hessarray")
    if name.startswith("check_") and name in __all__:
        import hessarray.check

        return getattr(hessarray.check, name)
    if name in ("from_equinox", "from_flax"):
        from hessarray.load import jax_trees

        return getattr(jax_trees, name)
    if name == "from_keras":
        from hessarray.load.keras_file import from_keras

        return from_keras
    if name == "from_onnx":
        from hessarray.load.onnx_model import from_onnx

        return from_onnx
    if name == "from_sklearn":
        from hessarray.load.sklearn_models import from_sklearn

        return from_sklearn
    if name in _SOLVERS:
        import hessarray.solve

        return getattr(hessarray.solve, name)
    raise AttributeError(f"module 'hessarray' has no attribute '{name}'")
