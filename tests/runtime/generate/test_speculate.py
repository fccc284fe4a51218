"""Guessed tokens: the same text as without, in fewer runs of the model."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import edgeport
import numpy as np
import pytest
from edgeport.errors import UsageError
from edgeport.generate.config import GenerationConfig
from edgeport.generate.result import Generated
from edgeport.generate.search import collect, search
from edgeport.generate.speculate import Draft, Guesser, PromptLookup, ReadAhead, check_vocabularies, guesser_for
from tokenizers import Tokenizer, models

VOCAB = 60
PROMPT = [5, 6, 7, 8, 9, 5, 6]


FP32 = {1: 1.0, 2: 1.06, 4: 1.1, 8: 1.2, 99: 1.3}
INT8 = {1: 1.0, 2: 3.1, 4: 3.9, 8: 4.1, 99: 4.7}
INT4 = {1: 1.0, 2: 1.3, 4: 4.7, 8: 5.5, 99: 6.0}
"""What a run of at most so many tokens takes, as measured on a small Llama; the unit is a run of one."""


class Markov:
    """A decoder whose logits are random functions of a row's last ``order`` tokens, so that it runs into loops."""

    vocab_size = VOCAB

    def __init__(
        self, order: int = 2, seed: int = 0, noise: float = 0.0, costs: dict[int, float] | None = None
    ) -> None:
        self.row: list[int] = []
        self.runs: list[int] = []
        """Tokens that each read."""
        self._order, self._seed, self._noise, self._costs = order, seed, noise, costs or FP32

    def spent(self) -> float:
        """What all runs cost together: the clock."""
        return sum(next(cost for most, cost in self._costs.items() if tokens <= most) for tokens in self.runs)

    def start(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        (row,) = prompts
        self.row = list(row)
        return self._logits(self.row)[None]

    def step(self, tokens: np.ndarray) -> np.ndarray:
        return self.extend(tokens.tolist())

    def extend(self, tokens: Sequence[int]) -> np.ndarray:
        self.runs.append(len(tokens))
        self.row += tokens
        ends = range(len(self.row) - len(tokens) + 1, len(self.row) + 1)
        return np.stack([self._logits(self.row[:end]) for end in ends])

    def truncate(self, length: int) -> None:
        assert length <= len(self.row)
        del self.row[length:]

    def reorder(self, rows: np.ndarray) -> None:
        assert rows.tolist() == [0]

    def _logits(self, row: list[int]) -> np.ndarray:
        logits = np.random.default_rng([self._seed, *row[-self._order :]]).standard_normal(VOCAB)
        if self._noise:
            logits += self._noise * np.random.default_rng([1, *row]).standard_normal(VOCAB)
        return (4 * logits).astype(np.float32)


class Fixed:
    """Guesses what it is given."""

    most = 8
    free = False

    def __init__(self, *tokens: int) -> None:
        self.tokens = tokens
        self.asked: list[int] = []

    def guess(self, row: Sequence[int], count: int) -> list[int]:
        self.asked.append(count)
        return list(self.tokens[:count])


def config(**options: Any) -> GenerationConfig:
    return GenerationConfig.merged({}, {"max_new_tokens": 80, **options})


def run(model: Any, options: GenerationConfig, guesser: Guesser | None, prompt: list[int] = PROMPT) -> Generated:
    clock = {"clock": model.spent} if isinstance(model, Markov) else {}
    reader = ReadAhead(model, guesser, options, **clock) if guesser else model
    return collect(search(reader, [prompt], options))[0]


def guessers() -> list[Guesser]:
    return [PromptLookup(8, 3), Draft(Markov(noise=0.2), 6, None), Draft(Markov(seed=1), 6, None), Fixed(1, 2, 99)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"eos_token_id": [17, 23, 40]},
        {"max_new_tokens": 1},
        {"max_new_tokens": 7, "min_new_tokens": 5, "eos_token_id": 17},
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 3},
        {"logprobs": 2},
        {"do_sample": True, "seed": 3, "temperature": 0.5},
    ],
    ids=str,
)
def test_the_same_as_without(options: dict[str, Any]) -> None:
    """Every field of the result: tokens, reason, log-probabilities."""
    settings = config(**options)
    for guesser in guessers():
        for seed in range(5):
            plain, ahead = Markov(seed=seed), Markov(seed=seed)
            assert run(ahead, settings, guesser) == run(plain, settings, None)
            assert len(ahead.runs) <= len(plain.runs)


