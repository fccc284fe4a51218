"""edgeport::Attention to ``com.microsoft::MultiHeadAttention``.

The heads arrive as (batch, heads, sequence, head size), and the operator reads (batch, sequence, heads * head size):
the transposes and reshapes that the model wrote to split the heads are taken back, not added to.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from edgeport_export.operators import ATTENTION, DOMAIN
from edgeport_export.passes.match import attribute, producer, shared_vector

__all__ = ["LowerAttention", "lower_each", "merge_heads", "put_in_place"]

_HEADS_AND_SEQUENCE = (0, 2, 1, 3)


class LowerAttention(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return lower_each(model, ATTENTION, _lower)


def lower_each(model: ir.Model, op_type: str, lower: Callable[[ir.Graph, ir.Node], None]) -> ir.passes.PassResult:
    """Apply ``lower`` to every node of ``op_type`` in edgeport's own domain, which the graph then imports no more."""
    graph = model.graph
    found = [n for n in graph if n.domain == DOMAIN and n.op_type == op_type]
    for node in found:
        lower(graph, node)
    if found:
        graph.opset_imports["com.microsoft"] = 1
        graph.opset_imports.pop(DOMAIN, None)
    return ir.passes.PassResult(model, modified=bool(found))


def _lower(graph: ir.Graph, node: ir.Node) -> None:
    query, key, value, key_mask, bias = (*node.inputs, None, None)[:5]
    output = node.outputs[0]
    assert query is not None
    assert query.shape is not None
    assert output.shape is not None
    heads, width = query.shape[1], output.shape[3]
    if not isinstance(heads, int) or not isinstance(width, int):
        raise ValueError(f"attention {node.name} has {heads} heads of size {width}: both must be known")
    before: list[ir.Node] = []
    merged = [merge_heads(graph, v, before) for v in (query, key, value)]
    attributes: dict[str, ir.Attr | int | float] = {"num_heads": heads, "scale": float(attribute(node, "scale", 0.0))}
    if attribute(node, "causal", 0):
        attributes["unidirectional"] = 1
    attention = ir.node(
        "MultiHeadAttention", [*merged, None, key_mask, bias], attributes, domain="com.microsoft", name=node.name
    )
    put_in_place(graph, node, before, attention, heads, width)


def put_in_place(
    graph: ir.Graph, node: ir.Node, before: list[ir.Node], attention: ir.Node, heads: int, width: int
) -> None:
    """Replace ``node`` by ``attention``, whose first output has the heads side by side: they are split again."""
    output = node.outputs[0]
    flat, *others = attention.outputs
    assert output.shape is not None
    flat.name, flat.type = f"{output.name}_flat", output.type
    flat.shape = ir.Shape([output.shape[0], output.shape[1], heads * width])
    split = ir.node("Reshape", [flat, shared_vector(graph, "shape", [0, 0, heads, width])])
    new = [split.outputs[0], *others]
    for value, old in zip(new, node.outputs, strict=True):
        value.name, value.type, value.shape = old.name, old.type, old.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], [*before, attention, split], list(node.outputs), new)


def merge_heads(graph: ir.Graph, value: ir.Value | None, nodes: list[ir.Node]) -> ir.Value:
    """(batch, heads, sequence, size) to (batch, sequence, heads * size), reusing what the split came from."""
    assert value is not None
    assert value.shape is not None
    batch, heads, sequence, size = value.shape
    if not isinstance(heads, int) or not isinstance(size, int):
        raise ValueError(f"{value.name} has {heads} heads of size {size}: both must be known")
    transpose = producer(value, "Transpose")
    if transpose is not None and tuple(transpose.attributes["perm"].as_ints()) == _HEADS_AND_SEQUENCE:
        inner = transpose.inputs[0]
    else:
        back = ir.node("Transpose", [value], {"perm": list(_HEADS_AND_SEQUENCE)})
        inner = back.outputs[0]
        inner.name, inner.type = f"{value.name}_bsnh", value.type
        inner.shape = ir.Shape([batch, sequence, heads, size])
        nodes.append(back)
    assert inner is not None
    split = producer(inner, "Reshape")
    merged_shape = ir.Shape([batch, sequence, heads * size])
    if split is not None and split.inputs[0] is not None and split.inputs[0].shape == merged_shape:
        return split.inputs[0]
    merge = ir.node("Reshape", [inner, shared_vector(graph, "shape", [0, 0, heads * size])])
    merged = merge.outputs[0]
    merged.name, merged.type, merged.shape = f"{value.name}_bsh", value.type, merged_shape
    nodes.append(merge)
    return merged
