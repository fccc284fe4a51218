"""Token ids of an exact shape, from real sentences through the bundle's own tokenizer; no padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from edgeport.bundle import Bundle
from edgeport.errors import BundleError, UsageError
from edgeport.text import Padding, TextEncoder, Truncation
from edgeport_export.quality.similarity import read_sample

if TYPE_CHECKING:
    from tokenizers import Encoding

__all__ = ["Feeds", "Shape", "default_lengths", "default_new_tokens", "default_prompts", "make_feeds", "make_prompts"]

Feeds = dict[str, npt.NDArray[np.int64]]
Shape = tuple[int, int]
"""Batch and length in tokens."""


def default_lengths(bundle: Bundle) -> list[int]:
    """A short and a longer text, as far as the model goes."""
    limit = _text_spec_limit(bundle)
    return sorted({min(length, limit) for length in (16, 128)})


def default_new_tokens(bundle: Bundle) -> int:
    """How many tokens are written after a prompt: enough for a median, and no more than half of the context."""
    return min(64, _context(bundle) // 2)


def default_prompts(bundle: Bundle, new_tokens: int) -> list[int]:
    """Lengths of prompts, as far as the context goes."""
    room = max(1, _context(bundle) - new_tokens)
    return sorted({min(length, room) for length in (16, 128, 512)})


def make_prompts(bundle: Bundle, shapes: Sequence[Shape], new_tokens: int) -> dict[Shape, Feeds]:
    """Token ids of prompts for each shape, and room behind them: ``input_ids``, int64 (batch, length).

    Raises:
        UsageError: a shape that does not fit the context.
    """
    context = _context(bundle)
    for batch, length in shapes:
        _check_shape(batch, length)
        if length + new_tokens > context:
            raise UsageError(
                f"a prompt of {length} tokens and {new_tokens} new ones are more than the model's context of "
                f"{context}: pass a smaller --length or --new-tokens."
            )
    return {
        shape: {"input_ids": np.array([row.ids[: shape[1]] for row in rows], np.int64)}
        for shape, rows in _rows(bundle, shapes).items()
    }


def make_feeds(bundle: Bundle, shapes: Sequence[Shape]) -> dict[Shape, Feeds]:
    """The graph's inputs for each shape: name to int64 (batch, length).

    Raises:
        BundleError: the model takes no text.
        UsageError: a shape that the model does not take.
    """
    limit = _text_spec_limit(bundle)
    spec = bundle.manifest.text
    assert spec is not None
    for batch, length in shapes:
        _check_shape(batch, length)
        if length > limit:
            raise UsageError(f"length {length} is more than the {limit} tokens that this model takes.")
        fixed = (spec.fixed_batch or batch, spec.fixed_length or length)
        if fixed != (batch, length):
            raise UsageError(
                f"the bundle takes the shape {fixed[0]} x {fixed[1]} only, not {batch} x {length}: "
                f"pass --batch {fixed[0]} --length {fixed[1]}."
            )
    padding = Padding(spec, [t.name for t in bundle.manifest.inputs], max_length=limit)
    return {shape: padding.feeds(rows, shape[1]) for shape, rows in _rows(bundle, shapes).items()}


def _rows(bundle: Bundle, shapes: Sequence[Shape]) -> dict[Shape, list[Encoding]]:
    """The texts of each shape, tokenized."""
    spec = bundle.manifest.text
    assert spec is not None
    # The lengths were checked, and a prompt may be longer than what the tokenizer would cut to.
    spec = replace(spec, max_length=max(length for _, length in shapes))
    encoder = TextEncoder.open(bundle.path(spec.tokenizer), spec)
    sentences = [text for pair in read_sample() for text in (pair.first, pair.second)]

    def rows(batch: int, length: int) -> list[Encoding]:
        truncation = Truncation(length, asked=True)
        # Each row begins with another sentence, and has more words than it needs tokens.
        texts = [" ".join(_cycle(sentences, 7 * i, length)) for i in range(batch)]
        return [windows[0] for windows in encoder.encode(texts, truncation=truncation)]

    return {(batch, length): rows(batch, length) for batch, length in shapes}


def _check_shape(batch: int, length: int) -> None:
    if batch < 1 or length < 1:
        raise UsageError(f"{batch} x {length} tokens is no shape: both have to be at least 1.")


def _context(bundle: Bundle) -> int:
    """Tokens that fit the model, prompt and continuation together."""
    context = bundle.manifest.task_options.get("context_length")
    limit = _text_spec_limit(bundle)
    return context if isinstance(context, int) else limit


def _text_spec_limit(bundle: Bundle) -> int:
    spec = bundle.manifest.text
    if spec is None:
        raise BundleError(f"the bundle's task is {bundle.manifest.task}, which takes no text: only text is measured.")
    return min(spec.max_length, spec.fixed_length or spec.max_length)


def _cycle(sentences: Sequence[str], start: int, count: int) -> list[str]:
    return [sentences[(start + i) % len(sentences)] for i in range(count)]
