"""One candidate from its choice to its loss: made, asked a few rows, and if that looks well all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import edgeport
from edgeport.bundle import Bundle
from edgeport.errors import EdgeportError

from edgeport_export.compression.candidate import FAILED, STOPPED, Candidate
from edgeport_export.compression.judge import Judge, Judged
from edgeport_export.compression.space import Choice, Space
from edgeport_export.compression.target import HERE
from edgeport_export.compression.workshop import SMALL, Workshop, candidate_name
from edgeport_export.messages import first_line
from edgeport_export.quality.outcomes import Loss, loss_interval
from edgeport_export.quality.rows import Row

__all__ = ["Evaluator", "ask"]

_FEW = 128
"""Rows after which a candidate that is sure to lose more than the budget is given up."""


def ask(judge: Judge, bundle: Path, variant: str, rows: Sequence[Row], provider: str) -> Judged:
    """What a bundle's variant answers."""
    with edgeport.load(bundle, variant=variant, providers=provider) as pipe:
        return judge.ask(pipe, rows)


@dataclass
class Evaluator:
    """Makes and scores candidates; does not time them."""

    workshop: Workshop
    judge: Judge
    space: Space
    rows: Sequence[Row]
    """The search rows."""
    original: Path
    """The bundle that has fp32."""
    budget: float
    seed: int
    provider: str
    """Where candidates run; the original is asked on the CPU."""
    _asked: dict[int, Judged] = field(default_factory=dict)

    def evaluate(self, number: int, choice: Choice) -> Candidate:
        """Make and score one; what goes wrong is in the result, since one bad candidate must not end a search."""
        recipe = self.space.recipe(choice)
        candidate = Candidate(number, dict(choice), candidate_name(recipe))
        start = perf_counter()
        try:
            bundle = self.workshop.build(recipe)
            built = perf_counter()
            variant = Bundle.open(bundle).variant(SMALL)
            loss, enough = self._loss(bundle)
        except EdgeportError as e:
            return replace(candidate, status=FAILED, reason=str(e), seconds={"build": perf_counter() - start})
        except Exception as e:  # a library gave up on an odd structure
            reason = f"this combination does not work ({first_line(e)})."
            return replace(candidate, status=FAILED, reason=reason, seconds={"build": perf_counter() - start})
        found = replace(
            candidate,
            loss=loss,
            size_bytes=variant.size_bytes,
            notes=variant.notes,
            seconds={"build": round(built - start, 2), "score": round(perf_counter() - built, 2)},
        )
        if enough:
            return found
        reason = f"lost at least {loss.low:.2f} {loss.unit} on the first {loss.rows} rows."
        return replace(found, status=STOPPED, reason=reason)

    def loss_of(self, bundle: Path, variant: str, rows: Sequence[Row], original: Judged, confidence: float) -> Loss:
        """The loss on ``rows`` against the original's answers there."""
        return self._compare(original, ask(self.judge, bundle, variant, rows, self.provider), confidence)

    def _compare(self, original: Judged, asked: Judged, confidence: float = 0.95) -> Loss:
        return loss_interval(*self.judge.compare(original, asked), confidence=confidence, seed=self.seed)

    def _loss(self, bundle: Path) -> tuple[Loss, bool]:
        """The loss, and whether it was measured on all search rows."""
        with edgeport.load(bundle, variant=SMALL, providers=self.provider) as pipe:
            if len(self.rows) >= 2 * _FEW and self.judge.group is None:
                loss = self._compare(self._original(_FEW), self.judge.ask(pipe, self.rows[:_FEW]))
                if loss.low > self.budget:
                    return loss, False
            return self._compare(self._original(len(self.rows)), self.judge.ask(pipe, self.rows)), True

    def _original(self, count: int) -> Judged:
        if count not in self._asked:
            self._asked[count] = ask(self.judge, self.original, "fp32", self.rows[:count], HERE)
        return self._asked[count]
