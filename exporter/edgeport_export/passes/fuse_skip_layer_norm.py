"""Residual addition and layer normalization to ``com.microsoft::SkipLayerNormalization``.

Takes a bias in front of the addition along, and hands the sum on where something else reads it (pre-norm models).
"""

from __future__ import annotations

import onnx_ir as ir

from edgeport_export.passes.match import attribute, is_weight, producer, same_shape, sole_user

__all__ = ["FuseSkipLayerNorm"]


class FuseSkipLayerNorm(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for node in list(model.graph):
            if node.op_type == "LayerNormalization" and node.domain == "":
                changed |= _fuse(model.graph, node)
        if changed:
            model.graph.opset_imports["com.microsoft"] = 1
        return ir.passes.PassResult(model, modified=changed)


def _fuse(graph: ir.Graph, norm: ir.Node) -> bool:
    add = producer(norm.inputs[0], "Add")
    if add is None or attribute(norm, "axis", -1) not in (-1, 2) or len(norm.outputs) > 1:
        return False
    left, right = add.inputs
    total = add.outputs[0]
    if not same_shape(left, right) or left is None or left.shape is None or len(left.shape) != 3:
        return False
    if not is_weight(norm.inputs[1], rank=1) or total.is_graph_output():
        return False
    bias = None
    replaced = [add, norm]
    for branch, other in ((left, right), (right, left)):
        biased = producer(branch, "Add")
        if biased is None or branch is None or sole_user(branch) is not add:
            continue
        vectors = [i for i in biased.inputs if is_weight(i, rank=1)]
        if len(vectors) == 1:
            bias = vectors[0]
            left, right = next(i for i in biased.inputs if i is not bias), other
            replaced.append(biased)
            break
    keeps_sum = sole_user(total) is not norm
    beta = norm.inputs[2] if len(norm.inputs) > 2 else None
    fused = ir.node(
        "SkipLayerNormalization",
        [left, right, norm.inputs[1], beta, bias],
        {"epsilon": float(attribute(norm, "epsilon", 1e-5))},
        domain="com.microsoft",
        num_outputs=4 if keeps_sum else 1,
        name=norm.name,
    )
    for old, new in ((norm.outputs[0], fused.outputs[0]), *(((total, fused.outputs[3]),) if keeps_sum else ())):
        new.name, new.type, new.shape = old.name, old.type, old.shape
    if keeps_sum:
        fused.outputs[1].name = fused.outputs[2].name = ""  # mean and deviation are for training
    # At the addition's place, since others may read the sum before the normalization.
    graph.insert_before(add, fused)
    ir.convenience.replace_all_uses_with(norm.outputs[0], fused.outputs[0], replace_graph_outputs=True)
    if keeps_sum:
        ir.convenience.replace_all_uses_with(total, fused.outputs[3])
    graph.remove(list(reversed(replaced[:2])) + replaced[2:], safe=True)
    return True
