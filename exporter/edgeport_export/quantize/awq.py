"""AWQ: inputs that are large get finer steps, by scaling their weights up before they are rounded.

Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration". Layers that read the
same tensor share a scale an input; what makes the tensor is divided by it, so that the model computes what it did. The
scales are mean |x|^a with the a that errs least at the layers' outputs. Then each block of weights is clipped where its
own output errs least.

Works on a torch model before it is captured, block by block (see ``block_by_block``). Knows no architectures: what
makes a tensor is found by trying. Layers and norms that ran before and have enough outputs are divided by random
scales, the last first, and the one that leaves the block's output as it was is it. So GELU between two layers lets no
scale through, and ReLU does; norms may multiply by their weight or by one more than it (Gemma); values may have fewer
heads than queries, or stand at the end of a joined projection (GPT-2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeport_export.quantize.block_by_block import Layer, Progress, block_by_block, rows_of
from edgeport_export.quantize.block_stream import BlockStream, Inputs
from edgeport_export.quantize.blockwise import Grid, Quantized
from edgeport_export.quantize.round_to_nearest import fit, in_pieces

__all__ = ["AWQ", "awq"]

_CLIPS = np.linspace(1.05, 0.5, 12, dtype=np.float32)
"""Of the scale that reaches a block's largest weight: what is tried."""
_UNCHANGED = 1e-4
"""Of the largest output: what arithmetic in fp32 may change when scales are moved."""


@dataclass(frozen=True)
class AWQ:
    """Configuration of AWQ."""

    grid: Grid = field(default_factory=Grid)
    steps: int = 20
    """Exponents that are tried, from 0 (no scaling) up to, not including, 1."""
    damping: float = 0.01
    """Added to the diagonal of the second moments, in parts of its mean, when weights are clipped."""
    keep_fp32: str | None = None
    """Regular expression; parameters whose names it finds are not rounded. They may be scaled."""


def awq(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    config: AWQ,
    progress: Progress | None = None,
) -> dict[str, Quantized]:
    """Quantize the layers of ``model``, in place; arguments, result and errors are those of ``block_by_block``.

    Weights and biases of norms and layers that make what others read are scaled as well.
    """
    shared = _shared_parameters(model)

    def chosen(
        stream: BlockStream, index: int, layers: Mapping[str, nn.Module], wanted: Callable[[str], bool]
    ) -> Iterator[tuple[str, Quantized]]:
        inputs = stream.inputs(index, layers)
        folds = _folds(stream, index, [[layers[name] for name in read.layers] for read in inputs], shared)
        for read, fold in zip(inputs, folds, strict=True):
            rounded_ones = [rows_of(layers[name]) for name in read.layers if wanted(name)]
            if fold is not None and rounded_ones:
                fold.apply(scale := _best_scale(rounded_ones, read, fold, config))
                spread = scale[fold.spread]
                read.moments /= spread[:, None] * spread
        # A layer that makes what others read has been divided by now.
        for read in inputs:
            for name in filter(wanted, read.layers):
                yield name, _clipped(rows_of(layers[name]), read.moments, config)

    # A row alone comes first: what is tried is tried on it.
    alone = [{name: tensor[:1] for name, tensor in batch.items()} for batch in batches[:1]]
    return block_by_block(model, [*alone, *batches], chosen, keep_fp32=config.keep_fp32, progress=progress)


@dataclass(frozen=True)
class _Fold:
    """A way to scale what some layers read."""

    readers: Sequence[nn.Module]
    maker: nn.Module
    divide: Callable[[nn.Module, Tensor], None]
    """Divides the outputs of ``maker``."""
    spread: Tensor
    """(width) int64: which of the scales belongs to each input."""

    def apply(self, scale: Tensor) -> None:
        for reader in self.readers:
            rows_of(reader).mul_(scale[self.spread])
        self.divide(self.maker, scale)

    @property
    def parameters(self) -> list[Tensor]:
        return [p for module in (*self.readers, self.maker) for p in module.parameters(recurse=False)]


