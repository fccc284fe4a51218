"""Passes that need no more than a graph or two each."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from edgeport_export.passes.deinterleave_heads import DeinterleaveHeads
from edgeport_export.passes.drop_idle import DropIdle
from edgeport_export.passes.fuse_bias_gelu import FuseBiasGelu
from edgeport_export.passes.fuse_tanh_gelu import FuseTanhGelu
from edgeport_export.passes.gather_rows import GatherRows
from edgeport_export.passes.pack_attention_input import PackAttentionInput
from edgeport_export.passes.split_slices import SplitSlices
from edgeport_export.passes.unflatten_gemm import UnflattenGemm
from edgeport_export.passes.widen_bfloat16 import WidenBfloat16
from hand_built import HandBuilt, compare
from onnx_ir.passes.common import RemoveUnusedNodesPass

RNG = np.random.default_rng(0)
WIDTH = 24
SHAPE = ["batch", "sequence", WIDTH]
X = RNG.standard_normal((2, 5, WIDTH)).astype(np.float32)
END = 2**63 - 1


def test_slices_of_everything_and_reshapes_to_the_same_disappear() -> None:
    g = HandBuilt(x=(X, SHAPE))
    value = g.node("Slice", [g["x"], [0], [END], [1], [1]], SHAPE)
    value = g.node("Slice", [value, [0], [WIDTH], [2], [1]], SHAPE)
    value = g.node("Reshape", [value, [0, 0, WIDTH]], SHAPE)
    assert compare(g, [g.node("Relu", [value], SHAPE)], DropIdle()) == {"Relu": 1}


def test_a_slice_that_cuts_stays() -> None:
    g = HandBuilt(x=(X, SHAPE))
    value = g.node("Slice", [g["x"], [0], [WIDTH - 1], [2], [1]], [*SHAPE[:2], WIDTH - 1])
    value = g.node("Slice", [value, [0], [3], [1], [1]], ["batch", 3, WIDTH - 1])
    assert compare(g, [g.node("Relu", [value], ["batch", 3, WIDTH - 1])], DropIdle())["Slice"] == 2


def test_rows_are_picked_by_one_number_each() -> None:
    g = HandBuilt(x=(X, SHAPE), at=(np.array([[4, 0], [1, 1]]), ["batch", "wanted"]))
    column = g.node("Unsqueeze", [g["at"], [2]], ["batch", "wanted", 1])
    wide = g.node("Expand", [column, [1, 1, WIDTH]], ["batch", "wanted", WIDTH])
    picked = g.node("GatherElements", [g["x"], wide], ["batch", "wanted", WIDTH], axis=1)
    assert compare(g, [picked], GatherRows()) == {"Unsqueeze": 1, "GatherND": 1}


def test_rows_of_one_table_are_not_copied_for_each_batch_entry() -> None:
    g = HandBuilt(at=(np.array([[4, 0], [1, 1]]), ["batch", "wanted"]))
    table = g.node("Expand", [RNG.standard_normal((5, WIDTH)), [1, 1, 1]], [1, 5, WIDTH])
    tables = g.node("Tile", [table, [2, 1, 1]], ["batch", 5, WIDTH])
    column = g.node("Unsqueeze", [g["at"], [2]], ["batch", "wanted", 1])
    wide = g.node("Tile", [column, [1, 1, WIDTH]], ["batch", "wanted", WIDTH])
    picked = g.node("GatherElements", [tables, wide], ["batch", "wanted", WIDTH], axis=1)
    assert compare(g, [picked], GatherRows()) == {"Gather": 1}


def test_products_in_bfloat16_are_rounded_as_before() -> None:
    numbers = (RNG.standard_normal((3, 4)) * 100).astype(np.float32)
    g = HandBuilt(x=(numbers, [3, 4]))
    narrow = g.node("Cast", [g["x"]], [3, 4], to=ir.DataType.BFLOAT16, dtype=ir.DataType.BFLOAT16)
    product = g.node("Mul", [narrow, narrow], [3, 4])
    g.graph.outputs.append(g.node("Cast", [product], [3, 4], to=ir.DataType.FLOAT, dtype=ir.DataType.FLOAT))
    model = WidenBfloat16()(ir.Model(g.graph, ir_version=10)).model
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    x = torch.from_numpy(numbers).bfloat16()
    assert np.array_equal(session.run(None, g.feeds)[0], (x * x).float().numpy())


def test_a_layer_on_flattened_rows_keeps_their_shape() -> None:
    g = HandBuilt(x=(X, SHAPE))
    flat = g.node("Reshape", [g["x"], [-1, WIDTH]], ["rows", WIDTH])
    product = g.node("Gemm", [flat, RNG.standard_normal((WIDTH, 8)), RNG.standard_normal(8)], ["rows", 8])
    assert compare(g, [g.node("Reshape", [product, [2, 5, 8]], [*SHAPE[:2], 8])], UnflattenGemm()) == {
        "MatMul": 1,
        "Add": 1,
    }


def test_a_layer_whose_rows_come_back_otherwise_is_left_alone() -> None:
    g = HandBuilt(x=(X, SHAPE))
    flat = g.node("Reshape", [g["x"], [-1, WIDTH]], ["rows", WIDTH])
    product = g.node("Gemm", [flat, RNG.standard_normal((WIDTH, 8))], ["rows", 8])
    turned = g.node("Reshape", [product, [5, 2, 8]], ["sequence", "batch", 8])
    assert "Gemm" in compare(g, [turned], UnflattenGemm())


@pytest.mark.parametrize("form", ["half first", "half last", "products"])
def test_tanh_gelu_with_its_bias_becomes_one(form: str) -> None:
    g = HandBuilt(x=(X, SHAPE))
    x = g.node("Add", [g["x"], RNG.standard_normal(WIDTH)], SHAPE)
    if form == "products":
        cube = g.node("Mul", [g.node("Mul", [x, x], SHAPE), x], SHAPE)
    else:
        cube = g.node("Pow", [x, 3.0], SHAPE)
    inner = g.node("Add", [x, g.node("Mul", [cube, 0.044715], SHAPE)], SHAPE)
    tanh = g.node("Tanh", [g.node("Mul", [inner, float(np.sqrt(2 / np.pi))], SHAPE)], SHAPE)
    plus = g.node("Add", [tanh, 1.0], SHAPE)
    if form == "half last":
        result = g.node("Mul", [g.node("Mul", [x, plus], SHAPE), 0.5], SHAPE)
    else:
        result = g.node("Mul", [g.node("Mul", [x, 0.5], SHAPE), plus], SHAPE)
    assert compare(g, [result], FuseTanhGelu(), RemoveUnusedNodesPass(), FuseBiasGelu()) == {"FastGelu": 1}


def test_a_tanh_of_something_else_is_left_alone() -> None:
    g = HandBuilt(x=(X, SHAPE))
    x = g["x"]
    inner = g.node("Add", [x, g.node("Mul", [g.node("Pow", [x, 3.0], SHAPE), 0.05], SHAPE)], SHAPE)
    tanh = g.node("Tanh", [g.node("Mul", [inner, float(np.sqrt(2 / np.pi))], SHAPE)], SHAPE)
    result = g.node("Mul", [g.node("Mul", [x, 0.5], SHAPE), g.node("Add", [tanh, 1.0], SHAPE)], SHAPE)
    assert "Tanh" in compare(g, [result], FuseTanhGelu())


def test_slices_without_a_gap_become_a_split() -> None:
    g = HandBuilt(x=(X, SHAPE))
    cuts = [(8, 16), (0, 8), (16, END)]
    parts = [g.node("Slice", [g["x"], [a], [b], [2], [1]], [*SHAPE[:2], 8]) for a, b in cuts]
    assert compare(g, parts, SplitSlices()) == {"Split": 1}


@pytest.mark.parametrize("cuts", [[(0, 8), (12, END)], [(0, 12), (8, END)], [(0, 8), (8, 16)]])
def test_slices_with_a_gap_or_an_overlap_stay(cuts: list[tuple[int, int]]) -> None:
    g = HandBuilt(x=(X, SHAPE))
    parts = [g.node("Slice", [g["x"], [a], [b], [2], [1]], [*SHAPE[:2], min(b, WIDTH) - a]) for a, b in cuts]
    assert compare(g, parts, SplitSlices()) == {"Slice": 2}


@pytest.mark.parametrize("with_bias", [False, True], ids=["plain", "bias"])
def test_heads_that_come_one_by_one_come_in_blocks(with_bias: bool) -> None:
    heads, size = 2, 4
    g = HandBuilt(x=(X, SHAPE))
    rows = g.node("MatMul", [g["x"], RNG.standard_normal((WIDTH, heads * 3 * size))], SHAPE)
    if with_bias:
        rows = g.node("Add", [rows, RNG.standard_normal(WIDTH)], SHAPE)
    apart = g.node("Reshape", [rows, [0, 0, heads, 3 * size]], [*SHAPE[:2], heads, 3 * size])
    forward = g.node("Transpose", [apart], ["batch", heads, "sequence", 3 * size], perm=[0, 2, 1, 3])
    parts = g.node("Split", [forward], *[["batch", heads, "sequence", size]] * 3, axis=3, num_outputs=3)
    compare(g, list(parts), DeinterleaveHeads())
    first_ops = [node.op_type for node in g.graph][: 3 if with_bias else 2]
    assert first_ops == ["MatMul", *(["Add"] if with_bias else []), "Split"]


def test_attention_reads_query_key_and_value_side_by_side() -> None:
    heads, kv_heads, size = 4, 2, 8
    width = (heads + 2 * kv_heads) * size
    x = RNG.standard_normal((2, 5, width)).astype(np.float32)
    empty = np.zeros((2, kv_heads, 0, size), np.float32)
    shape = ["batch", kv_heads, "past", size]
    g = HandBuilt(x=(x, [*SHAPE[:2], width]), key=(empty, shape), value=(empty, shape))
    widths = [heads * size, kv_heads * size, kv_heads * size]
    parts = g.node("Split", [g["x"], widths], *[[*SHAPE[:2], w] for w in widths], axis=-1)
    last, total = g.weight(np.array([4, 2], np.int32)), g.weight(np.array(5, np.int32))
    attended, *_ = g.node(
        "GroupQueryAttention",
        [*parts, g["key"], g["value"], last, total],
        [*SHAPE[:2], heads * size],
        *[["batch", kv_heads, "total", size]] * 2,
        domain="com.microsoft",
        num_heads=heads,
        kv_num_heads=kv_heads,
    )
    # The second row has three tokens, and what the operator says of the padding behind them means nothing.
    kept = g.node("Slice", [attended, [0], [3], [1], [1]], ["batch", 3, heads * size])
    assert compare(g, [kept], PackAttentionInput()) == {"GroupQueryAttention": 1, "Slice": 1}
