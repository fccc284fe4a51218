"""The smallest weights of a matrix go, whatever they read: the oldest score, and the one to beat."""

from __future__ import annotations

from torch import Tensor

from edgeport_export.pruning import Sparsity
from edgeport_export.sparsify.zeros import lowest, of_every

__all__ = ["magnitude"]


def magnitude(rows: Tensor, moments: Tensor | None, sparsity: Sparsity) -> Tensor:
    """A matrix with zeros.

    Args:
        rows: (outputs, inputs) float32.
        moments: Not looked at.
        sparsity: How many zeros. A share is that of the whole matrix.
    """
    scores = rows.abs()
    if sparsity.share is None:
        return rows.masked_fill(of_every(scores, sparsity), 0)
    return rows.masked_fill(lowest(scores.flatten(), sparsity.share).reshape(rows.shape), 0)
