"""What a search gives: the tokens of one continuation, why it ended, and log-probabilities where asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from edgeport.generate.model import FloatArray
from edgeport.generate.samplers import largest

__all__ = ["FinishReason", "Generated", "TokenLogprobs", "log_softmax", "logprobs_of"]

FinishReason: TypeAlias = Literal["eos", "stop", "length", "cancelled"]
"""A token that ends a text, a stop string, the token budget, or the caller's cancellation."""


@dataclass(frozen=True)
class TokenLogprobs:
    """One step's log-probabilities, in nats: log-softmax of the model's own logits, before any processor or sampler."""

    token: int
    logprob: float
    """Of ``token``, the one that was chosen."""
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens and their log-probabilities, likeliest first."""


@dataclass(frozen=True)
class Generated:
    """One continuation."""

    prompt: int
    """Which prompt it continues."""
    tokens: tuple[int, ...]
    """New tokens alone; the token that ended the text is the last of them."""
    reason: FinishReason
    """Why it ended."""
    score: float | None = None
    """Beam search's: the sum of processed log-probabilities, divided by tokens to the power of the length penalty."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One a token; empty unless asked for."""


def log_softmax(logits: FloatArray) -> FloatArray:
    """Log-probabilities of each row: float32 (rows, vocab), the same out. The logits are not written into."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def logprobs_of(logits: FloatArray, tokens: list[int], count: int) -> list[TokenLogprobs]:
    """For each row of the logits, float32 (rows, vocab), its token's log-probability and the ``count`` highest."""
    logs = log_softmax(logits)
    tops = largest(logs, count)
    return [
        TokenLogprobs(token, float(row[token]), tuple((int(i), float(row[i])) for i in top))
        for token, row, top in zip(tokens, logs, tops, strict=True)
    ]
