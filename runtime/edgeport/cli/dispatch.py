"""From ``argv`` to an exit status. Knows the commands by name and imports only the one that is asked for.

A command is a module with ``add_arguments(parser)``, which also writes the parser's description and epilog, and
``run(args)``, which returns the exit status.
"""

from __future__ import annotations

import argparse
import atexit
import errno
import gc
import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import ModuleType
from typing import NoReturn

from edgeport.errors import EdgeportError, MissingExtraError, UsageError

__all__ = ["COMMANDS", "Command", "main"]


@dataclass(frozen=True)
class Command:
    """Where a command's code is, and what it is for."""

    module: str
    help: str
    extra: str | None = None
    """The optional packages that it needs."""


COMMANDS: Mapping[str, Command] = {
    "export": Command("edgeport_export.cli", "turn a Hugging Face model into a bundle", "export"),
    "compress": Command("edgeport_export.compression.cli", "make a model small and fast within a budget", "compress"),
    "run": Command("edgeport.cli.run", "run a bundle on texts; results as JSON lines"),
    "chat": Command("edgeport.cli.chat", "talk with a bundle that writes text"),
    "inspect": Command("edgeport.cli.inspect", "show what is in a bundle"),
    "verify": Command("edgeport.cli.verify", "check a bundle: schema, hashes, and every graph"),
    "evaluate": Command("edgeport_export.quality.cli", "score a bundle on labelled data", "quality"),
    "bench": Command("edgeport_bench.cli", "measure a bundle's latency, throughput and memory", "bench"),
}

_EXAMPLE = """\
example:
  edgeport export sentence-transformers/all-MiniLM-L6-v2 minilm
  edgeport run minilm 'A sentence to embed.'

`edgeport COMMAND --help` explains a command.
"""
_BROKEN_PIPE = 128 + 13
_INTERRUPTED = 128 + 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (the process's own where left out) and return the exit status.

    0 is success, 1 a failure, 2 a wrong call. Errors are one line on stderr; ``--debug`` adds the traceback.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            status = _dispatch(argv)
        except SystemExit as e:  # argparse ends --help and --version so
            status = e.code if isinstance(e.code, int) else 0
        sys.stdout.flush()  # here, and not at exit, a reader that went away can still be caught
        return status
    except BrokenPipeError:
        # Whatever is still buffered has nowhere to go; let it vanish, so that Python does not complain at exit.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        print("edgeport: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except Exception as e:
        if "--debug" in argv:
            traceback.print_exc()
        print(f"edgeport: error: {_sentence(e)}", file=sys.stderr)
        return e.exit_status if isinstance(e, EdgeportError) else 1


class _Parser(argparse.ArgumentParser):
    """Reports a wrong call as every other error: one line, and no page of usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`.")


def _dispatch(argv: list[str]) -> int:
    parser = _top_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    if args.command not in COMMANDS:
        near = get_close_matches(args.command, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(COMMANDS)}."
        raise UsageError(f"there is no command {args.command!r}: {hint}")
    module = _import(args.command)
    command_parser = _Parser(
        prog=f"edgeport {args.command}", formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    module.add_arguments(command_parser)
    command_parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    # Intermixed: `edgeport run BUNDLE --top-k 3 TEXT` has its text behind an option.
    status: int = module.run(command_parser.parse_intermixed_args(args.rest))
    return status


def _top_parser() -> _Parser:
    from edgeport import __version__

    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items())
    parser = _Parser(
        prog="edgeport",
        usage="edgeport [--version] [--help] COMMAND ...",
        description=f"Take a Hugging Face model to the edge.\n\ncommands:\n{listed}",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"edgeport {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("command", nargs="?", metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _import(name: str) -> ModuleType:
    command = COMMANDS[name]
    # What is imported stays. Looking through it for garbage, now and later, is a tenth of the time of an export; and at
    # the end, when all goes at once, half a second.
    gc.disable()
    atexit.register(gc.freeze)
    try:
        return importlib.import_module(command.module)
    except ModuleNotFoundError as e:
        # A module of edgeport's own that is missing is a broken installation, which no extra would mend.
        if command.extra is None or str(e.name).startswith("edgeport"):
            raise
        raise MissingExtraError(f"`edgeport {name}`", command.extra) from e
    finally:
        gc.freeze()
        gc.enable()


def _sentence(error: Exception) -> str:
    if isinstance(error, EdgeportError):
        return str(error)
    if isinstance(error, OSError):
        where = f" at {str(error.filename)!r}" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"the disk is full{where}: free some space and run the command again."
        return f"{error.strerror or error}{where}."
    if isinstance(error, MemoryError):
        return "the memory is full: choose a smaller batch, shorter texts, or a smaller variant."
    return f"{type(error).__name__}: {error} (unexpected: run it again with --debug, and report what it shows)."
