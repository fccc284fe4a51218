"""Half-quadratic quantization: scales and zero points that leave a few large errors and many small ones. Needs no data.

Weights have heavy tails, and a squared error lets the tails decide. HQQ minimises a norm |error|^p with p < 1 instead,
by splitting: E = shrink(W - dequantized) takes the large errors out, scale and zero point are fitted to W - E, and so
on with a growing penalty (Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models").

The paper fits float zero points with the scale left as it was. ONNX Runtime's fast kernels take whole zero points only
(with float ones a 768 x 3072 product at 4 bits took 4.5 ms instead of 0.05 ms, at 8 bits it is refused; onnxruntime
1.32, one Zen 4 core), so here zero points stay whole and the scale is fitted too, which also serves symmetric grids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeport_export.quantize.blockwise import Grid, Quantized
from edgeport_export.quantize.round_to_nearest import fit, in_pieces, rounded

__all__ = ["HalfQuadratic", "half_quadratic"]


@dataclass(frozen=True)
class HalfQuadratic:
    """Configuration of half-quadratic quantization; the defaults are the paper's."""

    norm: float = 0.7
    """p: what is minimised is the sum of |error|^p."""
    penalty: float = 10.0
    """Weight of the quadratic term at the start, in units of a block's step squared."""
    growth: float = 1.01
    """What the penalty is multiplied by each time."""
    rounds: int = 20
    """Rounds at most; each block keeps the best it has seen."""


def half_quadratic(rows: NDArray[np.floating], grid: Grid, config: HalfQuadratic) -> Quantized:
    """Quantize a matrix.

    Args:
        rows: (rows, width), float; one row an output.
        grid: Bits, block size, zero points.
        config: The solver's constants.
    """
    return in_pieces(rows, grid, lambda blocks: _solved(blocks, grid, config))


def _solved(
    blocks: NDArray[np.float32], grid: Grid, config: HalfQuadratic
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    scale, zero = fit(blocks, grid, search=True)
    best_scale, best_zero = scale, zero
    least = np.full(scale.shape, np.inf, np.float32)
    penalty = config.penalty
    for _ in range(config.rounds + 1):
        integers = rounded(blocks, scale, zero, grid).astype(np.float32)
        # In steps of the block, so that one penalty suits all of them.
        error = blocks / scale[..., None] - (integers - zero[..., None])
        norm = (np.abs(error) ** config.norm).sum(-1) * np.abs(scale) ** config.norm
        better = norm < least
        least = np.where(better, norm, least)
        best_scale, best_zero = np.where(better, scale, best_scale), np.where(better, zero, best_zero)
        target = blocks / scale[..., None] - _shrunk(error, penalty, config.norm)
        if not grid.symmetric:
            zero = np.clip(np.rint((integers - target).mean(-1)), 0, grid.top).astype(np.uint8)
        centred = integers - zero[..., None]
        squared = (centred * centred).sum(-1)
        along = (target * centred).sum(-1)
        factor = np.divide(along, squared, out=np.ones_like(along), where=(squared > 0) & (along > 0))
        scale = scale * factor
        penalty *= config.growth
    return best_scale, best_zero


def _shrunk(error: NDArray[np.float32], penalty: float, norm: float) -> NDArray[np.float32]:
    """The proximal operator of |x|^p (generalised soft thresholding): small errors become 0, large ones stay."""
    size = np.abs(error)
    kept = np.maximum(size - np.maximum(size, 1e-6) ** (norm - 1) / np.float32(penalty), 0)
    return np.sign(error) * kept
