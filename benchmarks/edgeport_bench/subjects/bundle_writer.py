"""One variant of a bundle that writes text, by edgeport's own search and cache, without a tokenizer.

Options: those of ``bundle_variant``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # noqa: F401  # here, so that its import counts as import and not as loading
from edgeport.bundle import Bundle
from edgeport.errors import BundleError
from edgeport.generate import GenerationConfig, cache_shapes, open_decoder, search
from edgeport.session import open_session

from edgeport_bench.subjects import Array

__all__ = ["BundleWriter", "open_subject"]


class BundleWriter:
    """A session on one variant, and the cache that it writes into."""

    def __init__(self, bundle: Bundle, variant: str, providers: list[str] | None, threads: int | None) -> None:
        options = bundle.manifest.task_options
        size, context = options.get("vocab_size"), options.get("context_length")
        if not isinstance(size, int):
            raise BundleError("the bundle does not say how many tokens the model knows: export it again.")
        self._session = open_session(bundle, variant=variant, providers=providers, threads=threads)
        self._size = bundle.variant(variant).size_bytes
        self._decoder = open_decoder(
            self._session,
            cache_shapes({tensor.name: tensor.shape for tensor in bundle.manifest.inputs}),
            vocab_size=size,
            context_length=context if isinstance(context, int) else None,
        )

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

    def describe(self) -> dict[str, Any]:
        return {"size_bytes": self._size, "report": self._session.report().to_dict()}

    def close(self) -> None:
        self._session.close()


def open_subject(options: Mapping[str, Any]) -> BundleWriter:
    """Open the variant.

    Raises:
        BundleError: the bundle is damaged, or has no such variant.
        ProviderError: a provider is absent, or takes no node.
    """
    bundle = Bundle.open(Path(options["path"]))
    return BundleWriter(bundle, options["variant"], options["providers"], options["threads"])
