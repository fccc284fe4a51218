"""Beam search, against ``generate`` of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from edgeport.errors import UsageError
from edgeport.generate.config import GenerationConfig
from edgeport.generate.run import generate

ENDS = [7, 23, 55, 71]


def config(**options: Any) -> GenerationConfig:
    return GenerationConfig.merged({}, options)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2},
        {"num_beams": 4, "eos_token_id": 7, "num_return_sequences": 4},
        {"num_beams": 3, "eos_token_id": ENDS, "num_return_sequences": 2},
        {"num_beams": 3, "eos_token_id": ENDS, "early_stopping": True, "num_return_sequences": 3},
        {"num_beams": 3, "eos_token_id": ENDS, "early_stopping": "never"},
        {"num_beams": 3, "eos_token_id": ENDS, "early_stopping": "never", "length_penalty": -1.0},
        {"num_beams": 3, "eos_token_id": ENDS, "length_penalty": 2.5, "num_return_sequences": 3},
        {"num_beams": 3, "eos_token_id": ENDS, "length_penalty": 0.0},
        {"num_beams": 3, "eos_token_id": ENDS, "forced_eos_token_id": 23, "min_new_tokens": 15},
        {"num_beams": 2, "eos_token_id": ENDS, "repetition_penalty": 1.5, "bad_words_ids": [[4], [5, 6]]},
    ],
    ids=str,
)
def test_beams(reference: Any, wrap: Any, theirs: Any, prompts: Any, options: dict[str, Any]) -> None:
    """A batch of ragged prompts, 64 new tokens: the same tokens and the same scores."""
    copies = options.get("num_return_sequences", 1)
    ours = generate(wrap(reference), prompts, config(max_new_tokens=64, **options))
    rows, scores = theirs(reference, prompts, max_new_tokens=64, **options)
    assert [row.prompt for row in ours] == np.repeat(range(len(prompts)), copies).tolist()
    # transformers pads with 0 up to the longest of all, and a row that was cut has no padding.
    assert [list(row.tokens) for row in ours] == [row[: len(mine.tokens)] for row, mine in zip(rows, ours, strict=True)]
    assert all(not any(row[len(mine.tokens) :]) for row, mine in zip(rows, ours, strict=True))
    assert [row.score for row in ours] == pytest.approx(scores, rel=1e-4)
    if options.get("eos_token_id") == ENDS and options.get("length_penalty", 1.0) <= 1:
        assert "eos" in {row.reason for row in ours}


def test_no_repeated_ngrams_and_total_lengths(reference: Any, wrap: Any, theirs: Any, prompts: Any) -> None:
    """transformers counts padding as tokens, so each prompt goes alone there."""
    for options in (
        {"num_beams": 3, "no_repeat_ngram_size": 2, "max_new_tokens": 20},
        {"num_beams": 3, "max_length": 25, "min_length": 18, "eos_token_id": ENDS, "num_return_sequences": 2},
    ):
        ours = generate(wrap(reference), prompts, config(**options))
        alone = [row for prompt in prompts for row in theirs(reference, [prompt], **options)[0]]
        assert [list(row.tokens) for row in ours] == [
            row[: len(mine.tokens)] for row, mine in zip(alone, ours, strict=True)
        ]


def test_a_prompts_beams_do_not_depend_on_the_others(reference: Any, wrap: Any, prompts: Any) -> None:
    options = config(num_beams=3, num_return_sequences=2, max_new_tokens=30, eos_token_id=ENDS)
    together = generate(wrap(reference), prompts, options)
    for i, prompt in enumerate(prompts):
        alone = generate(wrap(reference), [prompt], options)
        assert [row.tokens for row in alone] == [row.tokens for row in together[2 * i : 2 * i + 2]]


def test_beam_sampling(reference: Any, wrap: Any, prompts: Any) -> None:
    def run(seed: int | None, **options: Any) -> list[tuple[int, ...]]:
        given = {"do_sample": True, "num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 12, **options}
        rows = generate(wrap(reference), prompts, config(seed=seed, **given))
        scores = [row.score for row in rows if row.prompt == 0]
        assert scores == sorted(scores, reverse=True)
        return [row.tokens for row in rows]

    assert run(1, temperature=4.0) == run(1, temperature=4.0) != run(2, temperature=4.0)
    assert len(set(run(1, temperature=4.0, top_k=2))) > 4, "fewer tokens to draw than candidates wanted"
    # Nothing is left to chance where one token has all the probability.
    assert run(1, temperature=0.001)[::3] == run(2, temperature=0.001)[::3]


def test_beam_samples_have_the_right_distribution() -> None:
    """Without replacement: the first of the candidates has the softmax, and beams end after it."""
    probabilities = np.array([0.5, 0.25, 0.15, 0.1])

    class Fixed:
        vocab_size = 4

        def start(self, prompts: Any) -> Any:
            return np.log(np.tile(probabilities, (len(prompts), 1))).astype(np.float32)

        def reorder(self, rows: Any) -> None:
            pass

    pairs = np.zeros((4, 4))
    draws = 3000
    for seed in range(draws):
        options = config(do_sample=True, num_beams=2, num_return_sequences=2, max_new_tokens=1, seed=seed)
        first, second = generate(Fixed(), [[0]], options)  # type: ignore[arg-type]
        pairs[first.tokens[0], second.tokens[0]] += 1
    expected = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            if i != j:  # the result is sorted by score, so both orders of drawing count
                expected[min(i, j), max(i, j)] += probabilities[i] * probabilities[j] / (1 - probabilities[i])
    assert np.abs(pairs / draws - expected).max() < 0.03


def test_logprobs_need_one_beam() -> None:
    with pytest.raises(UsageError, match="logprobs=2 is not available with num_beams=3: use one beam"):
        config(num_beams=3, logprobs=2)
