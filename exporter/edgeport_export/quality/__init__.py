"""How good a bundle's answers are, by labelled data: one file a task, the metric from a library that people know.

``edgeport evaluate`` prints it for every variant. A scorer sees a pipeline as its users do, so what it measures
includes tokenizing, truncation and post-processing.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeport_export.quality import answers, classification, entities, perplexity, ranking, similarity
from edgeport_export.quality.rows import Scorer

__all__ = ["SCORERS", "Scorer"]

SCORERS: Mapping[str, Scorer] = {
    "text-classification": classification.SCORER,
    "token-classification": entities.SCORER,
    "question-answering": answers.SCORER,
    "sentence-embedding": similarity.SCORER,
    "text-ranking": ranking.SCORER,
    "text-generation": perplexity.SCORER,
}
