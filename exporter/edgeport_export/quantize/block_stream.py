"""Sample texts on their way through a model's stacked blocks, with a look at what each layer reads.

Methods that quantize block by block want the inputs of one block at a time, as the blocks before it, quantized already,
make them. Knows torch modules, and nothing of quantization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

__all__ = ["BlockStream", "Inputs", "blocks_of", "without_cache"]


@dataclass(eq=False)
class Inputs:
    """A tensor that some layers read, in sums over all tokens of all samples."""

    first: Tensor
    """As it was when it was read first."""
    moments: Tensor
    """(width, width) float32, the sum of x xᵀ."""
    magnitudes: Tensor
    """(width) float32, the sum of |x|."""
    tokens: int = 0
    layers: list[str] = field(default_factory=list)
    """Names of those that read it, in the order in which they run."""

    @classmethod
    def of(cls, tensor: Tensor) -> Inputs:
        width = tensor.shape[-1]
        return cls(tensor, torch.zeros(width, width), torch.zeros(width))

    def add(self, tensor: Tensor) -> None:
        rows = tensor.reshape(-1, tensor.shape[-1]).float()
        self.moments.addmm_(rows.T, rows)
        self.magnitudes += rows.abs().sum(0)
        self.tokens += len(rows)


class BlockStream:
    """The samples on their way through the blocks.

    Each block is called as the model called it, with masks and positions of its own. Where one block's output is not
    what the next one reads, the whole model runs up to the block instead: right for any model, and slower.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Mapping[str, Tensor]]) -> None:
        self.model, self.batches = model, batches
        self.blocks = list(blocks_of(model))
        self.calls: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = [[] for _ in self.blocks]
        self.hidden: list[Any] = []
        self.chained = all(block is not model for _, block in self.blocks)
        if self.chained:
            self._record()

    def _record(self) -> None:
        last: list[Any] = [None]

        def before(index: int) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                if index == 0 and args:
                    self.hidden.append(args[0])
                self.chained &= bool(args) and (index == 0 or args[0] is last[0])
                self.calls[index].append((args[1:], kwargs))

            return hook

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            last[0] = _first(output)

        handles = [b.register_forward_pre_hook(before(i), with_kwargs=True) for i, (_, b) in enumerate(self.blocks)]
        handles += [b.register_forward_hook(after) for _, b in self.blocks]
        try:
            for batch in self.batches:
                self.model(**batch)
        finally:
            for handle in handles:
                handle.remove()
        self.chained &= all(len(calls) == len(self.batches) for calls in self.calls)

    def inputs(self, index: int, layers: Mapping[str, nn.Module]) -> list[Inputs]:
        """What the ``layers`` of block ``index`` read, in the order in which they run; only layers that are reached."""
        found: list[Inputs] = []
        of: dict[str, Inputs] = {}

        def hook(name: str) -> Callable[..., None]:
            def add(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
                tensor = args[0] if args else next(iter(kwargs.values()))
                if name not in of:
                    of[name] = next((read for read in found if read.first is tensor), None) or Inputs.of(tensor)
                    of[name].layers.append(name)
                    if of[name] not in found:
                        found.append(of[name])
                if of[name].layers[0] == name:
                    of[name].add(tensor)

            return add

        handles = [layer.register_forward_pre_hook(hook(name), with_kwargs=True) for name, layer in layers.items()]
        try:
            for _ in self.outputs(index):
                pass
        finally:
            for handle in handles:
                handle.remove()
        return found

    def output(self, index: int) -> Tensor:
        """What block ``index`` makes of the first batch."""
        first: Tensor = next(self.outputs(index))
        return first

    def advance(self, index: int) -> None:
        """Let the samples pass block ``index`` as it is now."""
        if self.chained:
            for at, output in enumerate(self.outputs(index)):
                self.hidden[at] = output
            self.calls[index].clear()

    def outputs(self, index: int) -> Iterator[Any]:
        """Run block ``index`` on every batch."""
        block = self.blocks[index][1]
        if self.chained:
            for hidden, (args, kwargs) in zip(self.hidden, self.calls[index], strict=True):
                yield _first(block(hidden, *args, **kwargs))
            return
        for batch in self.batches:
            handle = block.register_forward_hook(_stop)
            try:
                self.model(**batch)
            except _Enough as enough:
                yield enough.output
            finally:
                handle.remove()


class _Enough(Exception):  # noqa: N818 - nothing went wrong
    """The block that was wanted has run."""

    def __init__(self, output: Any) -> None:
        self.output = output


def _stop(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
    raise _Enough(_first(output))


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple | list) else output


def blocks_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The members of the outermost module lists with their name prefixes, in order; the model itself if it has none."""
    lists = [n for n, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    outermost = [n for n in lists if not any(n.startswith(f"{other}.") for other in lists)]
    members = [(f"{n}.{i}.", block) for n in outermost for i, block in enumerate(model.get_submodule(n).children())]
    with_layers = [(n, b) for n, b in members if any(isinstance(m, nn.Linear | Conv1D) for m in b.modules())]
    yield from with_layers or [("", model)]


@contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """A cache of keys and values would grow each time a block runs."""
    config = getattr(model, "config", None)
    before = getattr(config, "use_cache", None)
    if config is None or before is None:
        yield
        return
    config.use_cache = False
    try:
        yield
    finally:
        config.use_cache = before
