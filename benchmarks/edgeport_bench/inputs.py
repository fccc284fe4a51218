"""Token ids of an exact shape, from real sentences through the bundle's own tokenizer; no padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from edgeport.bundle import Bundle
from edgeport.errors import BundleError, UsageError
from edgeport.text import Padding, TextEncoder, Truncation

from edgeport_bench.quality.similarity import read_sample

__all__ = ["Feeds", "Shape", "default_lengths", "make_feeds"]

Feeds = dict[str, npt.NDArray[np.int64]]
Shape = tuple[int, int]
"""Batch and length in tokens."""


def default_lengths(bundle: Bundle) -> list[int]:
    """A short and a longer text, as far as the model goes."""
    limit = _text_spec_limit(bundle)
    return sorted({min(length, limit) for length in (16, 128)})


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
        if batch < 1 or length < 1:
            raise UsageError(f"{batch} x {length} tokens is no shape: both have to be at least 1.")
        if length > limit:
            raise UsageError(f"length {length} is more than the {limit} tokens that this model takes.")
        fixed = (spec.fixed_batch or batch, spec.fixed_length or length)
        if fixed != (batch, length):
            raise UsageError(
                f"the bundle takes the shape {fixed[0]} x {fixed[1]} only, not {batch} x {length}: "
                f"pass --batch {fixed[0]} --length {fixed[1]}."
            )
    encoder = TextEncoder.open(bundle.path(spec.tokenizer), spec)
    padding = Padding(spec, [t.name for t in bundle.manifest.inputs], max_length=encoder.max_length)
    sentences = [text for pair in read_sample() for text in (pair.first, pair.second)]

    def rows(batch: int, length: int) -> Feeds:
        truncation = Truncation(length, asked=True)
        # Each row begins with another sentence, and has more words than it needs tokens.
        texts = [" ".join(_cycle(sentences, 7 * i, length)) for i in range(batch)]
        return padding.feeds([windows[0] for windows in encoder.encode(texts, truncation=truncation)], length)

    return {(batch, length): rows(batch, length) for batch, length in shapes}


def _text_spec_limit(bundle: Bundle) -> int:
    spec = bundle.manifest.text
    if spec is None:
        raise BundleError(f"the bundle's task is {bundle.manifest.task}, which takes no text: only text is measured.")
    return min(spec.max_length, spec.fixed_length or spec.max_length)


def _cycle(sentences: Sequence[str], start: int, count: int) -> list[str]:
    return [sentences[(start + i) % len(sentences)] for i in range(count)]
