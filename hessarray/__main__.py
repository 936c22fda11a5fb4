"""``python -m hessarray``: the command line."""

import sys

from hessarray.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
