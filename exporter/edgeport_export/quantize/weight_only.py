"""Weight-only quantization: weights are 4 or 8 bits with a scale a block, activations stay in fp32 between operators.

For models that write text a token at a time, where reading the weights is what takes the time. Products with a
constant matrix become ``com.microsoft::MatMulNBits``, with a bias that follows inside; embedding tables are read by
``com.microsoft::GatherBlockQuantized``. A table that the output layer shares is stored once, for both. This module
knows the graph; how integers are stored is in ``stored``; choosing them is the ``rounding``'s business, or was done
before (``handed_over``).

``accuracy_level`` 4 quantizes the activations to int8 by blocks too. One row times 768 x 3072 on one Zen 4 core with
VNNI, onnxruntime 1.32: 0.04 to 0.06 ms with 4 and with 8 bits, symmetric or not, larger blocks the least, and an error
of 0.5 % on random data. Levels 0 and 1 err by 3e-7, but take 0.2 ms with 4 bits and 5 to 7 ms with 8.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeport_export.passes.fold_constants import transposes_second
from edgeport_export.passes.match import (
    attribute,
    is_weight,
    new_weight,
    producer,
    sizes,
    sole_user,
    tensor_of,
)
from edgeport_export.quantize.blockwise import Grid, Quantized
from edgeport_export.quantize.handed_over import HandedOver
from edgeport_export.quantize.hqq import HalfQuadratic, half_quadratic
from edgeport_export.quantize.int8_products import QuantizationReport
from edgeport_export.quantize.round_to_nearest import RoundToNearest, round_to_nearest
from edgeport_export.quantize.stored import Stored

__all__ = ["Rounding", "WeightOnly", "quantize_weight_only"]

Rounding = RoundToNearest | HalfQuadratic
"""How integers are chosen; dispatch is on the type."""

_DOMAIN = "com.microsoft"
_SMALL = 2**12
"""Elements. A smaller matrix stays in fp32: nothing to save."""
_LARGE_TABLE = 2**14
"""Elements. A smaller embedding table stays in fp32: nothing to save, and some nodes saved."""


@dataclass(frozen=True)
class WeightOnly:
    """Configuration of weight-only quantization."""

    grid: Grid = field(default_factory=Grid)
    rounding: Rounding = field(default_factory=RoundToNearest)
    exceptions: Mapping[str, Grid] = field(default_factory=dict)
    """Other grids by regular expression: the first that finds something in a weight's name counts."""
    accuracy_level: int = 4
    """4: products in int8, the fast kernels. 1: products in fp32."""
    keep_fp32: str | None = None
    """Regular expression; weights whose names it finds stay in fp32."""


def quantize_weight_only(
    model: ir.Model, config: WeightOnly, given: Mapping[str, Quantized] | None = None
) -> QuantizationReport:
    """Quantize ``model`` in place, one weight at a time.

    Biases must still stand next to their products, so this runs before the passes that fuse them elsewhere.

    Args:
        model: Products and tables in fp32.
        config: Bits, blocks, rounding, exceptions.
        given: Integers handed over, as ``gptq`` returns them. A weight that has their values takes exactly these, with
            their grid; all others are rounded. See ``handed_over``.
    """
    quantizer = _Quantizer(model.graph, config, HandedOver(given or {}))
    for node in list(model.graph):
        if node.op_type in ("MatMul", "FusedMatMul"):
            quantizer.product(node)
        elif node.op_type == "Gemm":
            quantizer.gemm(node)
        elif node.op_type == "Gather":
            quantizer.embedding(node)
        elif node.op_type == "Conv" and is_weight(node.inputs[1]):
            quantizer.skip(node.inputs[1], "convolutions stay in fp32")
    for name in quantizer.handed_over.unused:
        quantizer.report.skipped[name] = "handed over, but no weight of the graph has these values"
    model.graph.opset_imports[_DOMAIN] = 1
    return quantizer.report


