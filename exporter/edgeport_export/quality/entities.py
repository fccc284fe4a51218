"""Entity F1, by seqeval: an entity counts if its type and all of its words are right.

A word's tag is that of its first token, as in the training scripts that people use; words that the model's length limit
cuts off count as outside of any entity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from edgeport.errors import UsageError

from edgeport_export.quality.outcomes import Outcomes, Sums
from edgeport_export.quality.rows import Row, Scorer

__all__ = ["SCORER"]


def _score(pipe: Any, rows: Sequence[Row]) -> dict[str, float]:
    from seqeval.metrics import f1_score, precision_score, recall_score

    wanted = [list(row["tags"]) for row in rows]
    found = _tags(pipe, [list(row["tokens"]) for row in rows])
    metrics = {"entity F1": f1_score, "precision": precision_score, "recall": recall_score}
    return {name: 100 * float(metric(wanted, found)) for name, metric in metrics.items()}


def _outcomes(pipe: Any, rows: Sequence[Row]) -> Mapping[str, Outcomes]:
    from seqeval.metrics.sequence_labeling import get_entities

    wanted = [set(get_entities(list(row["tags"]))) for row in rows]
    found = [set(get_entities(tags)) for tags in _tags(pipe, [list(row["tokens"]) for row in rows])]
    both = [(len(w & f), len(w) + len(f)) for w, f in zip(wanted, found, strict=True)]
    counts = np.array(both, np.float64).reshape(-1, 2)
    return {"entity F1": Sums(counts, lambda sums: 200 * sums[:, 0] / np.maximum(sums[:, 1], 1e-12))}


def _tags(pipe: Any, sentences: list[list[str]]) -> list[list[str]]:
    """One tag a word."""
    found = []
    answers = pipe(sentences, is_split_into_words=True, aggregation_strategy="none", ignore_labels=[])
    for words, tokens in zip(sentences, answers, strict=True):
        tag_at: dict[int, str] = {}
        for token in tokens:
            tag_at.setdefault(token["start"], token["entity"])
        tags, start = [], 0
        for word in words:
            tags.append(next((tag_at[i] for i in range(start, start + len(word)) if i in tag_at), "O"))
            start += len(word) + 1  # the pipeline joins words with a space
        found.append(tags)
    return found


def _parse_columns(text: str, name: str) -> list[Row]:
    """CoNLL: a word and its tag on a line (first and last of its columns), a blank line between sentences."""
    rows: list[Row] = []
    tokens: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        fields = line.split("\t") if "\t" in line else line.split()
        if len(fields) == 1:
            raise UsageError(f"line {number} of {name} is not a word and a tag: {line!r:.80}.")
        if fields:
            tokens.append(fields[0])
            tags.append(fields[-1].strip())
        elif tokens:
            rows.append({"tokens": tokens, "tags": tags})
            tokens, tags = [], []
    return rows


SCORER = Scorer(("tokens", "tags"), _score, _parse_columns, outcomes=_outcomes)
