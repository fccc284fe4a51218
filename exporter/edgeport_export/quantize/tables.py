"""Embedding tables of models that read, in 8 or 4 bits; the rows that are looked up are widened, no others.

8 bits: int8 with a scale a row. 4 bits: ``com.microsoft::GatherBlockQuantized`` with a scale a block of 64, of least
squares. Only the large table of words goes to 4 bits: positions are in every text, and small.
"""

from __future__ import annotations

import re

import onnx_ir as ir

from edgeport_export.passes.match import attribute, is_weight, name_of, tensor_of
from edgeport_export.quantize.blockwise import Grid
from edgeport_export.quantize.int8_products import Int8Weights, QuantizationReport
from edgeport_export.quantize.round_to_nearest import RoundToNearest, round_to_nearest
from edgeport_export.quantize.stored import Stored

__all__ = ["quantize_tables"]

_LARGE = 2**14
"""Elements. A smaller table (token types, say) stays in fp32: nothing to save, and two nodes saved."""
_HUGE = 2**20
"""Elements. A smaller table stays in 8 bits."""
_GRID = Grid(bits=4, block_size=64)


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
    fine: dict[str, Stored] = {}
    for node in list(graph):
        table = node.inputs[0] if node.op_type == "Gather" else None
        if table is None or not is_weight(table, rank=2) or attribute(node, "axis", 0) != 0:
            continue
        tensor, ids = tensor_of(table), node.inputs[1]
        if tensor.dtype != ir.DataType.FLOAT or tensor.size < _LARGE or not report.wants(table, keep):
            continue
        name, only_read = name_of(table), all(use.node.op_type == "Gather" for use in table.uses())
        if bits == 4 and tensor.size >= _HUGE and only_read and ids is not None and ids.shape is not None:
            if name not in fine:
                quantized = round_to_nearest(tensor.numpy(), _GRID, RoundToNearest())
                fine[name] = Stored(graph, f"{name}.int4", quantized)
            _replace(graph, node, fine[name].look_up(ids, node.name))
        else:
            _replace(graph, node, _in_int8(node, *weights.rows(table)))


def _in_int8(node: ir.Node, quantized: ir.Value, scale: ir.Value) -> list[ir.Node]:
    """Gather rows and their scales, multiply."""
    ids = node.inputs[1]
    rows = ir.node("Gather", [quantized, ids], {"axis": 0}, name=node.name)
    scales = ir.node("Gather", [scale, ids], {"axis": 0})
    cast = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT})
    return [rows, scales, cast, ir.node("Mul", [cast.outputs[0], scales.outputs[0]])]


def _replace(graph: ir.Graph, node: ir.Node, nodes: list[ir.Node]) -> None:
    """Put ``nodes`` in the place of a look-up; the output of the last becomes the result."""
    old, new = node.outputs[0], nodes[-1].outputs[0]
    for number, made in enumerate(nodes[:-1]):
        made.outputs[0].name = f"{old.name}_{made.op_type.lower()}_{number}"
    new.name, new.type, new.shape = old.name, old.type, old.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [old], [new])
