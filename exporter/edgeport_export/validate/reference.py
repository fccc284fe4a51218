"""What the original says: torch's outputs in fp32 on every validation batch, computed once and kept as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeport_export.head import ExportHead
from edgeport_export.samples import Batch, EvaluationText
from edgeport_export.validate.prediction import TextReference, predict_text

__all__ = ["Reference", "hides_padding", "make_reference"]


@dataclass(frozen=True)
class Reference:
    """Batches, and the original's outputs for each."""

    batches: Sequence[Batch]
    outputs: Sequence[Sequence[NDArray[np.float32]]]
    text: TextReference | None = None
    """Where the model writes text, how it predicts one."""

    @property
    def masks(self) -> list[NDArray[np.int64]]:
        """For each batch which tokens count, (batch, sequence); all, where the model takes no attention mask."""
        return [b.get("attention_mask", np.ones_like(b["input_ids"])) for b in self.batches]


def make_reference(head: ExportHead, batches: Sequence[Batch], text: EvaluationText | None = None) -> Reference:
    """Run the original on ``batches``, and on ``text``, where the model writes some: its first piece is one more."""
    outputs = [[t.float().numpy() for t in head.run(batch)] for batch in batches]
    if text is None:
        return Reference(batches, outputs)
    predicted, logits = predict_text(head, text)
    return Reference([*batches, text.batch()], [*outputs, [logits]], predicted)


def hides_padding(head: ExportHead, alone: Batch, padded: Batch) -> bool:
    """Whether the original gives the same outputs (to 1e-4 of their size) with and without padding.

    Convolutions over the sequence, positions counted from the left, or pooling without a mask make a model notice.
    """
    if "attention_mask" not in alone:
        return False
    kept = padded["attention_mask"][0].astype(bool)
    try:
        outputs = zip(head.run(alone), head.run(padded), strict=True)
    except Exception:  # a model that cannot take so short a text: nothing is known, so nothing is padded
        return False
    for want, got in outputs:
        a, b = want[0].float().numpy(), got[0].float().numpy()
        if b.shape[:1] == kept.shape and a.shape != b.shape:
            b = b[kept]
        if a.shape != b.shape or np.abs(a - b).max() > 1e-4 * max(float(np.abs(a).max()), 1e-3):
            return False
    return True
