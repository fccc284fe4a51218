"""What is read once is not read again: the tokens that run through the session are counted."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import edgeport
import numpy as np
import pytest
from edgeport.errors import InputError, UsageError
from edgeport.generate.decoder import shared_start
from edgeport.generate.prompt_cache import PromptCache

SYSTEM = "the train was over water and the hour was over, so 1 2 3 4 5 6 7 8 9."
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8}


class Counting:
    """A session that counts the tokens which its bindings read, and can fail."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.read = 0
        self.fails = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def bind(self) -> Any:
        return _CountingBinding(self, self._session.bind())


class _CountingBinding:
    def __init__(self, counter: Counting, binding: Any) -> None:
        self._counter, self._binding = counter, binding
        self._ids = np.zeros(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._binding, name)

    def input(self, name: str, array: Any) -> None:
        if name == "input_ids":
            self._ids = array
        self._binding.input(name, array)

    def run(self) -> Any:
        if self._counter.fails:
            raise InputError("broken")
        self._counter.read += self._ids.size
        return self._binding.run()


@pytest.fixture
def pipe(bundle: Any) -> Iterator[Any]:
    with edgeport.load(bundle, variant="fp32") as loaded:
        loaded._runner = Counting(loaded._runner)
        yield loaded


@pytest.fixture
def fresh(bundle: Any) -> Any:
    """The answer of a pipeline that has read nothing before."""

    def answer(text: str, **options: Any) -> str:
        with edgeport.load(bundle, variant="fp32") as loaded:
            return said(loaded, text, **options)

    return answer


def said(pipe: Any, text: str, **options: Any) -> str:
    return str(pipe(text, **{**GREEDY, **options})[0]["generated_text"])


def read(pipe: Any, text: str, **options: Any) -> int:
    """Tokens that a call reads, and not those that it writes."""
    before = pipe._runner.read
    tokens = len(pipe(text, return_tensors=True, **{**GREEDY, **options})[0]["generated_token_ids"])
    return int(pipe._runner.read - before) - (tokens - length(pipe, text)) + 1


def length(pipe: Any, text: str) -> int:
    return len(pipe._text.prompt(text))


def tail(pipe: Any, text: str) -> int:
    """Tokens of ``text`` behind the system prompt. The tokenizer puts one at the end of a prompt."""
    return length(pipe, text) - length(pipe, SYSTEM) + 1


def test_a_second_turn_reads_what_is_new(pipe: Any, fresh: Any) -> None:
    first = SYSTEM + " was it?"
    assert read(pipe, first) == length(pipe, first)
    second = first + " an hour"
    assert said(pipe, second) == fresh(second)
    third = second + " and 77"
    assert read(pipe, third) == length(pipe, third) - length(pipe, second) + 1
    assert said(pipe, third) == fresh(third)


def test_the_same_prompt_again_reads_its_last_token(pipe: Any) -> None:
    expected = said(pipe, SYSTEM)
    assert read(pipe, SYSTEM) == 1
    assert said(pipe, SYSTEM) == expected
    assert read(pipe, SYSTEM, prompt_lookup_num_tokens=4, max_new_tokens=1) == 1


def test_another_prompt_in_between(pipe: Any, fresh: Any) -> None:
    turns = [SYSTEM, "over there", SYSTEM + " 99", "over there, an hour", SYSTEM + " 99 and"]
    assert [said(pipe, turn) for turn in turns] == [fresh(turn) for turn in turns]


def test_a_stream_that_is_left_keeps_what_was_read(pipe: Any, fresh: Any) -> None:
    stream = pipe.stream(SYSTEM, **GREEDY)
    next(stream)
    stream.close()
    assert read(pipe, SYSTEM + " 99") == tail(pipe, SYSTEM + " 99")
    assert said(pipe, SYSTEM + " 99") == fresh(SYSTEM + " 99")
    held = pipe.stream(SYSTEM + " 55", **GREEDY)
    next(held)
    assert said(pipe, SYSTEM + " 66") == fresh(SYSTEM + " 66"), "while another stream is open"
    assert SYSTEM + " 55" + next(pipe.stream(SYSTEM + " 55", **GREEDY)) in fresh(SYSTEM + " 55")
    del held
    gc.collect()
    assert said(pipe, SYSTEM + " 55") == fresh(SYSTEM + " 55")


