"""Greedy search and sampling, against ``generate`` of transformers."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from edgeport.errors import InputError, UsageError
from edgeport.generate.config import GenerationConfig
from edgeport.generate.processors import make_processors
from edgeport.generate.run import generate
from edgeport.generate.search import collect, search

ENDS = [7, 23, 55]


def config(**options: Any) -> GenerationConfig:
    return GenerationConfig.merged({}, options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"eos_token_id": ENDS},
        {"eos_token_id": ENDS, "min_new_tokens": 20},
        {"repetition_penalty": 1.4},
        {"bad_words_ids": [[4], [5, 6], [11, 80]], "suppress_tokens": [30, 31], "begin_suppress_tokens": [1, 2, 3]},
        {"eos_token_id": ENDS, "forced_eos_token_id": 7, "exponential_decay_length_penalty": (10, 1.1)},
    ],
    ids=str,
)
def test_greedy(reference: Any, wrap: Any, theirs: Any, prompts: Any, options: dict[str, Any]) -> None:
    """A batch of ragged prompts, 64 new tokens."""
    ours = generate(wrap(reference), prompts, config(max_new_tokens=64, **options))
    expected, _ = theirs(reference, prompts, max_new_tokens=64, **options)
    assert [list(row.tokens) for row in ours] == expected
    assert len({tuple(row) for row in expected}) == len(prompts)
    assert min(len(set(row)) / len(row) for row in expected) > 0.1, "rows that only repeat prove little"
    ends = {row.reason for row in ours}
    assert ends == {"length"} if "eos_token_id" not in options else "eos" in ends


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
def test_what_depends_on_the_length_of_a_row(reference: Any, wrap: Any, theirs: Any, prompts: Any) -> None:
    """transformers counts padding as tokens, so each prompt goes alone there."""
    for options in (
        {"max_length": 30, "min_length": 25, "eos_token_id": ENDS},
        {"max_new_tokens": 30, "no_repeat_ngram_size": 2},
        {"max_new_tokens": 10, "forced_bos_token_id": 60, "begin_suppress_tokens": list(range(40))},
        {},
    ):
        ours = generate(wrap(reference), prompts, config(**options))
        alone = [theirs(reference, [prompt], **options)[0][0] for prompt in prompts]
        assert [list(row.tokens) for row in ours] == alone


def test_rows_that_have_ended_are_dropped(reference: Any, wrap: Any, prompts: Any) -> None:
    model = wrap(reference)
    counts = []
    for step in search(model, prompts, config(max_new_tokens=64, eos_token_id=ENDS, pad_token_id=1)):
        counts.append((int(step.fresh.sum()), len(model.rows)))
        assert (step.tokens[~step.fresh] == 1).all()
        assert all((reason is None) <= bool(fresh) for reason, fresh in zip(step.reasons, step.fresh, strict=True))
    assert all(fresh == rows for fresh, rows in counts)
    assert counts[0][1] == 4 > counts[-1][1]


def test_no_step_is_run_ahead_of_what_is_asked(reference: Any, wrap: Any, prompts: Any) -> None:
    model = wrap(reference)
    steps = search(model, prompts, config(max_new_tokens=30))
    assert (model.steps, model.rows) == (0, [])
    first = [next(steps) for _ in range(3)]
    assert model.steps == 2
    assert [len(row.tokens) for row in collect(first)] == [3] * 4
    assert {row.reason for row in collect(first)} == {"cancelled"}


def test_cancel(reference: Any, wrap: Any, prompts: Any) -> None:
    for beams in (1, 3):
        cancel = threading.Event()
        model = wrap(reference)
        step = model.step

        def counted(tokens: Any, step: Any = step, model: Any = model, cancel: Any = cancel) -> Any:
            if model.steps == 4:
                cancel.set()
            return step(tokens)

        model.step = counted
        rows = generate(model, prompts, config(max_new_tokens=30, num_beams=beams), cancel=cancel)
        # Beams would need the step's logits to choose among; a single row's token is there already.
        assert [(len(row.tokens), row.reason) for row in rows] == [({1: 6, 3: 5}[beams], "cancelled")] * 4
        assert generate(model, prompts, config(num_beams=beams), cancel=cancel)[0].tokens == ()


def test_logprobs_are_of_the_raw_logits(reference: Any, wrap: Any, prompts: Any) -> None:
    options = config(max_new_tokens=6, logprobs=3, eos_token_id=ENDS, repetition_penalty=2.0, temperature=0.5)
    for row, prompt in zip(generate(wrap(reference), prompts, options), prompts, strict=True):
        ids = torch.tensor([[*prompt, *row.tokens]])
        with torch.inference_mode():
            logs = reference(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        assert [step.token for step in row.logprobs] == list(row.tokens)
        for step, line in zip(row.logprobs, logs, strict=True):
            assert step.logprob == pytest.approx(line[step.token].item(), abs=1e-4)
            values, tokens = line.topk(3)
            assert [token for token, _ in step.top] == tokens.tolist()
            assert [value for _, value in step.top] == pytest.approx(values.tolist(), abs=1e-4)


SAMPLING = {"do_sample": True, "temperature": 3.0, "top_k": 40, "top_p": 0.9, "max_new_tokens": 12}


def test_the_seed_decides(reference: Any, wrap: Any, prompts: Any) -> None:
    def run(seed: int | None, given: Any = prompts, **options: Any) -> list[tuple[int, ...]]:
        rows = generate(wrap(reference), given, config(seed=seed, **SAMPLING, **options))
        return [row.tokens for row in rows]

    assert run(3) == run(3)
    assert all(a != b for a, b in zip(run(3), run(4), strict=True))
    assert run(None) != run(None)
    assert run(3, prompts[2:3]) == run(3)[2:3], "what else is in the batch does not matter"
    several = run(3, num_return_sequences=3)
    assert several[::3] == run(3)
    assert len(set(several)) == 12


@pytest.mark.parametrize("options", [{"top_k": 0}, {"top_k": 12, "top_p": 0.8}], ids=str)
def test_first_tokens_have_the_processed_distribution(
    reference: Any, wrap: Any, prompts: Any, options: dict[str, Any]
) -> None:
    from scipy.stats import chisquare

    class First:
        """The reference's first logits, computed once."""

        vocab_size = 97

        def __init__(self) -> None:
            self.logits = wrap(reference).start(prompts[:1])

        def start(self, prompts: Any) -> Any:
            return self.logits

        def reorder(self, rows: Any) -> None:
            pass

    draws = 4000
    options = {"do_sample": True, "temperature": 4.0, "max_new_tokens": 1, **options}
    rows = generate(First(), prompts[:1], config(seed=1, num_return_sequences=draws, **options))  # type: ignore[arg-type]
    scores = First().logits
    for processor in make_processors(config(**options), [5], 97):
        scores = processor([np.array(prompts[0])], scores)
    expected = torch.tensor(scores[0]).double().softmax(-1).numpy() * draws
    seen = Counter(row.tokens[0] for row in rows)
    observed = np.array([seen[token] for token in range(97)])
    assert not observed[expected == 0].any()
    often = expected > 8
    bins = [np.append(x[often], x[~often].sum()) for x in (observed, expected)]
    keep = bins[1] > 0
    assert chisquare(bins[0][keep], bins[1][keep]).pvalue > 0.01


def test_prompts_that_do_not_work(reference: Any, wrap: Any) -> None:
    model = wrap(reference)
    with pytest.raises(InputError, match="the prompt is empty"):
        search(model, [[3], []], config())
    assert generate(model, [[]], config(bos_token_id=9)) == generate(model, [[9]], config())
    with pytest.raises(InputError, match="3 tokens and max_length=3 counts them too: raise it"):
        search(model, [[3, 3, 3]], config(max_length=3))
    with pytest.raises(InputError, match="the model takes 3, continuation included: shorten"):
        search(model, [[3, 3, 3]], config(), max_positions=3)
    assert len(generate(model, [[3, 3, 3]], config(), max_positions=9)[0].tokens) == 6
    with pytest.raises(UsageError, match="no token is left to choose from"):
        generate(model, [[3]], config(do_sample=True, suppress_tokens=list(range(97))))
    assert generate(model, [], config()) == []


def test_stop_strings_need_a_tokenizer(reference: Any, wrap: Any) -> None:
    with pytest.raises(UsageError, match=r"stop_strings=\['x'\] need a tokenizer"):
        search(wrap(reference), [[3]], config(stop_strings="x"))
