"""Make up for what was cut: refit each output and down projection by least squares, layer by layer, with no training.

The samples pass through the original and the cut model side by side. What a projection of the cut model adds to the
residual stream is fitted to what the original has there, the stream's own error so far included, so that a layer
corrects those before it. Tokens count by how much the loss depends on them (of a classifier's last layer, the first
token alone), and a ridge keeps the weights near what they were where samples say little. The idea of a closed solution
layer by layer: Frantar & Alistarh 2022 (Optimal Brain Compression), Kurtic et al. 2023 (ZipLM).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgeport_export.prune.units import Units, weights_of
from edgeport_export.quantize.block_stream import BlockStream, without_cache

__all__ = ["reconstruct", "ridge"]

_RIDGE = 1e-2
"""Of the mean squared input."""
_LEAST_WEIGHT = 0.02
"""Of a token, where the mean is 1: one that no loss depends on may matter to what was not sampled."""


def reconstruct(
    original: nn.Module,
    model: nn.Module,
    found: Sequence[Units],
    batches: Sequence[Mapping[str, Tensor]],
    weights: Sequence[Sequence[Tensor]],
    names: Mapping[str, str],
) -> None:
    """Refit the consumers of ``found`` in ``model``, in place.

    Args:
        original: The model before anything was cut; another object.
        model: The cut one.
        found: The units that were cut, in the order in which they run.
        batches: Inputs.
        weights: For each of ``found`` and each batch, (rows, tokens) that tokens count by.
        names: What a consumer was called in the original, where layers before it are gone.
    """
    with torch.no_grad(), without_cache(original), without_cache(model):
        teacher, student = BlockStream(original, batches), BlockStream(model, batches)
        if not (teacher.chained and student.chained):
            for units, counts in zip(found, weights, strict=True):
                wanted = original.get_submodule(names[units.name])
                (aim,), _ = _aims([wanted], _whole(teacher))
                _refit(units, aim, _whole(student), counts)
            return
        at = 0
        for index, (prefix, _) in enumerate(student.blocks):
            here = [(units, counts) for units, counts in zip(found, weights, strict=True)
                    if units.name.startswith(prefix)]  # fmt: skip
            if here:
                while not names[here[0][0].name].startswith(teacher.blocks[at][0]):
                    teacher.advance(at)
                    at += 1
                wanted = [original.get_submodule(names[units.name]) for units, _ in here]
                # Once for all consumers of the block: they are not refitted in the original.
                aims, teacher.hidden = _aims(wanted, teacher.outputs(at))
                at += 1
                for (units, counts), aim in zip(here, aims, strict=True):
                    _refit(units, aim, student.outputs(index), counts)
            student.advance(index)


def _whole(stream: BlockStream) -> Iterator[Any]:
    """A model whose blocks do not follow each other is run from end to end."""
    return (stream.model(**batch) for batch in stream.batches)


_Aim = tuple[Tensor, Tensor | None]
"""What a product gives, and what is added to that."""


def _aims(wanted: Sequence[nn.Module], runs: Iterator[Any]) -> tuple[list[list[list[_Aim]]], list[Any]]:
    """By module, batch and call, what the original has there; and what the runs gave."""
    aims: list[list[list[_Aim]]] = [[] for _ in wanted]
    outputs = []
    with _Watched(wanted) as target:
        for output in runs:
            outputs.append(output)
            for each, calls in zip(aims, target.take(), strict=True):
                each.append([(given, stream) for _, given, stream in calls])
    return aims, outputs


def _refit(units: Units, aims: Sequence[Sequence[_Aim]], runs: Iterator[Any], weights: Sequence[Tensor]) -> None:
    """Sum up the normal equations over all batches, and solve them."""
    consumer = units.consumer
    matrix = weights_of(consumer)
    width = matrix.shape[1] + 1
    inner, outer = torch.zeros(width, width), torch.zeros(width, len(matrix))
    scale = sum(float(w.sum()) for w in weights) / max(sum(w.numel() for w in weights), 1)
    with _Watched([consumer]) as now:
        for counts, aim, _ in zip(weights, aims, runs, strict=True):
            (calls,) = now.take()
            for (output, wanted), (read, _, stream) in zip(aim, calls, strict=True):
                if wanted is not None and stream is not None:
                    output = output + (wanted - stream)
                x = read.reshape(-1, width - 1)
                x = torch.cat([x, x.new_ones(len(x), 1)], 1)
                each = counts.flatten() / scale + _LEAST_WEIGHT if scale > 0 else torch.ones(len(x))
                weighted = (x * each[:, None]).T
                inner.addmm_(weighted, x)
                outer.addmm_(weighted, output.reshape(-1, len(matrix)))
    before = torch.cat([matrix.T, _bias(consumer, matrix)[None]])
    solved = ridge(inner.double(), outer.double(), before.double(), has_bias=consumer.bias is not None).float()
    matrix.copy_(solved[:-1].T)
    if consumer.bias is not None:
        consumer.bias.copy_(solved[-1])


def ridge(inner: Tensor, outer: Tensor, before: Tensor, *, has_bias: bool) -> Tensor:
    """The W with the least |X W − Y|² + λ |W − before|², for XᵀX = ``inner`` and XᵀY = ``outer``.

    The last row is the bias, which is not held near what it was, or stays zero where there is none. λ is a share of the
    mean of XᵀX's diagonal.
    """
    if not has_bias:
        inner, outer = inner[:-1, :-1], outer[:-1]
        solved = _solve(inner, outer, before[:-1], inner.diagonal().mean() * _RIDGE)
        return torch.cat([solved, before[-1:]])
    held = torch.full((len(inner),), float(inner.diagonal()[:-1].mean()) * _RIDGE, dtype=inner.dtype)
    held[-1] = float(inner[-1, -1]) * 1e-6
    return _solve(inner, outer, before, held)


def _solve(inner: Tensor, outer: Tensor, before: Tensor, held: Tensor) -> Tensor:
    held = held.expand(len(inner)) + 1e-9
    return torch.linalg.solve(inner + held.diag(), outer + held[:, None] * before)


def _bias(consumer: Any, matrix: Tensor) -> Tensor:
    return consumer.bias.detach() if consumer.bias is not None else matrix.new_zeros(len(matrix))


class _Watched(TorchDispatchMode):
    """What products read and give, and what their output is added to first: the residual stream, as a rule."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self._calls: list[list[list[Any]]] = [[] for _ in modules]
        self._handles = [
            m.register_forward_hook(self._ran(calls)) for m, calls in zip(modules, self._calls, strict=True)
        ]

    def _ran(self, calls: list[list[Any]]) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        return lambda _, args, output: calls.append([args[0], output, None])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.add.Tensor:
            for last in (calls[-1] for calls in self._calls if calls and calls[-1][2] is None):
                for one, other in (args[:2], args[1::-1]):
                    if one is last[1] and isinstance(other, Tensor) and other.shape == one.shape:
                        last[2] = other
        return func(*args, **(kwargs or {}))

    def take(self) -> list[list[tuple[Tensor, Tensor, Tensor | None]]]:
        """By module, (input, output, residual) of each run since the last time."""
        taken = [[(read, output, stream) for read, output, stream in calls] for calls in self._calls]
        for calls in self._calls:
            calls.clear()
        return taken

    def __exit__(self, *exc: Any) -> None:
        for handle in self._handles:
            handle.remove()
        super().__exit__(*exc)
