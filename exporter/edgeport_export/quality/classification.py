"""Accuracy and macro F1 of the top label, by scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeport.errors import UsageError

from edgeport_export.quality.rows import Row, Scorer

__all__ = ["SCORER"]


def _score(pipe: Any, rows: Sequence[Row]) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score  # takes a second to import, and only scoring needs it

    labels = set(pipe.bundle.manifest.labels)
    strange = next((row["label"] for row in rows if str(row["label"]) not in labels), None)
    if strange is not None:
        raise UsageError(f"label {strange!r} is not one of the model's ({', '.join(sorted(labels)[:8])}, …).")
    wanted = [str(row["label"]) for row in rows]
    found = [answer["label"] for answer in pipe([row["text"] for row in rows])]
    return {
        "accuracy": 100 * float(accuracy_score(wanted, found)),
        "macro F1": 100 * float(f1_score(wanted, found, average="macro", zero_division=0)),
    }


SCORER = Scorer(("text", "label"), _score)
