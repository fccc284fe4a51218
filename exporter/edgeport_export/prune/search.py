"""Which units to remove: the least loss of importance within a budget, over all layers at once.

Pure functions of scores and costs. A consumer's units go in the order of their importance, so a choice is how many
stay; what a choice costs is looked up in a table, linear for FLOPs and measured for latency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Choices", "rearrange", "share", "within"]

_SWAPPED = 128
"""Units that are looked at for a swap, on either side: those that promise most by themselves."""


@dataclass(frozen=True)
class Choices:
    """The ways to leave some units of one consumer: none of the lists is empty, and the first keeps all."""

    kept: Sequence[int]
    """Numbers of units that stay."""
    loss: Sequence[float]
    cost: Sequence[float]

    @classmethod
    def of(cls, scores: Tensor, kept: Sequence[int], cost: Sequence[float]) -> Choices:
        """What is lost with a choice is the sum of the least scores."""
        lost = torch.cat([torch.zeros(1), scores.sort().values.cumsum(0)])
        return cls(kept, [float(lost[len(scores) - k]) for k in kept], cost)


def within(choices: Sequence[Choices], budget: float) -> list[int]:
    """How many units of each consumer stay, for the least loss at a cost of ``budget`` at most.

    A price for cost turns the choice into one for each consumer alone; bisection finds the price. What is left of the
    budget goes to whom it helps most.
    """
    low, high = 0.0, 1.0
    while _cost(choices, _at(choices, high)) > budget and high < 1e30:
        low, high = high, high * 4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _cost(choices, _at(choices, middle)) > budget else (low, middle)
    chosen = _at(choices, high)
    return [c.kept[i] for c, i in zip(choices, _spend(choices, chosen, budget), strict=True)]


def _at(choices: Sequence[Choices], price: float) -> list[int]:
    return [min(range(len(c.kept)), key=lambda i: (c.loss[i] + price * c.cost[i], c.cost[i])) for c in choices]


def _cost(choices: Sequence[Choices], chosen: Sequence[int]) -> float:
    return sum(c.cost[i] for c, i in zip(choices, chosen, strict=True))


def _spend(choices: Sequence[Choices], chosen: list[int], budget: float) -> list[int]:
    while True:
        left = budget - _cost(choices, chosen)
        best, gain = None, 0.0
        for at, (c, i) in enumerate(zip(choices, chosen, strict=True)):
            for j in range(len(c.kept)):
                more, less_lost = c.cost[j] - c.cost[i], c.loss[i] - c.loss[j]
                if less_lost > 0 and more <= left and less_lost > gain * max(more, 1e-12):
                    best, gain = (at, j), less_lost / max(more, 1e-12)
        if best is None:
            return chosen
        chosen = [*chosen[: best[0]], best[1], *chosen[best[0] + 1 :]]


def share(scores: Sequence[Tensor], removed: float) -> list[int]:
    """How many units of each consumer stay when that share of all goes, the least important first; one at least."""
    sizes = [len(s) for s in scores]
    owner = torch.cat([torch.full((n,), i) for i, n in enumerate(sizes)])
    best = torch.cat([(s == s.max()).long().cumsum(0).eq(1) & (s == s.max()) for s in scores])
    ranked = torch.cat(list(scores)).masked_fill(best, float("inf")).argsort(stable=True)
    gone = ranked[: min(round(removed * len(ranked)), len(ranked) - len(sizes))]
    lost = torch.bincount(owner[gone], minlength=len(sizes))
    return [n - int(k) for n, k in zip(sizes, lost, strict=True)]


def rearrange(masks: Tensor, kept: Tensor, rounds: int = 100) -> Tensor:
    """Swap units that go for units that stay where that lowers the loss of all that go together.

    The diagonal of the Fisher information takes units as independent; two that do the same are then both worth little,
    and both go. The layer's whole block of it knows: with the derivatives by the masks of a row, g, zeroing the set S
    loses the mean of (sum of g over S)² (Kwon et al. 2022, section 4.2).

    Args:
        masks: (rows, units), the derivatives.
        kept: (units,) bool; left as it is.
        rounds: Swaps, at most.

    Returns:
        (units,) bool, with as many units.
    """
    kept = kept.clone()
    block = masks.T @ masks / len(masks)
    diagonal = block.diagonal()
    for _ in range(rounds):
        if kept.all() or not kept.any():
            break
        with_gone = block[:, ~kept].sum(1)
        # Taking i out of what goes, and putting j in: both terms of the square, and what i and j have in common.
        out = _least(diagonal - 2 * with_gone, ~kept)
        into = _least(diagonal + 2 * with_gone, kept)
        change = (
            (diagonal[out] - 2 * with_gone[out])[:, None]
            + (diagonal[into] + 2 * with_gone[into])[None]
            - 2 * block[out][:, into]
        )
        i, j = divmod(int(change.argmin()), len(into))
        if change[i, j] >= -1e-6 * float(diagonal.sum()):
            break
        kept[out[i]], kept[into[j]] = True, False
    return kept


def _least(values: Tensor, among: Tensor) -> Tensor:
    """Indices of the least of some ``values``: what else two units have in common decides between these."""
    index = among.nonzero()[:, 0]
    return index[values[index].argsort(stable=True)[:_SWAPPED]]
