"""Rotary positions that a model wrote out, to ``com.microsoft::RotaryEmbedding``.

    x * cos + rotated(x) * sin        rotated: halves (-x2, x1), as Llama has it, or pairs (-x1, x0, -x3, x2, ...)

on (batch, heads, sequence, size) or (batch, sequence, heads, size), on the whole head or on its first part.

The operator reads rows of a table by position. The table here is what the model computes from the positions in each
step, half as wide, one row a token: it has no length that a text could exceed, and every scaling of frequencies is in
it. Where that can be a table of all positions, ``rotate_in_attention`` goes on from here.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgeport_export.passes.last_axis import on_last_axis, part_of, width_of
from edgeport_export.passes.lower_attention import merge_heads
from edgeport_export.passes.match import producer, shared_vector, sole_user
from edgeport_export.passes.rotary_tables import RotaryTables, appends_axis, describe

__all__ = ["FuseRotary"]


@dataclass
class _Rotation:
    """An addition, understood as a rotation of ``x``."""

    x: ir.Value
    cos: ir.Value
    sin: ir.Value
    pairs: bool


class FuseRotary(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        tables = RotaryTables(model.graph)
        changed = False
        for node in list(model.graph):
            if node.op_type == "Add" and node.domain == "":
                rotation = _rotation(node)
                changed |= rotation is not None and _fuse(model.graph, tables, node, rotation)
        if changed:
            model.graph.opset_imports["com.microsoft"] = 1
        return ir.passes.PassResult(model, modified=changed)


def _fuse(graph: ir.Graph, tables: RotaryTables, add: ir.Node, rotation: _Rotation) -> bool:
    table_shape, shape = rotation.cos.shape, rotation.x.shape
    if table_shape is None or shape is None or len(table_shape) != 4 or len(shape) != 4:
        return False
    heads_axis = next((a for a in (1, 2) if table_shape[a] == 1 and table_shape[3 - a] == shape[3 - a]), None)
    width = shape[3]
    if heads_axis is None or not isinstance(shape[heads_axis], int) or not isinstance(width, int) or width % 2:
        return False
    if table_shape != rotation.sin.shape or table_shape[3] != width or table_shape[0] not in (1, shape[0]):
        return False
    read = tables.read(rotation.cos, rotation.sin, rotation.pairs, add, 3 - heads_axis)
    if read is None:
        return False
    source, last = _whole(rotation.x, add)
    assert source.shape is not None
    heads, size, result = source.shape[heads_axis], source.shape[3], last.outputs[0]
    assert isinstance(heads, int)
    assert isinstance(size, int)
    attributes: dict[str, ir.Attr | int] = {"num_heads": heads, "interleaved": int(rotation.pairs)}
    if size != width:
        attributes["rotary_embedding_dim"] = width
    nodes: list[ir.Node] = []
    flat = merge_heads(graph, source, nodes) if heads_axis == 1 else _flat(graph, source, nodes)
    rotate = ir.node("RotaryEmbedding", [flat, *read], attributes, domain="com.microsoft", name=last.name)
    split = ir.node("Reshape", [rotate.outputs[0], shared_vector(graph, "shape", [0, 0, heads, size])])
    nodes += [rotate, split]
    describe(rotate.outputs[0], f"{result.name}_rotated", flat, flat.shape)
    new = split.outputs[0]
    batch, sequence = source.shape[0], source.shape[3 - heads_axis]
    if heads_axis == 1:
        describe(new, f"{result.name}_split", result, ir.Shape([batch, sequence, heads, size]))
        turn = ir.node("Transpose", [new], {"perm": [0, 2, 1, 3]})
        nodes.append(turn)
        new = turn.outputs[0]
    describe(new, result.name, result, result.shape)
    ir.convenience.replace_nodes_and_values(graph, last, [last], nodes, [result], [new])
    return True


def _rotation(add: ir.Node) -> _Rotation | None:
    for left, right in (add.inputs, add.inputs[::-1]):
        straight, turned = producer(left, "Mul"), producer(right, "Mul")
        if straight is None or turned is None:
            continue
        for rotated, sin in (turned.inputs, turned.inputs[::-1]):
            found = _rotated(rotated)
            if found is None or sin is None or found[0] not in straight.inputs:
                continue
            x, pairs = found
            cos = straight.inputs[1] if straight.inputs[0] is x else straight.inputs[0]
            return None if cos is None else _Rotation(x, cos, sin, pairs)
    return None


def _rotated(value: ir.Value | None) -> tuple[ir.Value, bool] | None:
    """(x, whether by pairs), where ``value`` is x turned by a quarter; None if it is something else."""
    width = width_of(value)
    restored = producer(value, "Reshape")
    both = producer(restored.inputs[0] if restored is not None else value, "Concat")
    if both is None or len(both.inputs) != 2 or width is None or not on_last_axis(both, both.inputs[0]):
        return None
    negated, plain = both.inputs
    if restored is not None:
        stacked = [producer(v, "Unsqueeze") for v in both.inputs]
        if any(s is None or not appends_axis(s) for s in stacked):
            return None
        negated, plain = (s.inputs[0] if s is not None else None for s in stacked)
    minus = producer(negated, "Neg")
    second, first = part_of(minus.inputs[0] if minus is not None else None), part_of(plain)
    if first is None or second is None or first[0] is not second[0]:
        return None
    x, half = first[0], width // 2
    ranges = (first[1:], second[1:])
    if ranges == ((0, width, 2), (1, width, 2)) and restored is not None:
        return x, True
    if ranges == ((0, half, 1), (half, width, 1)) and restored is None:
        return x, False
    return None


def _whole(x: ir.Value, add: ir.Node) -> tuple[ir.Value, ir.Node]:
    """The whole heads and the node that puts them together again, where ``x`` is their first part."""
    first, join = part_of(x), sole_user(add.outputs[0])
    if first is not None and first[1] == 0 and first[3] == 1 and join is not None and join.op_type == "Concat":
        rest = part_of(join.inputs[1]) if len(join.inputs) == 2 and join.inputs[0] is add.outputs[0] else None
        if rest == (first[0], first[2], width_of(first[0]), 1) and on_last_axis(join, x):
            return first[0], join
    return x, add


def _flat(graph: ir.Graph, value: ir.Value, nodes: list[ir.Node]) -> ir.Value:
    """(batch, sequence, heads, size) to (batch, sequence, heads * size), reusing what the split came from."""
    assert value.shape is not None
    batch, sequence, heads, size = value.shape
    assert isinstance(heads, int)
    assert isinstance(size, int)
    shape = ir.Shape([batch, sequence, heads * size])
    split = producer(value, "Reshape")
    if split is not None and split.inputs[0] is not None and split.inputs[0].shape == shape:
        return split.inputs[0]
    merge = ir.node("Reshape", [value, shared_vector(graph, "shape", [0, 0, heads * size])])
    describe(merge.outputs[0], f"{value.name}_flat", value, shape)
    nodes.append(merge)
    return merge.outputs[0]
