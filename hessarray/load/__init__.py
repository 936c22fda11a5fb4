"""Networks from files and from other libraries; files to be read again."""

from hessarray.load.architecture import from_architecture, to_architecture
from hessarray.load.files import load, save
from hessarray.load.torch_modules import from_torch

__all__ = ["from_architecture", "from_torch", "load", "save", "to_architecture"]
