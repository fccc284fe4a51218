"""Speculative decoding: guess the next tokens cheaply, let the model read all guesses at once, keep what it agrees to.

``ReadAhead`` is a model to the search: asked for the logits after a token, it lets the real model read that token and
the guesses behind it in one run, and as long as the search chooses what was guessed, the logits are there already. So
nothing is known here of processors, stop strings, streams or sampling, and all of them are what they are without
guesses: the search sees the same logits, but for the rounding of a run of several tokens. That is the last bits of a
float in fp32. Graphs in int8 and int4 quantize activations too, where such a bit may decide which way a value is
rounded: a run of several tokens then differs from runs of one as much as a prompt read whole from one read token by
token (by up to 0.04 in the logits of a Llama of 9M parameters, weights in int8), and a choice that is nearer to a tie
may turn out otherwise.

Guesses come from the row itself (``PromptLookup``) or from a smaller model of the same vocabulary (``Draft``). How many
are made is ``pace``'s to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgeport.errors import UsageError
from edgeport.generate.config import GenerationConfig
from edgeport.generate.model import FloatArray, IntArray, Model
from edgeport.generate.pace import Pace
from edgeport.generate.result import log_softmax

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Draft", "Guesser", "PromptLookup", "ReadAhead", "Rereading", "check_vocabularies", "guesser_for"]

_NGRAM = 2
"""transformers' default."""

_CONFIDENCE = 0.4
"""A draft goes on while its own probability is not below this, transformers' default."""


class Rereading(Model, Protocol):
    """A model that can take back what it read, and read several tokens at once: ``Decoder``."""

    def extend(self, tokens: Sequence[int]) -> FloatArray:
        """Let the single row read several tokens; the logits after each, float32 (tokens, vocab)."""

    def truncate(self, length: int) -> None:
        """Forget what the single row read after its first ``length`` tokens."""


class Guesser(Protocol):
    """Guesses how a row goes on."""

    most: int
    """Tokens that it is asked for at once, at most."""
    free: bool
    """Whether a guess costs nothing, so that one is made, and judged, even where none is to be read ahead."""

    def guess(self, row: Sequence[int], count: int) -> list[int]:
        """Up to ``count`` tokens that may follow the row; none where it has no idea."""


class PromptLookup:
    """The row repeats itself: what came after its last tokens before comes again (Saxena 2023, prompt lookup decoding).

    The longest match goes first, and of equally long ones the last. A match that overlaps the end is copied over and
    over, as in LZ77: it is a loop.
    """

    free = True

    def __init__(self, most: int, ngram: int) -> None:
        """Look for the row's last ``ngram`` tokens, then for fewer."""
        self.most = most
        self._ngram = ngram

    def guess(self, row: Sequence[int], count: int) -> list[int]:
        tokens = np.asarray(row, np.int64)
        # Ends of possible matches: where the row's last token stands, the row's own end left out.
        ends = np.flatnonzero(tokens[:-1] == tokens[-1])
        if not len(ends):
            return []
        for back in range(1, self._ngram):
            longer = ends[ends >= back]
            longer = longer[tokens[longer - back] == tokens[-1 - back]] if back < len(tokens) else longer[:0]
            if not len(longer):
                break
            ends = longer
        start = int(ends[-1]) + 1
        period = len(tokens) - start
        return [int(tokens[start + i % period]) for i in range(count)]


class Draft:
    """A smaller model's greedy continuation (Leviathan, Kalman and Matias 2023; Chen et al. 2023)."""

    free = False

    def __init__(self, model: Model, most: int, max_positions: int | None) -> None:
        """Guess with ``model``, whose ``start`` reads only what it has not read yet (``Decoder``)."""
        self.most = most
        self._model = model
        self._max_positions = max_positions

    def guess(self, row: Sequence[int], count: int) -> list[int]:
        if self._max_positions is not None:
            count = min(count, self._max_positions - len(row))
        if count < 1:
            return []
        found: list[int] = []
        logits = self._model.start([row])
        while True:
            found.append(int(logits[0].argmax()))
            if len(found) == count or log_softmax(logits)[0, found[-1]] < np.log(_CONFIDENCE):
                return found
            logits = self._model.step(np.array(found[-1:], np.int64))


