"""What is known of a choice before it is made: how much of the model it leaves, and whether it can still win.

A cut costs a minute, and learning from the original some more. What a cut leaves of the arithmetic says what it can
gain, and what gentler cuts lost says what it will lose at least, so that most need not be made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeport_export.compression.candidate import COMPLETE, FAILED, Candidate
from edgeport_export.compression.space import NOTHING, Choice
from edgeport_export.pruning import Prune

__all__ = ["Outlook"]

_ENOUGH = 2
"""Faster candidates that are expected to hold the budget: one to ship, and one in its place if test rows refuse it."""


@dataclass(frozen=True)
class Outlook:
    """Of one model's choices."""

    layers: int
    """Of the model."""
    budget: float
    test_rows: int

    def arithmetic(self, choice: Choice) -> float:
        """Share of the layers' arithmetic that a choice leaves."""
        gone, kept = self._cut(choice)
        return (1 - gone) * kept

    def hopeless(self, choice: Choice, found: Sequence[Candidate]) -> bool:
        """Whether ``choice`` cuts, and can neither be faster than what holds the budget nor hold it itself."""
        if choice["prune"] == NOTHING:
            return False
        return self._slow(choice, found) or self._lossy(choice, found)

    def _slow(self, choice: Choice, found: Sequence[Candidate]) -> bool:
        made = {_structure(c.choice) for c in found if c.status == COMPLETE}
        hold = [c for c in found if c.status == COMPLETE and c.expected_high(self.test_rows) <= self.budget]
        left = self.arithmetic(choice)
        faster = sum(
            self.arithmetic(c.choice) <= left
            and c.choice["prune"] != NOTHING
            and all(c.choice.get(name) == choice.get(name) for name in ("bits", "precision", "vocabulary"))
            for c in hold
        )
        return faster >= _ENOUGH and _structure(choice) not in made

    def _lossy(self, choice: Choice, found: Sequence[Candidate]) -> bool:
        """Whether what cuts less has lost too much, or, with half the learning, is not expected to hold: cuts between
        the two come first, since there is time for few."""
        return any(
            (c.loss.value > self.budget and self._gentler(c.choice, choice))
            or (c.expected_high(self.test_rows) > self.budget and self._gentler(c.choice, choice, learnt=0.5))
            for c in found
            if c.status != FAILED and c.loss is not None
        )

    def _gentler(self, one: Choice, other: Choice, *, learnt: float = 1.0) -> bool:
        """Whether ``one`` cuts no more than ``other``, in each way to cut, learns that share of the steps or more, and
        is the same else."""
        here, there = self._cut(one), self._cut(other)
        steps = one.get("recover", 0) >= learnt * other.get("recover", 0)
        gentler = here[0] <= there[0] and here[1] >= there[1] and steps
        return gentler and all(one[name] == other[name] for name in one if name not in ("prune", "recover"))

    def _cut(self, choice: Choice) -> tuple[float, float]:
        """Share of the layers that go, and share of what is in the others that stays."""
        if choice["prune"] == NOTHING:
            return 0.0, 1.0
        cut = Prune.parse(choice["prune"])
        assert isinstance(cut.layers, int)
        return cut.layers / max(self.layers, 1), cut.flops if cut.flops is not None else 1.0


def _structure(choice: Choice) -> tuple[object, ...]:
    """What has to be made anew where it differs."""
    return choice["prune"], choice.get("recover", 0), choice.get("vocabulary")
