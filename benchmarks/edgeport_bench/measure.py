"""Raw samples to figures: percentiles, throughput, a ratio with its interval, the closeness of two outputs.

Pure functions of numbers. Knows nothing of processes, models or printing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "PERCENTILES",
    "Latency",
    "Ratio",
    "Rounds",
    "Throughput",
    "agreement",
    "change_of_percentile",
    "latency",
    "latency_intervals",
    "least_cosine",
    "median_rate",
    "rank_test",
    "ratio_of_medians",
    "round_spread",
    "throughput",
]

Rounds = Sequence[Sequence[float]]
"""Milliseconds of each run, by the round in which it was taken."""
PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call."""

    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    runs: int


@dataclass(frozen=True)
class Throughput:
    """What came through in a second, at one call after the other."""

    texts: float
    tokens: float


@dataclass(frozen=True)
class Ratio:
    """A ratio and the interval that holds it with the stated confidence."""

    value: float
    low: float
    high: float
    confidence: float


def latency(rounds: Rounds) -> Latency:
    """Percentiles over all runs, interpolated between neighbours.

    Raises:
        ValueError: there is no run.
    """
    samples = _flat(rounds)
    p50, p90, p95, p99 = (float(p) for p in np.percentile(samples, PERCENTILES))
    return Latency(p50, p90, p95, p99, float(samples.mean()), samples.size)


def latency_intervals(
    rounds: Rounds, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """The interval of each percentile, ``p50`` and so on, by a bootstrap that draws whole rounds.

    Raises:
        ValueError: there is no round.
    """
    draws = np.random.default_rng(seed).integers(len(rounds), size=(resamples, len(rounds)))
    drawn = _draw(rounds, draws, PERCENTILES)
    tail = 50 * (1 - confidence)
    ends = np.percentile(drawn, (tail, 100 - tail), axis=0).T
    return {f"p{p}": (float(low), float(high)) for p, (low, high) in zip(PERCENTILES, ends, strict=True)}


def round_spread(rounds: Rounds) -> float:
    """How far the medians of the rounds lie apart: the middle half of them, as a share of their median."""
    medians = [float(np.median(r)) for r in rounds if len(r)]
    low, middle, high = np.percentile(medians, (25, 50, 75))
    return float((high - low) / middle)


def throughput(rounds: Rounds, batch: int, length: int) -> Throughput:
    """Texts and tokens a second over all runs of ``batch`` texts of ``length`` tokens."""
    texts = batch * 1e3 / float(_flat(rounds).mean())
    return Throughput(texts, texts * length)


def median_rate(rounds: Rounds, tokens: int) -> float:
    """Tokens a second where each run, ``tokens`` at once, takes as long as the median one."""
    return tokens * 1e3 / float(np.median(_flat(rounds)))


def ratio_of_medians(
    numerator: Rounds, denominator: Rounds, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Ratio:
    """Median of the one over median of the other, with a bootstrap interval.

    Whole rounds are drawn, the same for both: runs of a round are no independent samples, and what disturbed the
    machine in a round disturbed both.

    Args:
        numerator: The slower one, where the ratio is to be a speed-up.
        denominator: The other, taken in the same rounds.
        confidence: Of the interval.
        resamples: Draws of the bootstrap.
        seed: The same seed gives the same interval.

    Raises:
        ValueError: the two have different numbers of rounds, or none.
    """
    if len(numerator) != len(denominator):
        raise ValueError(f"{len(numerator)} rounds against {len(denominator)}: they must be taken together.")
    value = float(np.median(_flat(numerator)) / np.median(_flat(denominator)))
    draws = np.random.default_rng(seed).integers(len(numerator), size=(resamples, len(numerator)))
    above, below = _draw(numerator, draws, (50,))[:, 0], _draw(denominator, draws, (50,))[:, 0]
    tail = 50 * (1 - confidence)
    low, high = (float(p) for p in np.percentile(above / below, (tail, 100 - tail)))
    return Ratio(value, low, high, confidence)


def change_of_percentile(
    after: Rounds, before: Rounds, percentile: float, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Ratio:
    """A percentile of the one over that of the other, taken at another time: rounds are drawn for each by itself.

    Raises:
        ValueError: one of them has no round.
    """
    rng = np.random.default_rng(seed)
    drawn = [
        _draw(rounds, rng.integers(len(rounds), size=(resamples, len(rounds))), (percentile,))[:, 0]
        for rounds in (after, before)
    ]
    tail = 50 * (1 - confidence)
    low, high = (float(p) for p in np.percentile(drawn[0] / drawn[1], (tail, 100 - tail)))
    value = float(np.percentile(_flat(after), percentile) / np.percentile(_flat(before), percentile))
    return Ratio(value, low, high, confidence)


def rank_test(ours: Rounds, theirs: Rounds) -> float:
    """Probability that medians of rounds from one distribution differ as much: Mann and Whitney 1947, both sides."""
    from scipy.stats import mannwhitneyu  # takes a second to import, and only comparing needs it

    medians = [[float(np.median(r)) for r in rounds if len(r)] for rounds in (ours, theirs)]
    return float(mannwhitneyu(*medians).pvalue)


def least_cosine(ours: Mapping[str, npt.NDArray[Any]], theirs: Mapping[str, npt.NDArray[Any]]) -> float:
    """The smallest cosine between a row of the one and the same row of the other, over all outputs.

    Args:
        ours: Output name to (batch, ...) array.
        theirs: The same names and shapes.

    Returns:
        1 for equal outputs; -1 where they cannot be compared: other names, other shapes, or values that are no numbers.
    """
    if ours.keys() != theirs.keys() or any(ours[n].shape != theirs[n].shape for n in ours):
        return -1.0
    return min(_row_cosine(ours[n], theirs[n]) for n in ours)


def agreement(ours: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64]) -> float:
    """The share of tokens, (batch, tokens), that are the same; 0 for other shapes."""
    return float((ours == theirs).mean()) if ours.shape == theirs.shape else 0.0


def _row_cosine(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> float:
    a = ours.reshape(len(ours), -1).astype(np.float64)
    b = theirs.reshape(len(theirs), -1).astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = (a == b).all(axis=1)  # rows of zeros have no direction, and are equal all the same
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.where(same, 1.0, (a * b).sum(axis=1) / lengths)
    return float(np.nan_to_num(cosine, nan=-1.0, posinf=-1.0, neginf=-1.0).min())


def _flat(rounds: Rounds) -> npt.NDArray[np.float64]:
    samples = np.array([ms for r in rounds for ms in r], dtype=np.float64)
    if not samples.size:
        raise ValueError("there is no sample to summarize.")
    return samples


def _draw(rounds: Rounds, draws: npt.NDArray[np.int64], percentiles: Sequence[float]) -> npt.NDArray[np.float64]:
    """The percentiles over the rounds of each draw: (draws, percentiles)."""
    arrays = [np.asarray(r, dtype=np.float64) for r in rounds]
    if len({a.size for a in arrays}) == 1:  # nearly always, and then all draws at once
        drawn = np.stack(arrays)[draws].reshape(len(draws), -1)
        return np.percentile(drawn, percentiles, axis=1).T
    return np.array([np.percentile(np.concatenate([arrays[i] for i in draw]), percentiles) for draw in draws])
