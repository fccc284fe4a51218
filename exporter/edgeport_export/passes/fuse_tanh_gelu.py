"""The tanh approximation of GELU, written out, to ``Gelu``; ``fuse_bias_gelu`` then takes the bias in front along.

    x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))

onnxruntime recognises the same by itself, but not with the bias. SiLU needs nothing here: onnxruntime (1.32) makes
``QuickGelu`` of x * sigmoid(x) when it opens the graph, in the same time as if the file had it.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from edgeport_export.passes.match import constant, producer, sole_user

__all__ = ["FuseTanhGelu"]


class FuseTanhGelu(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = False
        if model.graph.opset_imports.get("", 0) >= 20:  # the first that has Gelu
            for node in list(model.graph):
                if node.op_type == "Tanh":
                    changed |= _fuse(model.graph, node)
        return ir.passes.PassResult(model, modified=changed)


def _fuse(graph: ir.Graph, tanh: ir.Node) -> bool:
    inner, factor = _scaled(tanh.inputs[0])
    add = producer(inner, "Add")
    if add is None or not _is(factor, math.sqrt(2 / math.pi)):
        return False
    source = next((x for x, cubic in (add.inputs, add.inputs[::-1]) if _is_cubic_of(cubic, x)), None)
    plus_one = sole_user(tanh.outputs[0])
    if source is None or plus_one is None or plus_one.op_type != "Add":
        return False
    if not any(_is(_number(i), 1.0) for i in plus_one.inputs):
        return False
    last = _times_half(plus_one.outputs[0], source)
    if last is None:
        return False
    gelu = ir.node("Gelu", [source], {"approximate": "tanh"}, name=last.name)
    old, new = last.outputs[0], gelu.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    ir.convenience.replace_nodes_and_values(graph, last, [last], [gelu], [old], [new])
    return True


def _times_half(value: ir.Value, source: ir.Value) -> ir.Node | None:
    """The node that makes source / 2 * value, in either order of the products."""
    product = sole_user(value)
    if product is None or product.op_type != "Mul":
        return None
    for other in product.inputs:
        if other is source:  # (source * value) / 2
            last = sole_user(product.outputs[0])
            if last is not None and last.op_type == "Mul" and _is(_scaled(last.outputs[0])[1], 0.5):
                return last
        elif other is not value:
            base, factor = _scaled(other)
            if base is source and _is(factor, 0.5):
                return product
            if _is(_number(other), 0.5):  # (value / 2) * source
                last = sole_user(product.outputs[0])
                if last is not None and last.op_type == "Mul" and source in last.inputs:
                    return last
    return None


def _is_cubic_of(value: ir.Value | None, source: ir.Value | None) -> bool:
    """Whether ``value`` is 0.044715 source^3, as a power or as products."""
    cube, factor = _scaled(value)
    if not _is(factor, 0.044715) or source is None:
        return False
    power = producer(cube, "Pow")
    if power is not None:
        return power.inputs[0] is source and _is(_number(power.inputs[1]), 3.0)
    outer = producer(cube, "Mul")
    if outer is None:
        return False
    for square, once in (outer.inputs, outer.inputs[::-1]):
        inner = producer(square, "Mul")
        if once is source and inner is not None and list(inner.inputs) == [source, source]:
            return True
    return False


def _scaled(value: ir.Value | None) -> tuple[ir.Value | None, float | None]:
    """(x, number) where ``value`` is x times a number."""
    node = producer(value, "Mul")
    if node is not None:
        for x, factor in (node.inputs, node.inputs[::-1]):
            number = _number(factor)
            if number is not None:
                return x, number
    return value, None


def _number(value: ir.Value | None) -> float | None:
    array = constant(value, 1)
    return None if array is None else float(array.item())


def _is(number: float | None, expected: float) -> bool:
    return number is not None and math.isclose(number, expected, rel_tol=1e-5)
