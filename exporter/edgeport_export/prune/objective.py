"""The loss that importance is measured by: the labels' where rows have some, else against the model's own outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgeport_export.calibration import LabelledBatch
from edgeport_export.head import ExportHead

__all__ = ["objective", "outputs"]


def objective(head: ExportHead, *, seed: int) -> Callable[[LabelledBatch], Tensor]:
    """A function from a batch to its loss, summed over rows.

    Without labels the outputs are projected on random signs. The mean square of the projection's derivative is that of
    the outputs, summed over all of them, which is the second derivative of half the squared distance to the outputs as
    they were: the same quantity, with nothing to be right or wrong about.
    """
    generator = torch.Generator().manual_seed(seed)

    def loss(batch: LabelledBatch) -> Tensor:
        if batch.labels:
            result = head.model(**batch.inputs, **batch.labels, **head.options)
            value: Tensor = result.loss * len(batch.inputs["input_ids"])
            return value
        total = torch.zeros(())
        for output in head(*(batch.inputs[name] for name in head.names)):
            signs = torch.randint(0, 2, output.shape, generator=generator) * 2.0 - 1
            total = total + (output * signs).sum() / output[0].numel() ** 0.5
        return total

    return loss


def outputs(head: ExportHead, batch: LabelledBatch) -> Tensor:
    """All outputs in one row, (numbers,), without gradients."""
    with torch.inference_mode():
        return torch.cat([o.flatten().float() for o in head(*(batch.inputs[name] for name in head.names))])
