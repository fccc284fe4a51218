"""What is asked of a compression: the budget, the data, what to minimize, and how long to look. Does no work."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeport.errors import UsageError

from edgeport_export.compression.target import HERE, parse_target

__all__ = ["LOCAL", "MINIMIZE", "CompressOptions", "parse_budget", "parse_seconds"]

MINIMIZE = ("latency", "size", "memory")
LOCAL = "local"
"""In the place of a cluster's address."""
_UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class CompressOptions:
    """Every choice of a compression.

    Raises:
        UsageError: a value is not allowed.
    """

    evaluation: str
    """A file of rows that the task is scored on, ``datasets:NAME``, or plain text (then the model is compared with the
    original)."""
    budget: float = 1.0
    """What may be lost: points of a score (100 is the best), or per cent of perplexity."""
    calibration: str | None = None
    """Rows for whatever looks at samples or trains; None takes a part of the evaluation rows."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What the files call the columns."""
    metric: str | None = None
    """One of the task's, or ``module:function``, which takes answers and rows and gives a number, larger is better."""
    minimize: str = "latency"
    batch: int = 1
    length: int | None = None
    """Tokens of the texts that are timed; None takes the data's own lengths."""
    lengths_from: str | None = None
    """A text file, a line a text, whose lengths are the ones to be timed."""
    target: str = HERE
    """A provider of this machine, or the file of another machine's description."""
    threads: int | None = None
    """Of the processor that the model is for: candidates are timed with so many; None takes all of this machine's."""
    seconds: float = 1200.0
    """Time for the whole, about: what has begun is brought to its end."""
    trials: int = 24
    """Candidates, at most."""
    seed: int = 0
    jobs: int = 1
    """Processes that make and score candidates; they are timed one after the other, on this machine."""
    ray: str | None = None
    """The address of a Ray cluster whose processes they are, or ``local`` for one of this machine alone."""

    def __post_init__(self) -> None:
        if self.minimize not in MINIMIZE:
            raise UsageError(f"--minimize {self.minimize!r} is not known: choose from {', '.join(MINIMIZE)}.")
        if not 0 < self.budget < 100:
            raise UsageError(f"a budget of {self.budget:g} is not between 0 and 100: write it like 1%.")
        for name in ("batch", "trials", "jobs", "length", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} {value} is too small: give at least 1.")
        parse_target(self.target)
        if self.seconds <= 0:
            raise UsageError(f"--time of {self.seconds:g} s is no time: write it like 20m.")
        if self.length is not None and self.lengths_from is not None:
            raise UsageError("--length and --lengths-from exclude each other: leave one of them out.")


def parse_budget(text: str) -> float:
    """``1%``, ``0.5`` as a number.

    Raises:
        UsageError: it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%|points?)?\s*", text)
    if match is None:
        raise UsageError(f"--budget {text!r} is no number: write it like 1%.")
    return float(match[1])


def parse_seconds(text: str) -> float:
    """``90s``, ``20m``, ``1h`` or plain seconds.

    Raises:
        UsageError: it is none of them.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh])?\s*", text)
    if match is None:
        raise UsageError(f"--time {text!r} is no time: write it like 90s, 20m or 1h.")
    return float(match[1]) * _UNITS[match[2] or "s"]
