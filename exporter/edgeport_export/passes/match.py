"""Small questions about a graph that several passes ask. Knows onnx_ir; knows no pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = [
    "attribute",
    "constant",
    "is_weight",
    "name_of",
    "new_weight",
    "producer",
    "same_shape",
    "shared_vector",
    "sizes",
    "sole_user",
    "tensor_of",
]


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes ``value``, if its operator is one of ``op_types``."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in op_types else None


def sole_user(value: ir.Value) -> ir.Node | None:
    """The one node that reads ``value``; None if there are others or it is an output of the graph."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    return next(iter(uses)).node


def is_weight(value: ir.Value | None, rank: int | None = None) -> bool:
    """Whether ``value`` is an initializer (of ``rank`` axes, if given)."""
    return (
        value is not None
        and value.const_value is not None
        and value.is_initializer()
        and (rank is None or len(value.const_value.shape) == rank)
    )


def constant(value: ir.Value | None, limit: int = 64) -> NDArray[np.generic] | None:
    """The value as an array, if it is a constant of at most ``limit`` elements."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    if tensor is None or tensor.size > limit:
        return None
    return tensor.numpy()


def attribute(node: ir.Node, name: str, default: int | float | str) -> int | float | str:
    """The attribute's value, or the operator's default."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def same_shape(a: ir.Value | None, b: ir.Value | None) -> bool:
    """Whether both shapes are known and equal, name for name."""
    return a is not None and b is not None and a.shape is not None and b.shape is not None and a.shape == b.shape


def sizes(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """The tensor's shape as plain numbers."""
    return tuple(int(size) for size in tensor.shape if isinstance(size, int))


def tensor_of(value: ir.Value | None) -> ir.TensorProtocol:
    """The tensor of a value that is known to be an initializer."""
    assert value is not None
    assert value.const_value is not None
    return value.const_value


def shared_vector(graph: ir.Graph, kind: str, numbers: Sequence[int]) -> ir.Value:
    """``numbers`` as an int64 initializer; passes that need the same ``kind`` and numbers share it."""
    name = "_".join([kind, *map(str, numbers)])
    return graph.initializers.get(name) or new_weight(graph, name, ir.tensor(np.array(numbers, np.int64), name=name))


def name_of(value: ir.Value | None) -> str:
    """The name of a value that is known to have one."""
    assert value is not None
    assert value.name is not None
    return value.name


def new_weight(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Register ``tensor`` as an initializer called ``name``."""
    value = ir.Value(name=name, shape=ir.Shape(sizes(tensor)), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
