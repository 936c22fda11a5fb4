"""Exact values, gradients and Hessians of trained networks, on the arrays you already use."""

from typing import TYPE_CHECKING, Any

from hessarray.activations import ACTIVATIONS, activation, register_activation
from hessarray.errors import (
    BackendError,
    DTypeError,
    HessarrayError,
    LoadError,
    MemoryLimitError,
    OptionError,
    ParameterError,
    ShapeError,
    TraceError,
    UnknownActivationError,
)
from hessarray.export import export
from hessarray.export import export
from hessarray.function import Derivatives, Function
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
    "check_derivatives",
    "check_directions",
    "check_finite_differences",
    "check_laplacian",
    "check_parameters",
    "export",
    "export",
    "from_torch",
    "fully_connected",
    "icnn",
    "load",
    "register_activation",
    "resnet",
    "save",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("hessarray")
    if name.startswith("check_") and name in __all__:
        import hessarray.check

        return getattr(hessarray.check, name)
    raise AttributeError(f"module 'hessarray' has no attribute '{name}'")
