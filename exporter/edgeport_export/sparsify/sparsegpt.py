"""SparseGPT: weights go input by input, and those of later inputs make up for it.

Frantar & Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot". What goes is chosen
for some inputs at a time, when all before them have been made up for, by the least error that it leaves in the outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeport_export.pruning import Sparsity
from edgeport_export.quantize.compensate import compensate, inverse_factor
from edgeport_export.sparsify.zeros import lowest, of_every

__all__ = ["sparsegpt"]

_CHOSEN = 128
"""Inputs that weights are chosen among, where a share goes; the paper's."""
_DAMPING = 0.01
"""Of the mean squared input."""


def sparsegpt(rows: Tensor, moments: Tensor, sparsity: Sparsity) -> Tensor:
    """A matrix with zeros, and other weights where it has none.

    Args:
        rows: (outputs, inputs) float32.
        moments: (inputs, inputs), the sum of x xᵀ over the samples.
        sparsity: How many zeros. A share is that of the weights of 128 inputs.
    """
    width = rows.shape[1]
    factor = inverse_factor(moments / moments.diagonal().mean().clamp(min=1e-12), _DAMPING)
    left = rows.T.contiguous()
    gone = torch.zeros_like(left, dtype=torch.bool)
    run = _CHOSEN if sparsity.pattern is None else sparsity.pattern[1]

    def choose(at: int) -> Tensor:
        if at % run == 0:
            some = slice(at, min(at + run, width))
            scores = (left[some] / factor.diagonal()[some, None]).square()
            if sparsity.share is None:
                gone[some] = of_every(scores.T, sparsity).T
            else:
                gone[some] = lowest(scores.flatten(), sparsity.share).reshape(scores.shape)
        return left[at].masked_fill(gone[at], 0)

    compensate(left, factor, choose)
    return left.masked_fill(gone, 0).T.contiguous()
