"""Perplexity of a language model on text: exp of the mean negative log-likelihood of a token; lower is better.

The text is read in consecutive windows, and every token but the first is predicted once. Perplexities of different
windows do not compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeport_export.quality.outcomes import Outcomes, Sums
from edgeport_export.quality.rows import Row, Scorer

__all__ = ["SCORER"]


def _score(pipe: Any, rows: Sequence[Row], *, window: int | None = None) -> dict[str, float]:
    logs = np.concatenate([pipe.logprobs(row["text"], window=window) for row in rows]).astype(np.float64)
    return {"perplexity": float(np.exp(-logs.mean()))}


def _outcomes(pipe: Any, rows: Sequence[Row], *, window: int | None = None) -> Mapping[str, Outcomes]:
    logs = [pipe.logprobs(row["text"], window=window).astype(np.float64) for row in rows]
    sums = np.array([(found.sum(), len(found)) for found in logs])
    return {"perplexity": Sums(sums, lambda s: np.exp(-s[:, 0] / np.maximum(s[:, 1], 1)), relative=True)}


SCORER = Scorer(
    ("text",),
    _score,
    plain=lambda text, name: [{"text": text}] if text.strip() else [],
    options=("window",),
    outcomes=_outcomes,
)
