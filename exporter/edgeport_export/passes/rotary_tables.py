"""The tables that rotary positions read: half as wide as the model writes them, one row a token, each made once.

A model computes cosines and sines of as many columns as a head has, each value twice: in two halves, or in pairs. Its
nodes are followed back to where they had every column once, and repeated from there on.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeport_export.passes.last_axis import on_last_axis, part_of, width_of
from edgeport_export.passes.match import constant, new_weight, producer, shared_vector

__all__ = ["RotaryTables", "appends_axis", "describe"]


class RotaryTables:
    """The tables that rotations read, each made once."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.made: dict[tuple[ir.Value, bool], ir.Value | None] = {}
        self.rows: dict[ir.Value, ir.Value] = {}
        self.ids: dict[tuple[str, str], ir.Value] = {}

    def read(self, cos: ir.Value, sin: ir.Value, pairs: bool, before: ir.Node, axis: int) -> list[ir.Value] | None:
        """The operator's inputs behind the first: positions, cosines, sines. New nodes stand in front of ``before``.

        Args:
            axis: The sequence, among the axes of the written-out tables.
        """
        full = cos.shape
        halves = [self._half(v, pairs, before) for v in (cos, sin)]
        if any(h is None or h.shape is None for h in halves) or full is None:
            return None
        cosines, sines = (h for h in halves if h is not None)
        if full[0] == 1:  # every row of the batch reads the table from its start
            ids = shared_vector(self.graph, "start", [0])
        elif all(h.shape is not None and list(h.shape)[:-1] == [full[0], full[axis]] for h in (cosines, sines)):
            ids = self._ids(cosines, before)
        else:
            return None
        return [ids, *(self._rows(h, before) for h in (cosines, sines))]

    def _half(self, value: ir.Value | None, pairs: bool, before: ir.Node) -> ir.Value | None:
        """Each column of ``value`` once, where it holds every column twice; None if that cannot be seen."""
        if value is None:
            return None
        if (value, pairs) not in self.made:
            self.made[value, pairs] = self._find_half(value, pairs, before)
        return self.made[value, pairs]

    def _find_half(self, value: ir.Value, pairs: bool, before: ir.Node) -> ir.Value | None:
        node, width = value.producer(), width_of(value)
        if node is None or width is None:
            return None
        if node.op_type == "Unsqueeze":
            axes = constant(node.inputs[1], 4)
            rank = len(value.shape) if value.shape is not None else 0
            last = axes is None or any(int(axis) in (-1, rank - 1) for axis in axes.reshape(-1))
            return None if last else self._half(node.inputs[0], pairs, before)
        if node.op_type == "Concat" and not pairs:
            twice = len(node.inputs) == 2 and node.inputs[0] is node.inputs[1] and on_last_axis(node, value)
            return node.inputs[0] if twice else None
        if node.op_type == "Reshape" and pairs:
            once = _without_ones(_repeated(node))
            part = part_of(once)
            if part is not None and part[1:] == (0, width // 2, 1):  # the first of two equal halves, repeated
                return self._half(part[0], False, before) or once
            return once
        if node.op_type in ("Cos", "Sin", "Cast", "Mul"):
            return self._clone(node, value, pairs, before)
        return None

    def _clone(self, node: ir.Node, value: ir.Value, pairs: bool, before: ir.Node) -> ir.Value | None:
        """``node`` on half of its input."""
        factor = constant(node.inputs[1], 1) if node.op_type == "Mul" else None
        half = self._half(node.inputs[0], pairs, before)
        if half is None or half.shape is None or (node.op_type == "Mul" and factor is None):
            return None
        if factor is not None and factor.item() == 1:
            return half
        copy = ir.node(node.op_type, [half, *node.inputs[1:]], dict(node.attributes))
        describe(copy.outputs[0], f"{value.name}_half_{int(pairs)}", value, half.shape)
        self.graph.insert_before(before, copy)
        return copy.outputs[0]

    def _rows(self, half: ir.Value, before: ir.Node) -> ir.Value:
        """(..., columns) to (rows, columns)."""
        if half not in self.rows:
            width = width_of(half)
            assert width is not None
            flat = ir.node("Reshape", [half, shared_vector(self.graph, "shape", [-1, width])])
            describe(flat.outputs[0], f"{half.name}_rows", half, ir.Shape([None, width]))
            self.graph.insert_before(before, flat)
            self.rows[half] = flat.outputs[0]
        return self.rows[half]

    def _ids(self, half: ir.Value, before: ir.Node) -> ir.Value:
        """(batch, sequence): the row of each token in a table of batch * sequence rows."""
        assert half.shape is not None
        key = (str(half.shape[0]), str(half.shape[1]))
        if key not in self.ids:
            shape = ir.node("Shape", [half], {"start": 0, "end": 2})
            count = ir.node("ReduceProd", [shape.outputs[0]], {"keepdims": 0})
            zero, one = (_scalar(self.graph, n) for n in (0, 1))
            counted = ir.node("Range", [zero, count.outputs[0], one])
            ids = ir.node("Reshape", [counted.outputs[0], shape.outputs[0]])
            sizes: list[list[int | ir.SymbolicDim | None]] = [[2], [], [None], list(half.shape[:2])]
            for node, size in zip((shape, count, counted, ids), sizes, strict=True):
                output = node.outputs[0]
                output.name = f"{half.name}_{node.op_type.lower()}_ids"
                output.type, output.shape = ir.TensorType(ir.DataType.INT64), ir.Shape(size)
            self.graph.insert_before(before, [shape, count, counted, ids])
            self.ids[key] = ids.outputs[0]
        return self.ids[key]


def _repeated(reshape: ir.Node) -> ir.Value | None:
    """x, where ``reshape`` ends a repeat_interleave(x, 2) along the last axis."""
    expand = producer(reshape.inputs[0], "Expand")
    unsqueeze = producer(expand.inputs[0], "Unsqueeze") if expand is not None else None
    if expand is None or unsqueeze is None or not appends_axis(unsqueeze):
        return None
    source, result, times = unsqueeze.inputs[0], reshape.outputs[0], constant(expand.inputs[1], 8)
    width = width_of(source)
    if source is None or source.shape is None or result.shape is None or times is None or width is None:
        return None
    numbers = [int(n) for n in times.reshape(-1)]
    if numbers[-1] != 2 or any(n != 1 for n in numbers[:-1]):
        return None
    return source if list(result.shape) == [*source.shape[:-1], 2 * width] else None


def _without_ones(value: ir.Value | None) -> ir.Value | None:
    """``value`` without axes that were put in front of its last one."""
    node = producer(value, "Unsqueeze")
    return value if node is None or appends_axis(node) else _without_ones(node.inputs[0])


def appends_axis(unsqueeze: ir.Node) -> bool:
    """Whether the new axis is the last one."""
    axes, source = constant(unsqueeze.inputs[1], 1), unsqueeze.inputs[0]
    return (
        axes is not None and source is not None and source.shape is not None and axes.item() in (-1, len(source.shape))
    )


def _scalar(graph: ir.Graph, number: int) -> ir.Value:
    name = f"int_{number}"
    return graph.initializers.get(name) or new_weight(graph, name, ir.tensor(np.array(number, np.int64), name=name))


def describe(value: ir.Value, name: str | None, like: ir.Value, shape: ir.Shape | None) -> None:
    value.name, value.type, value.shape = name, like.type, shape
