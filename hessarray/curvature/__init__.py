"""Curvature: Hessians in the parameters, and what only needs products with them."""

from hessarray.curvature.estimators import DiagonalEstimate, TraceEstimate, diagonal, trace
from hessarray.curvature.inverse import Solution, solve
from hessarray.curvature.pictures import (
    loss_along,
    plot_blocks,
    plot_loss_along,
    plot_spectrum,
)
from hessarray.curvature.spectrum import (
    EigenPairs,
    SpectralDensity,
    eigenpairs,
    sharpness,
    spectral_density,
)

__all__ = [
    "DiagonalEstimate",
    "EigenPairs",
    "Solution",
    "SpectralDensity",
    "TraceEstimate",
    "diagonal",
    "eigenpairs",
    "loss_along",
    "plot_blocks",
    "plot_loss_along",
    "plot_spectrum",
    "sharpness",
    "solve",
    "spectral_density",
    "trace",
]
