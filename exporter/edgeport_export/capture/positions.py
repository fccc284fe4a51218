"""Where a model takes the positions of its tokens: as an argument, or in a module that counts them from the cache.

A count is the same for all rows, and rows are of different length.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

__all__ = ["counting_modules", "placed", "takes_positions"]

_COUNTS = {"past_key_values_length", "cache_length"}
"""What such a module is told of the cache; transformers 5.24 renamed it."""


def takes_positions(module: nn.Module) -> bool:
    """Whether ``position_ids`` is an argument of it."""
    return "position_ids" in _parameters(module)


@torch.no_grad()
def counting_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The modules that count positions and can be given them instead, a row each; empty if ``model`` takes them."""
    found = [m for m in model.modules() if takes_positions(m) and _COUNTS & _parameters(m)]
    if takes_positions(model) or not found:
        return []
    ids = torch.tensor([[3, 4], [5, 6]])
    try:
        counted = model(input_ids=ids, use_cache=False).logits
        with placed(found, torch.tensor([[0, 1], [0, 1]])):
            given = model(input_ids=ids, use_cache=False).logits
    except Exception:  # it counts in a way that has no rows
        return []
    return found if torch.equal(counted, given) else []


def _parameters(module: nn.Module) -> Set[str]:
    return inspect.signature(module.forward).parameters.keys()


@contextmanager
def placed(modules: Sequence[nn.Module], positions: Tensor | None) -> Iterator[None]:
    """While ``modules`` are given ``positions`` (batch, new) and return (batch, new, size)."""

    def place(_: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return inputs, {**options, "position_ids": positions}

    def shape(_: nn.Module, __: tuple[Any, ...], embedded: Tensor) -> Tensor:
        return embedded if positions is None else embedded.reshape(*positions.shape, -1)  # some put an axis in front

    handles: list[RemovableHandle] = []
    for module in modules:
        handles += [module.register_forward_pre_hook(place, with_kwargs=True), module.register_forward_hook(shape)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
