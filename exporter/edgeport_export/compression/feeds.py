"""What is timed: texts of the lengths that the data have, as tensors. Knows the tokenizer; measures nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from edgeport.errors import UsageError
from tokenizers import Tokenizer

from edgeport_export.compression.options import CompressOptions
from edgeport_export.package import plain_tokenizer
from edgeport_export.samples import Batch, input_names
from edgeport_export.source import Source

__all__ = ["Feeds", "make_feeds"]

_BATCHES = 16
"""Batches in a turn: quantiles of the lengths, from the shortest to the longest."""
_SOME = 512
"""Texts whose lengths are looked at."""
_LONGEST = 512
"""Tokens of a text."""
_LONGEST_PROMPT = 64
"""Tokens of a text that a model goes on with."""


@dataclass(frozen=True)
class Feeds:
    """What a turn reads."""

    texts: Sequence[Sequence[tuple[str, ...]]]
    """The rows of each batch: texts, or pairs of them."""
    names: Sequence[str]
    """The model's inputs."""
    limit: int
    """Tokens of a row, at most."""
    fill: bool
    """Whether rows are repeated until they have as many."""
    pad: int
    """The token that makes rows as long as the longest of their batch."""
    says: str
    """Where the lengths come from, in words."""
    batches: Sequence[Batch]
    """As the original reads them."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each batch, padding included."""
        return tuple(batch["input_ids"].shape[1] for batch in self.batches)

    def read_by(self, tokenizer: Tokenizer) -> list[Batch]:
        """The batches in the tokens of a model whose vocabulary was trimmed."""
        return [self._batch([self._row(_ids(tokenizer, text)) for text in rows]) for rows in self.texts]

    def _row(self, ids: list[int]) -> list[int]:
        return (ids * (1 + self.limit // max(1, len(ids))) if self.fill else ids)[: self.limit]

    def _batch(self, rows: Sequence[list[int]]) -> Batch:
        width = max(map(len, rows))
        ids = np.full((len(rows), width), self.pad, np.int64)
        mask = np.zeros_like(ids)
        for line, flags, row in zip(ids, mask, rows, strict=True):
            line[: len(row)], flags[: len(row)] = row, 1
        every = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return {name: every[name] for name in self.names}


def make_feeds(source: Source, texts: Sequence[tuple[str, ...]], options: CompressOptions) -> Feeds:
    """Batches for timing.

    Args:
        source: The model with its tokenizer.
        texts: What it reads in the data, texts or pairs of them.
        options: Batch size, and another source of lengths.

    Raises:
        UsageError: the file of lengths cannot be read or is empty.
    """
    if options.lengths_from is not None:
        texts, origin = [(line,) for line in _lines(options.lengths_from)], f"lengths of {options.lengths_from}"
    else:
        origin = "the data's own lengths"
    tokenizer = plain_tokenizer(source)
    some = random.Random(options.seed).sample(list(texts), min(len(texts), _SOME))
    some.sort(key=lambda text: len(_ids(tokenizer, text)))
    limit = min(source.max_length, _LONGEST_PROMPT if source.task.generates else _LONGEST)
    if options.length is not None:
        limit = min(options.length, source.max_length)
        some, origin = some[len(some) // 2 :][:1], f"texts of {limit} tokens"
    count = min(_BATCHES, len(some))
    at = np.linspace(0, len(some) - 1, 2 * count + 1).astype(int)[1::2]  # the middle of each of ``count`` parts
    # In a batch the lengths are mixed, as they come; it is as long as the longest of them.
    mixed = random.Random(options.seed).sample(range(len(some)), len(some))
    rows = [
        [int(i), *(mixed[(n * options.batch + k) % len(mixed)] for k in range(options.batch - 1))]
        for n, i in enumerate(at)
    ]
    feeds = Feeds(
        [[some[i] for i in row] for row in rows],
        input_names(source), limit, options.length is not None, source.tokenizer.pad_token_id or 0, origin, (),
    )  # fmt: skip
    feeds = replace(feeds, batches=feeds.read_by(tokenizer))
    low, high = min(feeds.lengths), max(feeds.lengths)
    return replace(feeds, says=f"{origin} ({low} to {high} tokens, batch {options.batch})")


def _ids(tokenizer: Tokenizer, text: tuple[str, ...]) -> list[int]:
    ids: list[int] = tokenizer.encode(text[0], text[1] if len(text) > 1 else None).ids
    return ids


def _lines(path: str) -> list[str]:
    try:
        lines = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"--lengths-from {path!r} cannot be read ({e}): give a text file, a text a line.") from e
    if not lines:
        raise UsageError(f"--lengths-from {path!r} is empty: give a text file, a text a line.")
    return lines
