"""Labels for tokens, words or spans. Contract: the token-classification pipeline of transformers 5.

From a text to rows and from logits to tokens; how tokens become words and spans is in ``spans``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from edgeport.errors import InputError, UsageError
from edgeport.tasks.activations import softmax
from edgeport.tasks.base import Array, ReadingPipeline
from edgeport.tasks.spans import STRATEGIES, Token, drop_overlaps, entities
from edgeport.text import Truncation

if TYPE_CHECKING:
    from tokenizers import Encoding

__all__ = ["TokenClassification"]


@dataclass(frozen=True)
class _Options:
    strategy: str
    ignore_labels: Sequence[str]
    stride: int | None
    delimiter: str | None
    """What stands between the words of a text that comes split; None for whole texts."""


class TokenClassification(ReadingPipeline):
    """Graph output ``logits`` (batch, sequence, labels)."""

    task = "token-classification"
    outputs = ("logits",)
    labelled = True
    per_token = True

    def __call__(
        self,
        inputs: Any,
        *,
        aggregation_strategy: str | None = None,
        ignore_labels: Sequence[str] | None = None,
        stride: int | None = None,
        is_split_into_words: bool = False,
        delimiter: str | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Classify the tokens of texts.

        Args:
            inputs: A string, a list of strings, or an iterator of them; with ``is_split_into_words``, lists of words in
                place of the strings.
            aggregation_strategy: ``none`` for one entry a token; ``simple`` joins neighbours with the same label;
                ``first``, ``average`` and ``max`` first settle on one label for each word.
            ignore_labels: Labels to leave out; ``["O"]`` where left out.
            stride: Overlap in tokens of the windows that a long text is split into; without it, a long text is cut.
            is_split_into_words: The texts come as lists of words.
            delimiter: What joins the words again, for ``start`` and ``end``; a space where left out.
            batch_size: Most windows that run at once.

        Returns:
            A list of dictionaries for a text, a list of such lists for a list. Each has ``word``, ``score``, ``start``
            and ``end`` (characters of the text), and ``entity`` and ``index`` (the token's), or ``entity_group``.

        Raises:
            InputError: an item that is no string (no list of strings, with ``is_split_into_words``).
            UsageError: an unknown strategy, or a stride that does not fit.
        """
        options = _Options(
            self._strategy(aggregation_strategy, stride),
            ["O"] if ignore_labels is None else ignore_labels,
            stride,
            (" " if delimiter is None else delimiter) if is_split_into_words else None,
        )
        if is_split_into_words and isinstance(inputs, list | tuple) and not all(isinstance(i, list) for i in inputs):
            inputs = [inputs]
        return self._map(inputs, options, batch_size)

    def _strategy(self, asked: str | None, stride: int | None) -> str:
        strategy = "none" if asked is None else str(asked).lower()
        if strategy not in STRATEGIES:
            raise UsageError(f"aggregation_strategy={asked!r} is unknown: use one of {', '.join(STRATEGIES)}.")
        if stride is None:
            return strategy
        if isinstance(stride, bool) or not isinstance(stride, int) or not 0 <= stride < self._text.max_length:
            raise UsageError(f"stride={stride!r} is no number of tokens from 0 to {self._text.max_length - 1}.")
        if asked is not None and strategy == "none":
            raise UsageError("stride splits long texts, which needs an aggregation_strategy other than 'none'.")
        return strategy

    def _encode(self, items: list[Any], options: _Options) -> list[list[Encoding]]:
        truncation = Truncation(stride=options.stride)
        if options.delimiter is None:
            texts = [self._check_text(item) for item in items]
            return self._text.encode(texts, truncation=truncation, offsets=True)
        return [self._text.encode_words(self._check_words(item), truncation=truncation) for item in items]

    def _check_words(self, item: Any) -> list[str]:
        if not isinstance(item, list | tuple) or not all(isinstance(word, str) for word in item):
            raise InputError(
                f"with is_split_into_words, a text is a list of strings, not {type(item).__name__} ({item!r:.60})."
            )
        return list(item)

    def _read(self, row: Encoding, values: tuple[Array, ...], options: _Options) -> tuple[Encoding, Array]:
        return row, softmax(values[0])

    def _finish(self, item: Any, kept: list[tuple[Encoding, Array]], options: _Options) -> list[dict[str, Any]]:
        text = item if options.delimiter is None else options.delimiter.join(item)
        starts = None if options.delimiter is None else _word_starts(item, options.delimiter)
        found = []
        for row, scores in kept:
            tokens = list(self._tokens(row, scores, text, starts))
            found += [
                entity
                for entity in entities(tokens, options.strategy, self._labels, self._text.join)
                if entity.get("entity") not in options.ignore_labels
                and entity.get("entity_group") not in options.ignore_labels
            ]
        return drop_overlaps(found) if len(kept) > 1 else found

    def _tokens(self, row: Encoding, scores: Array, text: str, word_starts: list[int] | None) -> Iterator[Token]:
        marks_subwords = self._text.marks_subwords
        unknown = self._text.special_id("unk_token")
        columns = zip(row.ids, row.offsets, row.word_ids, row.special_tokens_mask, strict=True)
        for index, (token_id, (start, end), word_id, special) in enumerate(columns):
            if special:
                continue
            if word_starts is not None and word_id is not None:
                start, end = start + word_starts[word_id], end + word_starts[word_id]
            surface, word = text[start:end], self._text.token_of(token_id) or ""
            if token_id == unknown:
                word, inside = surface, False
            elif marks_subwords:
                # The prefix makes the token longer than what it covers.
                inside = len(word) != len(surface)
            else:
                inside = start > 0 and " " not in text[start - 1 : start + 1]
            yield Token(word, scores[index], start, end, index, inside)


def _word_starts(words: Sequence[str], delimiter: str) -> list[int]:
    """Where each word starts in the joined text."""
    return list(accumulate((len(word) + len(delimiter) for word in words), initial=0))[:-1]
