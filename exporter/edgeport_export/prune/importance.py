"""How much a head or a neuron matters: one pure function a score, from what one pass over the samples has gathered.

Larger is more important. Fisher's scores of different layers compare with each other; all others are shares of what
their layer's heads or neurons have together, since a head's weights are many and a neuron's few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgeport_export.calibration import LabelledBatch
from edgeport_export.prune.units import Units, weights_of

__all__ = ["IMPORTANCES", "Gathered", "fisher", "gather", "magnitude", "wanda"]


@dataclass
class Gathered:
    """What the samples say of the units of one consumer."""

    gradients: list[Tensor] = field(default_factory=list)
    """A batch: (rows, units), the loss's derivative by each unit's mask."""
    squares: Tensor | None = None
    """(channels,), the sum of squares of the consumer's input over all tokens."""
    weights: list[Tensor] = field(default_factory=list)
    """A batch: (rows, tokens), the squared length of the loss's gradient at the consumer's output: how much a token
    matters."""

    @property
    def masks(self) -> Tensor:
        """(rows, units)."""
        return torch.cat(self.gradients)


def gather(
    model: nn.Module, found: Sequence[Units], batches: Sequence[LabelledBatch], loss: Callable[[LabelledBatch], Tensor]
) -> list[Gathered]:
    """Run all samples forwards and backwards once.

    Args:
        model: In eval mode; its parameters get no gradients.
        found: Whose units are to be scored.
        batches: Rows of one length each.
        loss: A batch's summed over its rows.
    """
    gathered = [Gathered() for _ in found]
    seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in found]

    def hook(index: int) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        return lambda _, args, output: seen[index].append((args[0], output))

    wanted = [p for p in model.parameters() if p.requires_grad]
    handles = [units.consumer.register_forward_hook(hook(i)) for i, units in enumerate(found)]
    handles.append(_first_embedding(model).register_forward_hook(lambda _, __, output: output.requires_grad_()))
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        for batch in batches:
            for calls in seen:
                calls.clear()
            with torch.enable_grad():
                value = loss(batch)
            flat = [t for calls in seen for pair in calls for t in pair]
            gradients = iter(torch.autograd.grad(value, flat, allow_unused=True))
            for units, calls, into in zip(found, seen, gathered, strict=True):
                _add(into, units, [(x.detach(), next(gradients), next(gradients)) for x, _ in calls])
    finally:
        for handle in handles:
            handle.remove()
        for parameter in wanted:
            parameter.requires_grad_()
    return gathered


def _first_embedding(model: nn.Module) -> nn.Module:
    """Where gradients may start: nothing before it is differentiable."""
    return next(m for m in model.modules() if isinstance(m, nn.Embedding))


def _add(into: Gathered, units: Units, calls: Sequence[tuple[Tensor, Tensor | None, Tensor | None]]) -> None:
    """A module that runs more than once a pass (shared layers) has one mask for all of its runs."""
    masks: Tensor | float = 0.0
    weights: Tensor | float = 0.0
    for read, by_input, by_output in calls:
        by_input = torch.zeros_like(read) if by_input is None else by_input
        rows, tokens = read.shape[0], read.shape[1] if read.dim() > 2 else 1
        masks = masks + (read * by_input).reshape(rows, -1, units.count, units.size).sum((1, 3))
        squares = read.reshape(-1, read.shape[-1]).square().sum(0)
        into.squares = squares if into.squares is None else into.squares + squares
        lost = torch.zeros(rows, tokens) if by_output is None else by_output.reshape(rows, tokens, -1).square().sum(-1)
        weights = weights + lost
    into.gradients.append(torch.as_tensor(masks))
    into.weights.append(torch.as_tensor(weights))


def fisher(units: Units, gathered: Gathered) -> Tensor:
    """The mean squared derivative of the loss by a unit's mask, the diagonal of its Fisher information: what zeroing
    the unit costs, in units of the loss (Kwon et al. 2022, A Fast Post-Training Pruning Framework for Transformers).
    """
    return gathered.masks.square().mean(0)


def wanda(units: Units, gathered: Gathered) -> Tensor:
    """The length of a channel's inputs times that of its weights, summed over a unit (Sun et al. 2023, A Simple and
    Effective Pruning Approach for Large Language Models; there for single weights)."""
    assert gathered.squares is not None
    return _shares((gathered.squares * _per_channel(units)).reshape(units.count, -1).sum(1).sqrt())


def magnitude(units: Units, gathered: Gathered) -> Tensor:
    """The length of what the consumer holds of a unit."""
    return _shares(_per_channel(units).reshape(units.count, -1).sum(1).sqrt())


def _per_channel(units: Units) -> Tensor:
    return weights_of(units.consumer).square().sum(0)


def _shares(scores: Tensor) -> Tensor:
    return scores / scores.sum().clamp(min=1e-30)


def random_scores(units: Units, gathered: Gathered) -> Tensor:
    """Drawn by torch's generator: the floor that anything else is to beat."""
    return _shares(torch.rand(units.count))


IMPORTANCES: Mapping[str, Callable[[Units, Gathered], Tensor]] = {
    "fisher": fisher,
    "wanda": wanda,
    "magnitude": magnitude,
    "random": random_scores,
}
