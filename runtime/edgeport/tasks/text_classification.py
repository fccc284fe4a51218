"""Labels for a text or a pair of texts. Contract: the text-classification pipeline of transformers 5."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeport.errors import InputError
from edgeport.tasks.activations import activation
from edgeport.tasks.base import Array, ReadingPipeline
from edgeport.tasks.options import positive
from edgeport.text import Truncation

if TYPE_CHECKING:
    from tokenizers import Encoding

__all__ = ["TextClassification"]


@dataclass(frozen=True)
class _Options:
    top_k: int | None
    best_alone: bool
    """One dictionary instead of a list."""
    function: str
    truncation: Truncation


class TextClassification(ReadingPipeline):
    """Graph output ``logits`` (batch, labels); task option ``function_to_apply`` turns them into scores."""

    task = "text-classification"
    outputs = ("logits",)
    labelled = True

    def __call__(
        self,
        inputs: Any,
        *,
        top_k: int | str | None = "",
        function_to_apply: str | None = None,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        padding: bool | str | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Classify.

        Args:
            inputs: A string, a dictionary with ``text`` and ``text_pair``, a list of these, or an iterator of them.
            top_k: How many labels; None for all. Left out, the best alone, as a dictionary instead of a list.
            function_to_apply: ``softmax``, ``sigmoid`` or ``none``; the model's own where left out or ``default``.
            truncation: As the tokenizers of transformers take it; texts are cut to the model's limit in any case.
            max_length: Cut to fewer tokens than the model takes.
            padding: Accepted and without effect: results do not depend on padding.
            batch_size: Most texts that run at once.

        Returns:
            ``{"label": str, "score": float}``, or with ``top_k`` a list of these with the best first; one such result
            for each item of a list. A single string gives a list in any case.

        Raises:
            InputError: an item of another kind.
            UsageError: an unknown option value.
        """
        options = _Options(
            None if top_k is None or top_k == "" else positive("top_k", top_k),  # type: ignore[arg-type]
            top_k == "",
            self._function(function_to_apply),
            Truncation.from_options(truncation, max_length),
        )
        result = self._map(inputs, options, batch_size)
        if isinstance(inputs, Iterator) or top_k != "":
            return result
        return [result] if isinstance(inputs, str) else result

    def _function(self, asked: str | None) -> str:
        name = self._options.get("function_to_apply", "softmax") if asked in (None, "default") else asked
        activation(name)
        return str(name)

    def _encode(self, items: list[Any], options: _Options) -> list[list[Encoding]]:
        texts, pairs = zip(*(self._split(item) for item in items), strict=True)
        only_texts = not any(pairs)
        return self._text.encode(texts, None if only_texts else pairs, truncation=options.truncation)

    def _split(self, item: Any) -> tuple[str, str | None]:
        if isinstance(item, str):
            return item, None
        if isinstance(item, dict):
            unknown = set(item) - {"text", "text_pair"}
            if unknown or "text" not in item:
                keys = ", ".join(map(str, item)) or "none"
                raise InputError(f"a dictionary needs the keys text and, for a pair, text_pair; this one has {keys}.")
            text, pair = item["text"], item.get("text_pair")
        elif isinstance(item, list) and len(item) == 1 and isinstance(item[0], list) and len(item[0]) == 2:
            text, pair = item[0]
        else:
            raise InputError(
                f"text-classification takes strings, and pairs as {{'text': ..., 'text_pair': ...}}, "
                f"not {type(item).__name__} ({item!r:.60})."
            )
        # An empty second text is none, as in transformers.
        return self._check_text(text), self._check_text(pair, "the second text") if pair else None

    def _finish(self, item: Any, kept: list[Array], options: _Options) -> Any:
        scores = activation(options.function)(kept[0]).tolist()
        if options.best_alone:
            best = max(range(len(scores)), key=scores.__getitem__)
            return {"label": self._labels[best], "score": scores[best]}
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        return [{"label": self._labels[i], "score": scores[i]} for i in order[: options.top_k]]
