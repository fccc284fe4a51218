"""How block-wise integers lie in a graph: one packed tensor that products and embeddings both read.

Facts about onnxruntime 1.32 on the CPU, tried for 4 and 8 bits, blocks of 16 to 128, symmetric or not:

- ``MatMulNBits`` wants the integers as (rows, blocks, bytes). ``GatherBlockQuantized`` takes the very same tensor as a
  table of three axes with blocks along the last; its result then is (..., blocks, block_size).
- Both take a zero point that is not given as the middle, 8 or 128; those given are packed for the product, a byte each
  and with a third axis for the table. Products with 4 bits, and only these, take float
  zero points too, in a kernel 80 times slower.
- The table's scales want a third axis, the product refuses it: the view of them is a node on a constant, which the
  session computes once, when it is opened.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeport_export.passes.match import new_weight, shared_vector
from edgeport_export.quantize.blockwise import Quantized

__all__ = ["Stored"]


class Stored:
    """A quantized matrix as initializers: integers and scales at once, zero points when they are asked for."""

    def __init__(self, graph: ir.Graph, name: str, quantized: Quantized) -> None:
        self._graph, self._name = graph, name
        self._zeros = quantized.zeros, quantized.packed_zeros()
        self.grid, self.width, self.order = quantized.grid, quantized.width, quantized.order
        self.rows, self.blocks = quantized.scales.shape
        self.integers = self._weight("", quantized.packed())
        """uint8 (rows, blocks, bytes)."""
        self.scales = self._weight(".scale", quantized.scales)
        """float32 (rows, blocks)."""

    def packed_zeros(self) -> ir.Value | None:
        """uint8 (rows, bytes), as ``MatMulNBits`` reads them; None on a symmetric grid."""
        return None if self._zeros[1] is None else self._weight(".zero", self._zeros[1])

    def deep_zeros(self) -> ir.Value | None:
        """uint8 (rows, blocks, 1), as ``GatherBlockQuantized`` reads them; None on a symmetric grid."""
        return None if self._zeros[0] is None else self._weight(".zero.rows", self._zeros[0][:, :, None])

    def look_up(self, ids: ir.Value, name: str | None) -> list[ir.Node]:
        """Nodes that read the rows ``ids`` of the matrix as a table, in float32 (ids..., width).

        Args:
            ids: Of known rank.
            name: Of the node that reads.
        """
        assert ids.shape is not None
        size, filled = self.grid.block_size, self.blocks * self.grid.block_size
        deep = ir.node("Unsqueeze", [self.scales, shared_vector(self._graph, "axes", [2])])
        gather = ir.node(
            "GatherBlockQuantized",
            [self.integers, ids, deep.outputs[0], self.deep_zeros()],
            {"bits": self.grid.bits, "block_size": size, "gather_axis": 0, "quantize_axis": 2},
            domain="com.microsoft",
            name=name,
        )
        shape = shared_vector(self._graph, "shape", [*[0] * len(ids.shape), filled])
        nodes = [deep, gather, ir.node("Reshape", [gather.outputs[0], shape])]
        if filled > self.width:
            ends = [shared_vector(self._graph, "vector", [number]) for number in (0, self.width, -1)]
            nodes.append(ir.node("Slice", [nodes[-1].outputs[0], *ends]))
        return nodes

    def _weight(self, suffix: str, array: NDArray[np.generic]) -> ir.Value:
        name = f"{self._name}{suffix}"
        return self._graph.initializers.get(name) or new_weight(self._graph, name, ir.tensor(array, name=name))
