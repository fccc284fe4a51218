"""Which weights go, by their scores: a share of them, or all but n of every m that stand side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeport_export.pruning import Sparsity

__all__ = ["lowest", "of_every"]


def lowest(scores: Tensor, share: float) -> Tensor:
    """True, bool of the shape of ``scores``, for the ``share`` of the last axis that scores least."""
    count = round(scores.shape[-1] * share)
    order = scores.argsort(dim=-1, stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order[..., :count], True)


def of_every(scores: Tensor, sparsity: Sparsity) -> Tensor:
    """True for what goes of each run of m inputs of ``scores`` (outputs, inputs); a shorter last run stays whole."""
    assert sparsity.pattern is not None
    stay, run = sparsity.pattern
    whole = scores.shape[1] // run * run
    gone = torch.zeros_like(scores, dtype=torch.bool)
    runs = scores[:, :whole].reshape(len(scores), -1, run)
    gone[:, :whole] = lowest(runs, (run - stay) / run).reshape(len(scores), whole)
    return gone
