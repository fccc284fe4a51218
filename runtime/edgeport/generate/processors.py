"""Logits processors: what changes the scores before a token is chosen, in the order in which transformers applies it.

Each is a frozen dataclass; calling it with the tokens of every row (int64, prompt included, no padding) and float32
scores (rows, vocab) gives the scores after it. The array given is never written into, and is itself the result where
there is nothing to change. Where transformers has a processor of the same name with padded rows, a row's result here is
what transformers gives for that row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeAlias

import numpy as np

from edgeport.errors import UsageError
from edgeport.generate.config import GenerationConfig
from edgeport.generate.constrain import Constraint
from edgeport.generate.model import FloatArray, IntArray
from edgeport.generate.samplers import MinP, Temperature, TopK, TopP, TypicalP

__all__ = [
    "BadWords",
    "Decay",
    "ForceToken",
    "NoRepeat",
    "Penalties",
    "Processor",
    "RepetitionPenalty",
    "Suppress",
    "apply",
    "make_processors",
]

Processor: TypeAlias = Callable[[Sequence[IntArray], FloatArray], FloatArray]

_NEVER = np.float32(-np.inf)


@dataclass(frozen=True)
class RepetitionPenalty:
    """Scores of the tokens that the row has: divided if positive, else multiplied (Keskar et al. 2019)."""

    penalty: float

    def __call__(self, ids: Sequence[IntArray], scores: FloatArray) -> FloatArray:
        result = scores.copy()
        penalty = np.float32(self.penalty)
        for row, seen in zip(result, ids, strict=True):
            tokens = seen[seen < row.shape[0]]
            old = row[tokens]
            row[tokens] = np.where(old < 0, old * penalty, old / penalty)
        return result


@dataclass(frozen=True)
class Penalties:
    """OpenAI's presence and frequency penalties: they count what was generated, not the prompt."""

    presence: float
    frequency: float
    prompt_lengths: tuple[int, ...]

    def __call__(self, ids: Sequence[IntArray], scores: FloatArray) -> FloatArray:
        result = scores.copy()
        for row, seen, start in zip(result, ids, self.prompt_lengths, strict=True):
            tokens, counts = np.unique(seen[start:], return_counts=True)
            row[tokens] -= (self.presence + self.frequency * counts).astype(np.float32)
        return result


@dataclass(frozen=True)
class NoRepeat:
    """No token that would complete a run of ``size`` tokens that the row has already (Paulus et al. 2018)."""

    size: int

    def __call__(self, ids: Sequence[IntArray], scores: FloatArray) -> FloatArray:
        if all(len(seen) < self.size for seen in ids):
            return scores
        result = scores.copy()
        for row, seen in zip(result, ids, strict=True):
            if len(seen) >= self.size:
                runs = np.lib.stride_tricks.sliding_window_view(seen, self.size)
                last = runs[(runs[:, :-1] == seen[len(seen) + 1 - self.size :]).all(axis=1), -1]
                row[last[last < row.shape[0]]] = _NEVER
        return result


@dataclass(frozen=True)
class BadWords:
    """No token that would complete one of these sequences."""

    words: tuple[tuple[int, ...], ...]

    @cached_property
    def _groups(self) -> list[tuple[IntArray, IntArray]]:
        """Beginnings and last tokens of the sequences, one pair of arrays a length."""
        lengths = sorted({len(word) for word in self.words})
        groups = [np.array([word for word in self.words if len(word) == n], np.int64) for n in lengths]
        return [(group[:, :-1], group[:, -1]) for group in groups]

    def __call__(self, ids: Sequence[IntArray], scores: FloatArray) -> FloatArray:
        result = scores.copy()
        for beginnings, last in self._groups:
            length = beginnings.shape[1]
            for row, seen in zip(result, ids, strict=True):
                if len(seen) >= length:
                    row[last[(beginnings == seen[len(seen) - length :]).all(axis=1)]] = _NEVER
        return result


@dataclass(frozen=True)
class Suppress:
    """These tokens are out while a row's length is from ``first`` to below ``until``, one pair of numbers a row."""

    tokens: tuple[int, ...]
    first: tuple[int, ...]
    until: tuple[float, ...]

    def __call__(self, ids: Sequence[IntArray], scores: FloatArray) -> FloatArray:
        bounds = zip(ids, self.first, self.until, strict=True)
        rows = [i for i, (seen, first, until) in enumerate(bounds) if first <= len(seen) < until]
        if not rows:
            return scores
        result = scores.copy()
        result[np.ix_(rows, self.tokens)] = _NEVER
        return result


@dataclass(frozen=True)
class ForceToken:
    """Only these tokens, with score 0, where a row has exactly ``lengths`` tokens, one number a row."""

    tokens: tuple[int, ...]
    lengths: tuple[int, ...]

    def __call__(self, ids: Sequence[IntArray], scores: FloatArray) -> FloatArray:
        rows = [i for i, (seen, length) in enumerate(zip(ids, self.lengths, strict=True)) if len(seen) == length]
        if not rows:
            return scores
        result = scores.copy()
        result[rows] = _NEVER
        result[np.ix_(rows, self.tokens)] = 0
        return result


