"""Real sentences as token ids, for quantizers that have to see activations; the same for every peer that asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["calibration_batches"]


def calibration_batches(
    model: Path, sentences: Sequence[str], names: Sequence[str], count: int = 300
) -> Iterator[dict[str, npt.NDArray[np.int64]]]:
    """``count`` texts of up to 16, 32, ... 128 tokens, one at a time: input name to int64 (1, tokens).

    Args:
        model: Folder with a ``tokenizer.json``.
        sentences: What the texts are put together from.
        names: The model's inputs: ``input_ids``, ``attention_mask``, ``token_type_ids``.
        count: How many.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    for i in range(count):
        tokenizer.enable_truncation(16 * (1 + i % 8))
        row = tokenizer.encode(" ".join(sentences[(7 * i + j) % len(sentences)] for j in range(1 + i % 10)))
        values = {"input_ids": row.ids, "attention_mask": row.attention_mask, "token_type_ids": row.type_ids}
        yield {name: np.array([values[name]], dtype=np.int64) for name in names}
