"""Where a conversation is held: a person's terminal or a pipe. Answers go to stdout, what is about them to stderr."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import Any

from edgeport.cli.streams import dim, lines_of, printable, utf8

__all__ = ["Meter", "Terminal", "interruptible"]

_FENCE = '"""'


class Terminal:
    """Reads turns and shows answers."""

    def __init__(self) -> None:
        self.interactive = sys.stdin.isatty()
        """Whether a person types; a pipe's lines are turns as they are, whatever they begin with."""
        utf8(sys.stdout)
        if self.interactive:
            with suppress(ImportError):  # absent on Windows; where it is, ``input`` has history and editing
                import readline  # noqa: F401

    def turns(self) -> Iterator[str]:
        """What the user says, turn by turn, until the input ends."""
        if not self.interactive:
            yield from lines_of(sys.stdin)
            return
        while True:
            try:
                yield self._turn()
            except EOFError:
                print(file=sys.stderr)  # the shell's prompt belongs on a line of its own
                return
            except KeyboardInterrupt:
                print(file=sys.stderr)
                self.note("Ctrl-D or /exit leaves.")

    def show(self, piece: str) -> None:
        """Print a piece of an answer, at once."""
        print(printable(piece, sys.stdout), end="", flush=True)

    def end_line(self) -> None:
        """End the answer's last line."""
        print(flush=True)

    def note(self, text: str) -> None:
        """Say something about the conversation."""
        print(dim(text, sys.stderr), file=sys.stderr, flush=True)

    def _turn(self) -> str:
        """One line, or those between two fences."""
        line = self._line("> ")
        start = line.strip()
        if not start.startswith(_FENCE):
            return line
        lines = [start.removeprefix(_FENCE)]
        while not lines[-1].rstrip().endswith(_FENCE):
            lines.append(self._line("... "))
        lines[-1] = lines[-1].rstrip().removesuffix(_FENCE)
        return "\n".join(lines).removeprefix("\n")

    def _line(self, prompt: str) -> str:
        if sys.stdout.isatty():
            return input(prompt)
        print(prompt, end="", file=sys.stderr, flush=True)  # stdout is for answers alone
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")


class Meter:
    """Counts an answer's tokens and takes their times: before each of them a search asks whether to stop."""

    def __init__(self) -> None:
        self.stopped = False
        self._marks: list[float] = []

    def is_set(self) -> bool:
        """Asked by the search."""
        if not self.stopped:
            self._marks.append(perf_counter())
        return self.stopped

    def end(self) -> None:
        """The last token is there."""
        self._marks.append(perf_counter())

    @property
    def tokens(self) -> int:
        """How many were written."""
        return max(len(self._marks) - 1, 0)

    @property
    def first_ms(self) -> float:
        """Milliseconds to the first token."""
        return (self._marks[1] - self._marks[0]) * 1e3 if self.tokens else 0.0

    @property
    def rate(self) -> float | None:
        """Tokens a second after the first one; None if there is none."""
        seconds = self._marks[-1] - self._marks[1] if self.tokens > 1 else 0.0
        return (self.tokens - 1) / seconds if seconds > 0 else None


@contextmanager
def interruptible(meter: Meter) -> Iterator[None]:
    """Ctrl-C stops the answer before its next token, so that the model's cache stays sound; a second one breaks off."""

    def stop(*_: Any) -> None:
        if meter.stopped:
            raise KeyboardInterrupt
        meter.stopped = True

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
