"""Token ids of an exact shape, from real sentences through the model's own tokenizer; no padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from edgeport.bundle import Bundle, TextSpec
from edgeport.errors import BundleError, UsageError
from edgeport.text import Padding, TextEncoder, Truncation
from edgeport_export.quality.similarity import read_sample

if TYPE_CHECKING:
    from tokenizers import Encoding

__all__ = ["Feeds", "Shape", "TextInputs", "bundle_inputs", "sample_sentences"]

Feeds = dict[str, npt.NDArray[Any]]
Shape = tuple[int, int]
"""Batch and length in tokens."""


@dataclass(frozen=True)
class TextInputs:
    """How texts become what a model takes."""

    tokenizer: Path
    spec: TextSpec
    names: tuple[str, ...]
    """The model's inputs."""
    context: int
    """Tokens that fit the model; of one that writes, prompt and continuation together."""
    sentences: tuple[str, ...] = ()
    """What is read; sentences that come along where left out."""

    def default_batches(self) -> list[int]:
        """One text, and several."""
        return [self.spec.fixed_batch] if self.spec.fixed_batch else [1, 8]

    def default_lengths(self) -> list[int]:
        """A short and a longer text, as far as the model goes."""
        return sorted({min(length, self._limit()) for length in (16, 128)})

    def default_new_tokens(self) -> int:
        """How many tokens are written after a prompt: enough for a median, and no more than half of the context."""
        return min(64, self.context // 2)

    def default_prompts(self, new_tokens: int) -> list[int]:
        """Lengths of prompts, as far as the context goes."""
        room = max(1, self.context - new_tokens)
        return sorted({min(length, room) for length in (16, 128, 512)})

    def make_prompts(self, shapes: Sequence[Shape], new_tokens: int) -> dict[Shape, Feeds]:
        """Token ids of prompts for each shape, and room behind them: ``input_ids``, int64 (batch, length).

        Raises:
            UsageError: a shape that does not fit the context.
        """
        for batch, length in shapes:
            _check_shape(batch, length)
            if length + new_tokens > self.context:
                raise UsageError(
                    f"a prompt of {length} tokens and {new_tokens} new ones are more than the model's context of "
                    f"{self.context}: pass a smaller --length or --new-tokens."
                )
        return {
            shape: {"input_ids": np.array([row.ids[: shape[1]] for row in rows], np.int64)}
            for shape, rows in self._rows(shapes).items()
        }

    def make_feeds(self, shapes: Sequence[Shape]) -> dict[Shape, Feeds]:
        """The graph's inputs for each shape: name to int64 (batch, length).

        Raises:
            UsageError: a shape that the model does not take.
        """
        limit, spec = self._limit(), self.spec
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
        padding = Padding(spec, self.names, max_length=limit)
        return {shape: padding.feeds(rows, shape[1]) for shape, rows in self._rows(shapes).items()}

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """The length of each text in tokens, cut where the model cuts."""
        encoder = TextEncoder.open(self.tokenizer, self.spec)
        return [len(windows[0].ids) for windows in encoder.encode(list(texts), truncation=Truncation(self._limit()))]

    def _limit(self) -> int:
        return min(self.spec.max_length, self.spec.fixed_length or self.spec.max_length)

    def _rows(self, shapes: Sequence[Shape]) -> dict[Shape, list[Encoding]]:
        """The texts of each shape, tokenized."""
        # The lengths were checked, and a prompt may be longer than what the tokenizer would cut to.
        spec = replace(self.spec, max_length=max(length for _, length in shapes))
        encoder = TextEncoder.open(self.tokenizer, spec)
        sentences = self.sentences or sample_sentences()

        def rows(batch: int, length: int) -> list[Encoding]:
            truncation = Truncation(length, asked=True)
            # Each row begins with another sentence, and has more words than it needs tokens.
            texts = [" ".join(_cycle(sentences, 7 * i, length)) for i in range(batch)]
            return [windows[0] for windows in encoder.encode(texts, truncation=truncation)]

        return {(batch, length): rows(batch, length) for batch, length in shapes}


def bundle_inputs(bundle: Bundle) -> TextInputs:
    """What a bundle says of its texts.

    Raises:
        BundleError: the model takes no text.
    """
    manifest, spec = bundle.manifest, bundle.manifest.text
    if spec is None:
        raise BundleError(f"the bundle's task is {manifest.task}, which takes no text: only text is measured.")
    context = manifest.task_options.get("context_length")
    limit = min(spec.max_length, spec.fixed_length or spec.max_length)
    return TextInputs(
        bundle.path(spec.tokenizer),
        spec,
        tuple(t.name for t in manifest.inputs),
        context if isinstance(context, int) else limit,
    )


def sample_sentences() -> tuple[str, ...]:
    """The texts that come along: image captions."""
    return tuple(text for pair in read_sample() for text in (pair.first, pair.second))


def _check_shape(batch: int, length: int) -> None:
    if batch < 1 or length < 1:
        raise UsageError(f"{batch} x {length} tokens is no shape: both have to be at least 1.")


def _cycle(sentences: Sequence[str], start: int, count: int) -> list[str]:
    return [sentences[(start + i) % len(sentences)] for i in range(count)]
