"""What a model got right, row by row, and the loss against the original with its confidence interval.

A metric over resampled rows is wanted thousands of times, so a row's part in it is kept as a few numbers: most metrics
are functions of sums over rows. The values are those of the libraries that ``Scorer.score`` asks; tests compare them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Called", "Loss", "Outcomes", "RankCorrelation", "Sums", "figures", "loss_interval", "mean_of"]

Floats = NDArray[np.float64]
Draws = NDArray[np.int64]
"""(draws, rows): the numbers of the rows that each draw consists of."""

_AT_ONCE = 2**22
"""Numbers held at a time while draws are evaluated."""


@dataclass(frozen=True)
class Sums:
    """A metric that is a function of sums over rows."""

    rows: Floats
    """(rows, sums)."""
    combine: Callable[[Floats], Floats]
    """(draws, sums) to (draws,)."""
    relative: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def values(self, draws: Draws) -> Floats:
        step = max(1, _AT_ONCE // max(1, len(self.rows)))
        parts = []
        for start in range(0, len(draws), step):
            counts = np.stack([np.bincount(d, minlength=len(self.rows)) for d in draws[start : start + step]])
            parts.append(self.combine(counts.astype(np.float64) @ self.rows))
        return np.concatenate(parts)


def mean_of(values: Sequence[float] | NDArray[Any]) -> Sums:
    """The mean of a number a row, times 100."""
    column = np.asarray(values, dtype=np.float64)[:, None]
    return Sums(np.hstack([column, np.ones_like(column)]), lambda sums: 100 * sums[:, 0] / sums[:, 1])


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's correlation times 100: ranks belong to the draw, so it is no function of sums."""

    found: Floats
    wanted: Floats
    relative: bool = False

    def __len__(self) -> int:
        return len(self.wanted)

    def values(self, draws: Draws) -> Floats:
        from scipy.stats import rankdata

        parts = []
        step = max(1, _AT_ONCE // max(1, len(self)))
        for start in range(0, len(draws), step):
            some = draws[start : start + step]
            a, b = (rankdata(v[some], axis=1) for v in (self.found, self.wanted))
            a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
            size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
            parts.append(100 * (a * b).sum(axis=1) / np.maximum(size, 1e-12))
        return np.concatenate(parts)


@dataclass(frozen=True)
class Called:
    """A metric of the user's: a function of answers and rows, the larger the better."""

    function: Callable[[list[Any], list[Mapping[str, Any]]], float]
    answers: Sequence[Any]
    rows: Sequence[Mapping[str, Any]]
    relative: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def values(self, draws: Draws) -> Floats:
        found = (self.function([self.answers[i] for i in d], [self.rows[i] for i in d]) for d in draws)
        return np.array([float(value) for value in found])


Outcomes = Sums | RankCorrelation | Called
"""The outcomes of one model on rows that all are asked about, in the same order. ``values`` gives the metric over
each draw, (draws,); ``relative`` says that a loss is the growth in per cent (perplexity), not the points lost."""


@dataclass(frozen=True)
class Loss:
    """How much worse a model is than the original: positive is worse."""

    value: float
    low: float
    high: float
    """The interval that holds the loss with ``confidence``."""
    confidence: float
    original: float
    """The metric of the original, and of the model, on these rows."""
    model: float
    rows: int
    relative: bool

    @property
    def unit(self) -> str:
        """What a loss of 1 is."""
        return "%" if self.relative else "points"


def loss_interval(
    original: Outcomes, model: Outcomes, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Loss:
    """The loss, with a paired bootstrap interval (percentile; Efron and Tibshirani 1993, chapter 13).

    Rows are drawn, the same for both, and both metrics computed anew. Where no row tells the two apart the bootstrap
    knows no spread; then the interval reaches up to what so many equal rows still allow ("rule of three").

    Args:
        original: The original's outcomes.
        model: The other's, on the same rows.
        confidence: Of the two-sided interval.
        resamples: Draws.
        seed: The same seed draws the same rows.

    Raises:
        ValueError: the two have different numbers of rows, or none.
    """
    rows = len(original)
    if rows != len(model) or not rows:
        raise ValueError(f"{rows} outcomes against {len(model)}: both models must answer the same rows.")
    once = np.arange(rows)[None]
    before, after = float(original.values(once)[0]), float(model.values(once)[0])
    if isinstance(model, Called):
        resamples = min(resamples, 500)  # a function that is called for every draw
    draws = np.random.default_rng(seed).integers(rows, size=(resamples, rows))
    losses = _loss(original.values(draws), model.values(draws), original.relative)
    tail = 50 * (1 - confidence)
    low, high = (float(p) for p in np.percentile(losses, (tail, 100 - tail)))
    if not np.ptp(losses) > 0 and not original.relative:
        bound = 100 * -np.log((1 - confidence) / 2) / rows
        low, high = low - bound, high + bound
    value = float(_loss(np.array(before), np.array(after), original.relative))
    return Loss(value, low, high, confidence, before, after, rows, original.relative)


def _loss(before: Floats, after: Floats, relative: bool) -> Floats:
    return 100 * (after / before - 1) if relative else before - after


def figures(outcomes: Mapping[str, Outcomes]) -> dict[str, float]:
    """Every metric on all rows."""
    return {name: float(each.values(np.arange(len(each))[None])[0]) for name, each in outcomes.items()}
