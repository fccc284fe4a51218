"""Round to nearest, block by block, with a scale that is searched for. Knows one matrix at a time, and no data.

The scale that just reaches the largest weight of a block is rarely the best one: cutting that weight off may cost less
than coarser steps for all others. So several are tried. Each try yields integers c (without the zero point), and for
these the best scale is known in closed form, <w, c> / <c, c>, with the error <w, w> - <w, c>^2 / <c, c>; the try with
the least error wins. Range setting by mean squared error: Nagel et al. 2021, "A White Paper on Neural Network
Quantization", section 3.1.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeport_export.quantize.blockwise import Grid, Quantized, in_blocks

__all__ = ["RoundToNearest", "fit", "in_pieces", "round_to_nearest", "rounded"]

_PARTS = {4: np.linspace(1.0, 0.75, 6), 8: np.ones(1)}
"""By bits, of the scale that reaches the largest weight: what is tried. On a small Llama, twice as many tries leave
99.7 % of the squared error that these leave with 4 bits; with 8 bits there is nothing to gain."""

_CACHED = 2**19
"""Weights that are worked on at a time: few enough to stay in a cache that the cores share through all the tries, and
many enough that threads seldom wait for the interpreter (2 cores: a quarter as many take 1.4 times as long)."""


@dataclass(frozen=True)
class RoundToNearest:
    """Configuration of rounding to nearest."""

    search: bool = True
    """Take the scale of least squared error instead of the one that reaches the largest weight."""


def round_to_nearest(rows: NDArray[np.floating], grid: Grid, config: RoundToNearest) -> Quantized:
    """Quantize a matrix.

    Args:
        rows: (rows, width), float; one row an output.
        grid: Bits, block size, zero points.
        config: How scales are chosen.
    """
    return in_pieces(rows, grid, lambda blocks: fit(blocks, grid, search=config.search))


def in_pieces(
    rows: NDArray[np.floating],
    grid: Grid,
    choose: Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.uint8]]],
) -> Quantized:
    """Quantize a matrix, (rows, width), some rows at a time; ``choose`` takes blocks and gives what ``fit`` gives."""
    count, width = rows.shape
    blocks = -(-width // grid.block_size)
    integers = np.empty((count, blocks, grid.block_size), np.uint8)
    scales = np.empty((count, blocks), np.float32)
    zeros = np.empty((count, blocks), np.uint8)
    step = max(1, _CACHED // max(1, width))

    def work(start: int) -> None:
        part = slice(start, start + step)
        block = in_blocks(rows[part], grid.block_size)
        scales[part], zeros[part] = choose(block)
        integers[part] = rounded(block, scales[part], zeros[part], grid)

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # numpy lets go of the interpreter while it computes
        for _ in threads.map(work, range(0, count, step)):
            pass
    return Quantized(grid, width, integers, scales, None if grid.symmetric else zeros)


def fit(
    blocks: NDArray[np.float32], grid: Grid, *, search: bool, importance: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Scales and zero points for blocks of weights.

    Args:
        blocks: (..., block_size).
        grid: Bits and whether zero points are free.
        search: Try several, take the one with the least squared error.
        importance: What an error counts in each place, broadcast to ``blocks``; 1 if not given.

    Returns:
        Scales, float32, and zero points, uint8, both (...); the zero points of a symmetric grid are all its middle.
    """
    shape, size = blocks.shape[:-1], blocks.shape[-1]

    def beside_each_other(values: NDArray[np.float32]) -> NDArray[np.float32]:
        # (block_size, blocks): numpy is at its fastest along a last axis, and that of a block is short.
        return np.ascontiguousarray(values.reshape(-1, size).T)

    weights = beside_each_other(blocks)
    tries = _reaching(weights.min(0), weights.max(0), grid, both_signs=search)
    best_scale, best_zero = tries[0][0].copy(), tries[0][1].copy()
    if search:
        each = None if importance is None else beside_each_other(np.broadcast_to(importance, blocks.shape))
        weighted = weights if each is None else weights * each
        least = np.full(best_scale.shape, -1.0, np.float32)
        centred = np.empty_like(weights)
        counted = centred if each is None else np.empty_like(centred)
        for scale, zero in tries:
            lowest = np.float32(-grid.middle) if grid.symmetric else -zero.astype(np.float32)
            for part in _PARTS[grid.bits]:
                np.multiply(weights, 1 / (scale * np.float32(part)), out=centred)
                np.rint(centred, out=centred)
                np.clip(centred, lowest, lowest + np.float32(grid.top), out=centred)
                if each is not None:
                    np.multiply(centred, each, out=counted)
                along = np.einsum("wb,wb->b", weighted, centred)
                squared = np.einsum("wb,wb->b", counted, centred)
                # The error at the best scale is <w, w> less this.
                explained = np.divide(along * along, squared, out=np.zeros_like(along), where=squared > 0)
                better = (explained > least) & (squared > 0) & (along != 0)
                np.copyto(least, explained, where=better)
                np.divide(along, squared, out=best_scale, where=better)
                np.copyto(best_zero, zero, where=better)
    return best_scale.reshape(shape), best_zero.reshape(shape)


def rounded(
    blocks: NDArray[np.float32], scales: NDArray[np.float32], zeros: NDArray[np.uint8], grid: Grid
) -> NDArray[np.uint8]:
    """The nearest integers, uint8 of the shape of ``blocks`` (..., block_size); scales and zero points are (...)."""
    whole = blocks / scales[..., None]
    np.rint(whole, out=whole)
    whole += np.float32(grid.middle) if grid.symmetric else zeros[..., None].astype(np.float32)
    return np.clip(whole, 0, grid.top, out=whole).astype(np.uint8)


def _reaching(
    low: NDArray[np.float32], high: NDArray[np.float32], grid: Grid, *, both_signs: bool
) -> list[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Scales and zero points that reach every weight of a block, the least and the largest of each given, or nearly so.

    A symmetric grid has one step more below zero than above. With ``both_signs`` there is a second scale, whose sign is
    such that the largest weight takes that step; all integers are used then, and a weight of the other sign may be cut
    off by one step.
    """
    if not grid.symmetric:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        scale = _nonzero((high - low) / np.float32(grid.top))
        return [(scale, np.clip(np.rint(-low / scale), 0, grid.top).astype(np.uint8))]
    extreme = np.where(-low > high, low, high)
    scales = [np.abs(extreme) / np.float32(grid.middle - 1)]
    if both_signs:
        scales.append(-extreme / np.float32(grid.middle))
    return [(_nonzero(scale.astype(np.float32)), np.full(scale.shape, grid.middle, np.uint8)) for scale in scales]


def _nonzero(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """A block of zeros takes any scale."""
    return np.where(scale == 0, np.float32(1), scale)
