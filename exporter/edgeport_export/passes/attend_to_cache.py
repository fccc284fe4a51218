"""edgeport::Attention over keys and values that a model appended to the past, to ``edgeport::CachedAttention``.

For graphs in the plugged form of a model that writes its attention out, see ``capture.written_out_decoder``. What is
added to the scores must be made of ``edgeport::CausalMask``, and besides that may be a bias that is the same for every
query (ALiBi). Such a bias may count from anywhere: a model that goes on in its cache gives each key the same value as
before, up to a number that all keys of a query share, and that number changes no weight.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from edgeport_export.operators import ATTENTION, CACHED_ATTENTION, CAUSAL_MASK, DOMAIN, HEAD_SIZES
from edgeport_export.passes.match import attribute, constant, producer, shared_vector

__all__ = ["AttendToCache"]

_MOVES = ("Expand", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_POINTWISE = ("Add", "And", "Cast", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mul", "Not", "Or", "Sub", "Where")


@dataclass
class _Bias:
    """What is added to the scores, taken apart."""

    windows: list[int] = field(default_factory=list)
    """One for each causal mask, -1 where it has none."""
    others: list[ir.Value] = field(default_factory=list)


class AttendToCache(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        inputs = {str(value.name): value for value in graph.inputs}
        changed = False
        for node in [n for n in graph if n.domain == DOMAIN and n.op_type == ATTENTION]:
            changed |= _attend(graph, inputs, node)
        return ir.passes.PassResult(model, modified=changed)


def _attend(graph: ir.Graph, inputs: dict[str, ir.Value], node: ir.Node) -> bool:
    query, key, value, key_mask, given = (*node.inputs, None, None)[:5]
    joined = [_appended(v) for v in (key, value)]
    bias = _taken_apart(given, _Bias()) if given is not None else None
    if key_mask is not None or bias is None or not bias.windows or any(j is None for j in joined):
        return False
    keys, values = (j for j in joined if j is not None)
    sizes = {v.shape[3] for v in (keys.outputs[0], values.outputs[0]) if v.shape is not None}
    if len(sizes) != 1 or any(not isinstance(size, int) or size % HEAD_SIZES for size in sizes):
        return False
    made: list[ir.Node] = []
    attention = ir.node(
        CACHED_ATTENTION,
        [
            query,
            keys.inputs[1],
            values.inputs[1],
            keys.inputs[0],
            values.inputs[0],
            inputs["last"],
            inputs["total"],
            None,
            _sum(graph, bias.others, made),
        ],
        {
            "scale": float(attribute(node, "scale", 1.0)),
            "softcap": 0.0,
            "window": min((w for w in bias.windows if w > 0), default=-1),
        },
        domain=DOMAIN,
        name=node.name,
        num_outputs=3,
    )
    old = [node.outputs[0], keys.outputs[0], values.outputs[0]]
    for new, before in zip(attention.outputs, old, strict=True):
        new.name, new.type, new.shape = before.name, before.type, before.shape
        before.name = f"{before.name}_written_out"
    graph.insert_before(node, [*made, attention])
    ir.convenience.replace_all_uses_with(old[0], attention.outputs[0])
    for before, new in zip(old[1:], attention.outputs[1:], strict=True):
        graph.outputs[graph.outputs.index(before)] = new
    graph.remove(node, safe=True)
    return True


def _appended(value: ir.Value | None) -> ir.Node | None:
    """The node that appends to the past what ``value`` holds, be it each head once or repeated for its queries."""
    repeated = producer(value, "Reshape")
    wide = producer(repeated.inputs[0] if repeated is not None else value, "Expand")
    if wide is not None:
        inner = producer(wide.inputs[0], "Unsqueeze")
        if repeated is not None:
            axes = constant(inner.inputs[1], 1) if inner is not None else None
            value = inner.inputs[0] if inner is not None and axes is not None and axes.item() == 2 else None
        else:  # a single head for all queries
            value = wide.inputs[0]
            if value is None or value.shape is None or len(value.shape) != 4 or value.shape[1] != 1:
                return None
    join = producer(value, "Concat")
    if join is None or len(join.inputs) != 2 or join.inputs[0] is None or not join.outputs[0].is_graph_output():
        return None
    return join if join.inputs[0].is_graph_input() and attribute(join, "axis", 0) in (2, -2) else None


def _taken_apart(value: ir.Value | None, found: _Bias) -> _Bias | None:
    """``found`` with what ``value`` adds to the scores; None if that is no mask and differs between queries."""
    node = value.producer() if value is not None else None
    if value is None or value.shape is None:
        return None
    if node is not None and node.op_type == "Add" and not _from_mask(value):
        inner = _taken_apart(node.inputs[0], found)
        return None if inner is None else _taken_apart(node.inputs[1], inner)
    if node is not None and node.op_type == "Expand":
        return _taken_apart(node.inputs[0], found)
    if window := _from_mask(value):
        found.windows.append(window)
    elif len(value.shape) in (2, 3, 4) and value.shape[-2] == 1:
        found.others.append(value)
    else:
        return None
    return found


def _from_mask(value: ir.Value | None) -> int:
    """The window, -1 for none, of the causal mask that ``value`` is made from; 0 if it is made from something else."""
    node = value.producer() if value is not None else None
    if node is None:
        return 0
    if node.domain == DOMAIN and node.op_type == CAUSAL_MASK:
        return int(attribute(node, "window", -1))
    if node.op_type in _MOVES:
        return _from_mask(node.inputs[0])
    if node.op_type not in _POINTWISE:
        return 0
    found = [_from_mask(v) for v in node.inputs if constant(v, 1) is None]
    return found[0] if found and all(found) else 0


def _sum(graph: ir.Graph, values: list[ir.Value], made: list[ir.Node]) -> ir.Value | None:
    """(batch or 1, heads or 1, 1, keys)."""
    total: ir.Value | None = None
    for value in values:
        assert value.shape is not None
        missing = list(range(4 - len(value.shape)))
        if missing:
            wide = ir.node("Unsqueeze", [value, shared_vector(graph, "axes", missing)])
            shape = ir.Shape([1] * len(missing) + list(value.shape))
            value = _described(wide, f"{value.name}_of_rank_4", value, shape, made)
        if total is not None:
            both = ir.node("Add", [total, value])
            value = _described(both, f"{total.name}_{value.name}", value, value.shape, made)
        total = value
    return total


def _described(node: ir.Node, name: str, like: ir.Value, shape: ir.Shape | None, made: list[ir.Node]) -> ir.Value:
    result = node.outputs[0]
    result.name, result.type, result.shape = name, like.type, shape
    made.append(node)
    return result
