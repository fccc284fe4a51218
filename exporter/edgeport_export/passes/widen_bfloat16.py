"""Arithmetic in bfloat16, which ONNX Runtime does not have on the CPU: in float32, each result rounded as before.

Models in fp32 have it where the positions of ALiBi are made (Falcon). A product of two bfloat16 numbers is exact in
float32, and so is rounded once.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["WidenBfloat16"]

_ARITHMETIC = ("Add", "Div", "Mul", "Neg", "Sub")


class WidenBfloat16(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = [n for n in model.graph if n.op_type in _ARITHMETIC and n.outputs[0].dtype == ir.DataType.BFLOAT16]
        for node in found:
            _widen(model.graph, node)
        return ir.passes.PassResult(model, modified=bool(found))


def _widen(graph: ir.Graph, node: ir.Node) -> None:
    for number, value in enumerate(node.inputs):
        assert value is not None
        wide = ir.node("Cast", [value], {"to": ir.DataType.FLOAT})
        result = wide.outputs[0]
        result.name, result.shape = f"{node.outputs[0].name}_{number}_wide", value.shape
        result.type = ir.TensorType(ir.DataType.FLOAT)
        graph.insert_before(node, wide)
        node.replace_input_with(number, result)
    output = node.outputs[0]
    narrow = ir.node("Cast", [output], {"to": ir.DataType.BFLOAT16})
    ir.convenience.replace_all_uses_with(output, narrow.outputs[0])
    narrow.replace_input_with(0, output)
    narrow.outputs[0].name, narrow.outputs[0].shape = f"{output.name}_narrow", output.shape
    narrow.outputs[0].type, output.type = output.type, ir.TensorType(ir.DataType.FLOAT)
    graph.insert_after(node, narrow)
