"""Exact values, gradients and Hessians of trained networks, on the arrays you already use."""

from hessarray.activations import ACTIVATIONS, activation, register_activation
from hessarray.errors import (
    BackendError,
    DTypeError,
    HessarrayError,
    LoadError,
    MemoryLimitError,
    ParameterError,
    ShapeError,
    TraceError,
    UnknownActivationError,
)
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


__all__ = [
    "ACTIVATIONS",
    "BackendError",
    "DTypeError",
    "Dense",
    "Derivatives",
    "Function",
    "HessarrayError",
    "InputConvex",
    "InputConvexQuadratic",
    "Layer",
    "LoadError",
    "MemoryLimitError",
    "Network",
    "ParameterError",
    "Quadratic",
    "Residual",
    "ShapeError",
    "TraceError",
    "UnknownActivationError",
    "activation",
    "from_torch",
    "fully_connected",
    "icnn",
    "load",
    "register_activation",
    "resnet",
    "save",
]


def __getattr__(name: str) -> str:
    if name == "__version__":  # read when asked for: importlib.metadata takes its time
        from importlib.metadata import version

        return version("hessarray")
    raise AttributeError(f"module 'hessarray' has no attribute '{name}'")
