"""Attention that a model wrote out by itself, recognised: softmax(query key^T * scale + biases) value.

For the models that do not go through transformers' attention interface. Whatever is added to the scores (a mask,
relative positions, a slope) becomes the operator's bias; a fill of masked scores becomes one too. The result is
``edgeport::Attention``, as the plug in ``capture.attention`` writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgeport_export.operators import ATTENTION, DOMAIN
from edgeport_export.passes.match import attribute, constant, new_weight, producer, shared_vector, sole_user

__all__ = ["FuseAttention"]

_LOWEST = float(np.finfo(np.float32).min)
_MASKED = -1e4
"""A score filled with this or less is a masked one."""


_Shape = tuple[int | ir.SymbolicDim, ...]


@dataclass
class _Scores:
    """What a softmax reads, taken apart."""

    product: ir.Node
    shape: _Shape
    """Of the product."""
    scale: float = 1.0
    biases: list[ir.Value] = field(default_factory=list)
    """In the order in which they are added."""
    nodes: list[ir.Node] = field(default_factory=list)
    """New nodes that make the biases, in order."""

    @property
    def name(self) -> str:
        """What new values are named after, since layers may share masks and keys."""
        return self.product.outputs[0].name or ""


class FuseAttention(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for node in list(model.graph):
            if node.op_type == "Softmax" and node.domain == "" and attribute(node, "axis", -1) in (-1, 3):
                changed |= _fuse(model.graph, node)
        if changed:
            model.graph.opset_imports[DOMAIN] = 1
        return ir.passes.PassResult(model, modified=changed)


def _fuse(graph: ir.Graph, softmax: ir.Node) -> bool:
    weights = softmax.outputs[0]
    cast = sole_user(weights)
    if cast is not None and cast.op_type == "Cast" and cast.outputs[0].dtype == _dtype_of(softmax.inputs[0]):
        weights = cast.outputs[0]
    weighted, weights = _without_reshape(sole_user(weights), weights)
    if weighted is None or weighted.op_type != "MatMul" or weighted.inputs[0] is not weights:
        return False
    scores = _take_apart(graph, softmax.inputs[0], ())
    flat = producer(softmax.inputs[0], "Reshape") if len(_shape_of(softmax.inputs[0])) == 3 else None
    shape = _shape_of(softmax.inputs[0] if flat is None else flat.inputs[0])
    if scores is None or len(shape) != 4 or not isinstance(shape[1], int):
        return False
    heads = shape[1]
    query, key, value = (
        _with_heads(graph, scores, v, heads)
        for v in (scores.product.inputs[0], scores.product.inputs[1], weighted.inputs[1])
    )
    width, size, result = _shape_of(value)[3], _shape_of(query)[3], weighted.outputs[0]
    if not isinstance(size, int) or not isinstance(width, int) or any(_shape_of(v)[1] != heads for v in (query, value)):
        return False
    key = _key(scores, key)
    bias = _bias(graph, scores, heads, shape)
    if scores.biases and bias is None:
        return False
    attention = ir.node(
        ATTENTION,
        [query, key, value, None, bias],
        {"scale": scores.scale, "causal": 0},
        domain=DOMAIN,
        name=softmax.name,
    )
    turned = ir.node("Transpose", [attention.outputs[0]], {"perm": [0, 2, 1, 3]})
    _describe(attention.outputs[0], f"{result.name}_attention", result, [shape[0], shape[2], heads, width])
    _describe(turned.outputs[0], f"{result.name}_heads", result, [shape[0], heads, shape[2], width])
    made = [*scores.nodes, attention, turned]
    last = turned.outputs[0]
    if len(_shape_of(result)) == 3:
        flat = ir.node("Reshape", [last, _rows(graph, made)])
        _describe(flat.outputs[0], "", result, list(_shape_of(result)))
        made.append(flat)
        last = flat.outputs[0]
    last.name = result.name
    ir.convenience.replace_nodes_and_values(graph, weighted, [weighted], made, [result], [last])
    return True


def _take_apart(graph: ir.Graph, value: ir.Value | None, shape: _Shape) -> _Scores | None:
    """Follow the scores back to the product that makes them; None if something in between is not understood.

    ``shape`` is for values without one: that of the result, which all scores on the way to it have.
    """
    node = value.producer() if value is not None else None
    shape = _shape_of(value) or shape
    if value is None or node is None or sole_user(value) is None or len(shape) not in (3, 4):
        return None
    if node.op_type == "MatMul":
        return _Scores(node, shape) if all(len(_shape_of(i)) == len(shape) for i in node.inputs) else None
    if node.op_type == "Reshape":  # heads and batch in one axis, and back
        before = _shape_of(node.inputs[0])
        return _take_apart(graph, node.inputs[0], before) if before[-2:] == shape[-2:] else None
    if node.op_type in ("Mul", "Div"):
        factor = constant(node.inputs[1], 1)
        inner = None if factor is None else _take_apart(graph, node.inputs[0], shape)
        if inner is None or factor is None:
            return None
        inner.scale *= float(factor.item()) if node.op_type == "Mul" else 1 / float(factor.item())
        _scale_biases(inner, node)
        return inner
    if node.op_type == "Max":  # what keeps masked scores finite
        floor = constant(node.inputs[1], 1) if len(node.inputs) == 2 else None
        return None if floor is None or floor.item() > _MASKED else _take_apart(graph, node.inputs[0], shape)
    if node.op_type == "Add":
        for scores, bias in (node.inputs, node.inputs[::-1]):
            inner = _take_apart(graph, scores, shape)
            if inner is not None and bias is not None:
                if not _is_uniform(bias):  # the same for all scores changes no weight
                    inner.biases.append(bias)
                return inner
    if node.op_type == "Where":
        return _take_fill_apart(graph, node, shape)
    return None


def _scale_biases(scores: _Scores, node: ir.Node) -> None:
    """Apply ``node``, a product or quotient of all scores, to the biases that are in them."""
    for number, bias in enumerate(scores.biases):
        scaled = ir.node(node.op_type, [bias, node.inputs[1]])
        _describe(scaled.outputs[0], f"{scores.name}_{bias.name}_scaled", bias, list(_shape_of(bias)))
        scores.nodes.append(scaled)
        scores.biases[number] = scaled.outputs[0]


def _is_uniform(value: ir.Value) -> bool:
    """Whether all elements are one number that is known."""
    if constant(value, 1) is not None:
        return True
    node = producer(value, "Cast", "ConstantOfShape", "Expand", "Mul")
    if node is None or node.op_type == "ConstantOfShape":
        return node is not None
    numbers = node.inputs if node.op_type == "Mul" else node.inputs[:1]
    return all(number is not None and _is_uniform(number) for number in numbers)


def _take_fill_apart(graph: ir.Graph, where: ir.Node, shape: _Shape) -> _Scores | None:
    condition, chosen, other = where.inputs
    for scores, fill in ((other, chosen), (chosen, other)):
        number = constant(fill, 1)
        inner = None if number is None or number.item() > _MASKED else _take_apart(graph, scores, shape)
        if inner is None or number is None or condition is None:
            continue
        low, zero = _number(graph, max(float(number.item()), _LOWEST)), _number(graph, 0.0)
        bias = ir.node("Where", [condition, low, zero] if scores is other else [condition, zero, low])
        _describe(bias.outputs[0], f"{where.outputs[0].name}_bias", where.outputs[0], list(_shape_of(condition)))
        inner.nodes.append(bias)
        inner.biases.append(bias.outputs[0])
        return inner
    return None


def _without_reshape(node: ir.Node | None, value: ir.Value) -> tuple[ir.Node | None, ir.Value]:
    """The reader of ``value`` and what it reads, past reshapes that put heads and batch in one axis."""
    if node is None or node.op_type != "Reshape" or _shape_of(node.outputs[0])[-2:] != _shape_of(value)[-2:]:
        return node, value
    return _without_reshape(sole_user(node.outputs[0]), node.outputs[0])


def _with_heads(graph: ir.Graph, scores: _Scores, value: ir.Value | None, heads: int) -> ir.Value:
    """(batch * heads or batch, heads; m, n) to (batch, heads, m, n)."""
    assert value is not None
    if len(_shape_of(value)) == 4:
        return value
    turned = producer(value, "Transpose")
    if (
        turned is not None
        and producer(turned.inputs[0], "Reshape")
        and turned.attributes["perm"].as_ints() == (0, 2, 1)
    ):
        inner = _with_heads(graph, scores, turned.inputs[0], heads)
        again = ir.node("Transpose", [inner], {"perm": [0, 1, 3, 2]})
        batch, _, m, n = _shape_of(inner)
        _describe(again.outputs[0], f"{scores.name}_{value.name}_heads", value, [batch, heads, n, m])
        scores.nodes.append(again)
        return again.outputs[0]
    flat = producer(value, "Reshape")
    before = _shape_of(flat.inputs[0]) if flat is not None else ()
    if flat is not None and len(before) == 4 and before[1] == heads and before[2:] == _shape_of(value)[1:]:
        assert flat.inputs[0] is not None
        return flat.inputs[0]
    sizes = ir.node("Shape", [value], {"start": 1, "end": 3})
    target = ir.node("Concat", [shared_vector(graph, "shape", [-1, heads]), sizes.outputs[0]], {"axis": 0})
    split = ir.node("Reshape", [value, target.outputs[0]])
    _describe(split.outputs[0], f"{scores.name}_{value.name}_heads", value, [None, heads, *_shape_of(value)[1:]])
    scores.nodes += [sizes, target, split]
    return split.outputs[0]


def _key(scores: _Scores, turned: ir.Value) -> ir.Value:
    """The product's second factor, (batch, heads, size, keys), turned to (batch, heads, keys, size)."""
    batch, heads, size, keys = _shape_of(turned)
    transpose = producer(turned, "Transpose")
    order = [0, 1, 3, 2]
    source = turned
    if transpose is not None and "perm" in transpose.attributes:
        before = list(transpose.attributes["perm"].as_ints())
        order = [before[axis] for axis in order]
        source = transpose.inputs[0] or turned
    if order == [0, 1, 2, 3]:
        return source
    back = ir.node("Transpose", [source], {"perm": order})
    _describe(back.outputs[0], f"{scores.name}_{turned.name}_key", turned, [batch, heads, keys, size])
    scores.nodes.append(back)
    return back.outputs[0]


