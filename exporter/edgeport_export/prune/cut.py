"""Cut units out of a model: smaller matrices, and the integers that modules remember of their sizes.

Most models of transformers 5 take their heads from shapes; others count them in an attribute. Which attributes have to
shrink is found by trying: one unit is cut from one layer of each kind, and the result has to be what zeroing that unit
gives. Where no trial agrees (head positions that carry a meaning, as ALiBi's do; a width that other layers read),
units of that kind are not pruned.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from edgeport_export.prune.units import DENSE, Counter, Units, masked

__all__ = ["Run", "cut", "cuttable"]

Run = Callable[[], Tensor]
"""The model's output on a small batch."""

_TOLERANCE = 1e-4
"""Largest difference between cut and zeroed, as a share of the largest output: fp32 sums in another order."""


def cuttable(model: nn.Module, found: Sequence[Units], run: Run) -> tuple[list[Units], list[Units]]:
    """Those that can be cut, with the attributes that shrink with them, and those that cannot."""
    owners = collections.Counter((id(own.owner), own.name) for units in found for own in units.own)
    ways: dict[Any, _Way | None] = {}
    good, bad = [], []
    for units in found:
        kind = _signature(model, units)
        if any(owners[id(own.owner), own.name] > 1 for own in units.own):
            bad.append(units)  # a position bias that all layers share would have to fit each of them
            continue
        if kind not in ways:
            ways[kind] = _try(model, units, run)
        way = ways[kind]
        if way is None:
            bad.append(units)
        else:
            good.append(dataclasses.replace(units, counters=way(model, units)))
    return good, bad


def cut(units: Units, keep: Tensor) -> None:
    """Leave the units numbered by ``keep`` (int64, ascending), and nothing of the others."""
    gone = torch.ones(units.count, dtype=torch.bool)
    gone[keep] = False
    for own in units.own:
        stays = torch.ones(own.tensor.shape[own.axis], dtype=torch.bool)  # what all units share as well
        stays[own.index[gone].flatten()] = False
        _select(own.owner, own.name, own.axis, stays.nonzero()[:, 0])
    channels = (keep[:, None] * units.size + torch.arange(units.size)).flatten()
    axis = 1 if isinstance(units.consumer, nn.Linear) else 0
    _select(units.consumer, "weight", axis, channels)
    for counter in units.counters:
        counter.set(counter.get() * len(keep) // units.count)


def _select(owner: nn.Module, name: str, axis: int, index: Tensor) -> None:
    old: nn.Parameter = getattr(owner, name)
    # Not index_select on the transpose: the export wants memory in order.
    new = old.detach().index_select(axis, index).contiguous()
    setattr(owner, name, nn.Parameter(new, requires_grad=old.requires_grad))
    if name == "weight" and isinstance(owner, DENSE):
        _remember(owner)
    elif isinstance(owner, nn.Embedding):
        owner.num_embeddings, owner.embedding_dim = new.shape


def _remember(dense: Any) -> None:
    """The sizes that a product keeps beside its weight."""
    if isinstance(dense, nn.Linear):
        dense.out_features, dense.in_features = dense.weight.shape
    else:
        dense.nx, dense.nf = dense.weight.shape


def _try(model: nn.Module, units: Units, run: Run) -> _Way | None:
    """The first way of shrinking attributes with which a cut agrees with a mask."""
    mask = torch.ones(units.count)
    mask[0] = 0
    with torch.inference_mode(), masked([units], [mask]):
        wanted = run()
    keep = torch.arange(1, units.count)
    for way in _WAYS:
        attempt = dataclasses.replace(units, counters=way(model, units))
        with _undone(attempt), torch.inference_mode():
            cut(attempt, keep)
            try:
                given = run()
            except Exception:  # shapes that do not fit: as good an answer as a wrong number
                continue
            if given.shape == wanted.shape and (given - wanted).abs().max() <= _TOLERANCE * wanted.abs().max():
                return way
    return None


@contextmanager
def _undone(units: Units) -> Iterator[None]:
    """Whatever a cut changes is as it was before, afterwards."""
    touched: list[tuple[Any, str]] = [(own.owner, own.name) for own in units.own]
    touched += [(units.consumer, "weight")]
    touched += [(c.module, "config" if c.in_config else c.name) for c in units.counters]
    before = [(holder, name, getattr(holder, name)) for holder, name in touched]
    try:
        yield
    finally:
        for holder, name, value in before:
            setattr(holder, name, value)
            if name == "weight" and isinstance(holder, DENSE):
                _remember(holder)
            elif isinstance(holder, nn.Embedding):
                holder.num_embeddings, holder.embedding_dim = value.shape


def _signature(model: nn.Module, units: Units) -> Any:
    """Equal for the same place in layers of one class."""
    inside = units.name.removeprefix(units.block)
    return type(model.get_submodule(units.block)), inside, units.count, units.size


def _nothing(model: nn.Module, units: Units) -> list[Counter]:
    return []


def _head_counts(model: nn.Module, units: Units) -> list[Counter]:
    return [
        Counter(module, name)
        for module in _modules(model, units)
        for name, value in _integers(vars(module))
        if _counts_heads(name) and value % units.count == 0
    ]


def _head_counts_and_widths(model: nn.Module, units: Units) -> list[Counter]:
    widths = {units.count * units.size} | {own.tensor.shape[own.axis] for own in units.own}
    more = [
        Counter(module, name)
        for module in _modules(model, units)
        for name, value in _integers(vars(module))
        if not _counts_heads(name) and value in widths
    ]
    return [*_head_counts(model, units), *more]


def _head_counts_of_the_configuration(model: nn.Module, units: Units) -> list[Counter]:
    more = [
        Counter(module, name, in_config=True)
        for module in _modules(model, units)
        if isinstance(getattr(module, "config", None), PretrainedConfig)
        for name, value in _integers(vars(module.config))
        if _counts_heads(name) and value % units.count == 0
    ]
    return [*_head_counts(model, units), *more]


_Way = Callable[[nn.Module, Units], list[Counter]]
_WAYS: Sequence[_Way] = (_nothing, _head_counts, _head_counts_and_widths, _head_counts_of_the_configuration)


def _counts_heads(name: str) -> bool:
    return "head" in name and not any(part in name for part in ("dim", "size", "group"))


def _modules(model: nn.Module, units: Units) -> Iterator[nn.Module]:
    """Those between the layer and what is cut, both left out if they are products."""
    inside: Mapping[str, nn.Module] = dict(model.get_submodule(units.block).named_modules())
    touched = {id(units.consumer), *(id(own.owner) for own in units.own)}
    above = {""}
    for path in (p for p, module in inside.items() if id(module) in touched):
        parts = path.split(".")
        above |= {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return (inside[path] for path in sorted(above) if not isinstance(inside[path], DENSE))


def _integers(attributes: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for name, value in list(attributes.items()):
        if isinstance(value, int) and not isinstance(value, bool) and not name.startswith("_") and value > 0:
            yield name, value
