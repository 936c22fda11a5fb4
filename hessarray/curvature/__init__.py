"""Curvature: Hessians in the parameters, and what only needs products with them."""

from hessarray.curvature.estimators import DiagonalEstimate, TraceEstimate, diagonal, trace

__all__ = ["DiagonalEstimate", "TraceEstimate", "diagonal", "trace"]
