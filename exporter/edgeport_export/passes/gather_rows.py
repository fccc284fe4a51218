"""Picking whole rows, a few of each batch entry, without an index for every element.

torch's ``gather`` along the sequence wants an index as wide as the rows; ``GatherND`` takes one number a row.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeport_export.passes.match import attribute, constant, producer

__all__ = ["GatherRows"]


class GatherRows(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for node in list(model.graph):
            if node.op_type == "GatherElements" and attribute(node, "axis", 0) == 1:
                changed |= _replace(model.graph, node)
        return ir.passes.PassResult(model, modified=changed)


def _replace(graph: ir.Graph, gather: ir.Node) -> bool:
    source, expand = gather.inputs[0], producer(gather.inputs[1], "Expand")
    column = producer(expand.inputs[0], "Unsqueeze") if expand is not None else None
    if source is None or column is None or expand is None or column.inputs[0] is None:
        return False
    rows, wide, index = source.shape, expand.outputs[0].shape, column.inputs[0].shape
    axes = constant(column.inputs[1], 1)
    if rows is None or wide is None or index is None or axes is None or axes.item() not in (-1, 2):
        return False
    # One index (batch, wanted) for each row (batch, sequence, width), and as many batch entries on both sides.
    if len(rows) != 3 or len(index) != 2 or rows[0] != index[0] or list(wide) != [*index, rows[2]]:
        return False
    if not isinstance(rows[0], int) and rows[0].value is None:
        return False
    pick = ir.node("GatherND", [source, column.outputs[0]], {"batch_dims": 1}, name=gather.name)
    old, new = gather.outputs[0], pick.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    ir.convenience.replace_nodes_and_values(graph, gather, [gather], [pick], [old], [new])
    return True
