"""Beam search, token for token as transformers' ``_beam_search``, and beam sampling.

Knows models by their protocol alone. Every prompt has beams of its own and ends by itself: what the others do, and how
long they are, changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeport.generate.config import GenerationConfig
from edgeport.generate.constrain import constraint_of
from edgeport.generate.history import History
from edgeport.generate.model import FloatArray, IntArray, Model
from edgeport.generate.processors import apply, make_processors
from edgeport.generate.result import FinishReason, Generated, log_softmax
from edgeport.generate.samplers import largest
from edgeport.generate.search import row_generator
from edgeport.generate.stopping import Cancel, Stopping

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["beam_search"]

_OUT = np.float32(-1e9)
"""transformers' score of what shall not be chosen: finite, so that sums with it stay ordered."""


def beam_search(
    model: Model,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    *,
    tokenizer: Tokenizer | None = None,
    cancel: Cancel | None = None,
    max_positions: int | None = None,
) -> list[Generated]:
    """The best continuations of each prompt (Lowerre 1976), ``num_return_sequences`` a prompt, best first.

    With ``do_sample``, a step's candidates are drawn without replacement from the softmax of all beams' accumulated
    scores, by the Gumbel-top-k trick (Kool, van Hoof and Welling 2019).

    Args:
        model: Started here; it has ``num_beams`` rows a prompt from then on.
        prompts: Their tokens, of any lengths.
        config: The options.
        tokenizer: The model's, where there are stop strings or the text has a form.
        cancel: Once it is set, what is best so far is the result.
        max_positions: Tokens that the model takes in all; None if there is no limit.

    Raises:
        InputError: a prompt is empty and there is no token to start with, or it leaves no room for a token.
        UsageError: an option does not fit the model.
        MissingExtraError: a form needs llguidance, which is not installed.
    """
    prompts = config.prompts(prompts)
    lengths = [len(prompt) for prompt in prompts]
    stopping = Stopping(config, lengths, max_positions=max_positions, tokenizer=tokenizer, cancel=cancel)
    make_processors(config, lengths, model.vocab_size, max_positions=max_positions)  # refuses before the model runs
    constraint = constraint_of(config, tokenizer, model.vocab_size)
    beams = [_Beams(i, prompt, config, stopping) for i, prompt in enumerate(prompts)]
    live = list(beams)
    if live and not stopping.cancelled:
        logits = model.start(prompts)
        repeated = np.repeat(np.arange(len(prompts)), config.num_beams)
        model.reorder(repeated)
        logits = logits[repeated]
    while live and not stopping.cancelled:
        prompt_lengths = [beam.prompt_length for beam in live for _ in range(config.num_beams)]
        processors = make_processors(
            config, prompt_lengths, model.vocab_size, max_positions=max_positions, constraint=constraint
        )
        ids = [row for beam in live for row in beam.history.rows()]
        scores = apply(processors, ids, log_softmax(logits)).reshape(len(live), config.num_beams, -1)
        sources = [
            beam.advance(own) + i * config.num_beams for i, (beam, own) in enumerate(zip(live, scores, strict=True))
        ]
        going = [not beam.done for beam in live]
        sources = [source for source, goes in zip(sources, going, strict=True) if goes]
        live = [beam for beam, goes in zip(live, going, strict=True) if goes]
        if live:
            model.reorder(np.concatenate(sources))
            logits = model.step(np.array([row[-1] for beam in live for row in beam.history.rows()], np.int64))
    return [result for beam in beams for result in beam.results()]


@dataclass(frozen=True)
class _Finished:
    score: np.float32
    tokens: tuple[int, ...]
    reason: FinishReason


class _Beams:
    """The running and the finished beams of one prompt."""

    def __init__(self, number: int, prompt: list[int], config: GenerationConfig, stopping: Stopping) -> None:
        self.prompt_length = len(prompt)
        self.history = History([prompt] * config.num_beams)
        self.done = False
        self._number = number
        self._config = config
        self._stopping = stopping
        self._generator = row_generator(config.seed, 0)
        # All beams are the prompt: the first alone counts, or all would be the same.
        self._scores = np.full(config.num_beams, _OUT)
        self._scores[0] = 0
        self._finished: list[_Finished] = []

    def advance(self, scores: FloatArray) -> IntArray:
        """Append a token to each beam, given processed log-probabilities (num_beams, vocab).

        Returns:
            int64 (num_beams,): the beam that each one continues.
        """
        width, vocab = scores.shape
        total = (scores + self._scores[:, None]).reshape(-1)
        # Enough candidates that ``num_beams`` go on even if the best ones end.
        places = self._candidates(total, max(2, 1 + len(self._config.eos_ids)) * width)
        sources, tokens, totals = places // vocab, places % vocab, total[places]
        self.history.take(sources)
        for i, token in enumerate(tokens):
            self.history.append(i, int(token))
        reasons = [self._stopping.reason(self._number, row) for row in self.history.rows()]
        ended = np.array([reason is not None for reason in reasons])
        self._finish(totals[:width], reasons[:width])
        running = totals + ended * _OUT
        best = largest(running[None], width)[0]
        self.history.take(best)
        self._scores = running[best]
        self.done = bool(ended.all()) or self._settled()
        return sources[best]

    def results(self) -> list[Generated]:
        """The best finished beams; the running ones fill up where the caller has cancelled."""
        finished = list(self._finished)
        if len(finished) < self._config.num_return_sequences:
            rest = [
                self._entry(row, score, "cancelled")
                for row, score in zip(self.history.rows(), self._scores, strict=True)
            ]
            finished += rest
        return [
            Generated(self._number, item.tokens, item.reason, score=float(item.score))
            for item in finished[: self._config.num_return_sequences]
        ]

    def _candidates(self, total: FloatArray, count: int) -> IntArray:
        if self._config.do_sample:
            drawn = total + self._generator.gumbel(size=total.shape)
            return largest(drawn.astype(np.float64)[None], count)[0]
        return largest(total[None], count)[0]

    def _finish(self, totals: FloatArray, reasons: Sequence[FinishReason | None]) -> None:
        """Keep the best of what has finished before and now; only the best ``num_beams`` candidates may."""
        for i, (total, reason) in enumerate(zip(totals, reasons, strict=True)):
            if reason is not None:
                self._finished.append(self._entry(self.history[i], total, reason))
        self._finished.sort(key=lambda item: -item.score)
        del self._finished[self._config.num_beams :]

    def _entry(self, row: IntArray, total: np.float32, reason: FinishReason) -> _Finished:
        tokens = tuple(row[self.prompt_length :].tolist())
        return _Finished(self._normalised(total, len(tokens)), tokens, reason)

    def _normalised(self, total: np.float32, length: int) -> np.float32:
        return np.float32(total / np.float32(max(length, 1) ** self._config.length_penalty))

    def _settled(self) -> bool:
        """Whether the running beams are not expected to better the finished ones."""
        config = self._config
        full = len(self._finished) == config.num_beams
        if full and config.early_stopping is True:
            return True
        length = len(self.history[0]) - self.prompt_length
        if config.early_stopping == "never" and config.length_penalty > 0:
            length = self._stopping.budgets[self._number]
        return bool(self._normalised(self._scores[0], length) <= (self._finished[-1].score if full else _OUT))
