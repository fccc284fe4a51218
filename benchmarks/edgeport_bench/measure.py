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
    "Latency",
    "Ratio",
    "Throughput",
    "agreement",
    "latency",
    "least_cosine",
    "median_rate",
    "ratio_of_medians",
    "throughput",
]

Rounds = Sequence[Sequence[float]]
"""Milliseconds of each run, by the round in which it was taken."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call."""

    p50: float
    p90: float
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
    p50, p90, p99 = (float(p) for p in np.percentile(samples, (50, 90, 99)))
    return Latency(p50, p90, p99, float(samples.mean()), samples.size)


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
    above, below = _draw_medians(numerator, draws), _draw_medians(denominator, draws)
    tail = 50 * (1 - confidence)
    low, high = (float(p) for p in np.percentile(above / below, (tail, 100 - tail)))
    return Ratio(value, low, high, confidence)


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


def _draw_medians(rounds: Rounds, draws: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    arrays = [np.asarray(r, dtype=np.float64) for r in rounds]
    return np.array([np.median(np.concatenate([arrays[i] for i in draw])) for draw in draws])
