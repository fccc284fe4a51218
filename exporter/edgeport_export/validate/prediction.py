"""What a model that writes text has lost on its way: its predictions of some thousand tokens, beside the original's.

Figures for people: they are recorded and no limit is set to them. The original's predictions are kept in float16, whose
rounding amounts to a divergence of 1e-7; of the variant's, a piece is held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from edgeport.generate.result import log_softmax
from edgeport.generate.text_score import TextScore
from numpy.typing import NDArray

from edgeport_export.head import ExportHead
from edgeport_export.samples import EvaluationText

__all__ = ["TextReference", "predict_text", "text_quality"]


_AT_ONCE = 2**25
"""Logits, at most, unless a piece has more: torch multiplies 512 tokens at once a fifth faster than 128."""


@dataclass(frozen=True)
class TextReference:
    """A text, and the original's predictions of it."""

    text: EvaluationText
    logprobs: Sequence[NDArray[np.float16]]
    """For each piece, (tokens that are predicted, vocabulary), in nats."""
    perplexity: float


def predict_text(head: ExportHead, text: EvaluationText) -> tuple[TextReference, NDArray[np.float32]]:
    """Run the original on ``text``; the second is what it says of the first piece, logits (1, tokens, vocabulary)."""
    score = TextScore()
    kept: list[NDArray[np.float16]] = []
    first = logits = head.run(text.batch())[0].float()
    rows = max(1, _AT_ONCE // first.numel())
    while True:
        logprobs = logits[:, text.unpredicted :].log_softmax(-1)
        for row, piece in zip(logprobs, text.pieces[len(kept) :], strict=False):
            score.add(row.numpy(), np.array(piece[text.unpredicted + 1 :]))
            kept.append(row.half().numpy())
        if len(kept) == len(text.pieces):
            return TextReference(text, kept, score.perplexity), first.numpy()
        logits = head.run(text.batch(len(kept), rows))[0].float()


def text_quality(predict: Callable[[Sequence[int]], NDArray[np.float32]], reference: TextReference) -> dict[str, Any]:
    """Compare a variant with the original.

    Args:
        predict: The variant: token ids to the logits after each, (tokens, vocabulary).
        reference: The original.

    Returns:
        ``perplexity``, ``original_perplexity``, ``divergence`` (nats, the mean of all tokens), ``agreement`` (share of
        tokens of which both find the same likeliest) and ``tokens``, the number of those that were predicted.
    """
    text = reference.text
    score = TextScore()
    for piece, wanted in zip(text.pieces, reference.logprobs, strict=True):
        logprobs = log_softmax(predict(piece[:-1])[text.unpredicted :])
        score.add(logprobs, np.array(piece[text.unpredicted + 1 :]), wanted)
    return {
        "perplexity": score.perplexity,
        "original_perplexity": reference.perplexity,
        "divergence": score.divergence,
        "agreement": score.agreement,
        "tokens": score.tokens,
    }
