"""How good labels are, by scikit-learn and scipy: one label a text, several, or a number.

Which of the three it is, the model's head says: scores that go through a sigmoid are several labels, those that are
taken as they are a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from edgeport.errors import UsageError
from numpy.typing import NDArray

from edgeport_export.quality.outcomes import Floats, Outcomes, RankCorrelation, Sums, mean_of
from edgeport_export.quality.rows import Row, Scorer

__all__ = ["SCORER"]

_THRESHOLD = 0.5
"""Of a label's score, where a text may have several."""


def _score(pipe: Any, rows: Sequence[Row]) -> dict[str, float]:
    kind = _kind(pipe)
    if kind == "number":
        return _score_numbers(*_numbers(pipe, rows))
    if kind == "several":
        return _score_several(*_several(pipe, rows))
    from sklearn.metrics import accuracy_score, f1_score  # takes a second to import, and only scoring needs it

    wanted, found = _labels(pipe, rows)
    return {
        "accuracy": 100 * float(accuracy_score(wanted, found)),
        "macro F1": 100 * float(f1_score(wanted, found, average="macro", zero_division=0)),
    }


def _outcomes(pipe: Any, rows: Sequence[Row]) -> Mapping[str, Outcomes]:
    kind = _kind(pipe)
    if kind == "number":
        wanted, found = _numbers(pipe, rows)
        return {"Spearman": RankCorrelation(found, wanted), "Pearson": _pearson(wanted, found)}
    if kind == "several":
        right, given = _several(pipe, rows)
        return {"micro F1": _micro_f1(right, given), "exact match": mean_of((right == given).all(axis=1))}
    wanted_labels, found_labels = _labels(pipe, rows)
    equal = [a == b for a, b in zip(wanted_labels, found_labels, strict=True)]
    return {"accuracy": mean_of(equal), "macro F1": _macro_f1(wanted_labels, found_labels)}


def _kind(pipe: Any) -> str:
    """``one`` label a text, ``several``, or a ``number``."""
    manifest = pipe.bundle.manifest
    function = manifest.task_options.get("function_to_apply", "softmax")
    if function == "sigmoid" and len(manifest.labels) > 1:
        return "several"
    return "number" if function == "none" and len(manifest.labels) == 1 else "one"


def _labels(pipe: Any, rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """The labels wanted, and those found."""
    _check(pipe, [str(row["label"]) for row in rows])
    return [str(row["label"]) for row in rows], [answer["label"] for answer in pipe([row["text"] for row in rows])]


def _check(pipe: Any, wanted: Sequence[str]) -> None:
    labels = set(pipe.bundle.manifest.labels)
    strange = next((label for label in wanted if label not in labels), None)
    if strange is not None:
        raise UsageError(f"label {strange!r} is not one of the model's ({', '.join(sorted(labels)[:8])}, …).")


def _macro_f1(wanted: Sequence[str], found: Sequence[str]) -> Sums:
    """Of the labels that occur in a draw, as scikit-learn counts them."""
    names = {name: i for i, name in enumerate(sorted({*wanted, *found}))}
    marks = np.zeros((2, len(wanted), len(names)))
    for side, labels in enumerate((wanted, found)):
        marks[side, np.arange(len(labels)), [names[label] for label in labels]] = 1

    def combine(sums: Floats) -> Floats:
        both, all_wanted, all_found = np.split(sums, 3, axis=1)
        there = all_wanted + all_found
        f1 = np.divide(2 * both, there, out=np.zeros_like(both), where=there > 0)
        result: Floats = 100 * f1.sum(axis=1) / np.maximum((there > 0).sum(axis=1), 1)
        return result

    return Sums(np.hstack([marks[0] * marks[1], marks[0], marks[1]]), combine)


def _several(pipe: Any, rows: Sequence[Row]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Flags (rows, labels): wanted, and found. A row's labels are a list, or a string with commas."""
    names = list(pipe.bundle.manifest.labels)
    wanted = np.zeros((len(rows), len(names)), bool)
    for flags, row in zip(wanted, rows, strict=True):
        given = row["label"]
        listed = [part.strip() for part in given.split(",") if part.strip()] if isinstance(given, str) else list(given)
        _check(pipe, [str(label) for label in listed])
        flags[[names.index(str(label)) for label in listed]] = True
    found = np.zeros_like(wanted)
    for flags, answer in zip(found, pipe([row["text"] for row in rows], top_k=None), strict=True):
        flags[[names.index(a["label"]) for a in answer if a["score"] > _THRESHOLD]] = True
    return wanted, found


def _score_several(wanted: NDArray[np.bool_], found: NDArray[np.bool_]) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score

    return {
        "micro F1": 100 * float(f1_score(wanted, found, average="micro", zero_division=0)),
        "exact match": 100 * float(accuracy_score(wanted, found)),
    }


def _micro_f1(wanted: NDArray[np.bool_], found: NDArray[np.bool_]) -> Sums:
    counts = np.stack([(wanted & found).sum(axis=1), wanted.sum(axis=1) + found.sum(axis=1)], axis=1)
    return Sums(counts.astype(np.float64), lambda sums: 200 * sums[:, 0] / np.maximum(sums[:, 1], 1e-12))


def _numbers(pipe: Any, rows: Sequence[Row]) -> tuple[Floats, Floats]:
    """The numbers wanted, and those found."""
    try:
        wanted = np.array([float(row["label"]) for row in rows])
    except ValueError as e:
        raise UsageError(f"the model gives a number, and a row's label is none ({e}): give numbers.") from e
    return wanted, np.array([answer["score"] for answer in pipe([row["text"] for row in rows])], np.float64)


def _score_numbers(wanted: Floats, found: Floats) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr

    return {
        "Spearman": 100 * float(spearmanr(found, wanted).statistic),
        "Pearson": 100 * float(pearsonr(found, wanted).statistic),
    }


def _pearson(wanted: Floats, found: Floats) -> Sums:
    def combine(sums: Floats) -> Floats:
        n, a, b, aa, bb, ab = sums.T
        size = np.sqrt(np.maximum(n * aa - a**2, 0) * np.maximum(n * bb - b**2, 0))
        result: Floats = 100 * (n * ab - a * b) / np.maximum(size, 1e-12)
        return result

    x, y = found - found.mean(), wanted - wanted.mean()
    return Sums(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1), combine)


SCORER = Scorer(("text", "label"), _score, outcomes=_outcomes)
