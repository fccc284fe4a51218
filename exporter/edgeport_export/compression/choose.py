"""Which candidate ships: chosen by the search rows, judged by test rows that the search never saw.

A candidate is expected to hold the budget if its loss's interval, as wide as the test rows will make it, ends below it.
The best of these is tried on the test rows; if it fails, the next; at last the safest of all. Each further try halves
what may go wrong (2.5 %, 1.25 %, ...), so that all of them together hold the budget with 95 % confidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edgeport_export.compression.candidate import COMPLETE, Candidate
from edgeport_export.compression.search import NOISE
from edgeport_export.quality.outcomes import Loss

__all__ = ["HELD", "MISSED", "UNPROVEN", "Decision", "Finalist", "decide", "finalists", "pareto"]

HELD, UNPROVEN, MISSED = "held", "unproven", "missed"
"""The loss's interval lies within the budget; the loss does, and the data are too few to prove it; it does not."""
_TRIES = 3


@dataclass(frozen=True)
class Finalist:
    """A candidate on the test rows."""

    candidate: Candidate
    loss: Loss
    verdict: str


@dataclass(frozen=True)
class Decision:
    """What came of the finalists."""

    chosen: Finalist | None
    """None if no finalist lost less than the budget."""
    tried: Sequence[Finalist]

    @property
    def closest(self) -> Finalist | None:
        """The one that lost least."""
        return min(self.tried, key=lambda f: f.loss.value, default=None)


def finalists(candidates: Sequence[Candidate], budget: float, test_rows: int, minimize: str) -> list[Candidate]:
    """Those to be tried on the test rows, in order; three at most."""
    complete = [c for c in candidates if c.status == COMPLETE and c.loss is not None]
    hold = [c for c in complete if c.expected_high(test_rows) <= budget]
    expected = list(_best_first(hold, test_rows, minimize))[: _TRIES - 1]
    safest = sorted(complete, key=lambda c: (c.expected_high(test_rows), c.number))
    return expected + [c for c in safest if c not in expected][: 1 if expected else _TRIES]


def _best_first(candidates: Sequence[Candidate], test_rows: int, minimize: str) -> Iterator[Candidate]:
    """Of those that the best one beats by no more than noise, the one that loses least comes first: so that noise does
    not decide."""
    left, noise = list(candidates), 0 if minimize == "size" else NOISE
    while left:
        best = min(c.objective(minimize) for c in left)
        near = [c for c in left if c.objective(minimize) <= best * (1 + noise)]
        chosen = min(near, key=lambda c: (c.expected_high(test_rows), c.number))
        left.remove(chosen)
        yield chosen


def decide(candidates: Sequence[Candidate], budget: float, judge: Callable[[Candidate, float], Loss]) -> Decision:
    """Try ``candidates`` in order until one holds the budget.

    Args:
        candidates: As ``finalists`` gives them.
        budget: What may be lost.
        judge: A candidate and a confidence to its loss on the test rows, with that interval.
    """
    tried: list[Finalist] = []
    for number, candidate in enumerate(candidates):
        loss = judge(candidate, 1 - 0.05 / 2**number)
        verdict = HELD if loss.high <= budget else UNPROVEN if loss.value <= budget else MISSED
        tried.append(Finalist(candidate, loss, verdict))
        if verdict == HELD:
            break
    best = next((f for v in (HELD, UNPROVEN) for f in tried if f.verdict == v), None)
    return Decision(best, tried)


def pareto(candidates: Sequence[Candidate], minimize: str) -> list[Candidate]:
    """Those that no other beats in both loss and what is minimized, the least loss first."""
    complete = [c for c in candidates if c.status == COMPLETE and c.loss is not None]
    front: list[Candidate] = []
    for c in sorted(complete, key=lambda c: (c.loss.value if c.loss else 0.0, c.objective(minimize))):
        if not front or c.objective(minimize) < front[-1].objective(minimize):
            front.append(c)
    return front
