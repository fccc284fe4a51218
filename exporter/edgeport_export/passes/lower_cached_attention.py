"""edgeport::CachedAttention to ``com.microsoft::GroupQueryAttention``, whose past and present may share a buffer."""

from __future__ import annotations

import onnx_ir as ir

from edgeport_export.capture.cached_attention import CACHED_OP_TYPE
from edgeport_export.passes.lower_attention import lower_each, merge_heads, put_in_place
from edgeport_export.passes.match import attribute

__all__ = ["LowerCachedAttention"]


class LowerCachedAttention(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return lower_each(model, CACHED_OP_TYPE, _lower)


def _lower(graph: ir.Graph, node: ir.Node) -> None:
    query, key, value, past_key, past_value, last, total, sinks = (*node.inputs, None)[:8]
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
    put_in_place(graph, node, before, attention, heads, width)
