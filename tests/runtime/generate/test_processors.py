"""Logits processors, each against the class of transformers, and all of them against what ``generate`` builds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from edgeport.errors import UsageError
from edgeport.generate import processors as ours
from edgeport.generate.config import GenerationConfig
from edgeport.generate.processors import apply, make_processors
from edgeport.generate.samplers import MinP, Temperature, TopK, TopP, TypicalP, largest
from transformers.generation import logits_process as theirs

VOCAB, ROWS = 50, 3


def inputs(length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, 12, (ROWS, length)), generator.normal(0, 3, (ROWS, VOCAB)).astype(np.float32)


def assert_equal(mine: Any, reference: Any, length: int = 9, *, changes: bool = True) -> None:
    for seed in range(4):
        ids, scores = inputs(length, seed)
        if seed == 3:  # a sampler behind another one
            scores[:, 20:] = -np.inf
        before = scores.copy()
        scores.flags.writeable = False
        result = mine(list(ids), scores)
        expected = reference(torch.tensor(ids), torch.tensor(before)).numpy()
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
        assert np.array_equal(scores, before), "the scores given were written into"
        assert np.array_equal(result, scores) != changes


@pytest.mark.parametrize("penalty", [0.5, 1.2, 3.0])
def test_repetition_penalty(penalty: float) -> None:
    assert_equal(ours.RepetitionPenalty(penalty), theirs.RepetitionPenaltyLogitsProcessor(penalty))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_repeat(size: int) -> None:
    assert_equal(ours.NoRepeat(size), theirs.NoRepeatNGramLogitsProcessor(size), length=200)
    assert_equal(ours.NoRepeat(5), theirs.NoRepeatNGramLogitsProcessor(5), length=4, changes=False)


@pytest.mark.parametrize("length", [1, 6])
def test_bad_words(length: int) -> None:
    ends = [int(row[-1]) for seed in range(4) for row in inputs(length, seed)[0]]
    words = [[3], [4], [ends[0], 30], [ends[1], 31], [ends[1], 32], [1, 2, 3], [0, ends[2], 7]]
    assert_equal(ours.BadWords(tuple(map(tuple, words))), theirs.NoBadWordsLogitsProcessor(words))


def test_lengths() -> None:
    for least in (9, 10):
        mine = ours.Suppress((3, 4), (0,) * ROWS, (least,) * ROWS)
        assert_equal(mine, theirs.MinLengthLogitsProcessor(least, [3, 4]), changes=least > 9)
        other = theirs.MinNewTokensLengthLogitsProcessor(4, least - 4, [3, 4])
        assert_equal(mine, other, changes=least > 9)


def test_suppress() -> None:
    mine = ours.Suppress((3, 44), (0,) * ROWS, (np.inf,) * ROWS)
    assert_equal(mine, theirs.SuppressTokensLogitsProcessor([3, 44]))
    for begin in (8, 9, 10):
        mine = ours.Suppress((3, 44), (begin,) * ROWS, (begin + 1,) * ROWS)
        assert_equal(mine, theirs.SuppressTokensAtBeginLogitsProcessor([3, 44], begin), changes=begin == 9)


def test_forced() -> None:
    for length in (1, 2):
        reference = theirs.ForcedBOSTokenLogitsProcessor(7)
        assert_equal(ours.ForceToken((7,), (1,) * ROWS), reference, length=length, changes=length == 1)
    for length in (8, 9):
        reference = theirs.ForcedEOSTokenLogitsProcessor(10, [7, 9])
        assert_equal(ours.ForceToken((7, 9), (9,) * ROWS), reference, length=length, changes=length == 9)


@pytest.mark.parametrize("factor", [0.9, 1.3])
def test_decay(factor: float) -> None:
    for start in (5, 9):
        mine = ours.Decay((3, 30), factor, (start,) * ROWS)
        reference = theirs.ExponentialDecayLengthPenalty((start - 2, factor), [3, 30], 2)
        assert_equal(mine, reference, changes=start == 5)


def test_presence_and_frequency() -> None:
    """By the formula of OpenAI's reference, over what was generated."""
    ids, scores = inputs(9)
    result = ours.Penalties(0.5, 0.25, (4, 9, 0))(list(ids), scores)
    expected = scores.copy()
    for row, seen in zip(expected, (ids[0, 4:], ids[1, 9:], ids[2]), strict=True):
        for token in range(VOCAB):
            count = int((seen == token).sum())
            row[token] -= count * 0.25 + (count > 0) * 0.5
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert np.array_equal(result[1], scores[1])
    assert not np.array_equal(result[0], scores[0])


@pytest.mark.parametrize("keep", [1, 4])
@pytest.mark.parametrize("value", [0.02, 0.3, 0.7, 0.95])
def test_nucleus_samplers(value: float, keep: int) -> None:
    assert_equal(TopP(value, keep), theirs.TopPLogitsWarper(value, min_tokens_to_keep=keep))
    assert_equal(MinP(value, keep), theirs.MinPLogitsWarper(value, min_tokens_to_keep=keep))
    assert_equal(TypicalP(value, keep), theirs.TypicalLogitsWarper(value, min_tokens_to_keep=keep))


