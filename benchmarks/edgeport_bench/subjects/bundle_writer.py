"""One variant of a bundle that writes text, by edgeport's own search and cache, without a tokenizer.

Options: those of ``bundle_variant``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from edgeport.generate import GenerationConfig, decoder_options, open_decoder, search

from edgeport_bench.subjects import Array
from edgeport_bench.subjects.bundle_variant import OpenVariant

__all__ = ["BundleWriter", "open_subject"]


class BundleWriter(OpenVariant):
    """It writes, into a cache."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self._decoder = open_decoder(self._session, **decoder_options(self._bundle.manifest))

    def write(self, prompts: Array, count: int, each: Callable[[], None]) -> Array:
        self._decoder.truncate(0)  # or it would know what it has just read, and skip it
        found = []
        for step in search(self._decoder, prompts.tolist(), GenerationConfig(max_new_tokens=count)):
            found.append(step.tokens)
            each()
        return np.stack(found, axis=1)

    def follow(self, prompts: Array, tokens: Array) -> Array:
        self._decoder.truncate(0)
        found = [self._decoder.start(prompts.tolist()).argmax(axis=1)]
        for written in tokens.T[:-1]:
            found.append(self._decoder.step(written).argmax(axis=1))
        return np.stack(found, axis=1)


def open_subject(options: Mapping[str, Any]) -> BundleWriter:
    """Open the variant; errors are those of ``OpenVariant``."""
    return BundleWriter(options)
