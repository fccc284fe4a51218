"""How many tokens to guess ahead: as many as bring the most tokens a second. Knows counts and seconds, no model.

A run of several tokens fetches the weights once, as a run of one does, so that with weights in fp32 it takes little
longer. With weights of 8 or 4 bits it may take as long as three or four runs of one, whether it reads four tokens or
sixteen: a Llama of 8M parameters on two cores takes 1.1, 3.9 and 4.7 runs' time for four tokens in fp32, int8 and int4.
So the times are taken while the text is written, and so is how often a guess was right; where no number of guesses
promises to save time, none is made.
"""

from __future__ import annotations

__all__ = ["Pace"]

_RIGHT = 0.7
"""Share of guesses that are taken to be right before any was judged."""

_MEMORY = 0.1
"""Weight of the last guess in that share, and of the last run in the time that a run of its size is taken to need."""

_MARGIN = 1.1
"""What guesses must promise, in tokens a second over those without: less is lost in the noise of both figures."""

_FADING = 0.998
"""A time counts for this much less after each run of another size, down to that of a shorter run, so that a size that
was slow once is tried again: one of three single runs' time about every 550 tokens, were no guess ever right."""


class Pace:
    """Runs are of 1, 2, 4, 8, … tokens, up to the most that may be guessed and one."""

    def __init__(self, most: int) -> None:
        """Allow ``most`` guesses at once."""
        self._most = most
        self._right = _RIGHT
        self._seconds: dict[int, float] = {}
        """By the binary logarithm of a run's tokens, rounded up: what one takes."""

    def count(self) -> int:
        """Tokens to guess now; none in the first run, which all others are measured against."""
        if 0 not in self._seconds:
            return 0
        seconds = self._seconds[0]
        best, rate = 0, _MARGIN / seconds
        for size in range(1, self._most.bit_length() + 1):
            count = min(2**size - 1, self._most)
            seconds = max(self._seconds.get(size, 0.0), seconds)
            tokens = sum(self._right**n for n in range(count + 1))
            if tokens > rate * seconds:
                best, rate = count, tokens / seconds
            if size not in self._seconds:  # taken to be as quick as the size before it, and the next to be tried
                break
        return best

    def judge(self, right: bool) -> None:
        """Learn whether a guess was right; those behind a wrong one are not judged."""
        self._right += _MEMORY * (right - self._right)

    def time(self, tokens: int, seconds: float) -> None:
        """Learn how long a run of so many tokens took, guessing included."""
        size = (tokens - 1).bit_length()
        known = self._seconds.get(size, seconds)
        for other in self._seconds:
            self._seconds[other] *= _FADING
        self._seconds[size] = known + _MEMORY * (seconds - known)