def check_vocabularies(tokenizer: Tokenizer, assistant: Tokenizer) -> None:
    """Raise UsageError unless both tokenizers give the same numbers to the same tokens."""
    own, other = (t.get_vocab(with_added_tokens=True) for t in (tokenizer, assistant))
    if own != other:
        different = sum(own.get(token) != number for token, number in other.items())
        raise UsageError(
            f"the assistant has {len(other)} tokens and the model {len(own)}, and {different} of the first differ from "
            "the second: use an assistant with the same tokenizer."
        )


def guesser_for(
    config: GenerationConfig, assistant: Model | None = None, *, max_positions: int | None = None
) -> Guesser | None:
    """What the options ask for; None for plain search.

    Args:
        config: ``prompt_lookup_num_tokens`` and ``max_matching_ngram_size``, or ``num_assistant_tokens``.
        assistant: The draft model; its vocabulary is the caller's to check.
        max_positions: Tokens that the assistant takes in all.

    Raises:
        UsageError: both were asked for, or beams or several continuations with one of them.
    """
    if config.prompt_lookup_num_tokens is None and assistant is None:
        return None
    if config.num_beams > 1 or config.num_return_sequences > 1:
        raise UsageError(
            "prompt_lookup_num_tokens and assistant guess for one continuation without beams: "
            "leave num_beams and num_return_sequences out."
        )
    if assistant is None:
        assert config.prompt_lookup_num_tokens is not None
        return PromptLookup(config.prompt_lookup_num_tokens, config.max_matching_ngram_size or _NGRAM)
    if config.prompt_lookup_num_tokens is not None:
        raise UsageError("prompt_lookup_num_tokens and assistant are two ways to guess: leave one of them out.")
    return Draft(assistant, config.num_assistant_tokens, max_positions)


class ReadAhead:
    """The model protocol over a model and a guesser, for one row."""

    def __init__(
        self,
        model: Rereading,
        guesser: Guesser,
        config: GenerationConfig,
        *,
        max_positions: int | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """Put them together.

        Args:
            model: Started with every row.
            guesser: Guesses.
            config: Its token budget: nothing is guessed beyond it.
            max_positions: Tokens that the model takes in all; None if there is no limit.
            clock: Seconds since some moment: guesses are made where they have lately saved some of them.
        """
        self.vocab_size = model.vocab_size
        self._model = model
        self._guesser = guesser
        self._config = config
        self._max_positions = max_positions
        self._clock = clock
        self._row: list[int] = []
        self._longest = 0
        """Tokens of the row at its end; the last of them is not read."""
        self._guessed: list[int] = []
        """Guesses that the search has not judged yet."""
        self._logits: FloatArray = np.empty((0, 0), np.float32)
        """After each of them that the model has read."""
        self._pace = Pace(guesser.most)

    def start(self, prompts: Sequence[Sequence[int]]) -> FloatArray:
        """Read the one prompt."""
        (prompt,) = prompts
        self._row, self._guessed, self._logits = list(prompt), [], self._logits[:0]
        self._longest = len(prompt) + self._config.budget(len(prompt), self._max_positions)
        self._pace = Pace(self._guesser.most)
        return self._model.start(prompts)

    def step(self, tokens: IntArray) -> FloatArray:
        """The logits after one more token: of an earlier run, if it was guessed."""
        (token,) = (int(token) for token in tokens)
        read = len(self._logits) > 0
        if self._guessed:
            right = self._guessed.pop(0) == token
            self._pace.judge(right)
            if right and read:
                self._row.append(token)
                logits, self._logits = self._logits[:1], self._logits[1:]
                return logits
        if read:
            self._model.truncate(len(self._row))
        self._row.append(token)
        return self._run(token)

    def reorder(self, rows: IntArray) -> None:
        """Nothing: there is one row."""

    def _run(self, token: int) -> FloatArray:
        """Let the model read the row's last token, and guesses behind it."""
        start = self._clock()
        room = self._longest - 1 - len(self._row)
        count = min(self._pace.count(), room)
        ahead = self._guess(count)
        self._guessed = ahead or self._guess(min(1, room) if self._guesser.free else 0)
        logits = self._model.extend([token, *ahead]) if ahead else self._model.step(np.array([token], np.int64))
        self._logits = logits[1:]
        self._pace.time(1 + len(ahead), self._clock() - start)
        return logits[:1]

    def _guess(self, count: int) -> list[int]:
        guessed = self._guesser.guess(self._row, count) if count > 0 else []
        known = (i for i, token in enumerate(guessed) if token >= self.vocab_size)
        return guessed[: next(known, None)]
