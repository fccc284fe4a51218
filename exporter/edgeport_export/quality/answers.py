"""How good answers are, in SQuAD's sense: exact match, and F1 of their words, after case, articles and punctuation.

A question with several answers counts by the best of them; one without any is answered by saying nothing
(Rajpurkar et al. 2016 and 2018).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from edgeport.errors import UsageError

from edgeport_export.quality.outcomes import Outcomes, figures, mean_of
from edgeport_export.quality.rows import Row, Scorer

__all__ = ["SCORER", "exact_match", "normalized", "word_f1"]


def normalized(answer: str) -> str:
    """In lower case, without punctuation and the articles a, an, the; words apart by one space."""
    plain = "".join(c for c in answer.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def exact_match(found: str, wanted: str) -> float:
    """1 for the same words, else 0."""
    return float(normalized(found) == normalized(wanted))


def word_f1(found: str, wanted: str) -> float:
    """F1 of the words that the two share."""
    ours, theirs = normalized(found).split(), normalized(wanted).split()
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


def _outcomes(pipe: Any, rows: Sequence[Row]) -> Mapping[str, Outcomes]:
    wanted = [_answers(row["answers"]) for row in rows]
    questions = [{"question": row["question"], "context": row["context"]} for row in rows]
    found = pipe(questions, handle_impossible_answer=any(not answers for answers in wanted))
    texts = [answer["answer"] for answer in (found if isinstance(found, list) else [found])]

    def best(metric: Any) -> Outcomes:
        return mean_of([max(metric(t, w) for w in answers or [""]) for t, answers in zip(texts, wanted, strict=True)])

    return {"F1": best(word_f1), "exact match": best(exact_match)}


def _score(pipe: Any, rows: Sequence[Row]) -> dict[str, float]:
    return figures(_outcomes(pipe, rows))


def _answers(value: Any) -> list[str]:
    """A string, a list of strings, or SQuAD's ``{"text": [...]}``, to the texts."""
    if isinstance(value, Mapping):
        value = value.get("text")
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise UsageError(f"answers are {value!r:.60}: give a string, a list of them, or SQuAD's form with 'text'.")
    return value


SCORER = Scorer(("question", "context", "answers"), _score, outcomes=_outcomes)
