"""The comparison itself: it finds what is wrong, leaves padding out, and its numbers are scikit-learn's and numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from edgeport_export.recipe import Limits
from edgeport_export.tasks import TASKS
from edgeport_export.validate.compare import compare, violations
from sklearn.metrics.pairwise import paired_cosine_distances

RNG = np.random.default_rng(0)
MASK = np.array([[1, 1, 1, 0], [1, 1, 1, 1]])
LOGITS = RNG.standard_normal((2, 4, 5)).astype(np.float32)
TOKENS = TASKS["token-classification"]


def test_equal_outputs_pass_every_limit() -> None:
    figures = compare([[LOGITS]], [[LOGITS]], [MASK], TOKENS)
    assert (figures.max_abs, figures.agreement, figures.rows) == (0.0, 1.0, 7)
    assert violations(figures, Limits(max_abs=1e-6, cosine=0.999999, agreement=1.0)) == []


def test_padding_is_left_out() -> None:
    other = LOGITS.copy()
    other[0, 3] = 1e6
    assert compare([[other]], [[LOGITS]], [MASK], TOKENS).max_abs == 0.0


def test_figures_are_those_of_other_libraries() -> None:
    other = LOGITS + RNG.standard_normal(LOGITS.shape).astype(np.float32)
    figures = compare([[other]], [[LOGITS]], [np.ones_like(MASK)], TOKENS)
    a, b = other.reshape(-1, 5), LOGITS.reshape(-1, 5)
    assert figures.cosine == pytest.approx(float(np.mean(1 - paired_cosine_distances(a, b))), abs=1e-6)
    assert figures.agreement == float(np.mean(a.argmax(1) == b.argmax(1)))
    assert figures.mean_abs == pytest.approx(float(np.abs(a - b).mean()))


def test_answers_agree_by_position() -> None:
    """Start and end scores are one row a text, and the label is where they are largest."""
    start = np.array([[0.0, 3.0, 1.0, 9.0], [0.0, 0.0, 2.0, 0.0]], np.float32)
    moved = start[:, [1, 0, 2, 3]]
    figures = compare([[start, moved]], [[start, start]], [MASK], TASKS["question-answering"])
    assert figures.agreement == 0.75


def test_a_tie_in_the_original_is_no_disagreement() -> None:
    want = np.array([[[1.0, 1.0 + 1e-7]]], np.float32)
    got = np.array([[[1.0 + 1e-7, 1.0]]], np.float32)
    assert compare([[got]], [[want]], [np.ones((1, 1), np.int64)], TOKENS).agreement == 1.0


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_numbers_that_are_none_never_pass(broken: float) -> None:
    got = LOGITS.copy()
    got[1, 1, 1] = broken
    with np.errstate(invalid="ignore"):
        figures = compare([[got]], [[LOGITS]], [MASK], TOKENS)
    assert violations(figures, Limits(max_abs=1e-3))
    assert violations(figures, Limits(cosine=0.9))


def test_violations_say_by_how_much() -> None:
    figures = compare([[LOGITS * -1]], [[LOGITS]], [MASK], TOKENS)
    found = violations(figures, Limits(max_abs=0.1, cosine=0.9, agreement=0.9))
    assert [v.split()[0] for v in found] == ["largest", "cosine", "agreement"]
