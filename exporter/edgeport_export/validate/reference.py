"""What the original says: torch's outputs in fp32 on every validation batch, computed once and kept as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeport_export.head import ExportHead
from edgeport_export.samples import Batch

__all__ = ["Reference", "make_reference"]


@dataclass(frozen=True)
class Reference:
    """Batches, and the original's outputs for each."""

    batches: Sequence[Batch]
    outputs: Sequence[Sequence[NDArray[np.float32]]]

    @property
    def masks(self) -> list[NDArray[np.int64]]:
        """For each batch which tokens count, (batch, sequence); all, where the model takes no attention mask."""
        return [b.get("attention_mask", np.ones_like(b["input_ids"])) for b in self.batches]


def make_reference(head: ExportHead, batches: Sequence[Batch]) -> Reference:
    """Run the original on ``batches``."""
    return Reference(batches, [[t.float().numpy() for t in head.run(batch)] for batch in batches])
