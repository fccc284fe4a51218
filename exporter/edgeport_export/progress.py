"""What a person sees while an export runs: the stage, its time, and a line for each that is done.

Everything goes to stderr, and only to a terminal: a log file or a program sees nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

__all__ = ["Progress"]


class Progress:
    """Times stages; shows them where ``show`` is on and stderr is a terminal."""

    def __init__(self, *, show: bool = True) -> None:
        # The stream as it is now: torch announces what it likes on stderr, which the capture sends elsewhere.
        self._console = Console(file=sys.stderr)
        self._show = show and self._console.is_terminal
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, doing: str) -> Iterator[Callable[[str], None]]:
        """Time a stage called ``name``; ``doing`` is what the terminal says meanwhile.

        What the ``with`` gives is a function that says how far the stage has come.
        """
        start = time.perf_counter()
        if self._show:
            with self._console.status(f"{doing} …") as status:
                yield lambda text: status.update(f"{doing}: {text} …")
        else:
            yield lambda text: None
        taken = time.perf_counter() - start
        self.seconds[name] = round(self.seconds.get(name, 0.0) + taken, 3)
        if self._show:
            self._console.print(f"[green]✓[/] {doing} [dim]{taken:.1f} s[/]")

    def note(self, text: str) -> None:
        """Say something that a person should know."""
        if self._show:
            self._console.print(f"[yellow]![/] {text}", highlight=False, markup=True)
