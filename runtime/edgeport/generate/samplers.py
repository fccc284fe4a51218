"""Samplers: what narrows the distribution that the next token is drawn from. The last of the logits processors.

Each is a frozen dataclass; calling it with the rows' tokens, which it does not look at, and float32 scores (rows,
vocab) gives scores of the same shape, minus infinity where a token is out. The array given is never written into.
Tokens that are out already are not looked at again: after top-k, k of 150,000 are left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeport.generate.model import FloatArray, IntArray

__all__ = ["MinP", "Temperature", "TopK", "TopP", "TypicalP", "largest"]

_FEW = 1024
"""Candidates that top-p sorts at first; eight times as many where they do not reach its probability."""


@dataclass(frozen=True)
class Temperature:
    """Scores divided by the temperature (Ackley, Hinton and Sejnowski 1985)."""

    temperature: float

    def __call__(self, ids: Sequence[IntArray], scores: FloatArray) -> FloatArray:
        return scores / np.float32(self.temperature)


@dataclass(frozen=True)
class TopK:
    """The k highest scores, and those equal to the lowest of them (Fan, Lewis and Dauphin 2018)."""

    k: int

    def __call__(self, ids: Sequence[IntArray], scores: FloatArray) -> FloatArray:
        vocab = scores.shape[1]
        if self.k >= vocab:
            return scores
        lowest = np.partition(scores, vocab - self.k, axis=1)[:, vocab - self.k, None]
        return np.where(scores < lowest, np.float32(-np.inf), scores)


@dataclass(frozen=True)
class TopP:
    """The fewest tokens that together reach the probability p (Holtzman et al. 2020), ``keep`` at least."""

    p: float
    keep: int = 1

    def __call__(self, ids: Sequence[IntArray], scores: FloatArray) -> FloatArray:
        return _only(scores, self._kept)

    def _kept(self, row: FloatArray) -> IntArray:
        finite = np.flatnonzero(row > -np.inf)
        values = row[finite]
        if not len(values):
            return finite
        weights = np.exp(values - values.max())
        enough = self.p * weights.sum(dtype=np.float64)
        few = max(_FEW, self.keep)
        order = _descending(weights, few)
        while len(order) < len(values) and weights[order].sum(dtype=np.float64) <= enough:
            few *= 8
            order = _descending(weights, few)
        chosen = weights[order].astype(np.float64)
        count = max(int(np.count_nonzero(np.cumsum(chosen) - chosen < enough)), self.keep)
        kept: IntArray = finite[order[:count]]
        return kept


@dataclass(frozen=True)
class MinP:
    """Tokens at least ``p`` times as likely as the likeliest (Nguyen et al. 2024), ``keep`` at least."""

    p: float
    keep: int = 1

    def __call__(self, ids: Sequence[IntArray], scores: FloatArray) -> FloatArray:
        if self.p == 0:
            return scores
        out = scores < scores.max(axis=1, keepdims=True) + np.float32(log(self.p))
        np.put_along_axis(out, largest(scores, self.keep), False, axis=1)
        return np.where(out, np.float32(-np.inf), scores)


@dataclass(frozen=True)
class TypicalP:
    """The tokens whose surprise is nearest the entropy, up to mass ``p`` (Meister et al. 2022), ``keep`` at least."""

    p: float
    keep: int = 1

    def __call__(self, ids: Sequence[IntArray], scores: FloatArray) -> FloatArray:
        return _only(scores, self._kept)

    def _kept(self, row: FloatArray) -> IntArray:
        finite = np.flatnonzero(row > -np.inf)
        values = row[finite].astype(np.float64)
        if not len(values):
            return finite
        surprise = np.log(np.exp(values - values.max()).sum()) + values.max() - values
        probabilities = np.exp(-surprise)
        distance = np.abs(surprise - (surprise * probabilities).sum())
        order = np.argsort(distance, kind="stable")
        last = min(int(np.count_nonzero(np.cumsum(probabilities[order]) < self.p)), len(order) - 1)
        near = distance[order] <= distance[order[last]]
        near[: self.keep] = True
        kept: IntArray = finite[order[near]]
        return kept


def largest(scores: NDArray[np.floating[Any]], count: int) -> IntArray:
    """Columns of the ``count`` highest scores of each row (fewer where there are fewer), highest first.

    Of equal scores the one further left comes first.
    """
    count = min(count, scores.shape[1])
    if count == 1:
        return scores.argmax(axis=1)[:, None]
    columns = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    columns.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)


def _only(scores: FloatArray, kept: Callable[[FloatArray], IntArray]) -> FloatArray:
    """The scores of the tokens that ``kept`` names of each row; all others are minus infinity."""
    result = np.full_like(scores, -np.inf)
    for row, into in zip(scores, result, strict=True):
        tokens = kept(row)
        into[tokens] = row[tokens]
    return result


def _descending(values: FloatArray, count: int) -> IntArray:
    """Places of the ``count`` highest values, highest first; of equal ones the last comes first, as where
    transformers reverses an ascending sort."""
    if count >= len(values):
        return np.argsort(values, kind="stable")[::-1]
    places = np.flatnonzero(values >= np.partition(values, -count)[-count])
    return places[np.argsort(values[places], kind="stable")[::-1]]
