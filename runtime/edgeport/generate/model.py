"""What a search sees of a model: logits after the prompts, logits after one more token, and rows that move.

Knows no graph, no cache and no tokenizer. The array types of the package are here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["BoolArray", "FloatArray", "IntArray", "Model"]

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]
BoolArray: TypeAlias = NDArray[np.bool_]


class Model(Protocol):
    """A decoder with its state: the tokens that every row has seen so far."""

    vocab_size: int
    """Columns of the logits."""

    def start(self, prompts: Sequence[Sequence[int]]) -> FloatArray:
        """Forget everything and read the prompts, one a row, of any lengths from 1.

        Returns:
            float32 (rows, vocab_size): the logits after the last token of each prompt. The caller does not write
            into it, and the next call may reuse its memory.
        """

    def step(self, tokens: IntArray) -> FloatArray:
        """Append one token to each row: int64 (rows,).

        Returns:
            float32 (rows, vocab_size), as from ``start``.
        """

    def reorder(self, rows: IntArray) -> None:
        """New row i continues what was row ``rows[i]``: rows may be swapped, repeated and dropped."""
