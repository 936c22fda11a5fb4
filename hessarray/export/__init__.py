"""Derivatives as a module of their own, which needs NumPy, CuPy or torch and not hessarray."""

from hessarray.export.files import export

__all__ = ["export"]
