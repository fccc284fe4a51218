"""Bias and GELU to one operator: ``BiasGelu`` for the exact form (erf), ``FastGelu`` for the tanh approximation."""

from __future__ import annotations

import onnx_ir as ir

from edgeport_export.passes.match import attribute, is_weight, producer, sole_user

__all__ = ["FuseBiasGelu"]


class FuseBiasGelu(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for node in list(model.graph):
            if node.op_type == "Gelu" and node.domain == "":
                changed |= _fuse(model.graph, node)
        if changed:
            model.graph.opset_imports["com.microsoft"] = 1
        return ir.passes.PassResult(model, modified=changed)


def _fuse(graph: ir.Graph, gelu: ir.Node) -> bool:
    add = producer(gelu.inputs[0], "Add")
    if add is None or sole_user(add.outputs[0]) is not gelu:
        return False
    vectors = [i for i in add.inputs if is_weight(i, rank=1)]
    if len(vectors) != 1:
        return False
    bias = vectors[0]
    other = next(i for i in add.inputs if i is not bias)
    if other is None or other.shape is None or other.shape[-1] != bias.shape[0]:  # type: ignore[union-attr, index]
        return False
    operator = "FastGelu" if attribute(gelu, "approximate", "none") == "tanh" else "BiasGelu"
    fused = ir.node(operator, [other, bias], domain="com.microsoft", name=gelu.name)
    old, new = gelu.outputs[0], fused.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    ir.convenience.replace_nodes_and_values(graph, gelu, [gelu, add], [fused], [old], [new])
    return True
