"""Words for a masked token. Contract: the fill-mask pipeline of transformers 5."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.bundle import Bundle
from edgeport.errors import BundleError, InputError, UsageError
from edgeport.tasks.activations import softmax
from edgeport.tasks.base import Array, ReadingPipeline, Runner
from edgeport.tasks.options import positive, truncation_of
from edgeport.text import TextEncoder, Truncation

if TYPE_CHECKING:
    from tokenizers import Encoding

__all__ = ["FillMask"]


@dataclass(frozen=True)
class _Options:
    top_k: int
    targets: Array | None
    """Ids that the answer is chosen from; None for the whole vocabulary."""
    truncation: Truncation


@dataclass(frozen=True)
class _Kept:
    ids: Array
    """The row's token ids (sequence,)."""
    masks: Array
    """Positions of the masks (masks,)."""
    scores: Array
    """(masks, candidates)."""


class FillMask(ReadingPipeline):
    """Graph output ``logits`` (batch, sequence, vocabulary)."""

    task = "fill-mask"
    outputs = ("logits",)
    per_token = True
    max_tokens = 512  # each token brings a row of logits as wide as the vocabulary

    def __init__(self, bundle: Bundle, runner: Runner, text: TextEncoder, *, batch_size: int = 32) -> None:
        """See ``Pipeline``.

        Raises:
            BundleError: the tokenizer has no mask token.
        """
        super().__init__(bundle, runner, text, batch_size=batch_size)
        mask_id = text.special_id("mask_token")
        if mask_id is None:
            raise BundleError(
                "the tokenizer has no mask token, so it cannot fill masks: export the model for another task."
            )
        self._mask_id = mask_id

    def __call__(
        self,
        inputs: Any,
        *,
        top_k: int | None = None,
        targets: str | Sequence[str] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """Fill the masks of texts.

        Args:
            inputs: A string with at least one mask token, a list of such strings, or an iterator of them.
            top_k: How many answers for each mask; 5 where left out.
            targets: Answers to choose from. One that is not in the vocabulary is replaced by its first token, with a
                warning.
            tokenizer_kwargs: ``truncation`` and ``max_length``.
            batch_size: Most texts that run at once.

        Returns:
            A list of ``{"score", "token", "token_str", "sequence"}``, the best first, for a text with one mask; a list
            of such lists for several masks. One result for each item of a list; a list of one gives its result alone.

        Raises:
            InputError: an item that is no string, or has no mask.
            UsageError: an unknown option value.
        """
        options = _Options(
            5 if top_k is None else positive("top_k", top_k),
            None if targets is None else self._target_ids(targets),
            truncation_of(tokenizer_kwargs),
        )
        result = self._map(inputs, options, batch_size)
        return result[0] if isinstance(inputs, list) and len(inputs) == 1 else result

    def _target_ids(self, targets: str | Sequence[str]) -> Array:
        ids = set()
        for target in [targets] if isinstance(targets, str) else targets:
            token_id = self._text.id_of(self._check_text(target, "a target"))
            if token_id is None:
                token_id = self._nearest(target)
            if token_id is not None:
                ids.add(token_id)
        if not ids:
            raise UsageError(f"none of the targets {targets!r:.60} has a token in the vocabulary: give other targets.")
        return np.array(sorted(ids))

    def _nearest(self, target: str) -> int | None:
        tokens = self._text.ids_of_text(target)
        if not tokens:
            warnings.warn(f"the target {target!r} has no token in the vocabulary and is left out.", stacklevel=4)
            return None
        token_id = tokens[0] if self._text.spec.truncation_side == "right" else tokens[-1]
        warnings.warn(
            f"the target {target!r} is not in the vocabulary: {self._text.token_of(token_id)!r} takes its place.",
            stacklevel=4,
        )
        return token_id

    def _encode(self, items: list[Any], options: _Options) -> list[list[Encoding]]:
        rows_of = self._text.encode([self._check_text(item) for item in items], truncation=options.truncation)
        mask = self._text.spec.special_tokens["mask_token"]
        for item, [row] in zip(items, rows_of, strict=True):
            if self._mask_id not in row.ids:
                raise InputError(f"the text {item!r:.60} has no {mask} within the model's length: put one in.")
        return rows_of

    def _read(self, row: Encoding, values: tuple[Array, ...], options: _Options) -> _Kept:
        ids = np.array(row.ids)
        masks = np.flatnonzero(ids == self._mask_id)
        scores = softmax(values[0][masks])
        return _Kept(ids, masks, scores if options.targets is None else scores[:, options.targets])

    def _finish(self, item: Any, kept: list[_Kept], options: _Options) -> Any:
        row = kept[0]
        results = [
            [self._answer(row, mask, int(i), float(scores[i]), options) for i in _best(scores, options.top_k)]
            for mask, scores in zip(row.masks, row.scores, strict=True)
        ]
        return results[0] if len(results) == 1 else results

    def _answer(self, row: _Kept, mask: int, candidate: int, score: float, options: _Options) -> dict[str, Any]:
        token = candidate if options.targets is None else int(options.targets[candidate])
        ids = row.ids.copy()
        ids[mask] = token
        if self._text.spec.pad_token:
            ids = ids[ids != self._text.spec.pad_token_id]
        return {
            "score": score,
            "token": token,
            "token_str": self._text.decode([token]),
            # Leaving special tokens out would leave out the other masks too.
            "sequence": self._text.decode(ids.tolist(), skip_special_tokens=len(row.masks) == 1),
        }


def _best(scores: Array, count: int) -> Array:
    """Positions of the ``count`` largest, the largest first; equals in order."""
    count = min(count, len(scores))
    candidates = np.sort(np.argpartition(-scores, count - 1)[:count])
    return candidates[np.argsort(-scores[candidates], kind="stable")]
