"""What can be pruned together: heads and feed-forward neurons, as units of a product that mixes them.

An output projection reads its heads, and a down projection its neurons, from channels of its own input. A unit is a run
of those channels, with all that exists for it alone: rows of query, key and value, of up and gate, entries of a
parameter. One class serves both, so scores, masks, reconstruction and the cut are written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

__all__ = ["DENSE", "Counter", "Kind", "Own", "Units", "masked", "out_axis", "weights_of"]

DENSE = (nn.Linear, Conv1D)
"""Modules that multiply with a matrix. Conv1D's is (in, out), Linear's (out, in)."""

Kind = Literal["heads", "ffn"]


@dataclass(frozen=True, eq=False)
class Own:
    """Entries of a parameter that belong to one unit each."""

    owner: nn.Module
    name: str
    axis: int
    index: Tensor
    """(units, entries) int64, along ``axis``."""

    @property
    def tensor(self) -> Tensor:
        found: Tensor = getattr(self.owner, self.name)
        return found


@dataclass(frozen=True)
class Counter:
    """An integer that a module reads: its own, or its configuration's."""

    module: nn.Module
    name: str
    in_config: bool = False

    def get(self) -> int:
        holder: Any = self.module.config if self.in_config else self.module
        return int(getattr(holder, self.name))

    def set(self, value: int) -> None:
        if self.in_config:
            self.module.config = _OwnSizes(self.module.config, {self.name: value})
        else:
            setattr(self.module, self.name, value)


class _OwnSizes:
    """A configuration as one module sees it: some sizes of its own, and all else as it is for everybody."""

    def __init__(self, config: Any, own: Mapping[str, int]) -> None:
        self._config, self._own = config, own

    def __getattr__(self, name: str) -> Any:
        if name in ("_config", "_own"):
            raise AttributeError(name)
        return self._own[name] if name in self._own else getattr(self._config, name)


@dataclass(frozen=True, eq=False)
class Units:
    """The units of one consumer."""

    name: str
    """The consumer's."""
    kind: Kind
    consumer: nn.Module
    count: int
    size: int
    """Channels of the consumer's input that are one unit, side by side: of all heads that share a key and value."""
    own: Sequence[Own]
    block: str = ""
    """Name of the layer that they stand in."""
    counters: Sequence[Counter] = ()
    """What shrinks with the units."""

    @property
    def weights(self) -> int:
        """Weights of matrices that one unit stands for, in the consumer and in what makes its input."""
        consumer = weights_of(self.consumer)
        made = sum(
            o.index.shape[1] * o.tensor.numel() // o.tensor.shape[o.axis] for o in self.own if o.tensor.dim() > 1
        )
        return self.size * consumer.shape[0] + made


def weights_of(dense: nn.Module) -> Tensor:
    """The matrix as (out, in): a view, so that writing to it changes the module."""
    weight: Tensor = dense.weight.detach()
    return weight if isinstance(dense, nn.Linear) else weight.T


def out_axis(dense: nn.Module) -> int:
    return 0 if isinstance(dense, nn.Linear) else 1


@contextmanager
def masked(units: Sequence[Units], masks: Sequence[Tensor]) -> Iterator[None]:
    """The consumers read zeros (or whatever the masks say, (units,) float) for some units while this lasts."""

    def hook(mask: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        return lambda _, args: (args[0] * mask.to(args[0].dtype), *args[1:])

    handles = [
        u.consumer.register_forward_pre_hook(hook(m.repeat_interleave(u.size)))
        for u, m in zip(units, masks, strict=True)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
