"""GPTQ: weights are rounded one input at a time, and those not yet rounded make up for the error.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers".

Works on a torch model before it is captured, on ``nn.Linear`` and transformers' ``Conv1D`` inside the model's stacked
blocks. Block by block: sample texts run through the blocks that are quantized already, the second moments of each
layer's inputs are gathered, and the layer is solved. Embedding tables and output layers are left alone: they usually
share one matrix, which has to serve both.

The model's weights become the values that the integers stand for, and the integers are handed over: the graph then
stores exactly those (see ``handed_over``), so that the exported model equals the torch one.

Why not neural-compressor's GPTQ (``neural-compressor-pt`` 3.10, tried with torch 2.13 and transformers 5.23): on Llama
it works. On GPT-2 it raises, as it mixes up the sides of a ``Conv1D``'s weight; it feeds every block the first one's
masks and positions, which is wrong where they differ by layer (Gemma 3); and it wants torchao and accelerate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from edgeport.errors import ExportError
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from edgeport_export.quantize.block_stream import BlockStream, without_cache
from edgeport_export.quantize.blockwise import Grid, Quantized, in_blocks
from edgeport_export.quantize.round_to_nearest import fit

__all__ = ["GPTQ", "gptq", "solve"]

_LAZY = 128
"""Inputs whose effect on all later ones is applied at once; a multiple of every block size."""


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


@torch.no_grad()
def gptq(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    config: GPTQ,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Quantized]:
    """Quantize the layers of ``model``, in place.

    Args:
        model: In eval mode, weights in float32.
        batches: Sample inputs, the keyword arguments of ``model``, e.g. ``{"input_ids": (rows, tokens)}``. Padding
            counts like text, so leave it out. 64 rows of 128 tokens were enough for models of 9M parameters.
        config: Bits, blocks, damping.
        progress: Called with the blocks done and their number.

    Returns:
        By parameter name, e.g. ``transformer.h.0.attn.c_attn.weight``, the integers that the parameter now stands for;
        one row an output, also for ``Conv1D``. Layers that the samples did not reach are missing.

    Raises:
        ExportError: the weights are not float32, or there are no samples.
    """
    if not batches:
        raise ExportError("GPTQ needs sample texts; give some, or choose rounding that needs none.")
    keep = re.compile(config.keep_fp32) if config.keep_fp32 else None
    found: dict[str, Quantized] = {}
    with without_cache(model):
        stream = BlockStream(model, batches)
        for index, (prefix, block) in enumerate(stream.blocks):
            layers = {f"{prefix}{n}.weight": m for n, m in block.named_modules() if isinstance(m, nn.Linear | Conv1D)}
            layers = {name: m for name, m in layers.items() if keep is None or not keep.search(name)}
            for name, moments in stream.moments(index, layers).items():
                weight = layers[name].weight
                if weight.dtype != torch.float32:
                    raise ExportError(f"{name} is {weight.dtype}; GPTQ works on float32: load the model in that.")
                rows = weight.T if isinstance(layers[name], Conv1D) else weight
                found[name] = solve(rows, moments, config)
                rows.copy_(torch.from_numpy(found[name].dequantized()))
            stream.advance(index)
            if progress is not None:
                progress(index + 1, len(stream.blocks))
    return found


def solve(rows: Tensor, moments: Tensor, config: GPTQ) -> Quantized:
    """Quantize one matrix.

    Args:
        rows: (outputs, inputs) float32; not changed.
        moments: (inputs, inputs), the sum of x xᵀ over the samples, up to a factor.
        config: Bits, blocks, damping.
    """
    grid, (count, width) = config.grid, rows.shape
    diagonal = moments.diagonal().clone()
    mean = diagonal.mean().clamp(min=1e-12)
    order = torch.argsort(diagonal, descending=True) if config.by_activity else torch.arange(width)
    factor = _inverse_factor(moments[order][:, order] / mean, config.damping)
    importance = in_blocks((diagonal / mean + config.damping).numpy()[None], grid.block_size)
    scales, zeros = fit(in_blocks(rows.numpy(), grid.block_size), grid, search=True, importance=importance)
    scale, zero = torch.from_numpy(scales), torch.from_numpy(zeros).float()
    left = rows[:, order].clone()
    integers = torch.empty(count, width)
    for start in range(0, width, _LAZY):
        stop = min(start + _LAZY, width)
        errors = torch.empty(count, stop - start)
        for at in range(start, stop):
            block = int(order[at]) // grid.block_size
            if not config.by_activity and at % grid.block_size == 0:
                size = min(grid.block_size, width - at)
                now = in_blocks(left[:, at : at + size].numpy(), grid.block_size)
                fitted = fit(now, grid, search=True, importance=importance[:, block : block + 1])
                scale[:, block], zero[:, block] = torch.from_numpy(fitted[0][:, 0]), torch.from_numpy(fitted[1][:, 0])
            value, s, z = left[:, at], scale[:, block], zero[:, block]
            integer = (torch.round(value / s) + z).clamp(0, grid.top)
            integers[:, order[at]] = integer
            error = (value - (integer - z) * s) / factor[at, at]
            left[:, at + 1 : stop] -= torch.outer(error, factor[at, at + 1 : stop])
            errors[:, at - start] = error
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    zeros = zero.numpy().astype(np.uint8)
    padded = np.repeat(zeros[:, :, None], grid.block_size, axis=2)
    padded.reshape(count, -1)[:, :width] = integers.numpy().astype(np.uint8)
    return Quantized(grid, width, padded, scale.numpy(), None if grid.symmetric else zeros)


def _inverse_factor(moments: Tensor, damping: float) -> Tensor:
    """Upper triangular U with UᵀU the inverse of the damped ``moments``; damped more where that has no factor."""
    while True:
        damped = moments + torch.eye(moments.shape[0]) * damping
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return upper
        damping = max(damping * 10, 1e-6)
