"""How good a candidate is: its task's metric on labelled rows, the user's own, or agreement with the original.

Where there are no labels, nothing says who is right; then what is measured is how often a candidate gives another
answer than the original, and every figure is called so.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from edgeport.errors import UsageError

from edgeport_export.quality import SCORERS
from edgeport_export.quality.outcomes import Called, Outcomes, mean_of
from edgeport_export.quality.rows import Row, Scorer, columns_of, read_rows

__all__ = ["Judge", "Judged", "make_judge"]

Judged = Any
"""What a judge keeps of a model's answers, for ``Judge.compare``."""


@dataclass(frozen=True)
class Judge:
    """A metric, and the rows that it is measured on."""

    metric: str
    rows: Sequence[Row]
    labelled: bool
    ask: Callable[[Any, Sequence[Row]], Judged]
    """Pipeline and rows to what is kept of its answers."""
    compare: Callable[[Judged, Judged], tuple[Outcomes, Outcomes]]
    """The original's and another model's, to the outcomes of both."""
    texts: Callable[[Row], Sequence[tuple[str, ...]]]
    """A row to the inputs, texts or pairs of them, that the model reads."""
    group: str | None = None
    """Rows with the same value of this column belong together."""

    def inputs(self, rows: Sequence[Row]) -> list[Any]:
        """What the pipeline takes of ``rows``, one by one; JSON values."""
        every = [text for row in rows for text in self.texts(row)]
        if "question" in rows[0]:
            return [{"question": question, "context": context} for question, context in every]
        return [text[0] if len(text) == 1 else list(text) for text in every]

    @property
    def says(self) -> str:
        """What was measured, as a sentence."""
        if self.labelled:
            return f"{self.metric} {'of text' if self.metric == 'perplexity' else 'on labelled rows'}."
        return (
            f"{self.metric}: the data have no labels, so this says how often the answers are the original's, not how "
            "often they are right."
        )


def make_judge(task: str, evaluation: str, columns: Mapping[str, str], metric: str | None) -> Judge:
    """Read the evaluation data and choose the metric.

    Args:
        task: The model's.
        evaluation: A file, or ``datasets:NAME[:SPLIT]``.
        columns: A scorer's column to the data's name for it.
        metric: One of the task's, ``module:function``, or None for the task's first.

    Raises:
        UsageError: the data or the metric do not fit the task.
    """
    texts = _texts_of(task)
    if _is_plain_text(task, evaluation):
        _refuse_labels(task, evaluation, columns)
        return _agreement(task, _lines(evaluation), texts)
    scorer = SCORERS.get(task)
    if scorer is None or scorer.outcomes is None:
        return _agreement(task, _without_labels(task, evaluation, columns), texts)
    try:
        rows = _read(evaluation, scorer, columns)
    except UsageError:
        if any(c in columns for c in scorer.columns if c not in _READS[task]) or not _has_only(
            evaluation, {columns.get(c, c) for c in _READS[task]}
        ):
            raise
        return _agreement(task, _without_labels(task, evaluation, columns), texts)
    group = "query" if task == "text-ranking" else None
    if metric is not None and ":" in metric:
        function = _import_function(metric)

        def call(pipe: Any, some: Sequence[Row]) -> Called:
            return Called(function, _answers(task, pipe, some), some)

        return Judge(metric, rows, True, call, lambda a, b: (a, b), texts, group)
    return _by_scorer(task, scorer, rows, metric, texts, group)


def _by_scorer(
    task: str, scorer: Scorer, rows: Sequence[Row], metric: str | None, texts: Any, group: str | None
) -> Judge:
    outcomes = scorer.outcomes
    assert outcomes is not None
    names = _METRICS[task]
    if metric is not None and metric.lower() not in {name.lower() for name in names}:
        raise UsageError(f"--metric {metric!r} is not one of {task}'s: {', '.join(names)}, or module:function.")

    def ask(pipe: Any, some: Sequence[Row]) -> Outcomes:
        found = outcomes(pipe, some)
        chosen = next((name for name in found if metric is not None and name.lower() == metric.lower()), None)
        if metric is not None and chosen is None:
            raise UsageError(f"--metric {metric!r} does not fit these rows: they give {', '.join(found)}.")
        return found[chosen or next(iter(found))]

    return Judge(metric or names[0], rows, True, ask, lambda a, b: (a, b), texts, group)


_METRICS: Mapping[str, tuple[str, ...]] = {
    "text-classification": ("accuracy", "macro F1", "micro F1", "exact match", "Spearman", "Pearson"),
    "token-classification": ("entity F1",),
    "question-answering": ("F1", "exact match"),
    "sentence-embedding": ("Spearman",),
    "text-ranking": ("MRR", "nDCG@10"),
    "text-generation": ("perplexity",),
}

_READS: Mapping[str, tuple[str, ...]] = {
    "text-classification": ("text",),
    "token-classification": ("tokens",),
    "question-answering": ("question", "context"),
    "sentence-embedding": ("sentence1",),
    "text-ranking": ("query", "text"),
    "text-generation": ("text",),
    "fill-mask": ("text",),
    "feature-extraction": ("text",),
    "zero-shot-classification": ("text",),
}
"""The columns that a task's model reads."""