def test_limits_of_the_samplers() -> None:
    assert_equal(TopP(0.0), theirs.TopPLogitsWarper(0.0))
    assert_equal(MinP(0.0), theirs.MinPLogitsWarper(0.0), changes=False)
    assert_equal(MinP(1.0), theirs.MinPLogitsWarper(1.0))
    for k in (1, 7, 19):
        assert_equal(TopK(k), theirs.TopKLogitsWarper(k))
    assert_equal(TopK(80), theirs.TopKLogitsWarper(80), changes=False)
    assert_equal(Temperature(0.3), theirs.TemperatureLogitsWarper(0.3))


def test_ties_are_kept_as_there() -> None:
    scores = np.array([[1, 2, 2, 2, 0, 1, 1, -1]], np.float32)
    for mine, reference in (
        (TopK(2), theirs.TopKLogitsWarper(2)),
        (TopP(0.5), theirs.TopPLogitsWarper(0.5)),
        (TopP(0.8), theirs.TopPLogitsWarper(0.8)),
        (TypicalP(0.5), theirs.TypicalLogitsWarper(0.5)),
    ):
        expected = reference(torch.zeros(1, 1, dtype=torch.long), torch.tensor(scores)).numpy()
        np.testing.assert_array_equal(mine([np.zeros(1, np.int64)], scores), expected)


@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_a_vocabulary_of_many_thousands(spread: float) -> None:
    """Flat, where top-p keeps more than it sorts at first, and peaked."""
    scores = np.random.default_rng(0).normal(0, spread, (1, 20_000)).astype(np.float32)
    ids = torch.zeros(1, 1, dtype=torch.long)
    sizes = []
    for mine, reference in (
        (TopP(0.9), theirs.TopPLogitsWarper(0.9)),
        (TopP(0.3), theirs.TopPLogitsWarper(0.3)),
        (TopK(50), theirs.TopKLogitsWarper(50)),
        (TypicalP(0.9), theirs.TypicalLogitsWarper(0.9)),
    ):
        expected = np.isfinite(reference(ids, torch.tensor(scores)).numpy())
        kept = np.isfinite(mine([np.zeros(1, np.int64)], scores))
        assert (kept != expected).sum() <= 2, "sums in single precision may put one token on the other side"
        sizes.append(int(kept.sum()))
    assert (min(sizes[0], sizes[1]) > 1024) == (spread < 1), "both of top-p's ways, the short and the long"


def test_largest() -> None:
    scores = np.array([[3, 1, 3, 2], [0, 5, -np.inf, 5]], np.float32)
    assert largest(scores, 3).tolist() == [[0, 2, 3], [1, 3, 0]]
    assert largest(scores, 1).tolist() == [[0], [1]]
    assert largest(scores, 9).shape == (2, 4)


ALL = {
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[4], [5, 6], [9]],
    "min_length": 10,
    "min_new_tokens": 4,
    "eos_token_id": [9, 11],
    "forced_bos_token_id": 3,
    "forced_eos_token_id": 9,
    "exponential_decay_length_penalty": (2, 1.2),
    "suppress_tokens": [20, 21],
    "begin_suppress_tokens": [22, 23],
    "max_new_tokens": 8,
}
SAMPLERS = {"do_sample": True, "temperature": 0.7, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.95}


@pytest.mark.parametrize("prompt", [1, 5])
@pytest.mark.parametrize("extra", [{}, SAMPLERS, {**SAMPLERS, "num_beams": 4}], ids=["greedy", "sampling", "beams"])
def test_all_together(reference: Any, prompt: int, extra: dict[str, Any]) -> None:
    """What ``generate`` builds for the same options, step by step, where order matters."""
    options = {**ALL, **extra}
    config = transformers.GenerationConfig(**options)
    config, _ = reference._prepare_generation_config(config)
    reference._prepare_special_tokens(config, True)
    config = reference._prepare_generated_length(config, False, True, "input_ids", prompt, None)
    expected = reference._get_logits_processor(config, prompt, device="cpu")
    mine = make_processors(GenerationConfig.merged({}, options), [prompt] * ROWS, VOCAB)
    # The two minimal lengths of transformers are one here.
    assert len(mine) == len(expected) - 1
    for length in range(prompt, prompt + 8):
        ids, scores = inputs(length, length)
        want = expected(torch.tensor(ids), torch.tensor(scores)).numpy()
        np.testing.assert_allclose(apply(mine, list(ids), scores), want, rtol=1e-4, atol=1e-5)


def test_nothing_to_do_is_no_processor() -> None:
    neutral = {
        "temperature": 1.0,
        "top_k": None,
        "top_p": 1.0,
        "typical_p": 1.0,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "min_length": 0,
        "eos_token_id": 3,
    }
    for sample in (False, True):
        assert make_processors(GenerationConfig.merged({}, {**neutral, "do_sample": sample}), [3], VOCAB) == []
    by_default = make_processors(GenerationConfig.merged({}, {"do_sample": True}), [3], VOCAB)
    assert by_default == [TopK(50)]


def test_tokens_that_the_model_does_not_have() -> None:
    for name, value in (("bad_words_ids", [[3, 50]]), ("forced_bos_token_id", 50), ("forced_eos_token_id", [3, 50])):
        with pytest.raises(UsageError, match=f"{name} has the token 50, and the model's go from 0 to 49"):
            make_processors(GenerationConfig.merged({}, {name: value}), [3], VOCAB)
    harmless = GenerationConfig.merged({}, {"suppress_tokens": [50], "eos_token_id": 50, "min_new_tokens": 3})
    assert make_processors(harmless, [3], VOCAB) == []
