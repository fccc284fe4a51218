"""Each pass on a graph small enough to see through: the same numbers before and after, and fewer nodes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from edgeport_export.passes.fold_constants import FoldConstants
from edgeport_export.passes.fuse_bias_gelu import FuseBiasGelu
from edgeport_export.passes.fuse_skip_layer_norm import FuseSkipLayerNorm
from edgeport_export.passes.lower_attention import LowerAttention
from edgeport_export.passes.pack_qkv import PackProjections
from edgeport_export.passes.simplify_shapes import SimplifyShapes

RNG = np.random.default_rng(0)
BATCH, SEQUENCE, WIDTH = 2, 5, 8
X = RNG.standard_normal((BATCH, SEQUENCE, WIDTH)).astype(np.float32)


class Graph:
    """A little builder: nodes with float outputs whose shapes are known."""

    def __init__(self) -> None:
        shape = ir.Shape(["batch", "sequence", WIDTH])
        self.x = ir.Value(name="x", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
        self.graph = ir.Graph([self.x], [], nodes=[], opset_imports={"": 20, "com.microsoft": 1}, name="test")

    def weight(self, name: str, array: np.ndarray) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def random(self, name: str, *shape: int) -> ir.Value:
        return self.weight(name, RNG.standard_normal(shape).astype(np.float32))

    def node(self, op: str, inputs: list, shape: list, domain: str = "", **attributes: object) -> ir.Value:
        node = ir.node(op, inputs, attributes, domain=domain)
        output = node.outputs[0]
        output.name = f"v{len(self.graph)}"
        output.shape, output.type = ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        self.graph.append(node)
        return output

    def model(self, *outputs: ir.Value) -> ir.Model:
        self.graph.outputs.extend(outputs)
        return ir.Model(self.graph, ir_version=10)


def run(model: ir.Model, **feeds: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return session.run(None, feeds or {"x": X})


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def check(model: ir.Model, *passes: ir.passes.PassBase) -> list[str]:
    """Run the passes, compare before with after, and return the operators."""
    before = run(model)
    result = ir.passes.Sequential(*passes, ir.passes.common.RemoveUnusedNodesPass())(model).model
    for want, got in zip(before, run(result), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    return operators(result)


FULL = ["batch", "sequence", WIDTH]


def test_projections_of_one_input_become_one_product() -> None:
    g = Graph()
    outputs = []
    for name, width in (("q", 8), ("k", 4), ("v", 4)):
        product = g.node("MatMul", [g.x, g.random(name, WIDTH, width)], [*FULL[:2], width])
        outputs.append(g.node("Add", [product, g.random(f"{name}.bias", width)], [*FULL[:2], width]))
    assert check(g.model(*outputs), PackProjections()) == ["MatMul", "Add", "Split"]


def test_projections_with_and_without_bias_stay_apart() -> None:
    g = Graph()
    plain = [g.node("MatMul", [g.x, g.random(f"p{i}", WIDTH, 4)], [*FULL[:2], 4]) for i in range(2)]
    biased = g.node("Add", [g.node("MatMul", [g.x, g.random("b", WIDTH, 4)], [*FULL[:2], 4]), g.random("c", 4)], FULL)
    assert sorted(check(g.model(*plain, biased), PackProjections())) == ["Add", "MatMul", "MatMul", "Split"]


@pytest.mark.parametrize("keep_sum", [False, True], ids=["post-norm", "pre-norm"])
@pytest.mark.parametrize("with_bias", [False, True], ids=["plain", "bias"])
def test_residual_and_layer_norm_become_one(keep_sum: bool, with_bias: bool) -> None:
    g = Graph()
    branch = g.node("MatMul", [g.x, g.random("w", WIDTH, WIDTH)], FULL)
    if with_bias:
        branch = g.node("Add", [branch, g.random("b", WIDTH)], FULL)
    total = g.node("Add", [branch, g.x], FULL)
    norm = g.node("LayerNormalization", [total, g.random("gamma", WIDTH), g.random("beta", WIDTH)], FULL, epsilon=1e-12)
    outputs = [norm, g.node("Relu", [total], FULL)] if keep_sum else [norm]
    found = check(g.model(*outputs), FuseSkipLayerNorm())
    assert found == ["MatMul", "SkipLayerNormalization", *(["Relu"] if keep_sum else [])]


def test_layer_norm_of_a_sum_that_broadcasts_is_left_alone() -> None:
    g = Graph()
    total = g.node("Add", [g.x, g.random("position", 1, SEQUENCE, WIDTH)], FULL)
    norm = g.node("LayerNormalization", [total, g.random("gamma", WIDTH), g.random("beta", WIDTH)], FULL)
    assert check(g.model(norm), FuseSkipLayerNorm()) == ["Add", "LayerNormalization"]


@pytest.mark.parametrize(("approximate", "expected"), [("none", "BiasGelu"), ("tanh", "FastGelu")])
def test_bias_and_gelu_become_one(approximate: str, expected: str) -> None:
    g = Graph()
    biased = g.node("Add", [g.x, g.random("b", WIDTH)], FULL)
    gelu = g.node("Gelu", [biased], FULL, approximate=approximate)
    assert check(g.model(gelu), FuseBiasGelu()) == [expected]


def test_reshape_targets_are_written_down_and_round_trips_disappear() -> None:
    g = Graph()
    shape = ir.node("Shape", [g.x], {"start": 0, "end": 2})
    shape.outputs[0].name, shape.outputs[0].type = "bs", ir.TensorType(ir.DataType.INT64)
    g.graph.append(shape)
    tail = g.weight("tail", np.array([2, 4], np.int64))
    target = g.node("Concat", [shape.outputs[0], tail], [4], axis=0)
    target.type = ir.TensorType(ir.DataType.INT64)
    split = g.node("Reshape", [g.x, target], ["batch", "sequence", 2, 4])
    back = g.node("Reshape", [split, g.weight("back", np.array([0, 0, WIDTH], np.int64))], FULL)
    assert check(g.model(g.node("Relu", [back], FULL)), SimplifyShapes()) == ["Relu"]


def test_a_weight_transpose_is_stored_transposed_without_computing_it() -> None:
    g = Graph()
    swapped = g.node("Transpose", [g.random("w", 4, WIDTH)], [WIDTH, 4], perm=[1, 0])
    model = g.model(g.node("MatMul", [g.x, swapped], [*FULL[:2], 4]))
    assert check(model, FoldConstants()) == ["MatMul"]
    assert isinstance(model.graph.initializers["w.T"].const_value, ir.LazyTensor)


def test_a_weight_that_is_shared_is_read_transposed_and_stored_once() -> None:
    """The output layer of a masked language model shares its matrix with the embedding."""
    g = Graph()
    table = g.random("embedding", 6, WIDTH)
    ids = g.node("ArgMax", [g.x], ["batch", "sequence", 1], axis=-1)
    ids.type = ir.TensorType(ir.DataType.INT64)
    positive = g.node("Min", [ids, g.weight("last", np.array(5, np.int64))], ["batch", "sequence", 1])
    positive.type = ids.type
    looked_up = g.node("Gather", [table, positive], ["batch", "sequence", 1, WIDTH], axis=0)
    swapped = g.node("Transpose", [table], [WIDTH, 6], perm=[1, 0])
    model = g.model(
        g.node("MatMul", [g.x, swapped], [*FULL[:2], 6]), g.node("Relu", [looked_up], ["batch", "sequence", 1, WIDTH])
    )
    assert "FusedMatMul" in check(model, FoldConstants())
    assert sum(v.const_value.size == 6 * WIDTH for v in model.graph.initializers.values()) == 1


def test_attention_is_lowered_to_what_softmax_says() -> None:
    """Against attention in numpy, with a mask that hides two keys of the second row and a bias."""
    heads, size = 2, 4
    g = Graph()
    split = g.weight("split", np.array([0, 0, heads, size], np.int64))
    parts = []
    for name in "qkv":
        product = g.node("MatMul", [g.x, g.random(name, WIDTH, WIDTH)], FULL)
        reshaped = g.node("Reshape", [product, split], ["batch", "sequence", heads, size])
        parts.append(g.node("Transpose", [reshaped], ["batch", heads, "sequence", size], perm=[0, 2, 1, 3]))
    mask = np.ones((BATCH, SEQUENCE), np.int32)
    mask[1, 3:] = 0
    bias = RNG.standard_normal((1, heads, SEQUENCE, SEQUENCE)).astype(np.float32)
    inputs = [*parts, g.weight("mask", mask), g.weight("bias", bias)]
    shape = ["batch", "sequence", heads, size]
    attended = g.node("Attention", inputs, shape, domain="edgeport", scale=0.5, causal=0)
    merge = g.weight("merge", np.array([0, 0, WIDTH], np.int64))
    model = g.model(g.node("Reshape", [attended, merge], FULL))
    weights = {name: g.graph.initializers[name].const_value.numpy() for name in "qkv"}
    model = ir.passes.Sequential(LowerAttention(), SimplifyShapes(), ir.passes.common.RemoveUnusedNodesPass())(
        model
    ).model

    q, k, v = ((X @ weights[n]).reshape(BATCH, SEQUENCE, heads, size).transpose(0, 2, 1, 3) for n in "qkv")
    scores = q @ k.transpose(0, 1, 3, 2) * 0.5 + bias + np.where(mask, 0, -1e9)[:, None, None]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = (weights / weights.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(BATCH, SEQUENCE, WIDTH)

    np.testing.assert_allclose(run(model)[0], expected, rtol=1e-5, atol=1e-5)
    # The transposes and reshapes that split the heads are gone: three products and the attention are left. (One
    # identity-like reshape may stay where the result is an output of the graph.)
    assert [op for op in operators(model) if op != "Reshape"] == ["MatMul"] * 3 + ["MultiHeadAttention"]
