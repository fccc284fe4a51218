"""Decoders that are kept after their call, because the next prompt may begin as theirs did. Knows no texts.

A conversation's next turn begins with all that was said before, and conversations of one application with the same
system prompt: what is shared is not read again. As many decoders are kept as the user allows, one at first, each with
the cache of one row: their number bounds the memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from edgeport.generate.decoder import Decoder, shared_start

__all__ = ["PromptCache"]

_SAME = 0.8
"""Share of a kept row that a prompt must begin with to take the row over: then it is, or nearly is, the next turn."""


class PromptCache:
    """Lends decoders to calls. Several threads may use it at once."""

    def __init__(self, make: Callable[[], Decoder], keep: int = 1) -> None:
        """Keep ``keep`` decoders, which ``make`` opens."""
        self._make = make
        self._keep = keep
        self._idle: list[Decoder] = []
        """The one that was used last is the last."""
        self._lock = threading.RLock()  # a forgotten stream may be collected, and gives back, anywhere

    @contextmanager
    def lend(self, prompt: Sequence[int], *, single: bool = True) -> Iterator[Decoder]:
        """A decoder for one prompt, with the kept row that begins most like it; the caller starts it.

        It is kept again when the call is over, or when its loop is left early; not after an error, when nobody knows
        what its cache holds, and not with several rows.

        Args:
            prompt: The tokens that will be read.
            single: Whether it will have one row to the end; if not, kept rows are copied and not taken over.
        """
        decoder = self._take(prompt, single)
        try:
            yield decoder
        except GeneratorExit:
            self._give(decoder)  # a stream that is left stops between two runs of the model
            raise
        self._give(decoder)

    def keep(self, count: int) -> None:
        """Keep so many from now on."""
        with self._lock:
            self._keep = count
            self._trim()

    def _take(self, prompt: Sequence[int], single: bool) -> Decoder:
        with self._lock:
            rows = [(shared_start(decoder.tokens[0], prompt), i) for i, decoder in enumerate(self._idle)]
            shared, best = max(rows, default=(0, 0))
            if not single:
                return self._idle[best].copy(shared) if shared else self._make()
            full = len(self._idle) >= self._keep
            if not shared:
                # The oldest one's memory rather than more, once there are enough.
                return self._idle.pop(0) if rows and full else self._make()
            decoder = self._idle[best]
            if self._keep == 1 or shared >= _SAME * len(decoder.tokens[0]):
                return self._idle.pop(best)
            # Another conversation that begins alike: it keeps its row, and the oldest of the others makes room.
            if full and len(rows) > 1:
                del self._idle[0 if best else 1]
            return decoder.copy(shared)

    def _give(self, decoder: Decoder) -> None:
        with self._lock:
            if len(decoder.tokens) == 1:
                self._idle.append(decoder)
                self._trim()

    def _trim(self) -> None:
        del self._idle[: max(0, len(self._idle) - self._keep)]
