"""The tokens of every row, prompt included, in one array that rows can be gathered from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeport.generate.model import IntArray

__all__ = ["History"]


class History:
    """Rows of tokens that grow at their ends."""

    def __init__(self, prompts: Sequence[Sequence[int]]) -> None:
        """One row a prompt."""
        self._lengths = [len(prompt) for prompt in prompts]
        self._array = np.zeros((len(prompts), max(self._lengths, default=0) + 64), np.int64)
        for row, prompt in zip(self._array, prompts, strict=True):
            row[: len(prompt)] = prompt

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, row: int) -> IntArray:
        """int64 (length,): a view that later tokens do not change, unless rows are taken."""
        if not 0 <= row < len(self._lengths):
            raise IndexError(row)
        view: IntArray = self._array[row, : self._lengths[row]]
        return view

    def rows(self) -> list[IntArray]:
        """All rows."""
        return [self[row] for row in range(len(self))]

    def append(self, row: int, token: int) -> None:
        """Put a token at the end of the row."""
        length = self._lengths[row]
        if length == self._array.shape[1]:
            self._array = np.pad(self._array, ((0, 0), (0, length)))
        self._array[row, length] = token
        self._lengths[row] = length + 1

    def take(self, rows: IntArray) -> None:
        """New row i is a copy of what was row ``rows[i]``."""
        self._array = self._array[rows]
        self._lengths = [self._lengths[row] for row in rows]
