"""The process's own streams, as commands read and write them: UTF-8 lines in, text out, warnings as sentences."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from edgeport.errors import InputError

__all__ = ["dim", "lines_of", "plain_warnings", "printable", "utf8"]

_CONTROLS = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_CONTROLS |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def lines_of(stream: TextIO) -> Iterator[str]:
    """The lines of ``stream`` as they come, without their ends.

    Raises:
        InputError: it is not UTF-8.
    """
    utf8(stream)
    try:
        for line in stream:
            yield line.rstrip("\r\n")
    except UnicodeDecodeError as e:
        raise InputError(f"stdin is not UTF-8 text ({e.reason}): convert it first.") from e


def utf8(stream: TextIO) -> None:
    """Read and write UTF-8, whatever the system's own encoding; JSON lines are."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding="utf-8")


def printable(text: str, stream: TextIO) -> str:
    """``text`` as ``stream`` is to get it: a model must not steer a terminal, so there control characters are shown."""
    return text.translate(_CONTROLS) if stream.isatty() else text


def dim(text: str, stream: TextIO) -> str:
    """``text`` in a fainter colour where ``stream`` is a terminal that has one, and NO_COLOR is not set."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[2m{text}\x1b[0m"


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show a warning as a line for people, without the place in the code that it comes from."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print(f"edgeport: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
