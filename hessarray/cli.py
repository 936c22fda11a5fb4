"""The command line: ``hessarray COMMAND ...``, one module for each command.

A command is a module with ``HELP``, ``add_options(parser)`` and ``run(options)``, which returns the
exit status; `COMMANDS` names it. 0 is success, 1 that a check failed, 2 that the command line or an
input is wrong (one sentence on stderr), 130 that Ctrl-C ended the run.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hessarray
from hessarray.bench import command as bench
from hessarray.commands import check, demo, eval, export, info, plan
from hessarray.commands._options import attached
from hessarray.errors import HessarrayError

__all__ = ["COMMANDS", "main"]

#: Every command by name.
COMMANDS: dict[str, Any] = {
    "info": info,
    "eval": eval,
    "check": check,
    "plan": plan,
    "bench": bench,
    "export": export,
    "demo": demo,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="hessarray", description=hessarray.__doc__, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=hessarray.__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        own = commands.add_parser(
            name, help=module.HELP, description=module.HELP, allow_abbrev=False
        )
        module.add_options(own)
        own.set_defaults(run=module.run)
    options = parser.parse_args(attached(arguments))
    if sys.stdout is None:  # closed, as by >&- in a shell
        print(f"hessarray {options.command}: standard output is closed", file=sys.stderr)
        return 2
    options.line = shlex.join(["hessarray", *arguments])
    try:
        with _one_line_warnings(f"hessarray {options.command}"), _terminated_as_interrupted():
            status: int = options.run(options)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (HessarrayError, ImportError, MemoryError, OSError) as error:
        print(f"hessarray {options.command}: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"hessarray {options.command}: interrupted", file=sys.stderr)
        return 130
    return status


def _sentence(error: BaseException) -> str:
    """What went wrong; an error of the system names its file first."""
    if isinstance(error, OSError) and not isinstance(error, HessarrayError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


@contextmanager
def _one_line_warnings(prefix: str) -> Iterator[None]:
    """Warnings as sentences on stderr, without the line of code that they came from."""

    def show(message: Warning | str, *_: Any) -> None:
        print(f"{prefix}: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: what is half written is taken away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
