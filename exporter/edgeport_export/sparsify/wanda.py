"""Wanda: of each output the weights go that carry least, by their size times that of what they read.

Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models". No weight changes that stays.
"""

from __future__ import annotations

from torch import Tensor

from edgeport_export.pruning import Sparsity
from edgeport_export.sparsify.zeros import lowest, of_every

__all__ = ["wanda"]


def wanda(rows: Tensor, moments: Tensor, sparsity: Sparsity) -> Tensor:
    """A matrix with zeros.

    Args:
        rows: (outputs, inputs) float32.
        moments: (inputs, inputs), the sum of x xᵀ over the samples.
        sparsity: How many zeros. A share is that of each output's weights.
    """
    scores = rows.abs() * moments.diagonal().sqrt()
    gone = lowest(scores, sparsity.share) if sparsity.share is not None else of_every(scores, sparsity)
    return rows.masked_fill(gone, 0)
