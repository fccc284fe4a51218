"""One file a task; ``TASKS`` says which class runs which.

A task's file is imported when a bundle needs it: all of them would take a third of a cold start.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from edgeport.tasks.base import Pipeline, Runner

__all__ = ["TASKS", "Pipeline", "Runner", "pipeline_class"]

TASKS: Mapping[str, str] = {
    "feature-extraction": "FeatureExtraction",
    "fill-mask": "FillMask",
    "question-answering": "QuestionAnswering",
    "sentence-embedding": "SentenceEmbedding",
    "text-classification": "TextClassification",
    "text-generation": "TextGeneration",
    "text-ranking": "TextRanking",
    "token-classification": "TokenClassification",
    "zero-shot-classification": "ZeroShotClassification",
}
"""Task to class, which lies in the module of the task's name."""


def pipeline_class(task: str) -> type[Pipeline]:
    """The class that runs ``task``, one of ``TASKS``."""
    module = import_module(f"edgeport.tasks.{task.replace('-', '_')}")
    found: type[Pipeline] = getattr(module, TASKS[task])
    return found
