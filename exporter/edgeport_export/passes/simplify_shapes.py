"""Shape cleanup: reshapes to known shapes instead of shapes computed at run time, and no reshape or transpose in vain.

Tracing writes a reshape's target as Shape, Gather and Concat nodes. The axes carry names (``batch``, ``sequence``), so
most targets can be written down: a size, 0 for "as in the input", or one -1.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeport_export.passes.match import constant, producer, shared_vector

__all__ = ["SimplifyShapes"]


class SimplifyShapes(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for node in list(model.graph):
            if node.op_type == "Reshape":
                changed |= _fix_target(model.graph, node)
        for node in list(model.graph):
            if node.op_type == "Reshape":
                changed |= _merge_reshapes(model.graph, node)
            elif node.op_type == "Transpose":
                changed |= _cancel_transposes(node)
        return ir.passes.PassResult(model, modified=changed)


def _fix_target(graph: ir.Graph, node: ir.Node) -> bool:
    source, result = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or result.shape is None or constant(node.inputs[1]) is not None:
        return False
    target: list[int] = []
    for axis, size in enumerate(result.shape):
        if isinstance(size, int):
            target.append(size)
        elif axis < len(source.shape) and size == source.shape[axis] and size.value is not None:
            target.append(0)
        else:
            target.append(-1)
    if target.count(-1) > 1 or 0 in [s for s in result.shape if isinstance(s, int)]:
        return False
    node.replace_input_with(1, shared_vector(graph, "shape", target))
    node.attributes.pop("allowzero", None)
    return True


def _merge_reshapes(graph: ir.Graph, node: ir.Node) -> bool:
    """A reshape of a reshape is one, and none if it restores the first one's input."""
    first = producer(node.inputs[0], "Reshape")
    if first is None or node.outputs[0].is_graph_output():
        return False
    origin, result = first.inputs[0], node.outputs[0]
    if origin is None or origin.shape is None or result.shape is None or origin.shape != result.shape:
        return False
    if any(not isinstance(s, int) and s.value is None for s in result.shape):
        return False
    ir.convenience.replace_all_uses_with(result, origin)
    return True


def _cancel_transposes(node: ir.Node) -> bool:
    first = producer(node.inputs[0], "Transpose")
    if (
        first is None
        or node.outputs[0].is_graph_output()
        or "perm" not in node.attributes
        or "perm" not in first.attributes
    ):
        return False
    inner, outer = first.attributes["perm"].as_ints(), node.attributes["perm"].as_ints()
    if [inner[i] for i in outer] != list(range(len(inner))):
        return False
    assert first.inputs[0] is not None
    ir.convenience.replace_all_uses_with(node.outputs[0], first.inputs[0])
    return True
