"""One vector a text. Contract: ``encode`` and ``similarity`` of sentence-transformers.

Pooling, dense layers and normalization are part of the graph; this file adds prompts and returns arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.errors import UsageError
from edgeport.tasks.base import Array, ReadingPipeline
from edgeport.tasks.options import positive
from edgeport.tasks.similarity import similarity

if TYPE_CHECKING:
    from tokenizers import Encoding

__all__ = ["SentenceEmbedding"]


@dataclass(frozen=True)
class _Options:
    prompt: str
    normalize: bool
    dimensions: int | None


class SentenceEmbedding(ReadingPipeline):
    """Graph output ``sentence_embedding`` (batch, dimensions).

    Task options: ``prompts`` (name to text), ``default_prompt_name``, ``similarity_fn_name``.
    """

    task = "sentence-embedding"
    outputs = ("sentence_embedding",)

    def __call__(
        self,
        inputs: Any,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Embed texts.

        Args:
            inputs: A string, a list of strings, or an iterator of them.
            prompt_name: One of the model's prompts, put before each text; its default prompt where left out.
            prompt: A prompt as text; ``prompt_name`` is then ignored.
            normalize_embeddings: Scale each vector to length 1, where the model does not do so already.
            truncate_dim: Keep the first dimensions only.
            batch_size: Most texts that run at once.

        Returns:
            A float32 array (texts, dimensions) for a list, (dimensions,) for a text; an iterator of such vectors for an
            iterator.

        Raises:
            InputError: an item that is no string.
            UsageError: an unknown prompt.
        """
        options = _Options(
            self._prompt(prompt_name, prompt),
            bool(normalize_embeddings),
            None if truncate_dim is None else positive("truncate_dim", truncate_dim),
        )
        result = self._map(inputs, options, batch_size)
        if not isinstance(result, list):
            return result
        return np.stack(result) if result else np.zeros((0, self._dimensions(truncate_dim)), dtype=np.float32)

    def similarity(self, a: Array, b: Array) -> Array:
        """The similarity of each vector of ``a`` with each of ``b``, as the model's authors measure it.

        Args:
            a: (n, dimensions), or (dimensions,) for n = 1.
            b: (m, dimensions), or (dimensions,) for m = 1.

        Returns:
            float32 (n, m); distances are negative, so that larger means more similar.
        """
        return similarity(str(self._options.get("similarity_fn_name") or "cosine"), a, b)

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        if prompt is not None:
            return self._check_text(prompt, "a prompt")
        prompts = self._options.get("prompts") or {}
        if name is None:
            return prompts.get(self._options.get("default_prompt_name"), "")
        if name not in prompts:
            have = ", ".join(prompts) or "none"
            raise UsageError(f"prompt_name={name!r} is unknown: the model has {have}; or give prompt= as text.")
        return prompts[name]

    def _dimensions(self, truncate_dim: int | None) -> int:
        size = next(t.shape[-1] for t in self.bundle.manifest.outputs if t.name == self.outputs[0])
        width = size if isinstance(size, int) else 0
        return min(width, truncate_dim or width)

    def _encode(self, items: list[Any], options: _Options) -> list[list[Encoding]]:
        return self._text.encode([options.prompt + self._check_text(item) for item in items])

    def _finish(self, item: Any, kept: list[Array], options: _Options) -> Array:
        vector = kept[0][: options.dimensions].astype(np.float32)
        return vector / max(float(np.linalg.norm(vector)), 1e-12) if options.normalize else vector
