"""Graphs written by hand for the tests of passes, and running them in onnxruntime before and after."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx_ir.passes.common import RemoveUnusedNodesPass

__all__ = ["HandBuilt", "compare", "run_graph"]

_TYPES = {np.dtype(np.float32): ir.DataType.FLOAT, np.dtype(np.int64): ir.DataType.INT64}


class HandBuilt:
    """A little builder; every value has a shape, given by the one who writes the graph.

    Args:
        inputs: For each input an array that the graph is run with, and its shape.
    """

    def __init__(self, **inputs: tuple[np.ndarray, list[int | str]]) -> None:
        self.feeds = {name: array for name, (array, _) in inputs.items()}
        self.values = {
            name: ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(_TYPES[array.dtype]))
            for name, (array, shape) in inputs.items()
        }
        opsets = {"": 20, "com.microsoft": 1}
        self.graph = ir.Graph(list(self.values.values()), [], nodes=[], opset_imports=opsets, name="test")

    def __getitem__(self, name: str) -> ir.Value:
        return self.values[name]

    def weight(self, array: Any) -> ir.Value:
        array = np.asarray(array)
        tensor = ir.tensor(array.astype(np.float32) if array.dtype == np.float64 else array)
        name = f"w{len(self.graph.initializers)}"
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def node(self, op: str, inputs: list, *shapes: list, dtype: ir.DataType | None = None, **attributes: Any) -> Any:
        """Append a node with an output for each of ``shapes``, of its first input's type unless ``dtype`` is given."""
        inputs = [self.weight(i) if isinstance(i, list | float | np.ndarray) else i for i in inputs]
        domain = attributes.pop("domain", "")
        node = ir.node(op, inputs, attributes, domain=domain, num_outputs=len(shapes))
        for number, (output, shape) in enumerate(zip(node.outputs, shapes, strict=True)):
            output.name = f"v{len(self.graph)}_{number}"
            output.shape, output.type = ir.Shape(shape), inputs[0].type if dtype is None else ir.TensorType(dtype)
        self.graph.append(node)
        return node.outputs[0] if len(shapes) == 1 else node.outputs


def compare(built: HandBuilt, outputs: list[ir.Value], *passes: ir.passes.PassBase, tolerance: float = 1e-5) -> Counter:
    """Run the graph before and after ``passes``: the same numbers. Returns the operators that are left."""
    built.graph.outputs.extend(outputs)
    model = ir.Model(built.graph, ir_version=10)
    before = run_graph(model, built.feeds)
    model = ir.passes.Sequential(*passes, RemoveUnusedNodesPass())(model).model
    for want, got in zip(before, run_graph(model, built.feeds), strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    return Counter(node.op_type for node in model.graph)


def run_graph(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The model's outputs in onnxruntime; ``feeds`` may hold more than its inputs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})
