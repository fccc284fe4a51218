"""Find the units of any model by probing, without a look at its name.

The output of every product is made a leaf of the autograd graph, so the gradient of a product's input reaches just what
makes it: query, key and value of an output projection, up and gate of a down projection. Channels of the input that
belong to one unit are summed under a binary code, one pass a bit, and a channel of a leaf shows by the bits that reach
it which unit it belongs to: log2 passes find every layout, packed or interleaved, of grouped heads too.
A channel that all units read (the only key of multi-query attention, a norm's weight) belongs to none and stays. One
that some read and others don't means that these units hang together: then there are fewer, larger ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgeport_export.prune.units import DENSE, Kind, Own, Units, out_axis

__all__ = ["find_units", "word_table"]

_SHARED, _SILENT, _MIXED = -1, -2, -3
"""A channel that all units read, that none reads, and that some read."""


def find_units(model: nn.Module, inputs: Mapping[str, Tensor]) -> list[Units]:
    """All units of products inside repeated layers, in the order in which they run.

    Args:
        model: In eval mode; left as it is.
        inputs: A small batch to probe with: two rows of some tokens.
    """
    found = []
    with _differentiable(model):
        traced = _trace(model, inputs)
        for name, channels in traced.read.items():
            block = _block_of(model, name)
            units = _separate(name, channels, traced, block) if block else None
            if units is not None:
                found.append(units)
    return found


@dataclass
class _Trace:
    """One run of the model, cut into pieces at the outputs of its products."""

    modules: Mapping[str, nn.Module]
    read: dict[str, Tensor] = field(default_factory=dict)
    """A product's name to its input."""
    leaves: dict[str, Tensor] = field(default_factory=dict)
    """A product's name to its output, a leaf."""
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    """What is no product's."""


