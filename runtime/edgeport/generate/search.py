"""Greedy search and sampling, one token a row at a time.

Knows models by their protocol alone. A generator, so that streaming, cancellation and giving up early need nothing
more: who does not ask for the next step does not get it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeport.errors import UsageError
from edgeport.generate.config import GenerationConfig
from edgeport.generate.constrain import Constraint, constraint_of
from edgeport.generate.history import History
from edgeport.generate.model import BoolArray, FloatArray, IntArray, Model
from edgeport.generate.processors import Processor, apply, make_processors
from edgeport.generate.result import FinishReason, Generated, TokenLogprobs, logprobs_of
from edgeport.generate.stopping import Cancel, Stopping

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Step", "collect", "row_generator", "search"]


@dataclass(frozen=True)
class Step:
    """One token for every row that still runs. Rows are the prompts, each repeated ``num_return_sequences`` times."""

    tokens: IntArray
    """int64 (rows,); padding in the rows that had ended before."""
    fresh: BoolArray
    """bool (rows,): the rows that this step gave a token."""
    reasons: tuple[FinishReason | None, ...]
    """Why each row has ended, now or before; None while it runs."""
    logprobs: tuple[TokenLogprobs | None, ...] = ()
    """One a row, None for the rows that had ended; empty unless asked for."""


def search(
    model: Model,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    *,
    tokenizer: Tokenizer | None = None,
    cancel: Cancel | None = None,
    max_positions: int | None = None,
) -> Iterator[Step]:
    """Continue the prompts, greedily or by sampling, and yield after every step.

    Args:
        model: Started here; nobody else may use it until the last step.
        prompts: Their tokens, of any lengths. A row's result does not depend on the others.
        config: The options; ``num_beams`` is not looked at.
        tokenizer: The model's, where there are stop strings or the text has a form.
        cancel: Once it is set, the rows that still run end with a last step that gives no token.
        max_positions: Tokens that the model takes in all; None if there is no limit.

    Raises:
        InputError: a prompt is empty and there is no token to start with, or it leaves no room for a token.
        UsageError: an option does not fit the model, or leaves no token to choose from.
        MissingExtraError: a form needs llguidance, which is not installed.
    """
    prompts = config.prompts(prompts)
    rows = [prompt for prompt in prompts for _ in range(config.num_return_sequences)]
    lengths = [len(row) for row in rows]
    stopping = Stopping(config, lengths, max_positions=max_positions, tokenizer=tokenizer, cancel=cancel)
    make_processors(config, lengths, model.vocab_size, max_positions=max_positions)  # refuses before the first step
    constraint = constraint_of(config, tokenizer, model.vocab_size)
    return _steps(model, prompts, rows, config, stopping, max_positions, constraint)


def _steps(
    model: Model,
    prompts: list[list[int]],
    rows: list[list[int]],
    config: GenerationConfig,
    stopping: Stopping,
    max_positions: int | None,
    constraint: Constraint | None,
) -> Iterator[Step]:
    copies = config.num_return_sequences
    generators = [row_generator(config.seed, row % copies) for row in range(len(rows))] if config.do_sample else []
    reasons: list[FinishReason | None] = [None] * len(rows)
    live = np.arange(len(rows))
    history = History(rows)
    processors: list[Processor] | None = None
    chosen: IntArray | None = None
    while len(live):
        if stopping.cancelled:
            nothing = np.full(len(rows), config.pad_id, np.int64)
            yield Step(nothing, np.zeros(len(rows), np.bool_), tuple(reason or "cancelled" for reason in reasons))
            return
        logits = _start(model, prompts, copies) if chosen is None else model.step(chosen)
        if processors is None:
            lengths = [len(rows[row]) for row in live]
            processors = make_processors(
                config, lengths, model.vocab_size, max_positions=max_positions, constraint=constraint
            )
        scores = apply(processors, history.rows(), logits) if processors else logits
        if config.do_sample:
            chosen = np.array([_draw(scores[i], generators[row]) for i, row in enumerate(live)], np.int64)
        else:
            chosen = scores.argmax(axis=1)
        for i, row in enumerate(live):
            history.append(i, int(chosen[i]))
            reasons[row] = stopping.reason(int(row), history[i])
        yield _step(live, chosen, reasons, config, logits)
        going = np.array([i for i, row in enumerate(live) if reasons[row] is None], np.int64)
        # A row that has ended is dropped: its padding would run past the model's last position, and cost its share.
        if 0 < len(going) < len(live):
            model.reorder(going)
            history.take(going)
            chosen, processors = chosen[going], None
        live = live[going]


def _start(model: Model, prompts: list[list[int]], copies: int) -> FloatArray:
    logits = model.start(prompts)
    if copies == 1:
        return logits
    repeated = np.repeat(np.arange(len(prompts)), copies)
    model.reorder(repeated)
    return logits[repeated]


def _step(
    live: IntArray, chosen: IntArray, reasons: list[FinishReason | None], config: GenerationConfig, logits: FloatArray
) -> Step:
    tokens = np.full(len(reasons), config.pad_id, np.int64)
    fresh = np.zeros(len(reasons), np.bool_)
    tokens[live], fresh[live] = chosen, True
    if not config.logprobs:
        return Step(tokens, fresh, tuple(reasons))
    logprobs: list[TokenLogprobs | None] = [None] * len(reasons)
    for row, given in zip(live, logprobs_of(logits, chosen.tolist(), config.logprobs), strict=True):
        logprobs[row] = given
    return Step(tokens, fresh, tuple(reasons), tuple(logprobs))


def collect(steps: Iterable[Step], num_return_sequences: int = 1) -> list[Generated]:
    """The continuations of all rows, after the last step; rows of steps that were not taken end as "cancelled"."""
    tokens: list[list[int]] = []
    logprobs: list[list[TokenLogprobs]] = []
    reasons: tuple[FinishReason | None, ...] = ()
    for step in steps:
        if not reasons:
            tokens, logprobs = [[] for _ in step.tokens], [[] for _ in step.tokens]
        reasons = step.reasons
        for i in np.flatnonzero(step.fresh):
            tokens[i].append(int(step.tokens[i]))
        for kept, given in zip(logprobs, step.logprobs, strict=False):
            if given is not None:
                kept.append(given)
    return [
        Generated(i // num_return_sequences, tuple(row), reason or "cancelled", logprobs=tuple(logs))
        for i, (row, reason, logs) in enumerate(zip(tokens, reasons, logprobs, strict=True))
    ]


def row_generator(seed: int | None, copy: int) -> np.random.Generator:
    """The random numbers of a prompt's n-th continuation: of the seed and n alone, whatever else is in the batch."""
    sequence = None if seed is None else np.random.SeedSequence(seed, spawn_key=(copy,))
    return np.random.Generator(np.random.PCG64(sequence))


def _draw(scores: FloatArray, generator: np.random.Generator) -> int:
    """A token with the probabilities that are the softmax of its scores, by inversion of their running sum."""
    top = scores.max()
    if not np.isfinite(top):
        raise UsageError(
            "no token is left to choose from: the options forbid all, or the model's logits are not finite."
        )
    kept = np.flatnonzero(scores > -np.inf)
    sums = np.cumsum(np.exp(scores[kept] - top), dtype=np.float64)
    # Rounding must not reach the total itself, which no token's sum is above.
    place = min(generator.random() * sums[-1], np.nextafter(sums[-1], 0))
    return int(kept[np.searchsorted(sums, place, side="right")])
