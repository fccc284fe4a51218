"""Start and end logits to likely spans. Knows tokens and no text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeport.tasks.base import Array

__all__ = ["Spans", "likely_spans"]

_NEVER = -10000.0
"""Logit of a token that cannot be part of an answer."""


@dataclass(frozen=True)
class Spans:
    """Candidate answers in one window."""

    starts: Array
    """First token of each (spans,)."""
    ends: Array
    """Last token of each (spans,)."""
    scores: Array
    null_score: float
    """Probability that the window holds no answer: that of its first token."""


def likely_spans(start: Array, end: Array, allowed: Array, count: int, longest: int) -> Spans:
    """The ``count`` most likely spans of a window, or fewer.

    Args:
        start: Logit of each token to be the first of the answer (tokens,).
        end: Logit of each token to be the last (tokens,).
        allowed: Whether each token may be part of an answer (tokens,).
        count: How many spans to look for.
        longest: Most tokens in a span.
    """
    start, end = _probabilities(start, allowed), _probabilities(end, allowed)
    null_score = float(start[0] * end[0])
    start[0] = end[0] = 0.0
    # An end before its start, or too far behind it, gets 0.
    scores = np.tril(np.triu(np.outer(start, end)), longest - 1)
    starts, ends = np.unravel_index(_best(scores.ravel(), count), scores.shape)
    # Position 0 passes in any case, as in transformers: it counts when fewer spans than asked for have a score.
    fine = allowed.copy()
    fine[0] = True
    wanted = fine[starts] & fine[ends]
    starts, ends = starts[wanted], ends[wanted]
    return Spans(starts, ends, scores[starts, ends], null_score)


def _probabilities(logits: Array, allowed: Array) -> Array:
    logits = np.where(allowed, logits, np.float32(_NEVER))
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def _best(scores: Array, count: int) -> Array:
    """Positions of the ``count`` largest, the largest first.

    Which of equally scored ones come first is the library's choice; transformers makes the same calls.
    """
    if count == 1:
        return np.array([scores.argmax()])
    if len(scores) < count:
        return np.argsort(-scores)
    # transformers partitions at ``count`` itself, which fails when there are just as many.
    chosen = np.argpartition(-scores, min(count, len(scores) - 1))[:count]
    return chosen[np.argsort(-scores[chosen])]
