"""Gemm on flattened rows to MatMul and Add on the rows as they are.

A layer that torch computes with ``addmm`` (GPT-2's) flattens (batch, sequence, width) for it and restores the shape
afterwards, from sizes read at run time. A product needs neither, and the other passes and the quantizers know it.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeport_export.passes.match import attribute, is_weight, producer, sole_user

__all__ = ["UnflattenGemm"]


class UnflattenGemm(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for node in list(model.graph):
            if node.op_type == "Gemm":
                changed |= _unflatten(model.graph, node)
        return ir.passes.PassResult(model, modified=changed)


def _unflatten(graph: ir.Graph, gemm: ir.Node) -> bool:
    flatten, restore = producer(gemm.inputs[0], "Reshape"), sole_user(gemm.outputs[0])
    bias = gemm.inputs[2] if len(gemm.inputs) > 2 else None
    plain = all(attribute(gemm, name, default) == default for name, default in _DEFAULTS.items())
    if flatten is None or restore is None or restore.op_type != "Reshape" or not plain:
        return False
    source, result = flatten.inputs[0], restore.outputs[0]
    if source is None or source.shape is None or result.shape is None or len(result.shape) != len(source.shape):
        return False
    weight = gemm.inputs[1]
    if not is_weight(weight, rank=2) or (bias is not None and not is_weight(bias, rank=1)):
        return False
    # The rows come back as they were, and only the width differs.
    named = all(isinstance(size, int) or size.value is not None for size in source.shape)
    if not named or source.shape[:-1] != result.shape[:-1] or source.shape[-1] != weight.shape[0]:  # type: ignore[union-attr, index]
        return False
    product = ir.node("MatMul", [source, weight], name=gemm.name)
    nodes = [product]
    if bias is not None:
        total = product.outputs[0]
        total.name, total.type, total.shape = f"{result.name}_product", result.type, result.shape
        nodes.append(ir.node("Add", [total, bias], name=f"{gemm.name}_bias"))
    new = nodes[-1].outputs[0]
    new.name, new.type, new.shape = result.name, result.type, result.shape
    ir.convenience.replace_nodes_and_values(graph, gemm, [restore, gemm], nodes, [result], [new])
    return True


_DEFAULTS = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