def test_a_loop_takes_few_runs() -> None:
    plain, ahead = Markov(order=1), Markov(order=1)
    assert run(ahead, config(), PromptLookup(8, 2)) == run(plain, config(), None)
    assert len(plain.runs) == 79
    assert len(ahead.runs) < 25


@pytest.mark.parametrize(("costs", "share"), [(FP32, 0.2), (INT8, 0.65), (INT4, 0.8)], ids=["fp32", "int8", "int4"])
def test_a_text_that_repeats_itself_costs_less_and_any_other_hardly_more(costs: dict[int, float], share: float) -> None:
    """Costs are counted from runs and their tokens; the clock of the one is the other's."""
    options = config(max_new_tokens=250)
    for order, noise, most in ((1, 0.0, share), (3, 0.0, 1.06), (1, 0.6, 1.06), (1, 2.0, 1.06)):
        for seed in range(2):
            plain, ahead = (Markov(order=order, seed=seed, noise=noise, costs=costs) for _ in range(2))
            assert run(ahead, options, PromptLookup(10, 1)) == run(plain, options, None)
            assert ahead.spent() <= most * plain.spent(), (order, noise, seed)


def test_guessing_stops_where_the_text_no_longer_repeats_itself_and_begins_again() -> None:
    class Changing(Markov):
        def _logits(self, row: list[int]) -> np.ndarray:
            self._order = 1 if len(row) < 200 or len(row) > 400 else 8
            return super()._logits(row)

    model = Changing(costs=INT8)
    run(model, config(max_new_tokens=600), PromptLookup(10, 1))
    ends = np.cumsum(model.runs) + len(PROMPT)
    first, second, third = (
        [n for n, end in zip(model.runs, ends, strict=True) if low < end <= high]
        for low, high in ((60, 200), (260, 400), (440, 600))
    )
    assert np.mean(first) > 8
    assert np.mean(second) < 1.2
    assert np.mean(third) > 8


@pytest.mark.parametrize(("draft", "most"), [(Markov(order=3), 0.5), (Markov(order=3, seed=1), 1.05)])
def test_a_good_draft_saves_time_and_a_bad_one_costs_little(draft: Markov, most: float) -> None:
    plain, ahead = Markov(order=3), Markov(order=3)
    options = config(max_new_tokens=250)
    reader = ReadAhead(ahead, Draft(draft, 6, None), options, clock=lambda: ahead.spent() + draft.spent() / 4)
    assert collect(search(reader, [PROMPT], options))[0] == run(plain, options, None)
    assert ahead.spent() + draft.spent() / 4 <= most * plain.spent()


def test_nothing_is_read_beyond_the_budget_or_the_context() -> None:
    guesser = Fixed(*[0] * 8)
    model = Markov()
    run(model, config(max_new_tokens=4), guesser)
    assert guesser.asked == [1], "of 4 tokens the first is there, a run alone comes first, and the last is not read"
    assert len(model.row) <= len(PROMPT) + 3
    model, draft = Markov(order=1), Draft(Markov(order=1), 8, len(PROMPT) + 5)
    options = config()
    reader = ReadAhead(model, draft, options, max_positions=20, clock=model.spent)
    collect(search(reader, [PROMPT], options, max_positions=20))
    assert len(model.row) == 19
    assert draft.guess([1] * 12, 8) == []


def test_tokens_that_the_model_does_not_have_are_not_read() -> None:
    model = Markov()
    run(model, config(), Fixed(VOCAB, 3))
    assert set(model.runs) == {1}