@dataclass
class _Quantizer:
    graph: ir.Graph
    config: WeightOnly
    handed_over: HandedOver
    report: QuantizationReport = field(default_factory=QuantizationReport)
    stored: dict[tuple[str, bool], Stored] = field(default_factory=dict)

    def product(self, node: ir.Node) -> None:
        second, swapped = node.inputs[1], transposes_second(node)
        swap = producer(second, "Transpose")
        if swap is not None and is_weight(swap.inputs[0], rank=2):
            second, swapped = swap.inputs[0], not swapped
        if second is None or not is_weight(second):
            return
        plain = attribute(node, "alpha", 1.0) == 1.0 and not any(
            attribute(node, name, 0) for name in ("transA", "transBatchA", "transBatchB")
        )
        if not is_weight(second, rank=2):
            self.skip(second, "not a matrix")
        elif not plain:
            self.skip(second, "scaled or transposed product")
        elif self._wanted(second, _SMALL):
            self._replace_product(node, second, _bias_add(node, sizes(tensor_of(second))[0 if swapped else 1]), swapped)

    def gemm(self, node: ir.Node) -> None:
        """Only the common form, alpha = beta = 1 and A as it is: it is a product and a bias."""
        weight = node.inputs[1]
        if weight is None or not is_weight(weight, rank=2):
            return
        if attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
            self.skip(weight, "scaled Gemm")
        elif self._wanted(weight, _SMALL):
            self._replace_product(node, weight, None, bool(attribute(node, "transB", 0)))

    def embedding(self, node: ir.Node) -> None:
        table, ids, result = node.inputs[0], node.inputs[1], node.outputs[0]
        if table is None or ids is None or not is_weight(table, rank=2) or attribute(node, "axis", 0) != 0:
            return
        if tensor_of(table).size < _LARGE_TABLE:
            return
        if ids.shape is None:
            self.skip(table, "indices of unknown rank")
            return
        if not self._wanted(table, _LARGE_TABLE):
            return
        stored = self._stored(table, by_row=True)
        nodes = stored.look_up(ids, node.name)
        if stored.order is not None:
            nodes.append(self._reordered(nodes[-1].outputs[0], np.argsort(stored.order)))
        for made in nodes[:-1]:
            made.outputs[0].name = f"{result.name}_{made.op_type.lower()}"
        self._swap([node], nodes, result)
        self._forget(table)

    def skip(self, weight: ir.Value | None, reason: str) -> None:
        self.report.skipped[_name(weight)] = reason

    def _wanted(self, weight: ir.Value, least: int) -> bool:
        name, tensor = _name(weight), tensor_of(weight)
        if tensor.dtype != ir.DataType.FLOAT:
            self.skip(weight, f"{tensor.dtype.name.lower()}, not fp32")
        elif tensor.size < least:
            self.skip(weight, "too small to gain")
        elif self.config.keep_fp32 is not None and re.search(self.config.keep_fp32, name):
            self.skip(weight, "kept in fp32 as asked")
        else:
            if name not in self.report.quantized:
                self.report.quantized.append(name)
            return True
        return False

    def _replace_product(self, node: ir.Node, weight: ir.Value, add: ir.Node | None, by_row: bool) -> None:
        stored = self._stored(weight, by_row=by_row)
        bias = next((i for i in add.inputs if is_weight(i, rank=1)), None) if add is not None else None
        separate = None
        if node.op_type == "Gemm" and len(node.inputs) > 2:
            separate = node.inputs[2]
            if is_weight(separate, rank=1) and sizes(tensor_of(separate)) == (stored.rows,):
                bias, separate = separate, None
        last = (add or node).outputs[0]
        nodes: list[ir.Node] = []
        values = node.inputs[0]
        if stored.order is not None:
            nodes.append(self._reordered(values, stored.order))
            values = nodes[0].outputs[0]
            values.name = f"{last.name}_reordered"
        fused = ir.node(
            "MatMulNBits",
            [values, stored.integers, stored.scales, stored.packed_zeros(), None, bias],
            {
                "K": stored.width,
                "N": stored.rows,
                "bits": stored.grid.bits,
                "block_size": stored.grid.block_size,
                "accuracy_level": self.config.accuracy_level,
            },
            domain=_DOMAIN,
            name=node.name,
        )
        nodes.append(fused)
        if separate is not None:
            fused.outputs[0].name = f"{last.name}_product"
            nodes.append(ir.node("Add", [fused.outputs[0], separate]))
        swap = producer(node.inputs[1], "Transpose")
        self._swap([n for n in (add, node) if n is not None], nodes, last)
        if swap is not None and not swap.outputs[0].uses() and not swap.outputs[0].is_graph_output():
            self.graph.remove(swap, safe=True)
        self._forget(weight)

    def _reordered(self, values: ir.Value | None, order: NDArray[np.int64]) -> ir.Node:
        """``values`` with their last axis in another order. The product has an input for this too, and with it
        takes 55 times as long (10 instead of 0.18 ms for one row times 768 x 3072, onnxruntime 1.32, one core)."""
        name = f"order_{hashlib.blake2b(order.tobytes(), digest_size=8).hexdigest()}"
        known = self.graph.initializers.get(name) or new_weight(self.graph, name, ir.tensor(order, name=name))
        return ir.node("Gather", [values, known], {"axis": -1})

    def _swap(self, old: list[ir.Node], nodes: list[ir.Node], last: ir.Value) -> None:
        """Put ``nodes`` in the place of ``old``; their last output takes the place of ``last``."""
        new = nodes[-1].outputs[0]
        new.name, new.type, new.shape = last.name, last.type or ir.TensorType(ir.DataType.FLOAT), last.shape
        ir.convenience.replace_nodes_and_values(self.graph, old[-1], old, nodes, [last], [new])

    def _stored(self, weight: ir.Value, *, by_row: bool) -> Stored:
        """``weight`` as rows of integers: (rows, width) as it is, or (width, rows) transposed."""
        name = _name(weight)
        if (name, by_row) in self.stored:
            return self.stored[name, by_row]
        values: NDArray[np.float32] = tensor_of(weight).numpy()
        rows = values if by_row else values.T
        quantized = self.handed_over.find(rows) or self._rounded(rows, name)
        # A matrix that is read both ways, which no model is known to do, is stored twice.
        suffix = ".rows" if by_row and (name, False) in self.stored else ""
        stored = Stored(self.graph, f"{name}.int{quantized.grid.bits}{suffix}", quantized)
        self.stored[name, by_row] = stored
        return stored

    def _rounded(self, rows: NDArray[np.float32], name: str) -> Quantized:
        grids = (grid for pattern, grid in self.config.exceptions.items() if re.search(pattern, name))
        grid = next(grids, self.config.grid)
        if isinstance(self.config.rounding, HalfQuadratic):
            return half_quadratic(rows, grid, self.config.rounding)
        return round_to_nearest(rows, grid, self.config.rounding)

    def _forget(self, weight: ir.Value) -> None:
        """Let go of what nothing reads any more, so that a model is never held twice."""
        if not weight.uses() and not weight.is_graph_output():
            self.graph.initializers.pop(_name(weight), None)


def _bias_add(product: ir.Node, width: int) -> ir.Node | None:
    """The addition of a constant vector of ``width`` that is the only reader of ``product``."""
    add = sole_user(product.outputs[0])
    if add is None or add.op_type != "Add":
        return None
    vectors = [i for i in add.inputs if is_weight(i, rank=1)]
    return add if len(vectors) == 1 and sizes(tensor_of(vectors[0])) == (width,) else None


def _name(value: ir.Value | None) -> str:
    assert value is not None
    assert value.name is not None
    return value.name
