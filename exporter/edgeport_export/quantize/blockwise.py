"""Block-wise integers: the number format that ``MatMulNBits`` and ``GatherBlockQuantized`` read.

A matrix is held as rows, one an output (or one a word of an embedding table). Each row is cut into blocks that share a
scale and a zero point: ``weight ~ (integer - zero) * scale``. A last block that the row does not fill is padded with
the zero point, which stands for zero. Knows numpy alone; who chose the integers does not matter here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Grid", "Quantized", "in_blocks"]


@dataclass(frozen=True)
class Grid:
    """How fine the integers are and how many weights share a scale."""

    bits: int = 4
    """4 or 8."""
    block_size: int = 32
    """16, 32, 64 or 128: what the kernels take."""
    symmetric: bool = True
    """The zero point is the middle of the range and is not stored. Otherwise each block has its own."""

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"{self.bits} bits: weights are stored in 4 or 8.")
        if self.block_size not in (16, 32, 64, 128):
            raise ValueError(f"blocks of {self.block_size}: the kernels take 16, 32, 64 and 128.")

    @property
    def top(self) -> int:
        """The largest integer; the smallest is 0."""
        return 2**self.bits - 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric grid, which both operators assume when none is given."""
        return 2 ** (self.bits - 1)


@dataclass(frozen=True)
class Quantized:
    """A matrix in integers, one row an output."""

    grid: Grid
    width: int
    """Weights in a row, without padding."""
    integers: NDArray[np.uint8]
    """(rows, blocks, block_size), 0 to ``grid.top``."""
    scales: NDArray[np.float32]
    """(rows, blocks); may be negative (the range of integers is not even)."""
    zeros: NDArray[np.uint8] | None
    """(rows, blocks); None on a symmetric grid."""
    order: NDArray[np.int64] | None = None
    """(width): the input whose weight stands at each place of a row; None where they stand in order."""

    def __post_init__(self) -> None:
        rows, blocks = self.integers.shape[0], -(-self.width // self.grid.block_size)
        if self.integers.shape != (rows, blocks, self.grid.block_size) or self.integers.dtype != np.uint8:
            raise ValueError(f"integers are {self.integers.dtype} {self.integers.shape}, not uint8 {(rows, blocks)}+.")
        if self.scales.shape != (rows, blocks) or self.scales.dtype != np.float32:
            raise ValueError(f"scales are {self.scales.dtype} {self.scales.shape}, not float32 {(rows, blocks)}.")
        if (self.zeros is None) != self.grid.symmetric:
            raise ValueError("A symmetric grid has no zero points, any other has them.")
        if self.zeros is not None and (self.zeros.shape != (rows, blocks) or self.zeros.dtype != np.uint8):
            raise ValueError(f"zero points are {self.zeros.dtype} {self.zeros.shape}, not uint8 {(rows, blocks)}.")
        if self.order is not None and (np.sort(self.order) != np.arange(self.width)).any():
            raise ValueError(f"The order of the inputs does not name each of {self.width} once.")

    def dequantized(self, rows: slice = slice(None)) -> NDArray[np.float32]:
        """The weights that the integers stand for, float32 (rows, width), in the arithmetic of the kernels, inputs in
        their own order."""
        zeros = np.float32(self.grid.middle) if self.zeros is None else self.zeros[rows, :, None].astype(np.float32)
        values = (self.integers[rows].astype(np.float32) - zeros) * self.scales[rows, :, None]
        values = values.reshape(values.shape[0], -1)[:, : self.width]
        return values if self.order is None else values[:, np.argsort(self.order)]

    def part(self, rows: slice) -> Quantized:
        """Some of the rows."""
        zeros = None if self.zeros is None else self.zeros[rows]
        return replace(self, integers=self.integers[rows], scales=self.scales[rows], zeros=zeros)

    def packed(self) -> NDArray[np.uint8]:
        """(rows, blocks, block_size * bits / 8): two 4-bit integers a byte, the first in the lower half."""
        return _packed(self.integers, self.grid.bits)

    def packed_zeros(self) -> NDArray[np.uint8] | None:
        """(rows, ceil(blocks * bits / 8)), packed as the integers are; None on a symmetric grid."""
        return None if self.zeros is None else _packed(self.zeros, self.grid.bits)


def in_blocks(rows: NDArray[np.floating], block_size: int) -> NDArray[np.float32]:
    """``rows`` (rows, width) as float32 (rows, blocks, block_size), the last block filled up with 0."""
    count, width = rows.shape
    blocks = -(-width // block_size)
    padded = np.empty((count, blocks * block_size), np.float32)
    padded[:, width:] = 0
    # A transposed matrix goes by columns: what is read of a cache line is then read at once.
    step = block_size if rows.strides[0] < rows.strides[1] else width
    for start in range(0, width, step):
        some = slice(start, min(start + step, width))
        padded[:, some] = rows[:, some]
    return padded.reshape(count, blocks, block_size)


def _packed(integers: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    if bits == 8:
        return integers
    if integers.shape[-1] % 2:
        integers = np.concatenate([integers, np.zeros_like(integers[..., :1])], axis=-1)
    packed: NDArray[np.uint8] = integers[..., 0::2] | (integers[..., 1::2] << np.uint8(4))
    return packed
