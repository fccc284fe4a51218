"""Rotary positions into GroupQueryAttention, which rotates queries and keys by a table of all positions.

What a model computes from positions in each step becomes that table, where it depends on a token's own position alone:
the nodes that compute it are run for all positions of the context, and for some of them by themselves, which must give
the same rows (frequencies that are scaled by the text's length do not). A layer loses two rotations and the split of
its projections: 6 % of a token and 4 % of a prompt of a Llama of 213M parameters with weights of 4 bits (onnxruntime
1.32, two Zen 3 cores).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgeport_export.operators import CONTEXT_LENGTH
from edgeport_export.passes.match import attribute, new_weight, producer, sole_user

__all__ = ["RotateInAttention"]

_POSITIONS = "position_ids"
_LEAST_BYTES, _SHARE = 2**20, 1 / 128
"""A pair of tables may be this large, or this share of all weights in fp32: a model for very long texts keeps
computing."""
_HEAD_SIZES, _COLUMNS = 16, 8
"""The operator rotates heads of a multiple of this size, by tables of a multiple of this width."""
_PROBES: Sequence[Sequence[int]] = ((0,), (1, 2), (5, 3))
"""Positions that are computed by themselves as well."""


@dataclass(frozen=True)
class _Rotated:
    """An attention whose queries and keys are rotated alike."""

    attention: ir.Node
    query: ir.Node
    key: ir.Node

    @property
    def tables(self) -> tuple[ir.Value, ir.Value]:
        cos, sin = self.query.inputs[2:4]
        assert cos is not None
        assert sin is not None
        return cos, sin


class RotateInAttention(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        length = int(model.meta.get(CONTEXT_LENGTH) or 0)
        found = [r for node in model.graph if (r := _rotated(node)) is not None] if length else []
        made: dict[tuple[ir.Value, ir.Value], list[ir.Value] | None] = {}
        for rotated in found:
            if rotated.tables not in made:
                made[rotated.tables] = _make_tables(model, rotated.tables, length)
        changed = [r for r in found if made[r.tables] is not None]
        for rotated in changed:
            _move(model.graph, rotated, made[rotated.tables] or [])
        if changed:
            RemoveUnusedNodesPass()(model)
            for value in [v for v in model.graph.inputs if v.name == _POSITIONS and not v.uses()]:
                model.graph.inputs.remove(value)
        return ir.passes.PassResult(model, modified=bool(changed))


def _rotated(node: ir.Node) -> _Rotated | None:
    if node.op_type != "GroupQueryAttention" or attribute(node, "do_rotary", 0):
        return None
    query, key = (producer(value, "RotaryEmbedding") for value in node.inputs[:2])
    if query is None or key is None or any(sole_user(n.outputs[0]) is not node for n in (query, key)):
        return None
    alike = list(query.inputs[2:4]) == list(key.inputs[2:4])
    pairs = {int(attribute(n, "interleaved", 0)) for n in (query, key)}
    fits = all(
        isinstance(size, int) and size % factor == 0
        for size, factor in ((_width(node.inputs[3]), _HEAD_SIZES), (_width(query.inputs[2]), _COLUMNS))
    )
    return _Rotated(node, query, key) if alike and len(pairs) == 1 and fits else None


def _width(value: ir.Value | None) -> object:
    return value.shape[-1] if value is not None and value.shape is not None else None


def _move(graph: ir.Graph, rotated: _Rotated, tables: Sequence[ir.Value]) -> None:
    old = rotated.attention
    inputs = [rotated.query.inputs[0], rotated.key.inputs[0], *old.inputs[2:7], *tables, *old.inputs[9:]]
    attributes: dict[str, ir.Attr | int] = {
        **old.attributes,
        "do_rotary": 1,
        "rotary_interleaved": int(attribute(rotated.query, "interleaved", 0)),
    }
    new = ir.node(old.op_type, inputs, attributes, domain=old.domain, name=old.name, num_outputs=len(old.outputs))
    for before, after in zip(old.outputs, new.outputs, strict=True):
        after.name, after.type, after.shape = before.name, before.type, before.shape
    ir.convenience.replace_nodes_and_values(graph, old, [old], [new], old.outputs, new.outputs)


def _make_tables(model: ir.Model, values: tuple[ir.Value, ir.Value], length: int) -> list[ir.Value] | None:
    """The initializers for ``values``, float32 (length, columns) each; None where there is no such table."""
    weights = sum(4 * v.const_value.size for v in model.graph.initializers.values() if v.const_value is not None)
    columns = values[0].shape[-1] if values[0].shape is not None else None
    if not isinstance(columns, int) or 2 * 4 * length * columns > max(_LEAST_BYTES, weights * _SHARE):
        return None
    part = _between(model, values)
    if part is None:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(part, options, providers=["CPUExecutionProvider"])

    def rows(positions: Sequence[int]) -> list[NDArray[np.float32]]:
        return list(session.run(None, {_POSITIONS: np.array([positions], np.int64)}))

    tables = rows(range(length))
    probes = [[p for p in probe if p < length] for probe in _PROBES] + [[length - 1]]
    for probe in filter(None, probes):
        if any(not np.allclose(t[probe], own, atol=1e-6) for t, own in zip(tables, rows(probe), strict=True)):
            return None
    count = sum(name.startswith("rotary.") for name in model.graph.initializers) // 2
    named = [(f"rotary.{count}.{kind}", table) for kind, table in zip(("cos", "sin"), tables, strict=True)]
    return [new_weight(model.graph, name, ir.tensor(table, name=name)) for name, table in named]


def _between(model: ir.Model, values: tuple[ir.Value, ir.Value]) -> bytes | None:
    """The nodes from the positions to ``values`` as a model of its own; None if other inputs are needed."""
    needed: set[ir.Node] = set()
    leaves: set[ir.Value] = set()
    todo = list(values)
    while todo:
        value = todo.pop()
        node = value.producer()
        if node is None:
            leaves.add(value)
        elif node not in needed:
            needed.add(node)
            todo += [v for v in node.inputs if v is not None]
    if {v.name for v in leaves if v.is_graph_input()} != {_POSITIONS}:
        return None
    copies: dict[ir.Value, ir.Value] = {}
    positions = ir.Value(name=_POSITIONS, shape=ir.Shape(["batch", "new"]), type=ir.TensorType(ir.DataType.INT64))
    graph = ir.Graph([positions], [], nodes=[], opset_imports=model.graph.opset_imports, name="rotary")
    for leaf in leaves:
        copies[leaf] = positions if leaf.is_graph_input() else _copied(graph, leaf)
    for node in model.graph:
        if node not in needed:
            continue
        inputs = [copies[v] if v is not None else None for v in node.inputs]
        copy = ir.node(node.op_type, inputs, dict(node.attributes), domain=node.domain, num_outputs=len(node.outputs))
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, new.type, new.shape = old.name, old.type, old.shape
            copies[old] = new
        graph.append(copy)
    graph.outputs.extend(copies[v] for v in values)
    return ir.to_proto(ir.Model(graph, ir_version=model.ir_version)).SerializeToString()


def _copied(graph: ir.Graph, weight: ir.Value) -> ir.Value:
    copy = ir.Value(name=weight.name, shape=weight.shape, type=weight.type, const_value=weight.const_value)
    graph.register_initializer(copy)
    return copy
