"""Encodings to rectangular arrays: which go together, how long the rectangle is, and where the padding is.

Rows of similar length go together, so little is padded. Lengths are rounded up to a small multiple: the session then
sees few different shapes, and its memory does not grow with each new one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgeport.bundle import TextSpec
from edgeport.errors import BundleError

if TYPE_CHECKING:
    from tokenizers import Encoding

__all__ = ["Batch", "Padding", "plan"]

_MULTIPLE = 8


@dataclass(frozen=True)
class Batch:
    """Rows that run together: their positions in the list, and the length they are padded to."""

    rows: tuple[int, ...]
    length: int


def plan(
    lengths: Sequence[int], padded: Callable[[int], int], *, batch_size: int, max_tokens: int, exact: bool = False
) -> list[Batch]:
    """Sort rows into batches, the longest first: then the session's memory is largest at once and stays so.

    Args:
        lengths: Tokens of each row.
        padded: The length that a row of so many tokens is padded to.
        batch_size: Most rows in a batch.
        max_tokens: Most tokens in a batch, padding included; a single row may have more.
        exact: Only rows that are padded to the same length go together.
    """
    batches: list[Batch] = []
    rows: list[int] = []
    length = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        full = len(rows) >= batch_size or (len(rows) + 1) * length > max_tokens
        if rows and (full or (exact and padded(lengths[i]) != length)):
            batches.append(Batch(tuple(rows), length))
            rows = []
        if not rows:
            length = padded(lengths[i])
        rows.append(i)
    if rows:
        batches.append(Batch(tuple(rows), length))
    return batches


class Padding:
    """Fills rectangles with rows: the graph's inputs, one int64 array (batch, length) each."""

    def __init__(self, spec: TextSpec, inputs: Sequence[str], *, max_length: int, maskable: bool = True) -> None:
        """Check that the graph's inputs are those that text can feed.

        Args:
            spec: Padding token, side, and fixed sizes.
            inputs: Names of the graph's inputs.
            max_length: No row is padded beyond it.
            maskable: Whether the model's results are free of the padding's influence; without an ``attention_mask``
                they never are.

        Raises:
            BundleError: the graph wants something else.
        """
        unknown = [n for n in inputs if n not in _FILLERS]
        if unknown or "input_ids" not in inputs:
            have, known = ", ".join(inputs), ", ".join(_FILLERS)
            raise BundleError(f"the graph's inputs are {have}, and text gives {known}: export the model again.")
        self._spec = spec
        self._inputs = tuple(inputs)
        self._max_length = max_length
        self._left = spec.padding_side == "left"
        self.exact = spec.fixed_length is None and not (maskable and "attention_mask" in inputs)
        """Rows of different lengths must not be padded to the same one."""

    def length(self, tokens: int) -> int:
        """The length that a row of ``tokens`` is padded to."""
        if self._spec.fixed_length is not None:
            return self._spec.fixed_length
        if self.exact:
            return tokens
        return max(tokens, min(-(-tokens // _MULTIPLE) * _MULTIPLE, self._max_length))

    def feeds(self, rows: Sequence[Encoding], length: int) -> dict[str, npt.NDArray[np.int64]]:
        """The graph's inputs for ``rows``; a graph of a fixed batch gets copies of the first row to fill it."""
        extra = (self._spec.fixed_batch or len(rows)) - len(rows)
        rows = [*rows, *[rows[0]] * extra]
        feeds = {}
        for name in self._inputs:
            filler = _FILLERS[name]
            array = np.full((len(rows), length), filler.padding(self._spec), dtype=np.int64)
            for target, row in zip(array, rows, strict=True):
                values = filler.values(row)
                target[self.span(len(row), length)] = values
            feeds[name] = array
        return feeds

    def span(self, tokens: int, length: int) -> slice:
        """Where a row of ``tokens`` lies in a rectangle of ``length``."""
        return slice(length - tokens, length) if self._left else slice(0, tokens)


@dataclass(frozen=True)
class _Filler:
    values: Callable[[Any], Any]
    padding: Callable[[TextSpec], int]


_FILLERS = {
    "input_ids": _Filler(lambda row: row.ids, lambda spec: spec.pad_token_id),
    "attention_mask": _Filler(lambda row: 1, lambda spec: 0),
    "token_type_ids": _Filler(lambda row: row.type_ids, lambda spec: spec.pad_token_type_id),
}