def _bias(graph: ir.Graph, scores: _Scores, heads: int, full: _Shape) -> ir.Value | None:
    """The sum of all biases, (batch or 1, heads or 1, queries, keys); None if there is none or its shape is unknown."""
    total: ir.Value | None = None
    flat = len(scores.shape) == 3
    for given in scores.biases:
        if not 1 <= len(_shape_of(given)) <= 4:
            return None
        bias = _with_heads(graph, scores, given, heads) if flat and len(_shape_of(given)) == 3 else given
        if total is None:
            total = bias
            continue
        both = ir.node("Add", [total, bias])
        _describe(
            both.outputs[0],
            f"{scores.name}_{total.name}_{bias.name}",
            bias,
            _broadcast(_shape_of(total), _shape_of(bias)),
        )
        scores.nodes.append(both)
        total = both.outputs[0]
    if total is None:
        return None
    shape = _broadcast(_shape_of(total), (1, 1, 1, 1))
    if len(_shape_of(total)) == 4 and tuple(shape[2:]) == full[2:]:
        return total
    sizes = ir.node("Shape", [scores.product.outputs[0]], {"start": -2})
    target = ir.node("Concat", [shared_vector(graph, "shape", [1, 1]), sizes.outputs[0]], {"axis": 0})
    wide = ir.node("Expand", [total, target.outputs[0]])
    _describe(wide.outputs[0], f"{scores.name}_{total.name}_wide", total, [*shape[:2], *full[2:]])
    scores.nodes += [sizes, target, wide]
    return wide.outputs[0]