@dataclass(frozen=True)
class Decay:
    """The score of the tokens that end a text grows exponentially once a row is longer than ``starts``."""

    tokens: tuple[int, ...]
    factor: float
    starts: tuple[int, ...]

    def __call__(self, ids: Sequence[IntArray], scores: FloatArray) -> FloatArray:
        result = scores.copy()
        tokens = list(self.tokens)
        for row, seen, start in zip(result, ids, self.starts, strict=True):
            if len(seen) > start:
                old = row[tokens]
                growth = np.abs(old) * np.float32(self.factor ** (len(seen) - start) - 1)
                row[tokens] = old + np.where(np.isfinite(old), growth, np.float32(0))
        return result


def make_processors(
    config: GenerationConfig,
    prompt_lengths: Sequence[int],
    vocab_size: int,
    *,
    max_positions: int | None = None,
    constraint: Constraint | None = None,
) -> list[Processor]:
    """The processors that the options ask for, in transformers' order, samplers last.

    Args:
        config: The options.
        prompt_lengths: Tokens of each row's prompt; the rows of every later call are these.
        vocab_size: Columns of the scores.
        max_positions: Tokens that the model takes in all; None if there is no limit.
        constraint: The form of the texts: the last of all but the samplers.

    Raises:
        UsageError: an option names a token that the model does not have.
        InputError: a prompt leaves no room for a token.
    """
    lengths = tuple(prompt_lengths)
    _check_tokens(config, vocab_size)
    eos = tuple(token for token in config.eos_ids if token < vocab_size)
    made: list[Processor] = []
    if config.repetition_penalty != 1.0:
        made.append(RepetitionPenalty(config.repetition_penalty))
    if config.presence_penalty or config.frequency_penalty:
        made.append(Penalties(config.presence_penalty, config.frequency_penalty, lengths))
    if config.no_repeat_ngram_size:
        made.append(NoRepeat(config.no_repeat_ngram_size))
    if config.bad_words_ids:
        # A word that is just an end would forbid ending.
        words = tuple(word for word in config.bad_words_ids if len(word) > 1 or word[0] not in config.eos_ids)
        made.append(BadWords(words))
    more = config.min_new_tokens
    least = [config.min_length if more is None else n + more for n in lengths]
    if eos and any(end > n for end, n in zip(least, lengths, strict=True)):
        made.append(Suppress(eos, (0,) * len(lengths), tuple(least)))
    if config.forced_bos_token_id is not None:
        made.append(ForceToken((config.forced_bos_token_id,), (1,) * len(lengths)))
    if config.forced_eos_ids:
        made.append(ForceToken(config.forced_eos_ids, tuple(n + config.budget(n, max_positions) - 1 for n in lengths)))
    if config.exponential_decay_length_penalty is not None and eos:
        start, factor = config.exponential_decay_length_penalty
        made.append(Decay(eos, factor, tuple(n + start for n in lengths)))
    if suppressed := tuple(token for token in config.suppress_tokens or () if token < vocab_size):
        made.append(Suppress(suppressed, (0,) * len(lengths), (np.inf,) * len(lengths)))
    if suppressed := tuple(token for token in config.begin_suppress_tokens or () if token < vocab_size):
        # After a forced first token, the beginning is one later.
        begins = tuple(n if n > 1 or config.forced_bos_token_id is None else n + 1 for n in lengths)
        made.append(Suppress(suppressed, begins, tuple(n + 1 for n in begins)))
    if constraint is not None:
        made.append(partial(constraint.mask, prompt_lengths=lengths))
    return made + _make_samplers(config)


def apply(processors: Sequence[Processor], ids: Sequence[IntArray], scores: FloatArray) -> FloatArray:
    """The scores after all processors, one after the other."""
    for processor in processors:
        scores = processor(ids, scores)
    return scores


def _make_samplers(config: GenerationConfig) -> list[Processor]:
    if not config.do_sample:
        return []
    # Beams need a token besides those that end the text.
    keep = 1 if config.num_beams == 1 else max(2, len(config.eos_ids) + 1)
    made: list[Processor] = []
    if config.temperature != 1.0:
        made.append(Temperature(config.temperature))
    if config.top_k:
        made.append(TopK(max(config.top_k, keep)))
    if config.top_p < 1.0:
        made.append(TopP(config.top_p, keep))
    if config.min_p is not None:
        made.append(MinP(config.min_p, keep))
    if config.typical_p < 1.0:
        made.append(TypicalP(config.typical_p, keep))
    return made


def _check_tokens(config: GenerationConfig, vocab_size: int) -> None:
    """Raise UsageError for a token that the model cannot give (to suppress one is in vain, and harmless)."""
    options = {
        "bad_words_ids": [token for word in config.bad_words_ids or () for token in word],
        "forced_bos_token_id": () if config.forced_bos_token_id is None else (config.forced_bos_token_id,),
        "forced_eos_token_id": config.forced_eos_ids,
    }
    for name, tokens in options.items():
        for token in tokens:
            if token >= vocab_size:
                raise UsageError(f"{name} has the token {token}, and the model's go from 0 to {vocab_size - 1}.")
