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
from hessarray.networks import Network, fully_connected, icnn, resnet

__version__ = "0.1.0"

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
    "fully_connected",
    "icnn",
    "register_activation",
    "resnet",
]
