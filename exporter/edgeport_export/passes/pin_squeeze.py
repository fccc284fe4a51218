"""Squeezes that name their axes.

A squeeze without axes drops whatever has size one when the graph runs: at batch one, the batch as well. The model's
code did the same while it was traced, but with a batch of more than one, and everything behind it counts on that rank.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeport_export.passes.match import shared_vector

__all__ = ["PinSqueeze"]


class PinSqueeze(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for node in model.graph:
            if node.op_type == "Squeeze" and len(node.inputs) == 1:
                changed |= _pin(model.graph, node)
        return ir.passes.PassResult(model, modified=changed)


def _pin(graph: ir.Graph, node: ir.Node) -> bool:
    source = node.inputs[0]
    if source is None or source.shape is None:
        return False
    axes = [axis for axis, size in enumerate(source.shape) if size == 1]
    node.resize_inputs(2)
    node.replace_input_with(1, shared_vector(graph, "axes", axes))
    return True