def _texts_of(task: str) -> Callable[[Row], Sequence[tuple[str, ...]]]:
    if task == "sentence-embedding":
        return lambda row: [(str(row[c]),) for c in ("sentence1", "sentence2") if c in row]
    if task == "token-classification":
        return lambda row: [(" ".join(row["tokens"]),)]
    columns = _READS.get(task)
    if columns is None:
        raise UsageError(f"{task} cannot be judged yet: those that can are {', '.join(_READS)}.")
    return lambda row: [tuple(str(row[c]) for c in columns)]


def _agreement(task: str, rows: Sequence[Row], texts: Callable[[Row], Sequence[tuple[str, ...]]]) -> Judge:
    def ask(pipe: Any, some: Sequence[Row]) -> list[Any]:
        return [_key(task, answer) for answer in _answers(task, pipe, some)]

    def compare(original: list[Any], other: list[Any]) -> tuple[Outcomes, Outcomes]:
        same = [_likeness(a, b) for a, b in zip(original, other, strict=True)]
        return mean_of(np.ones(len(same))), mean_of(same)

    name = "cosine with the original" if task in _VECTORS else "agreement with the original"
    return Judge(name, rows, False, ask, compare, texts)


_VECTORS = ("sentence-embedding", "feature-extraction")


def _answers(task: str, pipe: Any, rows: Sequence[Row]) -> list[Any]:
    """The pipeline's answers, one a row."""
    if task == "token-classification":
        sentences = [list(row["tokens"]) for row in rows]
        return list(pipe(sentences, is_split_into_words=True, aggregation_strategy="none", ignore_labels=[]))
    if task == "question-answering":
        return list(pipe([{"question": r["question"], "context": r["context"]} for r in rows]))
    if task == "text-ranking":
        return list(pipe([(r["query"], r["text"]) for r in rows]))
    column = "sentence1" if task == "sentence-embedding" else "text"
    found = pipe([str(row[column]) for row in rows])
    return [found] if isinstance(found, dict) else list(found)


def _key(task: str, answer: Any) -> Any:
    """What of an answer is compared."""
    if task == "token-classification":
        return [token["entity"] for token in answer]
    if task == "question-answering":
        return answer["answer"]
    if task in _VECTORS:
        vector = np.asarray(answer, np.float64)
        return vector.reshape(-1, vector.shape[-1]).mean(axis=0)
    if task == "fill-mask":
        return answer[0]["token"]
    return answer["label"] if isinstance(answer, dict) and "label" in answer else answer


def _likeness(a: Any, b: Any) -> float:
    """1 for the same answer; of lists the share that is the same, of vectors the cosine."""
    if isinstance(a, np.ndarray):
        return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))
    if isinstance(a, list):
        return float(np.mean([x == y for x, y in zip(a, b, strict=True)])) if a else 1.0
    return float(a == b)


def _is_plain_text(task: str, evaluation: str) -> bool:
    return Path(evaluation).suffix == ".txt" and task != "text-generation" and len(_READS.get(task, "--")) == 1


def _lines(path: str) -> list[Row]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{path!r} cannot be read ({e}): give a UTF-8 file of labelled rows, or of texts.") from e
    return [{"text": t, "tokens": t.split(), "sentence1": t} for line in text.splitlines() if (t := line.strip())]


def _read(evaluation: str, scorer: Scorer, columns: Mapping[str, str]) -> list[Row]:
    if evaluation.startswith("datasets:"):
        from edgeport_export.compression.hub_rows import read_dataset

        return read_dataset(evaluation.removeprefix("datasets:"), scorer.columns, columns)
    return read_rows(Path(evaluation), scorer, columns)


def _without_labels(task: str, evaluation: str, columns: Mapping[str, str]) -> list[Row]:
    reads = _READS[task]
    return _read(evaluation, Scorer(reads, score=lambda *_: {}), {k: v for k, v in columns.items() if k in reads})


def _has_only(evaluation: str, reads: set[str]) -> bool:
    """Whether the file's rows have the columns that the model reads and no others: then labels were not meant."""
    return Path(evaluation).is_file() and columns_of(Path(evaluation)) == reads


def _refuse_labels(task: str, evaluation: str, columns: Mapping[str, str]) -> None:
    """Raise UsageError where plain text is to have a column of labels."""
    named = next((c for c in columns if c not in _READS[task]), None)
    if named is not None:
        raise UsageError(
            f"{evaluation!r} is plain text and has no column {columns[named]!r}: give a .csv or .jsonl file with "
            f"one, or leave {named}={columns[named]} away to compare with the original's answers."
        )


def _import_function(metric: str) -> Callable[..., float]:
    module, _, name = metric.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as e:
        raise UsageError(f"--metric {metric!r} cannot be imported ({e}): give module:function on PYTHONPATH.") from e
    if not callable(function):
        raise UsageError(f"--metric {metric!r} is no function: give one that takes answers and rows.")
    result: Callable[..., float] = function
    return result
