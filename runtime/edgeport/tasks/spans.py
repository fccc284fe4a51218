"""Tokens to words to spans: the aggregation of token-classification. Knows no model and no tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from edgeport.tasks.base import Array

__all__ = ["STRATEGIES", "Token", "drop_overlaps", "entities"]

Join = Callable[[list[str]], str]


@dataclass(frozen=True)
class Token:
    """A token that is part of the text."""

    word: str
    scores: Array
    """One score a label (labels,)."""
    start: int
    end: int
    index: int
    """Position among the row's tokens, special tokens counted."""
    inside: bool
    """Whether it continues the word of the token before it."""


@dataclass(frozen=True)
class _Tagged:
    """A token or a word with its label."""

    label: str
    score: float
    word: str
    start: int
    end: int


def entities(tokens: list[Token], strategy: str, labels: Sequence[str], join: Join) -> list[dict[str, Any]]:
    """What the pipeline returns for one row, ignored labels still among it.

    Args:
        tokens: The row's tokens, in order.
        strategy: One of ``STRATEGIES``.
        labels: Label of each class.
        join: Makes a text of tokens.
    """
    if strategy == "none":
        return [
            {
                "entity": labels[best],
                "score": float(token.scores[best]),
                "index": token.index,
                "word": token.word,
                "start": token.start,
                "end": token.end,
            }
            for token in tokens
            for best in [int(token.scores.argmax())]
        ]
    choose = STRATEGIES[strategy]
    if choose is None:
        tagged = [_tag([token], token.scores, token.word, labels) for token in tokens]
    else:
        tagged = [_tag(word, choose(word), join([t.word for t in word]), labels) for word in _words(tokens)]
    return [_entity(group, join) for group in _groups(tagged)]


def drop_overlaps(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of entities that windows found twice, keep the longest, and of equally long ones the surest."""
    kept: list[dict[str, Any]] = []
    for entity in sorted(found, key=lambda e: e["start"]):
        last = kept[-1] if kept else None
        if last is None or not last["start"] <= entity["start"] < last["end"]:
            kept.append(entity)
        elif _rank(entity) > _rank(last):
            kept[-1] = entity
    return kept


def _rank(entity: dict[str, Any]) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]


def _first(word: list[Token]) -> Array:
    return word[0].scores


def _average(word: list[Token]) -> Array:
    # numpy's mean takes far longer than the sum of a few short arrays.
    return reduce(np.add, [token.scores for token in word]) / len(word)


def _surest(word: list[Token]) -> Array:
    return max(word, key=lambda token: token.scores.max()).scores


STRATEGIES: dict[str, Callable[[list[Token]], Array] | None] = {
    "none": None,
    "simple": None,
    "first": _first,
    "average": _average,
    "max": _surest,
}
"""Strategy to the scores of a word, given its tokens; None where words play no part."""


def _words(tokens: Iterable[Token]) -> list[list[Token]]:
    words: list[list[Token]] = []
    for token in tokens:
        if words and token.inside:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _tag(part: list[Token], scores: Array, word: str, labels: Sequence[str]) -> _Tagged:
    best = int(scores.argmax())
    return _Tagged(labels[best], float(scores[best]), word, part[0].start, part[-1].end)


def _groups(tagged: list[_Tagged]) -> list[list[_Tagged]]:
    """Neighbours of one kind; a label with ``B-`` begins a new group."""
    groups: list[list[_Tagged]] = []
    for part in tagged:
        begins, kind = _kind(part.label)
        if groups and not begins and kind == _kind(groups[-1][-1].label)[1]:
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _kind(label: str) -> tuple[bool, str]:
    if label.startswith(("B-", "I-")):
        return label[0] == "B", label[2:]
    return False, label


def _entity(group: list[_Tagged], join: Join) -> dict[str, Any]:
    return {
        "entity_group": group[0].label.split("-", 1)[-1],
        "score": sum(part.score for part in group) / len(group),
        "word": join([part.word for part in group]),
        "start": group[0].start,
        "end": group[-1].end,
    }