def _folds(
    stream: BlockStream, index: int, groups: Sequence[Sequence[nn.Module]], shared: set[int]
) -> list[_Fold | None]:
    """For each group of layers, what can be scaled for it, and None where nothing can."""
    ran = _in_order(stream, index)
    found = [
        next((f for f in _possible(stream.model, ran, group, shared) if _keeps(f, lambda: stream.output(index))), None)
        for group in groups
    ]
    # Something may leave the block by a side door: keys and values that later blocks read.
    together = [fold for fold in found if fold is not None]
    whole = lambda: _outputs(stream)  # noqa: E731
    if not together or _keep(together, whole):
        return found
    return [fold if fold is not None and _keeps(fold, whole) else None for fold in found]


def _possible(
    model: nn.Module, ran: Sequence[nn.Module], readers: Sequence[nn.Module], shared: set[int]
) -> Iterator[_Fold]:
    """What may make the tensor that ``readers`` read: the last that ran before them first."""
    width = rows_of(readers[0]).shape[1]
    for maker in reversed(ran[: ran.index(readers[0])]):
        if any(id(p) in shared for module in (*readers, maker) for p in module.parameters(recurse=False)):
            continue
        if isinstance(maker, Layer):
            for spread in _spreads(model, width):
                if len(rows_of(maker)) > int(spread[-1]):
                    yield _Fold(readers, maker, _divide_rows, spread)
        elif maker.weight.shape == (width,):
            yield _Fold(readers, maker, _divide_norm, torch.arange(width))
            yield _Fold(readers, maker, _divide_offset_norm, torch.arange(width))


