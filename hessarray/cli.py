"""The command line: ``hessarray COMMAND ...``, one module for each command.

A command is a module with ``HELP``, ``add_options(parser)`` and ``run(options)``, which returns the
exit status; `COMMANDS` names it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

import hessarray
from hessarray.bench import command as bench
from hessarray.errors import HessarrayError

__all__ = ["COMMANDS", "main"]

#: Every command by name.
COMMANDS = {"bench": bench}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status: 0, 1 after an error, 2 for arguments, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="hessarray", description=hessarray.__doc__, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=hessarray.__version__)
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, module in COMMANDS.items():
        own = commands.add_parser(
            name, help=module.HELP, description=module.HELP, allow_abbrev=False
        )
        module.add_options(own)
        own.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    options.line = shlex.join(["hessarray", *arguments])
    try:
        status: int = options.run(options)
    except (HessarrayError, ImportError, OSError) as error:
        print(f"hessarray {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