def _rows(graph: ir.Graph, nodes: list[ir.Node]) -> ir.Value:
    """The target of a reshape that gives (batch * heads, queries, width)."""
    queries = ir.node("Shape", [nodes[-1].outputs[0]], {"start": 2})
    target = ir.node("Concat", [shared_vector(graph, "shape", [-1]), queries.outputs[0]], {"axis": 0})
    nodes += [queries, target]
    return target.outputs[0]


def _shape_of(value: ir.Value | None) -> _Shape:
    """The shape, empty where it is not known."""
    return () if value is None or value.shape is None else tuple(value.shape)


def _dtype_of(value: ir.Value | None) -> ir.DataType | None:
    return None if value is None else value.dtype


def _broadcast(a: _Shape, b: _Shape) -> list[int | ir.SymbolicDim]:
    rank = max(len(a), len(b))
    padded = [(1,) * (rank - len(shape)) + shape for shape in (a, b)]
    return [left if right == 1 else right for left, right in zip(*padded, strict=True)]


def _describe(value: ir.Value, name: str, like: ir.Value, shape: Sequence[int | ir.SymbolicDim | None]) -> None:
    value.name, value.type, value.shape = name, like.type, ir.Shape(shape)


def _number(graph: ir.Graph, number: float) -> ir.Value:
    name = f"number_{number:g}"
    return graph.initializers.get(name) or new_weight(graph, name, ir.tensor(np.array(number, np.float32), name=name))