def _spreads(model: nn.Module, width: int) -> Iterator[Tensor]:
    """One scale an input; and, where several heads share values, one scale for the inputs that these heads give."""
    yield torch.arange(width)
    config = model.config.get_text_config() if hasattr(model, "config") else None
    heads = getattr(config, "num_attention_heads", None)
    groups = getattr(config, "num_key_value_heads", None)
    if heads and groups and groups < heads and heads % groups == 0 and width % heads == 0:
        scales = torch.arange(width // heads * groups).reshape(groups, 1, -1)
        yield scales.expand(-1, heads // groups, -1).reshape(-1)


def _divide_rows(layer: nn.Module, scale: Tensor) -> None:
    """Of a joined projection the last ones: values stand behind queries and keys, what is gated behind the gate."""
    rows_of(layer)[-len(scale) :] /= scale[:, None]
    if layer.bias is not None:
        layer.bias[-len(scale) :] /= scale


def _divide_norm(norm: nn.Module, scale: Tensor) -> None:
    norm.weight /= scale
    if getattr(norm, "bias", None) is not None:
        norm.bias /= scale


def _divide_offset_norm(norm: nn.Module, scale: Tensor) -> None:
    """A norm that multiplies by 1 + weight."""
    norm.weight.add_(1).div_(scale).sub_(1)


def _keeps(fold: _Fold, outputs: Callable[[], Tensor]) -> bool:
    return _keep([fold], outputs)


def _keep(folds: Sequence[_Fold], outputs: Callable[[], Tensor]) -> bool:
    """Whether random scales leave the outputs as they are."""
    before = outputs()
    with _restored([p for fold in folds for p in fold.parameters]):
        for number, fold in enumerate(folds):
            generator = torch.Generator().manual_seed(number)
            fold.apply(torch.exp2(torch.rand(int(fold.spread[-1]) + 1, generator=generator) * 2 - 1))
        after = outputs()
    return bool((after - before).abs().max() <= _UNCHANGED * before.abs().max())


@contextmanager
def _restored(parameters: Sequence[Tensor]) -> Iterator[None]:
    """What is done to the parameters is undone, to the bit."""
    before = [p.clone() for p in parameters]
    try:
        yield
    finally:
        for parameter, was in zip(parameters, before, strict=True):
            parameter.copy_(was)


def _outputs(stream: BlockStream) -> Tensor:
    """What the whole model makes of the first batch."""
    output = stream.model(**stream.batches[0])
    first: Tensor = output if isinstance(output, Tensor) else output[0]
    return first


def _in_order(stream: BlockStream, index: int) -> list[nn.Module]:
    """The layers and norms of a block in the order in which they end."""
    block = stream.blocks[index][1]
    ran: list[nn.Module] = []
    weighted = [m for m in block.modules() if isinstance(m, Layer) or getattr(m, "weight", None) is not None]
    handles = [m.register_forward_hook(lambda module, _, __: ran.append(module)) for m in weighted]
    try:
        stream.output(index)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(ran))


def _shared_parameters(model: nn.Module) -> set[int]:
    """Parameters that stand in several places; what one place can bear another may not."""
    seen: set[int] = set()
    twice: set[int] = set()
    for _, parameter in model.named_parameters(remove_duplicate=False):
        (twice if id(parameter) in seen else seen).add(id(parameter))
    return twice


def _best_scale(matrices: Sequence[Tensor], read: Inputs, fold: _Fold, config: AWQ) -> Tensor:
    """The scales, float32 (largest of ``fold.spread`` + 1), with which the matrices' outputs err least."""
    count = int(fold.spread[-1]) + 1
    mean = torch.zeros(count).index_add_(0, fold.spread, read.magnitudes / read.tokens)
    mean = (mean / torch.bincount(fold.spread)).clamp(min=1e-12)
    best, least = torch.ones(count), float("inf")
    for step in range(config.steps):
        scale = (mean ** (step / config.steps)).clamp(min=1e-4)
        scale /= (scale.max() * scale.min()).sqrt()
        spread = scale[fold.spread]
        error = 0.0
        for rows in matrices:
            difference = _plainly_rounded(rows * spread, config.grid) / spread - rows
            error += float(((difference @ read.moments) * difference).sum())
        if error < least:
            best, least = scale, error
    return best


def _plainly_rounded(rows: Tensor, grid: Grid) -> Tensor:
    quantized = in_pieces(rows.numpy(), grid, lambda blocks: fit(blocks, grid, search=False))
    return torch.from_numpy(quantized.dequantized())


def _clipped(rows: Tensor, moments: Tensor, config: AWQ) -> Quantized:
    """Quantize a matrix, each block with the scale with which its own part of the output errs least.

    Args:
        rows: (outputs, inputs) float32.
        moments: (inputs, inputs), the sum of x xᵀ over the samples.
        config: Grid, damping.
    """
    grid, width = config.grid, rows.shape[1]
    damped = moments + torch.eye(width) * config.damping * moments.diagonal().mean().clamp(min=1e-12)
    blocks = -(-width // grid.block_size)
    own = np.zeros((blocks, grid.block_size, grid.block_size), np.float32)
    for block in range(blocks):
        part = damped[block * grid.block_size :, block * grid.block_size :][: grid.block_size, : grid.block_size]
        own[block, : len(part), : len(part)] = part.numpy()
    return in_pieces(rows.numpy(), grid, lambda pieces: _fit_to_output(pieces, own, grid))


def _fit_to_output(
    blocks: NDArray[np.float32], moments: NDArray[np.float32], grid: Grid
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """As ``fit``, with errors that count at the output; ``moments`` are (blocks, block_size, block_size)."""
    scale, zero = fit(blocks, grid, search=False)
    tries = [scale]
    if grid.symmetric:  # the other end of the range has one step more
        sign = np.where(-blocks.min(-1) > blocks.max(-1), np.float32(1), np.float32(-1))
        tries.append(sign * scale * np.float32((grid.middle - 1) / grid.middle))
    weights = np.ascontiguousarray(blocks.transpose(1, 0, 2))  # (blocks, rows, block_size), one product a block
    at_output = weights @ moments
    low = -zero.T[..., None].astype(np.float32)
    best, most = scale.T, np.full(scale.T.shape, -np.inf, np.float32)
    for reaching in tries:
        for part in _CLIPS:
            tried = reaching.T * part
            centred = np.rint(weights / tried[..., None])
            np.clip(centred, low, low + np.float32(grid.top), out=centred)
            along = np.einsum("nrb,nrb->nr", at_output, centred)
            squared = np.einsum("nrb,nrb->nr", centred @ moments, centred)
            usable = (squared > 0) & (along != 0)
            # For these integers the best scale is along / squared, and the error <w, M w> less this.
            explained = np.divide(along * along, squared, out=np.zeros_like(along), where=usable)
            better = usable & (explained > most)
            most = np.where(better, explained, most)
            best = np.where(better, np.divide(along, squared, out=tried, where=usable), best)
    return np.ascontiguousarray(best.T), zero
