"""Which layers of a model do the same: seen, and not guessed from their code or their settings.

The whole model runs once on the sample and every operation is recorded. Layers repeat where their records are equal,
down to where each operand comes from. Then only a shortened model has to be traced (see ``repeat_layers``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["SMALL", "Repetition", "find_repetition", "parted", "shortened"]

_SPARED = 3
"""Layers, at least, that need not be traced: for fewer the record is not worth its time."""
_LEAST = 3 + _SPARED
"""Layers of a stack that is looked at: one in front and two periods have to be traced."""
SMALL = 64
"""Elements, at most, of a tensor that is no weight and is compared by what is in it."""
_CACHE = re.compile(r"(?:past|present)\.(\d+)\.")


@dataclass(frozen=True)
class Repetition:
    """Of a stack of ``layers`` layers, each from ``first`` on does what the one ``period`` before it does."""

    stack: str
    """The stack's name in the module that is traced."""
    layers: int
    first: int
    period: int

    @property
    def traced(self) -> int:
        """Layers that have to be traced: those in front and two periods."""
        return self.first + 2 * self.period

    @property
    def copies(self) -> int:
        """Periods that are left."""
        return (self.layers - self.traced) // self.period


def parted(stack: str, name: str) -> tuple[int | None, str]:
    """The number of a layer in the name of its weight or of a part of its cache, and the name with a star for it."""
    found = re.match(rf"{re.escape(stack)}\.(\d+)\.", name) or _CACHE.match(name)
    if found is None:
        return None, name
    return int(found[1]), f"{name[: found.start(1)]}*{name[found.end(1) :]}"


def find_repetition(head: nn.Module, names: Sequence[str], inputs: Sequence[Tensor]) -> Repetition | None:
    """Run ``head`` on ``inputs``, which have these names, and see what repeats; None if too little does."""
    for stack, layers in _stacks(head):
        records = _records(head, stack, layers, dict(zip(names, inputs, strict=True)))
        found = _least(stack, records) if records is not None else None
        if found is not None:
            return found
    return None


@contextmanager
def shortened(head: nn.Module, repetition: Repetition) -> Iterator[None]:
    """While ``head`` has only the layers that have to be traced."""
    parent, _, name = repetition.stack.rpartition(".")
    holder, layers = head.get_submodule(parent), head.get_submodule(repetition.stack)
    assert isinstance(layers, nn.ModuleList)
    try:
        setattr(holder, name, layers[: repetition.traced])
        yield
    finally:
        setattr(holder, name, layers)


def _stacks(head: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    """The long lists of modules, but none within another: those are a layer's experts, or its heads."""
    found: list[str] = []
    for name, module in head.named_modules():
        inner = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) >= _LEAST and not inner:
            found.append(name)
            yield name, module


def _least(stack: str, records: Sequence[Sequence[object]]) -> Repetition | None:
    """The repetition with the fewest layers to trace; None if it spares too few."""
    found = []
    for period in range(1, len(records) // 2):
        # The last record goes on to the end of the model, so it is equal if it begins as the other.
        broken = [k for k in range(len(records) - period) if records[k] != records[k + period][: len(records[k])]]
        # Layer 0 makes what later ones share, so it is never copied; and the last copy has to end with the last layer.
        first = max([1, *(k + 1 for k in broken)])
        found.append(Repetition(stack, len(records), first + (len(records) - first) % period, period))
    best = min(found, key=lambda repetition: repetition.traced, default=None)
    return best if best and best.layers - best.traced >= _SPARED else None


def _records(
    head: nn.Module, stack: str, layers: nn.ModuleList, inputs: Mapping[str, Tensor]
) -> Sequence[Sequence[object]] | None:
    """What each layer does; None if they do not run once each and in order."""
    record = _Record(head, stack, inputs)
    with ExitStack() as hooks:
        for number, layer in enumerate(layers):
            hooks.callback(layer.register_forward_pre_hook(partial(record.enter, number)).remove)
        with record:
            head(*inputs.values())
    return record.layers if record.order == [*range(len(layers))] else None


class _Record(TorchDispatchMode):
    """Every operation, by layer, with where its operands come from.

    An operand is told by what would be the same in the next layer: a weight or a part of the cache by its name without
    the layer's number; a result of this layer or of the one before by how far from the start of this one it was made;
    whatever else, a mask for instance, by itself.
    """

    def __init__(self, head: nn.Module, stack: str, inputs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.layers: list[list[object]] = []
        self.order: list[int] = []
        self._starts: list[int] = []
        self._operations = 0
        self._made: Any = WeakIdKeyDictionary()
        self._given: Any = WeakIdKeyDictionary()
        for name, tensor in [*head.named_parameters(), *head.named_buffers(), *inputs.items()]:
            self._given[tensor] = parted(stack, name)

    def enter(self, layer: int, *_: object) -> None:
        """From here on it is that layer that works."""
        self.order.append(layer)
        self.layers.append([])
        self._starts.append(self._operations)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self.layers:
            self.layers[-1].append((str(function), self._told(args), self._told(kwargs)))
        results = function(*args, **(kwargs or {}))
        for number, result in enumerate(results if isinstance(results, tuple | list) else [results]):
            if isinstance(result, Tensor) and result not in self._given:
                self._made[result] = self._operations, number
        self._operations += 1
        return results

    def _told(self, operand: Any) -> object:
        if isinstance(operand, Tensor):
            return tuple(operand.shape), str(operand.dtype), self._origin(operand)
        if isinstance(operand, list | tuple):
            return [self._told(part) for part in operand]
        if isinstance(operand, Mapping):
            return {key: self._told(part) for key, part in operand.items()}
        return repr(operand)

    def _origin(self, tensor: Tensor) -> object:
        if tensor in self._given:
            layer, name = self._given[tensor]
            return name if layer == len(self.layers) - 1 else (layer, name)
        if tensor not in self._made:
            return tensor.tolist() if tensor.numel() <= SMALL else id(tensor)
        operation, number = self._made[tensor]
        near = operation >= min(self._starts[-2:])
        return "from the start", operation - self._starts[-1] if near else operation, near, number
