"""edgeport::CachedAttention to ``com.microsoft::GroupQueryAttention``, whose past and present may share a buffer."""

from __future__ import annotations

import onnx_ir as ir

from edgeport_export.capture.attention import DOMAIN
from edgeport_export.capture.cached_attention import CACHED_OP_TYPE
from edgeport_export.passes.lower_attention import merge_heads
from edgeport_export.passes.match import attribute, shared_vector

__all__ = ["LowerCachedAttention"]


class LowerCachedAttention(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        found = [n for n in graph if n.domain == DOMAIN and n.op_type == CACHED_OP_TYPE]
        for node in found:
            _lower(graph, node)
        if found:
            graph.opset_imports["com.microsoft"] = 1
            graph.opset_imports.pop(DOMAIN, None)
        return ir.passes.PassResult(model, modified=bool(found))


def _lower(graph: ir.Graph, node: ir.Node) -> None:
    query, key, value, past_key, past_value, last, total, sinks = (*node.inputs, None)[:8]
    output, *presents = node.outputs
    assert query is not None
    assert query.shape is not None
    assert key is not None
    assert key.shape is not None
    heads, kv_heads, width = query.shape[1], key.shape[1], query.shape[3]
    if not isinstance(heads, int) or not isinstance(kv_heads, int) or not isinstance(width, int):
        raise ValueError(f"attention {node.name} has {heads} heads of size {width}: both must be known")
    before: list[ir.Node] = []
    merged = [merge_heads(graph, v, before) for v in (query, key, value)]
    attributes: dict[str, ir.Attr | int | float] = {
        "num_heads": heads,
        "kv_num_heads": kv_heads,
        "scale": float(attribute(node, "scale", 0.0)),
    }
    if softcap := float(attribute(node, "softcap", 0.0)):
        attributes["softcap"] = softcap
    if (window := int(attribute(node, "window", -1))) > 0:
        attributes["local_window_size"] = window
    inputs = [*merged, past_key, past_value, last, total]
    if sinks is not None:
        inputs += [None, None, None, None, sinks]
    attention = ir.node(
        "GroupQueryAttention", inputs, attributes, domain="com.microsoft", name=node.name, num_outputs=3
    )
    flat, *new_presents = attention.outputs
    flat.name, flat.type = f"{output.name}_flat", output.type
    assert output.shape is not None
    flat.shape = ir.Shape([output.shape[0], output.shape[1], heads * width])
    for new, old in zip(new_presents, presents, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
    split = ir.node("Reshape", [flat, shared_vector(graph, "shape", [0, 0, heads, width])])
    split.outputs[0].name, split.outputs[0].type, split.outputs[0].shape = output.name, output.type, output.shape
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], [*before, attention, split], [output, *presents], [split.outputs[0], *new_presents]
    )
