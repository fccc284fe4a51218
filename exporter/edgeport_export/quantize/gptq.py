"""GPTQ: weights are rounded one input at a time, and those not yet rounded make up for the error.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers".

Works on a torch model before it is captured, block by block (see ``block_by_block``): the second moments of what a
layer reads are gathered, and the layer is solved.

Why not neural-compressor's GPTQ (``neural-compressor-pt`` 3.10, tried with torch 2.13 and transformers 5.23): on Llama
it works. On GPT-2 it raises, as it mixes up the sides of a ``Conv1D``'s weight; it feeds every block the first one's
masks and positions, which is wrong where they differ by layer (Gemma 3); and it wants torchao and accelerate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from edgeport_export.quantize.block_by_block import Progress, block_by_block, rows_of
from edgeport_export.quantize.block_stream import BlockStream
from edgeport_export.quantize.blockwise import Grid, Quantized, in_blocks
from edgeport_export.quantize.compensate import compensate, inverse_factor
from edgeport_export.quantize.round_to_nearest import fit

__all__ = ["GPTQ", "gptq", "solve"]


@dataclass(frozen=True)
class GPTQ:
    """Configuration of GPTQ."""

    grid: Grid = field(default_factory=Grid)
    damping: float = 0.01
    """Added to the diagonal of the second moments, in parts of its mean: trust in the samples has a limit."""
    by_activity: bool = True
    """Round the inputs with the largest second moment first, while most others are left to make up for them. Scales
    are then fitted to the weights as they were, since a block's inputs are no longer rounded one after the other."""
    keep_fp32: str | None = None
    """Regular expression; parameters whose names it finds are left as they are."""


def gptq(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    config: GPTQ,
    progress: Progress | None = None,
) -> dict[str, Quantized]:
    """Quantize the layers of ``model``, in place; arguments, result and errors are those of ``block_by_block``."""

    def solved(
        stream: BlockStream, index: int, layers: Mapping[str, nn.Module], wanted: Callable[[str], bool]
    ) -> Iterator[tuple[str, Quantized]]:
        for read in stream.inputs(index, {name: layer for name, layer in layers.items() if wanted(name)}):
            # Rows are independent of each other: layers that read the same are solved as one.
            rows = [rows_of(layers[name]) for name in read.layers]
            together = solve(torch.cat(rows), read.moments, config)
            ends = itertools.accumulate(len(r) for r in rows)
            for name, end, own in zip(read.layers, ends, rows, strict=True):
                yield name, together.part(slice(end - len(own), end))

    return block_by_block(model, batches, solved, keep_fp32=config.keep_fp32, progress=progress)


def solve(rows: Tensor, moments: Tensor, config: GPTQ) -> Quantized:
    """Quantize one matrix. Weights that are zero stay zero: they were pruned.

    Args:
        rows: (outputs, inputs) float32; not changed.
        moments: (inputs, inputs), the sum of x xᵀ over the samples, up to a factor.
        config: Bits, blocks, damping.
    """
    grid, (count, width) = config.grid, rows.shape
    diagonal = moments.diagonal().clone()
    mean = diagonal.mean().clamp(min=1e-12)
    order = torch.argsort(diagonal, descending=True) if config.by_activity else torch.arange(width)
    factor = inverse_factor(moments[order][:, order] / mean, config.damping)
    importance = in_blocks((diagonal / mean + config.damping).numpy()[None], grid.block_size)
    scales, zeros = fit(in_blocks(rows.numpy(), grid.block_size), grid, search=True, importance=importance)
    # One input's weights lie together from here on.
    scale, zero = (torch.from_numpy(a).float().T.contiguous() for a in (scales, zeros))
    left = rows.T[order]
    pruned = left == 0
    integers = torch.empty(width, count)

    def choose(at: int) -> Tensor:
        block = int(order[at]) // grid.block_size
        if not config.by_activity and at % grid.block_size == 0:
            now = in_blocks(left[at : at + grid.block_size].T.numpy(), grid.block_size)
            fitted = fit(now, grid, search=True, importance=importance[:, block : block + 1])
            scale[block], zero[block] = (torch.from_numpy(a[:, 0]) for a in fitted)
        s, z = scale[block], zero[block]
        integer = (left[at] / s).round_().add_(z).clamp_(0, grid.top)
        integer = torch.where(pruned[at], z, integer)
        integers[order[at]] = integer
        return integer.sub_(z).mul_(s)

    compensate(left, factor, choose)
    zeros = zero.T.numpy().astype(np.uint8)
    padded = np.repeat(zeros[:, :, None], grid.block_size, axis=2)
    padded.reshape(count, -1)[:, :width] = integers.T.numpy().astype(np.uint8)
    return Quantized(grid, width, padded, scale.T.contiguous().numpy(), None if grid.symmetric else zeros)
