"""Labels that the caller thinks up. Contract: the zero-shot-classification pipeline of transformers 5.

Each label becomes a hypothesis, and the model says how well the text entails it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.bundle import Bundle
from edgeport.errors import InputError, UsageError
from edgeport.tasks.activations import softmax
from edgeport.tasks.base import Array, ReadingPipeline, Runner
from edgeport.text import TextEncoder, Truncation

if TYPE_CHECKING:
    from tokenizers import Encoding

__all__ = ["ZeroShotClassification"]


@dataclass(frozen=True)
class _Options:
    labels: list[str]
    hypotheses: list[str]
    multi_label: bool


class ZeroShotClassification(ReadingPipeline):
    """Graph output ``logits`` (batch, classes); task option ``entailment_id`` is the class, -1 where unknown."""

    task = "zero-shot-classification"
    outputs = ("logits",)

    def __init__(self, bundle: Bundle, runner: Runner, text: TextEncoder, *, batch_size: int = 32) -> None:
        """See ``Pipeline``."""
        super().__init__(bundle, runner, text, batch_size=batch_size)
        self._entailment = int(self._options.get("entailment_id", -1))
        self._contradiction = -1 if self._entailment == 0 else 0
        if self._entailment == -1:
            warnings.warn("none of the model's labels is called entailment: the last is taken for it.", stacklevel=3)

    def __call__(
        self,
        sequences: Any,
        candidate_labels: str | Sequence[str],
        *,
        hypothesis_template: str = "This example is {}.",
        multi_label: bool = False,
        batch_size: int | None = None,
    ) -> Any:
        """Classify texts into ``candidate_labels``.

        Args:
            sequences: A string, a list of strings, or an iterator of them.
            candidate_labels: The labels, as a list or as one string with commas.
            hypothesis_template: A sentence with ``{}`` where the label goes.
            multi_label: Score each label by itself, instead of sharing 1 among them.
            batch_size: Most pairs of text and label that run at once.

        Returns:
            ``{"sequence": str, "labels": [str], "scores": [float]}`` with the best label first; a list of these
            for a list.

        Raises:
            InputError: an item that is no string, or is empty, or a label that leaves no room for the text.
            UsageError: no label, or a template without ``{}``.
        """
        labels = _parse_labels(candidate_labels)
        options = _Options(labels, [_fill(hypothesis_template, label) for label in labels], bool(multi_label))
        return self._map(sequences, options, batch_size)

    def _encode(self, items: list[Any], options: _Options) -> list[list[Encoding]]:
        count = len(options.labels)
        texts = [self._check_text(item) for item in items]
        if "" in texts:
            raise InputError("zero-shot-classification takes no empty text: leave it out.")
        rows_of = self._text.encode(
            [text for text in texts for _ in range(count)],
            options.hypotheses * len(texts),
            truncation=Truncation(strategy="only_first"),
        )
        rows = [row for [row] in rows_of]
        return [rows[i : i + count] for i in range(0, len(rows), count)]

    def _finish(self, item: str, kept: list[Array], options: _Options) -> dict[str, Any]:
        logits = np.stack(kept)
        if options.multi_label or len(options.labels) == 1:
            scores = softmax(logits[:, [self._contradiction, self._entailment]])[:, 1]
        else:
            scores = softmax(logits[:, self._entailment])
        order = scores.argsort()[::-1]
        return {"sequence": item, "labels": [options.labels[i] for i in order], "scores": scores[order].tolist()}


def _parse_labels(labels: str | Sequence[str]) -> list[str]:
    if isinstance(labels, str):
        labels = [label.strip() for label in labels.split(",") if label.strip()]
    elif not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
        raise UsageError(f"candidate_labels={labels!r:.60} is neither a list of strings nor a string with commas.")
    if not labels:
        raise UsageError("candidate_labels holds no label: give at least one.")
    return list(labels)


def _fill(template: str, label: str) -> str:
    try:
        hypothesis = template.format(label)
    except (LookupError, ValueError, AttributeError) as e:
        raise UsageError(f"hypothesis_template={template!r:.60} cannot be filled ({e}): give it one {{}}.") from e
    if hypothesis == template:
        raise UsageError(f"hypothesis_template={template!r:.60} has no {{}} where the label would go: put it in.")
    return hypothesis
