"""Constant folding: small constants are computed, weight transposes are turned into transposed weights.

A transposed weight is a lazy tensor, computed when it is written: no second copy of the model in memory. A weight
that something else reads as it is (an embedding that the output layer shares) is not copied: the product reads it
transposed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.optimizer import fold_constants

from edgeport_export.passes.match import attribute, is_weight, sizes, sole_user

__all__ = ["FoldConstants"]

_SMALL = 1024
"""Elements. Above this only transposes are folded: the rest is rare, and would bloat the file."""


class FoldConstants(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        folded = fold_constants(
            model, input_size_limit=_SMALL, output_size_limit=_SMALL, should_fold=_leave_weight_transposes
        )
        changed = bool(folded.modified)
        for node in list(model.graph):
            if node.op_type == "Transpose" and is_weight(node.inputs[0]):
                changed |= _fold_transpose(model.graph, node)
        return ir.passes.PassResult(model, modified=changed)


def _leave_weight_transposes(node: ir.Node) -> bool | None:
    """onnxscript would fold any transpose at once, into a second copy of the model."""
    return False if node.op_type == "Transpose" and is_weight(node.inputs[0]) else None


def _fold_transpose(graph: ir.Graph, node: ir.Node) -> bool:
    weight, result = node.inputs[0], node.outputs[0]
    assert weight is not None
    assert weight.const_value is not None
    tensor = weight.const_value
    permutation = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
    order = tuple(permutation or reversed(range(len(tensor.shape))))
    product = sole_user(result)
    if len(weight.uses()) > 1 and product is not None and product.op_type == "MatMul" and order == (1, 0):
        if product.inputs[1] is not result:
            return False
        fused = ir.node(
            "FusedMatMul",
            [product.inputs[0], weight],
            {"transB": 1},
            domain="com.microsoft",
            outputs=[
                ir.Value(name=product.outputs[0].name, shape=product.outputs[0].shape, type=product.outputs[0].type)
            ],
            name=product.name,
        )
        ir.convenience.replace_nodes_and_values(graph, product, [product], [fused], product.outputs, fused.outputs)
        graph.remove(node, safe=True)
        return True
    if result.is_graph_output():
        return False
    shape = ir.Shape([sizes(tensor)[axis] for axis in order])
    name = f"{weight.name}.T"
    existing = graph.initializers.get(name)
    if existing is None:
        lazy = ir.LazyTensor(_transposed(tensor, order), dtype=tensor.dtype, shape=shape, name=name)
        existing = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=lazy)
        graph.register_initializer(existing)
    ir.convenience.replace_all_uses_with(result, existing)
    graph.remove(node, safe=True)
    return True


def _transposed(tensor: ir.TensorProtocol, order: tuple[int, ...]) -> Callable[[], ir.TensorProtocol]:
    def compute() -> ir.TensorProtocol:
        array: NDArray[np.generic] = np.ascontiguousarray(tensor.numpy().transpose(order))
        return ir.Tensor(array, dtype=tensor.dtype)

    return compute


def transposes_second(node: ir.Node) -> bool:
    """Whether ``node`` is a product that reads its second input transposed."""
    return node.op_type == "FusedMatMul" and attribute(node, "transB", 0) == 1