def _trace(model: nn.Module, inputs: Mapping[str, Tensor]) -> _Trace:
    dense = {name: module for name, module in model.named_modules() if isinstance(module, DENSE)}
    trace = _Trace(dict(model.named_modules()))
    handles = []

    def hook(name: str) -> Any:
        def run(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            leaf = output.detach().requires_grad_()
            # A module that runs more than once (shared layers) is probed where it runs first.
            trace.read.setdefault(name, args[0])
            trace.leaves.setdefault(name, leaf)
            return leaf.clone()  # some models write into it, which a leaf does not allow

        return run

    inside = {id(p) for module in dense.values() for p in module.parameters(recurse=False)}
    words = word_table(model)
    trace.parameters = {n: p for n, p in model.named_parameters() if id(p) not in inside and p is not words}
    with _plain_attention(model):
        handles = [module.register_forward_hook(hook(name)) for name, module in dense.items()]
        try:
            model(**inputs)
        finally:
            for handle in handles:
                handle.remove()
    return trace


@contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.enable_grad():
            yield
    finally:
        for parameter, wanted in before:
            parameter.requires_grad_(wanted)


@contextmanager
def _plain_attention(model: nn.Module) -> Iterator[None]:
    """Attention as written in Python: a fused kernel's gradient may round a zero."""
    config: Any = getattr(model, "config", None)
    before = getattr(config, "_attn_implementation", None)
    try:
        if before == "sdpa":
            config._attn_implementation = "eager"
        yield
    finally:
        if before is not None:
            config._attn_implementation = before


def word_table(model: Any) -> Any:
    """The weight of the table of words, None without one: the largest of all parameters, as a rule, and none whose
    entries belong to heads or neurons."""
    try:
        return model.get_input_embeddings().weight
    except (NotImplementedError, AttributeError):
        return None


def _block_of(model: nn.Module, name: str) -> str:
    """The innermost item of a list of modules that the module stands in; empty where there is none."""
    block, module, path = "", model, ""
    for part in name.split("."):
        if isinstance(module, nn.ModuleList):
            block = f"{path}.{part}"
        module, path = getattr(module, part), f"{path}.{part}".lstrip(".")
    return block


def _separate(name: str, read: Tensor, trace: _Trace, block: str) -> Units | None:
    """The smallest units that the channels which the product reads fall into; None where they hang together."""
    width = read.shape[-1]
    if read.grad_fn is None:
        return None
    for size in (s for s in range(1, width // 2 + 1) if width % s == 0):
        own = _owned(name, read, size, trace)
        if own:
            kind: Kind = "ffn" if size == 1 else "heads"
            return Units(name, kind, trace.modules[name], width // size, size, own, block)
    return None


def _owned(name: str, read: Tensor, size: int, trace: _Trace) -> list[Own] | None:
    """What belongs to one unit each, of what makes the input; None where units of that size do not stand apart."""
    count = read.shape[-1] // size
    leaves = {n: t for n, t in trace.leaves.items() if n != name}
    if not _anything_apart(read, size, list(leaves.values())):
        return None
    targets: dict[str, Tensor] = {**leaves, **trace.parameters}
    reached = _reached(read, size, count, list(targets.values()))
    own = []
    for target, axes in zip(targets, reached, strict=True):
        for axis, belongs in axes.items():
            if (belongs == _MIXED).any() and target in trace.leaves:
                return None
            found = _table(belongs, count)
            if found is None:
                continue
            owner, parameter = _parameter(trace, target)
            own += [Own(owner, p, a, found) for p, a in _along(owner, parameter, axis, target in trace.leaves)]
            break
    products = [o for o in own if isinstance(o.owner, DENSE)]
    return own if products else None


def _parameter(trace: _Trace, target: str) -> tuple[nn.Module, str]:
    if target in trace.leaves:
        return trace.modules[target], "weight"
    path, _, name = target.rpartition(".")
    return trace.modules[path], name


def _along(owner: nn.Module, name: str, axis: int, product: bool) -> list[tuple[str, int]]:
    """Parameters to cut, each with the axis."""
    if not product:
        return [(name, axis)]
    bias = [("bias", 0)] if owner.bias is not None else []
    return [("weight", out_axis(owner)), *bias]


def _reached(read: Tensor, size: int, count: int, targets: Sequence[Tensor]) -> list[dict[int, Tensor]]:
    """For each target, by axis, the unit that each entry along it belongs to.

    A leaf has its channels along the last axis, a parameter might along any.
    """
    hits: list[dict[int, list[Tensor]]] = [{} for _ in targets]
    for bit in range(max(1, (count - 1).bit_length())):
        for value in (0, 1):
            gradients = _gradients(read, size, bit, value, targets)
            for target, found, gradient in zip(targets, hits, gradients, strict=True):
                axes = (target.dim() - 1,) if not isinstance(target, nn.Parameter) else range(target.dim())
                for axis in axes:
                    found.setdefault(axis, []).append(_touched(target, gradient, axis))
    return [{axis: _decode(torch.stack(hit), count) for axis, hit in found.items()} for found in hits]


def _gradients(read: Tensor, size: int, bit: int, value: int, targets: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Of the sum, with random weights, of the channels of units in whose number ``bit`` is ``value``."""
    chosen = ((torch.arange(read.shape[-1]) // size >> bit) & 1) == value
    weights = torch.randn(read.shape, generator=torch.Generator().manual_seed(bit))
    total = (read * weights * chosen).sum()
    found: Sequence[Tensor | None] = torch.autograd.grad(total, targets, retain_graph=True, allow_unused=True)
    return found


def _touched(target: Tensor, gradient: Tensor | None, axis: int) -> Tensor:
    """(entries along the axis,) bool: where the gradient is not zero."""
    if gradient is None:
        return torch.zeros(target.shape[axis], dtype=torch.bool)
    return (gradient != 0).movedim(axis, 0).flatten(1).any(1) if target.dim() > 1 else gradient != 0


def _anything_apart(read: Tensor, size: int, leaves: Sequence[Tensor]) -> bool:
    """Whether a channel of a leaf is reached from one side of the first bit alone."""
    if not leaves:
        return False
    sides = [_gradients(read, size, 0, value, leaves) for value in (0, 1)]
    pairs = zip(leaves, *sides, strict=True)
    return any((_touched(t, zero, t.dim() - 1) != _touched(t, one, t.dim() - 1)).any() for t, zero, one in pairs)


def _decode(hit: Tensor, count: int) -> Tensor:
    """(2 x bits, channels) of what reaches a channel to the unit that it belongs to, or why to none."""
    zero, one = hit[0::2], hit[1::2]
    unit = (one.long() << torch.arange(len(one))[:, None]).sum(0)
    unit[unit >= count] = _MIXED
    unit[(zero == one).any(0)] = _MIXED
    unit[(zero & one).all(0)] = _SHARED
    unit[(~zero & ~one).all(0)] = _SILENT
    return unit


def _table(belongs: Tensor, count: int) -> Tensor | None:
    """(units, entries) of channels by unit; None where they belong to no unit.

    A neuron that the probe did not wake takes the place that the others leave for it in a regular layout.
    """
    if not (belongs >= 0).any():
        return None
    if (belongs == _SILENT).any():
        belongs = _regular(belongs, count)
    channels = [(belongs == unit).nonzero()[:, 0] for unit in range(count)]
    if len({len(c) for c in channels}) != 1 or len(channels[0]) == 0:
        return None
    return torch.stack(channels)


def _regular(belongs: Tensor, count: int) -> Tensor:
    """The layout (any, units, any) that agrees with the channels that are known; else what was given."""
    width = len(belongs)
    known = belongs >= 0
    for inner in (n for n in range(1, width // count + 1) if width % (count * n) == 0):
        layout = torch.arange(width) // inner % count
        if (layout == belongs)[known].all() and not (belongs == _SHARED).any():
            return layout
    return belongs
