"""Query, key and value that a product writes head by head, to one after the other.

GPT-NeoX's product gives (query, key, value) of the first head, then of the second, and so on; taking them apart copies
each of them twice. With the columns of the weight in another order, which costs nothing, they come as three blocks.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeport_export.passes.last_axis import on_last_axis
from edgeport_export.passes.match import is_weight, new_weight, producer, shared_vector, sizes, sole_user, tensor_of

__all__ = ["DeinterleaveHeads"]


class DeinterleaveHeads(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for node in list(model.graph):
            if node.op_type == "Split" and node.domain == "":
                changed |= _deinterleave(model.graph, node)
        return ir.passes.PassResult(model, modified=changed)


def _deinterleave(graph: ir.Graph, split: ir.Node) -> bool:
    turn = producer(split.inputs[0], "Transpose")
    view = producer(turn.inputs[0], "Reshape") if turn is not None else None
    if turn is None or view is None or list(turn.attributes["perm"].as_ints()) != [0, 2, 1, 3]:
        return False
    rows, heads_last = view.inputs[0], view.outputs[0].shape
    if rows is None or rows.shape is None or heads_last is None or len(rows.shape) != 3 or len(heads_last) != 4:
        return False
    count, heads, size = len(split.outputs), heads_last[2], split.outputs[0].shape
    width = size[-1] if size is not None else None
    if not isinstance(heads, int) or not isinstance(width, int) or not on_last_axis(split, split.inputs[0]):
        return False
    if heads_last[3] != count * width or any(v.shape is None or v.shape[-1] != width for v in split.outputs):
        return False
    if any(sole_user(v) is not node for v, node in ((rows, view), (view.outputs[0], turn), (turn.outputs[0], split))):
        return False
    order = np.arange(heads * count * width).reshape(heads, count, width).transpose(1, 0, 2).reshape(-1)
    if not _reorder(graph, rows, order):
        return False
    blocks = ir.node(
        "Split", [rows, shared_vector(graph, "split", [heads * width] * count)], {"axis": -1}, num_outputs=count
    )
    nodes, results = [blocks], []
    for block, old in zip(blocks.outputs, split.outputs, strict=True):
        block.name, block.type = f"{old.name}_block", old.type
        block.shape = ir.Shape([*rows.shape[:2], heads * width])
        apart = ir.node("Reshape", [block, shared_vector(graph, "shape", [0, 0, heads, width])])
        apart.outputs[0].name, apart.outputs[0].type = f"{old.name}_apart", old.type
        apart.outputs[0].shape = ir.Shape([*rows.shape[:2], heads, width])
        forward = ir.node("Transpose", [apart.outputs[0]], {"perm": [0, 2, 1, 3]})
        nodes += [apart, forward]
        results.append(forward.outputs[0])
    ir.convenience.replace_nodes_and_values(graph, split, [split, turn, view], nodes, split.outputs, results)
    return True


def _reorder(graph: ir.Graph, rows: ir.Value, order: NDArray[np.int64]) -> bool:
    """Let the product that makes ``rows``, and its bias, write its columns in ``order``."""
    add = producer(rows, "Add")
    bias = next((v for v in add.inputs if is_weight(v, rank=1)), None) if add is not None else None
    source = next((v for v in add.inputs if v is not bias), None) if add is not None else rows
    product = producer(source, "MatMul")
    weight = product.inputs[1] if product is not None else None
    if product is None or source is None or weight is None or (add is not None and bias is None):
        return False
    if not is_weight(weight, rank=2) or sizes(tensor_of(weight))[1] != len(order):
        return False
    if add is not None and (sole_user(source) is not add or sizes(tensor_of(bias)) != (len(order),)):
        return False
    for node, value in ((product, weight), (add, bias)):
        if node is not None and value is not None:
            at = next(n for n, v in enumerate(node.inputs) if v is value)
            node.replace_input_with(at, _reordered(graph, value, order))
    return True


def _reordered(graph: ir.Graph, value: ir.Value, order: NDArray[np.int64]) -> ir.Value:
    tensor, name = tensor_of(value), f"{value.name}.blocks"
    existing = graph.initializers.get(name)
    if existing is not None:
        return existing
    # Computed when written: no second copy of the weight in memory.
    lazy = ir.LazyTensor(
        lambda: ir.tensor(np.ascontiguousarray(tensor.numpy()[..., order]), name=name),
        dtype=tensor.dtype,
        shape=ir.Shape(sizes(tensor)),
        name=name,
    )
    return new_weight(graph, name, lazy)
