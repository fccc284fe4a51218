"""Picking whole rows, a few of each batch entry, without an index for every element.

torch's ``gather`` along the sequence wants an index as wide as the rows; ``GatherND`` takes one number a row. Where all
batch entries pick from one table (GPT-J's positions), ``Gather`` takes it once instead of a copy for each of them.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeport_export.passes.match import attribute, constant, is_weight, producer

__all__ = ["GatherRows"]


class GatherRows(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for node in list(model.graph):
            if node.op_type == "GatherElements" and attribute(node, "axis", 0) == 1:
                changed |= _replace(model.graph, node)
        return ir.passes.PassResult(model, modified=changed)


def _replace(graph: ir.Graph, gather: ir.Node) -> bool:
    source, index_of_all = gather.inputs[:2]
    column = producer(_repeated(index_of_all), "Unsqueeze")
    if source is None or index_of_all is None or column is None or column.inputs[0] is None:
        return False
    rows, wide, index = source.shape, index_of_all.shape, column.inputs[0].shape
    axes = constant(column.inputs[1], 1)
    if rows is None or wide is None or index is None or axes is None or axes.item() not in (-1, 2):
        return False
    # One index (batch, wanted) for each row (batch, sequence, width), and as many batch entries on both sides.
    if len(rows) != 3 or len(index) != 2 or rows[0] != index[0] or list(wide) != [*index, rows[2]]:
        return False
    if not isinstance(rows[0], int) and rows[0].value is None:
        return False
    table = _repeated(source)
    if is_weight(table, 2):
        pick = ir.node("Gather", [table, column.inputs[0]], {"axis": 0}, name=gather.name)
    else:
        pick = ir.node("GatherND", [source, column.outputs[0]], {"batch_dims": 1}, name=gather.name)
    old, new = gather.outputs[0], pick.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    ir.convenience.replace_nodes_and_values(graph, gather, [gather], [pick], [old], [new])
    return True


def _repeated(value: ir.Value | None) -> ir.Value | None:
    """What ``value`` repeats along some of its axes."""
    while (node := producer(value, "Expand", "Tile")) is not None:
        value = node.inputs[0]
    return value
