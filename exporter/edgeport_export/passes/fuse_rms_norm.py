"""Normalization that a model wrote out, to one operator.

x * rsqrt(mean(x^2) + epsilon) * weight becomes ``SimplifiedLayerNormalization``; where x is itself something minus its
mean, it is a layer normalization without a bias and becomes ``LayerNormalization``. The weight may stand on either
side, may be missing, and may be one plus what is stored (Gemma). Norms of single heads count too; they move in front
of the transpose that brings the heads forward, which attention takes back.

The residual addition in front stays apart. onnxruntime has ``SkipSimplifiedLayerNormalization`` for both, whose CPU
kernel (1.32) takes as long as the two for one token and about twice as long from 16 tokens on (width 1024, two Zen 4
cores); written out, the norm alone takes twice as long as the operator.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeport_export.passes.match import (
    attribute,
    constant,
    is_weight,
    new_weight,
    producer,
    sizes,
    sole_user,
    tensor_of,
)

__all__ = ["FuseRmsNorm"]


class FuseRmsNorm(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        for node in list(model.graph):
            if node.op_type == "Sqrt" and node.graph is not None:
                changed |= _fuse(model.graph, node)
        return ir.passes.PassResult(model, modified=changed)


def _fuse(graph: ir.Graph, root: ir.Node) -> bool:
    found = _normalized(root)
    if found is None:
        return False
    source, epsilon, last = found
    width = source.shape[-1] if source.shape is not None else None
    if not isinstance(width, int):
        return False
    weight = None
    scaled = sole_user(last.outputs[0])
    if scaled is not None and scaled.op_type == "Mul":
        weight = _weight(graph, _other(scaled, last.outputs[0]), width)
        last = scaled if weight is not None else last
    if weight is None:
        name = f"ones_{width}"
        ones = ir.tensor(np.ones(width, np.float32), name=name)
        weight = graph.initializers.get(name) or new_weight(graph, name, ones)
    centered = _centered(source)
    operator = "SimplifiedLayerNormalization" if centered is None else "LayerNormalization"
    source, result = centered or source, last.outputs[0]
    turn = producer(source, "Transpose")
    order = list(turn.attributes["perm"].as_ints()) if turn is not None and "perm" in turn.attributes else []
    if turn is not None and turn.inputs[0] is not None and order[-1:] == [len(order) - 1]:
        source = turn.inputs[0]
    else:
        order = []
    norm = ir.node(operator, [source, weight], {"axis": -1, "epsilon": epsilon}, name=last.name)
    new, nodes = norm.outputs[0], [norm]
    new.name, new.type, new.shape = f"{result.name}_normalized", source.type, source.shape
    if order:
        nodes.append(ir.node("Transpose", [new], {"perm": order}))
        new = nodes[-1].outputs[0]
    new.name, new.type, new.shape = result.name, result.type, result.shape
    # The nodes in between go with the next removal of unused ones.
    ir.convenience.replace_nodes_and_values(graph, last, [last], nodes, [result], [new])
    return True


def _normalized(root: ir.Node) -> tuple[ir.Value, float, ir.Node] | None:
    """What is normalized, the epsilon, and the node that divides by ``root``; None if it is something else."""
    add = producer(root.inputs[0], "Add")
    if add is None:
        return None
    for mean_value, number in (add.inputs, add.inputs[::-1]):
        epsilon, mean = constant(number, 1), producer(mean_value, "ReduceMean")
        source = _squared(mean.inputs[0]) if mean is not None and _over_last_axis(mean) else None
        divide = sole_user(root.outputs[0])
        if epsilon is None or source is None or divide is None:
            continue
        if divide.op_type == "Reciprocal":
            inverse = divide.outputs[0]
            divide = sole_user(inverse)
            if divide is not None and divide.op_type == "Mul" and _other(divide, inverse) is source:
                return source, float(epsilon.item()), divide
        elif divide.op_type == "Div" and divide.inputs[0] is source:
            return source, float(epsilon.item()), divide
    return None


def _squared(value: ir.Value | None) -> ir.Value | None:
    """x, where ``value`` is its square."""
    node = producer(value, "Pow", "Mul")
    if node is None:
        return None
    if node.op_type == "Mul":
        return node.inputs[0] if node.inputs[0] is node.inputs[1] else None
    exponent = constant(node.inputs[1], 1)
    return node.inputs[0] if exponent is not None and exponent.item() == 2 else None


def _over_last_axis(mean: ir.Node) -> bool:
    source = mean.inputs[0]
    axes = constant(mean.inputs[1], 1) if len(mean.inputs) > 1 else None
    if axes is None or source is None or source.shape is None or not attribute(mean, "keepdims", 1):
        return False
    return int(axes.item()) in (-1, len(source.shape) - 1)


def _centered(value: ir.Value) -> ir.Value | None:
    """x, where ``value`` is x minus its mean along the last axis."""
    node = producer(value, "Sub")
    mean = producer(node.inputs[1], "ReduceMean") if node is not None else None
    if node is None or mean is None or mean.inputs[0] is not node.inputs[0] or not _over_last_axis(mean):
        return None
    return node.inputs[0]


def _weight(graph: ir.Graph, value: ir.Value | None, width: int) -> ir.Value | None:
    """``value`` as an initializer of ``width`` elements, if it is one, or one plus a number."""
    if value is None:
        return None
    if is_weight(value, rank=1):
        return value if sizes(tensor_of(value)) == (width,) else None
    add = producer(value, "Add")
    if add is None:
        return None
    for stored, number in (add.inputs, add.inputs[::-1]):
        offset = constant(number, 1)
        if offset is None or stored is None or not is_weight(stored, rank=1) or sizes(tensor_of(stored)) != (width,):
            continue
        name = f"{stored.name}.plus_{offset.item():g}"
        total = tensor_of(stored).numpy() + offset.reshape(())
        return graph.initializers.get(name) or new_weight(graph, name, ir.tensor(total, name=name))
    return None


def _other(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The other input of a node with two."""
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]
