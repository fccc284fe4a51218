"""How well a model predicts a text, and how far its predictions are from another model's. Knows arrays, no model.

Sums over tokens: pieces of a text are added one by one, so that a text of any length takes the memory of a piece.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeport.generate.model import FloatArray, IntArray

__all__ = ["TextScore"]

_LARGEST = 700.0
"""Nats a token, at which the perplexity ends: exp of more is no number, and no model predicts as badly."""

_COMPARED = 16
"""Tokens that are compared at a time: what that takes on the way is several times their predictions."""


class TextScore:
    """Perplexity; with a reference, divergence and agreement too."""

    def __init__(self) -> None:
        """Begin without a token."""
        self.tokens = 0
        """How many were predicted."""
        self._negative_logs = 0.0
        self._divergence = 0.0
        self._same = 0
        self._compared = 0

    def add(
        self, logprobs: FloatArray, tokens: IntArray, reference: npt.NDArray[np.floating[Any]] | None = None
    ) -> None:
        """Add a piece.

        Args:
            logprobs: float32 (tokens, vocab), the model's log-probabilities of each token, in nats.
            tokens: int64 (tokens,), those that the text has there.
            reference: Another model's, (tokens, vocab); rows need not sum to 1 exactly, as those of float16 do not.
        """
        self.tokens += len(tokens)
        self._negative_logs -= float(logprobs[np.arange(len(tokens)), tokens].sum(dtype=np.float64))
        if reference is not None:
            for start in range(0, len(tokens), _COMPARED):
                some = slice(start, start + _COMPARED)
                self._compare(logprobs[some], reference[some])

    def _compare(self, logprobs: FloatArray, reference: npt.NDArray[np.floating[Any]]) -> None:
        logs = reference.astype(np.float32)
        shares = np.exp(logs)
        sums = shares.sum(axis=1, keepdims=True)
        logs -= np.log(sums)
        shares /= sums
        with np.errstate(invalid="ignore"):  # what the reference rules out, at minus infinity, adds nothing
            differences = np.where(shares > 0, shares * (logs - logprobs), 0)
        self._divergence += float(differences.sum(dtype=np.float64))
        chosen = np.take_along_axis(reference, logprobs.argmax(axis=1)[:, None], axis=1)[:, 0]
        self._same += int((chosen == reference.max(axis=1)).sum())
        self._compared += len(logprobs)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood of a token; lower is better."""
        return math.exp(min(self._negative_logs / self.tokens, _LARGEST))

    @property
    def divergence(self) -> float | None:
        """Mean Kullback-Leibler divergence of the predictions from the reference's, in nats; None without one."""
        return max(self._divergence / self._compared, 0.0) if self._compared else None

    @property
    def agreement(self) -> float | None:
        """Share of tokens of which both find the same likeliest (ties of the reference count); None without one."""
        return self._same / self._compared if self._compared else None
