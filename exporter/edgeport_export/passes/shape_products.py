"""Shapes for products that have none: tracing leaves them off where a layer became a product and a bias.

Only where they follow from the input and a constant matrix; the passes behind ask for them.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeport_export.passes.match import is_weight

__all__ = ["ShapeProducts"]


class ShapeProducts(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for node in model.graph:
            if node.op_type != "MatMul" or node.outputs[0].shape is not None:
                continue
            source, weight = node.inputs
            if (
                source is None
                or source.shape is None
                or weight is None
                or weight.shape is None
                or not is_weight(weight, 2)
            ):
                continue
            result = node.outputs[0]
            result.shape, result.type = ir.Shape([*source.shape[:-1], weight.shape[1]]), result.type or source.type
            changed = True
        return ir.passes.PassResult(model, modified=changed)
