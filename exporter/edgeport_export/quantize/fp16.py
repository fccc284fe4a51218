"""Half precision: weights, arithmetic and cache in fp16, all other inputs and outputs as they were.

For GPUs and mobile accelerators. ONNX Runtime's CPU provider computes in fp32 between casts: there it saves disk and
half of a cache.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeport_export.passes.match import sizes

__all__ = ["convert_fp16"]

_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)


def convert_fp16(model: ir.Model) -> None:
    """Convert ``model`` in place; values beyond fp16's range are clamped to it (masks use the lowest float)."""
    graph = model.graph
    for value in graph.inputs:
        if _cached(value):
            value.type = ir.TensorType(ir.DataType.FLOAT16)
    for value in graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT:
            tensor = value.const_value
            value.const_value = ir.LazyTensor(
                lambda tensor=tensor: ir.Tensor(_half(tensor.numpy()), name=tensor.name),  # type: ignore[misc]
                dtype=ir.DataType.FLOAT16,
                shape=ir.Shape(sizes(tensor)),
                name=tensor.name,
            )
            value.type = ir.TensorType(ir.DataType.FLOAT16)
    for node in graph.all_nodes():
        for attribute in list(node.attributes.values()):
            if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype == ir.DataType.FLOAT:
                node.attributes[attribute.name] = ir.AttrTensor(
                    attribute.name, ir.tensor(_half(attribute.value.numpy()))
                )
        if node.op_type in ("Cast", "CastLike") and "to" in node.attributes and node.attributes["to"].as_int() == 1:
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT16))
        for output in node.outputs:
            if output.dtype == ir.DataType.FLOAT:
                output.type = ir.TensorType(ir.DataType.FLOAT16)
    for position, output in enumerate(list(graph.outputs)):
        if output.dtype != ir.DataType.FLOAT16 or _cached(output):
            continue
        name = output.name
        output.name = f"{name}_fp16"
        back = ir.node("Cast", [output], {"to": int(ir.DataType.FLOAT)})
        back.outputs[0].name, back.outputs[0].shape = name, output.shape
        back.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        graph.append(back)
        graph.outputs[position] = back.outputs[0]


def _cached(value: ir.Value) -> bool:
    """Whether it is part of a text generator's cache, which goes from one run into the next as it is."""
    return str(value.name).startswith(("past.", "present."))


def _half(values: NDArray[np.generic]) -> NDArray[np.float16]:
    clipped = np.clip(values.astype(np.float32), -_LARGEST, _LARGEST)
    # A tiny constant (the floor of a division, say) must not become zero.
    tiny = (clipped != 0) & (np.abs(clipped) < _SMALLEST)
    return np.where(tiny, np.copysign(_SMALLEST, clipped), clipped).astype(np.float16)
