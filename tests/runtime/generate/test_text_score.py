"""Perplexity, divergence and agreement, against torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from edgeport.generate.result import log_softmax
from edgeport.generate.text_score import TextScore

RNG = np.random.default_rng(0)
LOGITS, OTHER = (RNG.standard_normal((40, 30)).astype(np.float32) * 3 for _ in range(2))
TOKENS = RNG.integers(0, 30, 40)


def score(logits: np.ndarray, reference: np.ndarray | None = None, pieces: int = 1) -> TextScore:
    found = TextScore()
    for rows in np.array_split(np.arange(len(logits)), pieces):
        found.add(log_softmax(logits[rows]), TOKENS[rows], None if reference is None else reference[rows])
    return found


@pytest.mark.parametrize("pieces", [1, 7])
def test_figures_are_those_of_torch(pieces: int) -> None:
    found = score(LOGITS, log_softmax(OTHER), pieces)
    ours, theirs = (torch.from_numpy(logits) for logits in (LOGITS, OTHER))
    entropy = torch.nn.functional.cross_entropy(ours, torch.from_numpy(TOKENS))
    divergence = torch.nn.functional.kl_div(
        ours.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert found.tokens == 40
    assert found.perplexity == pytest.approx(float(entropy.exp()), rel=1e-5)
    assert found.divergence == pytest.approx(float(divergence), rel=1e-5)
    assert found.agreement == (ours.argmax(-1) == theirs.argmax(-1)).double().mean()


def test_without_a_reference_nothing_is_compared() -> None:
    found = score(LOGITS)
    assert (found.divergence, found.agreement) == (None, None)


def test_half_precision_of_the_reference_is_no_divergence() -> None:
    found = score(LOGITS, log_softmax(LOGITS).astype(np.float16))
    assert found.divergence is not None
    assert 0 <= found.divergence < 1e-6
    assert found.agreement == 1


def test_tokens_that_the_reference_rules_out_add_nothing() -> None:
    ruled = LOGITS.copy()
    ruled[:, 3] = -np.inf
    found = score(ruled, log_softmax(ruled))
    assert found.divergence == pytest.approx(0, abs=1e-6)


def test_a_model_that_is_sure_and_wrong_has_a_number() -> None:
    sure = np.zeros((40, 30), np.float32)
    sure[np.arange(40), (TOKENS + 1) % 30] = 1e5
    assert 1e300 < score(sure).perplexity < np.inf
