"""edgeport::CachedAttention to ``com.microsoft::GroupQueryAttention``, whose past and present may share a buffer."""

from __future__ import annotations

import onnx_ir as ir

from edgeport_export.operators import CACHED_ATTENTION
from edgeport_export.passes.lower_attention import lower_each, merge_heads, put_in_place
from edgeport_export.passes.match import attribute, shared_vector

__all__ = ["LowerCachedAttention"]


class LowerCachedAttention(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return lower_each(model, CACHED_ATTENTION, _lower)


def _lower(graph: ir.Graph, node: ir.Node) -> None:
    query, key, value, past_key, past_value, last, total, sinks, bias = (*node.inputs, None, None)[:9]
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
    if bias is not None or sinks is not None:
        inputs += [None, None, None, _as_long_as_the_row(graph, bias, total, merged[0], before), sinks]
    attention = ir.node(
        "GroupQueryAttention", inputs, attributes, domain="com.microsoft", name=node.name, num_outputs=3
    )
    put_in_place(graph, node, before, attention, heads, width)


def _as_long_as_the_row(
    graph: ir.Graph, bias: ir.Value | None, total: ir.Value | None, query: ir.Value, nodes: list[ir.Node]
) -> ir.Value | None:
    """(batch or 1, heads or 1, 1, at least total) to (batch or 1, heads or 1, new, total)."""
    if bias is None:
        return None
    assert total is not None
    assert bias.shape is not None
    assert query.shape is not None
    zero, one, last_axis = (shared_vector(graph, "shape", [number]) for number in (0, 1, 3))
    count = ir.node("Cast", [total], {"to": ir.DataType.INT64})
    end = ir.node("Reshape", [count.outputs[0], one])
    cut = ir.node("Slice", [bias, zero, end.outputs[0], last_axis])
    new = ir.node("Shape", [query], {"start": 1, "end": 2})
    target = ir.node("Concat", [one, one, new.outputs[0], one], {"axis": 0})
    wide = ir.node("Expand", [cut.outputs[0], target.outputs[0]])
    size = ir.Shape([*bias.shape[:3], None])
    described = (
        (count, "count", ir.DataType.INT64, ir.Shape([])),
        (end, "end", ir.DataType.INT64, ir.Shape([1])),
        (cut, "cut", bias.dtype, size),
        (new, "new", ir.DataType.INT64, ir.Shape([1])),
        (target, "target", ir.DataType.INT64, ir.Shape([4])),
        (wide, "wide", bias.dtype, ir.Shape([*bias.shape[:2], query.shape[1], None])),
    )
    for node, name, dtype, shape in described:
        output = node.outputs[0]
        assert dtype is not None
        output.name = f"{query.name}_{bias.name}_{name}"
        output.type, output.shape = ir.TensorType(dtype), shape
        nodes.append(node)
    return wide.outputs[0]
