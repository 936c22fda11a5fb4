"""One file per array library, and the protocol that they meet."""

from hessarray.backends.protocol import Backend
from hessarray.backends.registry import backend_named, backend_of, known_backends, outside_compilers

__all__ = ["Backend", "backend_named", "backend_of", "known_backends", "outside_compilers"]
