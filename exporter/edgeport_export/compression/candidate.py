"""What became of a candidate, as plain data: kept in the study, so that a search can go on, and in the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from edgeport_export.quality.outcomes import Loss

__all__ = ["COMPLETE", "FAILED", "STOPPED", "Candidate"]

COMPLETE, STOPPED, FAILED = "complete", "stopped early", "failed"


@dataclass(frozen=True)
class Candidate:
    """One choice that was tried."""

    number: int
    choice: Mapping[str, Any]
    name: str
    """Of its recipe and its folder."""
    status: str = COMPLETE
    reason: str = ""
    """Why it did not get further."""
    loss: Loss | None = None
    """On the search rows, or on the first of them."""
    size_bytes: int = 0
    ratio: float | None = None
    """How many times as fast as the export without a search, in the same turns."""
    spread: float | None = None
    """Of the turns, see ``timing.Timed``."""
    memory_bytes: int | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    """What it cost: to build, to score, to time."""
    notes: tuple[str, ...] = ()
    """What was done and what was skipped, in the makers' words."""

    def expected_high(self, test_rows: int) -> float:
        """Where the loss's interval will end on ``test_rows`` rows that are like those seen."""
        assert self.loss is not None
        return self.loss.value + (self.loss.high - self.loss.value) * sqrt(self.loss.rows / max(test_rows, 1))

    def objective(self, minimize: str) -> float:
        """What is minimized: time as a share of the plain export's, bytes on disk, or bytes in memory."""
        time = None if self.ratio is None else 1 / self.ratio
        found = {"latency": time, "size": self.size_bytes, "memory": self.memory_bytes}[minimize]
        return float("inf") if found is None else float(found)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Candidate:
        """The inverse of ``to_dict``, after a way through JSON."""
        loss = data["loss"]
        values = {**data, "loss": None if loss is None else Loss(**loss), "notes": tuple(data["notes"])}
        return cls(**values)
