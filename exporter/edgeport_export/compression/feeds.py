"""What is timed: texts of the lengths that the data have, as tensors. Knows the tokenizer; measures nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from edgeport.errors import UsageError

from edgeport_export.compression.options import CompressOptions
from edgeport_export.samples import Batch, input_names
from edgeport_export.source import Source

__all__ = ["Feeds", "make_feeds"]

_BATCHES = 16
"""Batches in a turn: quantiles of the lengths, from the shortest to the longest."""
_LONGEST_PROMPT = 64
"""Tokens of a text that a model goes on with."""


@dataclass(frozen=True)
class Feeds:
    """Batches, and what their lengths stand for."""

    batches: Sequence[Batch]
    lengths: tuple[int, ...]
    """Tokens of each batch, padding included."""
    says: str
    """Where the lengths come from, in words."""


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
    some = random.Random(options.seed).sample(list(texts), min(len(texts), 512))
    encoded = sorted((_encode(source, text) for text in some), key=len)
    if options.length is not None:
        limit = min(options.length, source.max_length)
        flat = [token for ids in encoded for token in ids]
        encoded, origin = [(flat * (1 + limit // max(1, len(flat))))[:limit]], f"texts of {limit} tokens"
    if source.task.generates:
        encoded = [ids[:_LONGEST_PROMPT] for ids in encoded]
    count = min(_BATCHES, len(encoded))
    at = np.linspace(0, len(encoded) - 1, 2 * count + 1).astype(int)[1::2]  # the middle of each of ``count`` parts
    # In a batch the lengths are mixed, as they come; it is as long as the longest of them.
    mixed = random.Random(options.seed).sample(range(len(encoded)), len(encoded))
    rows = [
        [int(i), *(mixed[(n * options.batch + k) % len(mixed)] for k in range(options.batch - 1))]
        for n, i in enumerate(at)
    ]
    batches = [_batch(source, [encoded[i] for i in row]) for row in rows]
    lengths = tuple(batch["input_ids"].shape[1] for batch in batches)
    return Feeds(batches, lengths, f"{origin} ({min(lengths)} to {max(lengths)} tokens, batch {options.batch})")


def _encode(source: Source, text: tuple[str, ...]) -> list[int]:
    limit = min(source.max_length, 512)
    ids: list[int] = source.tokenizer(*text, truncation=True, max_length=limit)["input_ids"]
    return ids[:limit]


def _batch(source: Source, rows: Sequence[list[int]]) -> Batch:
    width = max(map(len, rows))
    ids = np.full((len(rows), width), source.tokenizer.pad_token_id or 0, np.int64)
    mask = np.zeros_like(ids)
    for line, flags, row in zip(ids, mask, rows, strict=True):
        line[: len(row)], flags[: len(row)] = row, 1
    every = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {name: every[name] for name in input_names(source)}


def _lines(path: str) -> list[str]:
    try:
        lines = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"--lengths-from {path!r} cannot be read ({e}): give a text file, a text a line.") from e
    if not lines:
        raise UsageError(f"--lengths-from {path!r} is empty: give a text file, a text a line.")
    return lines
