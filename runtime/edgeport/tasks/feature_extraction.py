"""The hidden states of each token. Contract: the feature-extraction pipeline of transformers 5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeport.errors import UsageError
from edgeport.tasks.base import Array, ReadingPipeline
from edgeport.tasks.options import truncation_of
from edgeport.text import Truncation

if TYPE_CHECKING:
    from tokenizers import Encoding

__all__ = ["FeatureExtraction"]


@dataclass(frozen=True)
class _Options:
    as_array: bool
    truncation: Truncation


class FeatureExtraction(ReadingPipeline):
    """Graph output ``last_hidden_state`` (batch, sequence, hidden)."""

    task = "feature-extraction"
    outputs = ("last_hidden_state",)
    per_token = True

    def __call__(
        self,
        inputs: Any,
        *,
        truncation: bool | str | None = None,
        tokenize_kwargs: Mapping[str, Any] | None = None,
        return_tensors: bool = False,
        batch_size: int | None = None,
    ) -> Any:
        """Get the features of texts.

        Args:
            inputs: A string, a list of strings, or an iterator of them.
            truncation: As the tokenizers of transformers take it; texts are cut to the model's limit in any case.
            tokenize_kwargs: ``truncation`` and ``max_length``.
            return_tensors: Arrays instead of lists.
            batch_size: Most texts that run at once.

        Returns:
            For each text a float32 array (1, tokens, hidden), or the same as nested lists.

        Raises:
            InputError: an item that is no string.
            UsageError: an unknown option value.
        """
        tokenizer_options = dict(tokenize_kwargs or {})
        if truncation is not None:
            if "truncation" in tokenizer_options:
                raise UsageError("truncation is given twice, as an option and in tokenize_kwargs: give it once.")
            tokenizer_options["truncation"] = truncation
        return self._map(inputs, _Options(bool(return_tensors), truncation_of(tokenizer_options)), batch_size)

    def _encode(self, items: list[Any], options: _Options) -> list[list[Encoding]]:
        return self._text.encode([self._check_text(item) for item in items], truncation=options.truncation)

    def _read(self, row: Encoding, values: tuple[Array, ...], options: _Options) -> Array:
        return values[0][None].copy()

    def _finish(self, item: Any, kept: list[Array], options: _Options) -> Any:
        return kept[0] if options.as_array else kept[0].tolist()