def test_after_an_error_all_is_read_again(pipe: Any, fresh: Any) -> None:
    expected = said(pipe, SYSTEM)
    pipe._runner.fails = True
    with pytest.raises(InputError, match="broken"):
        said(pipe, SYSTEM + " 99")
    pipe._runner.fails = False
    assert read(pipe, SYSTEM) == length(pipe, SYSTEM)
    assert said(pipe, SYSTEM) == expected
    cancel = threading.Event()
    cancel.set()
    assert said(pipe, SYSTEM + " 99", cancel=cancel) == SYSTEM + " 99"
    assert said(pipe, SYSTEM + " 99") == fresh(SYSTEM + " 99")


def test_conversations_in_turns_share_their_system_prompt(pipe: Any, fresh: Any) -> None:
    pipe.keep_prompts(3)
    talks = [SYSTEM + f" {'abc'[i] * 3} was the train number {i}" for i in range(3)]
    for i, talk in enumerate(talks):
        assert read(pipe, talk) == (tail(pipe, talk) if i else length(pipe, talk))
    for more in (" and", " and the water"):
        for talk in talks:
            assert read(pipe, talk + more) < 6, "a kept conversation is not read again"
            assert said(pipe, talk + more) == fresh(talk + more)


def test_kept_prompts_are_few(pipe: Any) -> None:
    for count in (2, 1, 0):
        pipe.keep_prompts(count)
        for text in (SYSTEM, "over water", "an hour", SYSTEM + " 1", "12 34 56"):
            said(pipe, text)
            assert len(pipe._cache._idle) <= count
    assert read(pipe, "12 34 56") == length(pipe, "12 34 56")
    for wrong in (-1, 1.5, "2"):
        with pytest.raises(UsageError, match="is not a positive integer"):
            pipe.keep_prompts(wrong)


def test_beams_and_batches_leave_what_is_kept(pipe: Any) -> None:
    said(pipe, SYSTEM)
    pipe([SYSTEM, "over"], batch_size=2, **GREEDY)
    assert read(pipe, SYSTEM) == 1
    beams = said(pipe, SYSTEM, num_beams=3)
    assert read(pipe, SYSTEM) == 1
    pipe.keep_prompts(0)
    assert said(pipe, SYSTEM, num_beams=3) == beams


@pytest.mark.parametrize("model_type", ["llama", "diffllama", "openai-gpt"])
def test_a_copy_goes_on_by_itself(open_tiny: Any, model_type: str) -> None:
    """A cache in place, an appended one, and none."""
    decoder, other = open_tiny(model_type), open_tiny(model_type)
    row = [20, 31, 42, 53, 64, 75]
    decoder.start([row])
    copy = decoder.copy(4)
    expected = other.start([[20, 31, 42, 53, 9]])
    np.testing.assert_allclose(copy.start([[20, 31, 42, 53, 9]]), expected, atol=1e-4)
    np.testing.assert_allclose(decoder.step(np.array([7])), other.start([[*row, 7]]), atol=1e-4)
    assert (copy.tokens, decoder.tokens) == ([[20, 31, 42, 53, 9]], [[*row, 7]])


def test_threads_get_rows_of_their_own(open_tiny: Any) -> None:
    cache = PromptCache(lambda: open_tiny("llama"), keep=2)
    with cache.lend([20, 21]) as one, cache.lend([20, 21]) as two:
        assert one is not two
        one.start([[20, 21]])
        two.start([[30, 31]])
    with cache.lend([30, 31, 32]) as again:
        assert again is two
    with cache.lend([20, 22]) as forked:
        assert forked not in (one, two), "half of a kept row is another conversation"


def test_shared_start() -> None:
    assert shared_start([1, 2, 3], [1, 2, 4, 5]) == 2
    assert shared_start([1, 2, 3], [1, 2, 3]) == 2
    assert shared_start([1, 2, 3], [1, 2]) == 1
    assert shared_start([1], []) == shared_start([], [1]) == 0
