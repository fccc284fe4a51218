"""The quality of sentence embeddings: Spearman correlation of their cosine with people's judgement, by scipy.

Anything that turns a list of texts into an array of vectors can be scored, a bundle's pipeline or another library's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
from edgeport.errors import UsageError

from edgeport_export.quality.outcomes import Outcomes, RankCorrelation
from edgeport_export.quality.rows import Row, Scorer

__all__ = ["SCORER", "Embed", "Pair", "cosines", "parse_pairs", "read_sample", "score", "spearman"]

Embed = Callable[[list[str]], npt.NDArray[Any]]
"""Texts to (texts, dimensions)."""


@dataclass(frozen=True)
class Pair:
    """Two texts, and how similar people found them; any scale will do, larger is more similar."""

    score: float
    first: str
    second: str


def read_sample() -> list[Pair]:
    """The labelled pairs that come with this package: image captions, see data/README.md."""
    name = "sts_images_sample.tsv"
    return parse_pairs((files("edgeport_export") / "data" / name).read_text(encoding="utf-8"), name)


def parse_pairs(text: str, name: str) -> list[Pair]:
    """The pairs in ``text``; ``name`` is what messages call it."""
    pairs = []
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.rstrip("\r").split("\t")
        if not fields[0].strip():
            continue
        try:
            score, first, second = fields
            pairs.append(Pair(float(score), first, second))
        except ValueError as e:
            raise UsageError(f"line {number} of {name} is not score, text and text, tabs between: {line!r:.80}.") from e
    return pairs


def score(embed: Embed, pairs: Sequence[Pair]) -> float:
    """Spearman correlation times 100 between the cosine of the embeddings and the pairs' scores."""
    return spearman(_pair_cosines(embed, pairs), [p.score for p in pairs])


def _pair_cosines(embed: Embed, pairs: Sequence[Pair]) -> npt.NDArray[np.float64]:
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair.first, pair.second)))
    row = {text: i for i, text in enumerate(texts)}
    vectors = np.asarray(embed(texts), dtype=np.float64)
    first, second = vectors[[row[p.first] for p in pairs]], vectors[[row[p.second] for p in pairs]]
    return cosines(first, second)


def cosines(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Cosine of each row of ``a`` with the same row of ``b``; both (rows, dimensions)."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    result: npt.NDArray[np.float64] = (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)
    return result


def spearman(found: Sequence[float] | npt.NDArray[Any], wanted: Sequence[float]) -> float:
    """Rank correlation times 100.

    Raises:
        UsageError: fewer than two pairs.
    """
    from scipy.stats import spearmanr  # takes a second to import, and only scoring needs it

    if len(wanted) < 2:
        raise UsageError(f"{len(wanted)} labelled pairs are too few to rank: give at least two.")
    return 100 * float(spearmanr(found, wanted).statistic)


def _score_rows(pipe: Any, rows: Sequence[Row]) -> dict[str, float]:
    return {"Spearman": score(pipe, _as_pairs(rows))}


def _outcomes(pipe: Any, rows: Sequence[Row]) -> Mapping[str, Outcomes]:
    pairs = _as_pairs(rows)
    return {"Spearman": RankCorrelation(_pair_cosines(pipe, pairs), np.array([p.score for p in pairs]))}


def _as_pairs(rows: Sequence[Row]) -> list[Pair]:
    try:
        return [Pair(float(r["score"]), r["sentence1"], r["sentence2"]) for r in rows]
    except ValueError as e:
        raise UsageError(f"a pair's score is no number ({e}): give numbers, larger for more similar.") from e


def _as_rows(pairs: Sequence[Pair]) -> list[Row]:
    return [{"sentence1": p.first, "sentence2": p.second, "score": p.score} for p in pairs]


SCORER = Scorer(
    ("sentence1", "sentence2", "score"),
    _score_rows,
    plain=lambda text, name: _as_rows(parse_pairs(text, name)),
    sample=lambda: _as_rows(read_sample()),
    outcomes=_outcomes,
)