def test_steps_come_when_they_are_asked_for() -> None:
    model, cancel = Markov(order=1), threading.Event()
    options = config()
    reader = ReadAhead(model, PromptLookup(8, 2), options, clock=model.spent)
    steps = search(reader, [PROMPT], options, cancel=cancel)
    assert model.runs == []
    taken = [next(steps) for _ in range(40)]
    cancel.set()
    runs = len(model.runs)
    taken += list(steps)
    assert len(model.runs) == runs
    row = collect(taken)[0]
    assert (len(row.tokens), row.reason) == (40, "cancelled")


def test_prompt_lookup() -> None:
    lookup = PromptLookup(10, 3)
    assert lookup.guess([1, 2, 3, 4, 5, 1, 2, 3], 3) == [4, 5, 1]
    assert lookup.guess([2, 3, 4, 9, 3, 5, 9, 2, 3], 1) == [4], "the longest match"
    assert lookup.guess([3, 4, 9, 3, 5, 9, 3], 1) == [5], "the last of equally long ones"
    assert lookup.guess([7, 1, 2, 1, 2], 5) == [1, 2, 1, 2, 1]
    assert lookup.guess([4, 4], 3) == [4, 4, 4]
    assert lookup.guess([1, 2, 3], 3) == lookup.guess([1], 3) == []
    assert PromptLookup(10, 1).guess([2, 3, 4, 9, 3, 5, 9, 2, 3], 1) == [5]


def test_what_cannot_be_asked_for() -> None:
    assert guesser_for(config()) is None
    with pytest.raises(UsageError, match="leave one of them out"):
        guesser_for(config(prompt_lookup_num_tokens=3), Markov())
    for options in ({"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}):
        with pytest.raises(UsageError, match="leave num_beams and num_return_sequences out"):
            guesser_for(config(prompt_lookup_num_tokens=3, **options))
    same, other = (Tokenizer(models.WordLevel({"a": 0, word: 1}, unk_token="a")) for word in "bc")
    check_vocabularies(same, same)
    with pytest.raises(UsageError, match="has 2 tokens and the model 2, and 1 of the first differ"):
        check_vocabularies(same, other)


@pytest.mark.parametrize("model_type", ["llama", "diffllama", "openai-gpt"])
def test_real_decoders_in_fp32(open_tiny: Any, model_type: str) -> None:
    """A cache in place, an appended one, and none: 20 prompts, guesses right and wrong."""
    model, draft = open_tiny(model_type), open_tiny("llama")
    generator = np.random.default_rng(0)
    settings = config(max_new_tokens=40, eos_token_id=2)
    for length in generator.integers(2, 30, 20):
        prompt = generator.integers(7, 128, length).tolist()
        plain = run(model, settings, None, prompt)
        for guesser in (PromptLookup(6, 2), Draft(draft, 6, 128), Fixed(11, 12)):
            assert run(model, settings, guesser, prompt) == plain


def test_through_the_pipeline(bundle: Any) -> None:
    greedy: dict[str, Any] = {"do_sample": False, "max_new_tokens": 40}
    texts = ["the train and the train and", "over water", "an hour was the hour was"]
    with edgeport.load(bundle, variant="fp32") as pipe, edgeport.load(bundle, variant="int8") as draft:
        plain = pipe(texts, **greedy)
        for more in ({"prompt_lookup_num_tokens": 5}, {"assistant": draft}):
            assert pipe(texts, batch_size=3, **greedy, **more) == plain
            for text, (expected,) in zip(texts, plain, strict=True):
                pieces = list(pipe.stream(text, **greedy, **more))
                assert text + "".join(pieces) == expected["generated_text"]
            stops = {"stop_strings": plain[0][0]["generated_text"][-6:-2], **greedy}
            assert pipe(texts[0], **stops, **more) == pipe(texts[0], **stops)
        with pytest.raises(UsageError, match="the assistant is 'x': use a text-generation pipeline"):
            pipe(texts[0], assistant="x")
        with pytest.raises(UsageError, match="leave num_beams"):
            pipe(texts[0], assistant=draft, num_beams=2)
