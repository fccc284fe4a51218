"""Embedding tables of models that read, in 8 or 4 bits; the rows that are looked up are widened, no others.

8 bits: int8 with a scale a row. 4 bits: ``com.microsoft::GatherBlockQuantized`` with a scale a block.
"""

from __future__ import annotations

import re

import onnx_ir as ir

from edgeport_export.passes.match import attribute, is_weight, tensor_of
from edgeport_export.quantize.int8_products import Int8Weights, QuantizationReport

__all__ = ["quantize_tables"]

_LARGE = 2**14
"""Elements. A smaller table (token types, say) stays in fp32: nothing to save, and two nodes saved."""


def quantize_tables(
    graph: ir.Graph, bits: int, weights: Int8Weights, report: QuantizationReport, keep: re.Pattern[str] | None
) -> None:
    """Replace the look-ups of ``graph``.

    Args:
        graph: Changed in place.
        bits: 8 or 4.
        weights: The graph's matrices in int8; a table that an output layer shares is stored once, in 8 bits.
        report: Is told of each table.
        keep: Tables whose names it finds stay in fp32.
    """
    for node in list(graph):
        table = node.inputs[0] if node.op_type == "Gather" else None
        if table is None or not is_weight(table, rank=2) or attribute(node, "axis", 0) != 0:
            continue
        tensor = tensor_of(table)
        if tensor.dtype == ir.DataType.FLOAT and tensor.size >= _LARGE and report.wants(table, keep):
            _in_int8(graph, node, *weights.rows(table))


def _in_int8(graph: ir.Graph, node: ir.Node, quantized: ir.Value, scale: ir.Value) -> None:
    """Gather rows and their scales, multiply."""
    ids, result = node.inputs[1], node.outputs[0]
    rows = ir.node("Gather", [quantized, ids], {"axis": 0}, name=node.name)
    scales = ir.node("Gather", [scale, ids], {"axis": 0})
    cast = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT})
    product = ir.node("Mul", [cast.outputs[0], scales.outputs[0]])
    for made, suffix in ((rows, "int8"), (scales, "scale"), (cast, "cast")):
        made.outputs[0].name = f"{result.name}_{suffix}"
    new = product.outputs[0]
    new.name, new.type, new.shape = result.name, result.type, result.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], [rows, scales, cast, product], [result], [new])
