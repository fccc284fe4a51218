"""The loop that methods share which change a torch model's layers with an eye on what they read.

Block by block: sample texts run through the blocks that are changed already, and a method looks at what the layers of
the next one read. One that rounds chooses their integers, and the weights become the values that these stand for. Works
on ``nn.Linear`` and transformers' ``Conv1D`` inside the model's stacked blocks. Embedding tables and output layers are
left alone: they usually share one matrix, which has to serve both.

The integers are handed over: the graph that is captured later stores exactly those (see ``handed_over``), so that the
exported model equals the torch one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from edgeport.errors import ExportError
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from edgeport_export.quantize.block_stream import BlockStream, without_cache
from edgeport_export.quantize.blockwise import Quantized

__all__ = ["Layer", "Method", "Progress", "Visit", "block_by_block", "layers_of", "rows_of", "walk"]

Layer = nn.Linear | Conv1D

Method = Callable[[BlockStream, int, Mapping[str, nn.Module], Callable[[str], bool]], Iterable[tuple[str, Quantized]]]
"""Gets the stream, the number of a block, its layers by the names of their weights, and which of these to round; gives
the integers of those that the samples reach."""

Visit = Callable[[BlockStream, int, Mapping[str, nn.Module]], None]
"""Gets the stream, the number of a block and its layers by the names of their weights, and changes these in place."""

Progress = Callable[[int, int], None]
"""Called with the blocks done and their number."""


def block_by_block(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    method: Method,
    *,
    keep_fp32: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Quantized]:
    """Round the layers of ``model``, in place.

    Args:
        model: In eval mode, weights in float32.
        batches: Sample inputs, the keyword arguments of ``model``, e.g. ``{"input_ids": (rows, tokens)}``. Padding
            counts like text, so leave it out. 64 rows of 128 tokens were enough for models of 9M parameters.
        method: Chooses the integers of one block.
        keep_fp32: Regular expression; parameters whose names it finds are not rounded.
        progress: See ``Progress``.

    Returns:
        By parameter name, e.g. ``transformer.h.0.attn.c_attn.weight``, the integers that the parameter now stands for;
        one row an output, also for ``Conv1D``. Layers that the samples did not reach are missing.

    Raises:
        ExportError: the weights are not float32, or there are no samples.
    """
    keep = re.compile(keep_fp32) if keep_fp32 else None
    found: dict[str, Quantized] = {}

    def visit(stream: BlockStream, index: int, layers: Mapping[str, nn.Module]) -> None:
        chosen = dict(method(stream, index, layers, lambda name: keep is None or not keep.search(name)))
        for name, quantized in chosen.items():
            rows_of(layers[name]).copy_(torch.from_numpy(quantized.dequantized()))
        found.update(chosen)

    walk(model, batches, visit, progress)
    return found


@torch.no_grad()
def walk(
    model: nn.Module, batches: Sequence[Mapping[str, Tensor]], visit: Visit, progress: Progress | None = None
) -> None:
    """Let the samples run through the blocks of ``model``, each of which ``visit`` changes before they pass it.

    Raises:
        ExportError: the weights are not float32, or there are no samples.
    """
    if not batches:
        raise ExportError("a method that looks at what layers read needs sample texts; give some, or choose another.")
    with without_cache(model):
        stream = BlockStream(model, batches)
        for index, (prefix, block) in enumerate(stream.blocks):
            visit(stream, index, layers_of(prefix, block))
            stream.advance(index)
            if progress is not None:
                progress(index + 1, len(stream.blocks))


def layers_of(prefix: str, block: nn.Module) -> dict[str, nn.Module]:
    """The layers of a block by the names of their weights.

    Raises:
        ExportError: a weight is not float32.
    """
    layers = {f"{prefix}{name}.weight": m for name, m in block.named_modules() if isinstance(m, Layer)}
    for name, layer in layers.items():
        if layer.weight.dtype != torch.float32:
            raise ExportError(f"{name} is {layer.weight.dtype}, not float32: load the model in that.")
    return layers


def rows_of(layer: nn.Module) -> Tensor:
    """The weight of a layer as (outputs, inputs); a view."""
    weight: Tensor = layer.weight
    return weight.T if isinstance(layer, Conv1D) else weight
