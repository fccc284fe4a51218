"""How well documents are ranked for a query: MRR of the first that fits, and nDCG at 10, by scikit-learn.

Rows with the same query are one list. A list in which nothing fits, or everything does, says nothing and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from edgeport.errors import UsageError
from numpy.typing import NDArray

from edgeport_export.quality.outcomes import Outcomes, figures, mean_of
from edgeport_export.quality.rows import Row, Scorer

__all__ = ["SCORER"]

_CUT = 10


def _outcomes(pipe: Any, rows: Sequence[Row]) -> Mapping[str, Outcomes]:
    from sklearn.metrics import ndcg_score

    lists = _lists(pipe, rows)
    gains = [float(ndcg_score([wanted], [found], k=_CUT)) for wanted, found in lists]
    return {"MRR": mean_of([_reciprocal_rank(*one) for one in lists]), "nDCG@10": mean_of(gains)}


def _score(pipe: Any, rows: Sequence[Row]) -> dict[str, float]:
    return figures(_outcomes(pipe, rows))


def _lists(pipe: Any, rows: Sequence[Row]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """For each query how well its documents fit, and the scores that they got."""
    found = np.asarray(pipe([(row["query"], row["text"]) for row in rows]), np.float64).reshape(-1)
    try:
        wanted = np.array([float(row["score"]) for row in rows])
    except ValueError as e:
        raise UsageError(f"a row's score is no number ({e}): give 0 for what does not fit, more for what does.") from e
    if wanted.min() < 0:
        raise UsageError(f"a score is {wanted.min():g}: give 0 for what does not fit, more for what does.")
    queries: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        queries.setdefault(str(row["query"]), []).append(i)
    lists = [(wanted[i], found[i]) for i in queries.values() if np.ptp(wanted[i]) > 0]
    if not lists:
        raise UsageError("no query has both documents that fit and others: give several rows with the same query.")
    return lists


def _reciprocal_rank(wanted: NDArray[Any], found: NDArray[Any]) -> float:
    """Of the best document, among equals the worst place."""
    best = found[wanted > wanted.min()].max() if wanted.min() > 0 else found[wanted > 0].max()
    return 1.0 / float((found >= best).sum())


SCORER = Scorer(("query", "text", "score"), _score, outcomes=_outcomes)
