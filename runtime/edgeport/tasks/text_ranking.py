"""How well a document fits a query. Contract: ``predict`` and ``rank`` of sentence-transformers' CrossEncoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.errors import InputError, UsageError
from edgeport.tasks.activations import activation
from edgeport.tasks.base import Array, ReadingPipeline
from edgeport.tasks.options import positive

if TYPE_CHECKING:
    from tokenizers import Encoding

__all__ = ["TextRanking"]


class TextRanking(ReadingPipeline):
    """Graph output ``logits`` (batch, classes), one class as a rule; task option ``function_to_apply``."""

    task = "text-ranking"
    outputs = ("logits",)

    def __call__(self, inputs: Any, *, function_to_apply: str | None = None, batch_size: int | None = None) -> Any:
        """Score pairs of texts.

        Args:
            inputs: A pair (query, document), a list of pairs, or an iterator of them.
            function_to_apply: ``softmax``, ``sigmoid`` or ``none``; the model's own where left out.
            batch_size: Most pairs that run at once.

        Returns:
            A float32 array (pairs,) for a list, a float for a pair; arrays (pairs, classes) and (classes,) where the
            model has several classes.

        Raises:
            InputError: an item that is no pair of strings.
            UsageError: an unknown option value.
        """
        function = function_to_apply or str(self._options.get("function_to_apply", "sigmoid"))
        activation(function)
        single = isinstance(inputs, list | tuple) and len(inputs) > 0 and all(isinstance(text, str) for text in inputs)
        result = self._map([inputs] if single else inputs, function, batch_size)
        if single:
            return result[0]
        if not isinstance(result, list):
            return result
        return np.array(result, dtype=np.float32)

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        batch_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """Sort ``documents`` by how well they fit ``query``.

        Returns:
            ``{"corpus_id": position in documents, "score": float}``, the best first, with ``text`` on request.

        Raises:
            InputError: a document that is no string.
            UsageError: ``top_k`` is not positive, or the model has several classes.
        """
        top_k = None if top_k is None else positive("top_k", top_k)
        scores = self([(query, document) for document in documents], batch_size=batch_size)
        if scores.ndim != 1:
            raise UsageError(f"this model has {scores.shape[1]} classes, so it gives no single score to rank by.")
        ranked: list[dict[str, Any]] = [{"corpus_id": i, "score": score} for i, score in enumerate(scores.tolist())]
        if return_documents:
            ranked = [{**entry, "text": documents[entry["corpus_id"]]} for entry in ranked]
        return sorted(ranked, key=lambda entry: -entry["score"])[:top_k]

    def _encode(self, items: list[Any], options: str) -> list[list[Encoding]]:
        for item in items:
            if not isinstance(item, list | tuple) or len(item) != 2 or not all(isinstance(t, str) for t in item):
                raise InputError(f"text-ranking takes pairs of strings, (query, document), not {item!r:.60}.")
        return self._text.encode([query for query, _ in items], [document for _, document in items])

    def _finish(self, item: Any, kept: list[Array], options: str) -> Any:
        scores = activation(options)(kept[0])
        return float(scores[0]) if len(scores) == 1 else scores
