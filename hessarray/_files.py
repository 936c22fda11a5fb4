"""A file that is whole or not there: written beside its place, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["replacing"]


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the name ``path`` when the block ends, and vanishes where it fails."""
    import secrets  # brings random and hmac, which `import hessarray` can do without

    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # before the rename, or a crash could leave an empty file
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
