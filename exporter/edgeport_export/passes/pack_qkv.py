"""Packed projection: matrix products that read the same input with weights of equal depth become one, split afterwards.

One large product uses the cores better than three small ones, and in int8 the input is quantized once. Query, key and
value are the usual case; nothing here knows about attention.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_ir as ir

from edgeport_export.passes.match import is_weight, new_weight, shared_vector, sizes, sole_user, tensor_of

__all__ = ["PackProjections"]


class PackProjections(ir.passes.InPlacePass):
    def call(self, model: ir.Model) -> ir.passes.PassResult:
        groups: dict[tuple[int, int], list[ir.Node]] = defaultdict(list)
        for node in model.graph:
            if node.op_type == "MatMul" and is_weight(node.inputs[1], rank=2) and len(node.inputs[1].uses()) == 1:  # type: ignore[union-attr]
                groups[id(node.inputs[0]), node.inputs[1].shape[0]].append(node)  # type: ignore[index, union-attr]
        changed = False
        for nodes in groups.values():
            biased = [(n, _bias_of(n)) for n in nodes]
            # A group shares one bias vector or has none.
            for group in ([g for g in biased if g[1] is not None], [g for g in biased if g[1] is None]):
                if len(group) > 1:
                    _pack(model.graph, group)
                    changed = True
        return ir.passes.PassResult(model, modified=changed)


def _bias_of(product: ir.Node) -> ir.Node | None:
    """The addition of a bias vector that is the product's only reader."""
    add = sole_user(product.outputs[0])
    if add is None or add.op_type != "Add":
        return None
    other = add.inputs[1] if add.inputs[0] is product.outputs[0] else add.inputs[0]
    return add if is_weight(other, rank=1) else None


def _pack(graph: ir.Graph, group: list[tuple[ir.Node, ir.Node | None]]) -> None:
    products = [product for product, _ in group]
    adds = [add for _, add in group if add is not None]
    weights = [tensor_of(p.inputs[1]) for p in products]
    widths = [sizes(w)[1] for w in weights]
    name = f"{products[0].inputs[1].name}.packed"  # type: ignore[union-attr]
    weight = new_weight(graph, name, _concatenated(name, weights))
    packed = ir.node("MatMul", [products[0].inputs[0], weight], name=f"{products[0].name}_packed")
    nodes = [packed]
    last = packed.outputs[0]
    first_shape = products[0].outputs[0].shape
    _describe(last, f"{products[0].outputs[0].name}_packed", products[0].outputs[0], sum(widths), first_shape)
    if adds:
        vectors = [tensor_of(next(i for i in add.inputs if is_weight(i, rank=1))) for add in adds]
        bias = new_weight(graph, f"{name}.bias", _concatenated(f"{name}.bias", vectors))
        add = ir.node("Add", [last, bias], name=f"{adds[0].name}_packed")
        nodes.append(add)
        last = add.outputs[0]
        _describe(last, f"{adds[0].outputs[0].name}_packed", products[0].outputs[0], sum(widths), first_shape)
    split = ir.node("Split", [last, shared_vector(graph, "split", widths)], {"axis": -1}, num_outputs=len(group))
    nodes.append(split)
    old = [(add or product).outputs[0] for product, add in group]
    for before, after in zip(old, split.outputs, strict=True):
        after.name, after.type, after.shape = before.name, before.type, before.shape
    # The packed product stands where the first of them stood: what it reads exists there, what reads it comes later.
    graph.insert_before(products[0], nodes)
    for before, after in zip(old, split.outputs, strict=True):
        ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
    graph.remove([*adds, *products], safe=True)


def _describe(value: ir.Value, name: str, like: ir.Value, width: int, shape: ir.Shape | None) -> None:
    value.name, value.type = name, like.type
    value.shape = None if shape is None else ir.Shape([*list(shape)[:-1], width])


def _concatenated(name: str, parts: list[ir.TensorProtocol]) -> ir.LazyTensor:
    """The parts side by side along the last axis, computed when written."""
    shape = [*sizes(parts[0])[:-1], sum(sizes(p)[-1] for p in parts)]
    return ir.LazyTensor(
        lambda: ir.Tensor(np.concatenate([p.numpy() for p in parts], axis=-1), name=name),
        dtype=parts[0].dtype,
        shape=ir.Shape(shape),
        name=name,
    )
