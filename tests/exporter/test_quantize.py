"""Quantizers against numpy, and what they say about what they did."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from edgeport_export.quantize import Int8Dynamic, quantize, quantize_int8_dynamic, tables
from edgeport_export.quantize.blockwise import Grid
from edgeport_export.quantize.fp16 import convert_fp16
from edgeport_export.quantize.int8_products import quantize_symmetric
from edgeport_export.quantize.round_to_nearest import RoundToNearest, round_to_nearest
from edgeport_export.recipe import Recipe

RNG = np.random.default_rng(0)
IDS = np.array([[1, 5, 9, 300]], np.int64)
TABLE = RNG.standard_normal((512, 64)).astype(np.float32)
WEIGHT = RNG.standard_normal((64, 32)).astype(np.float32)
BIAS = RNG.standard_normal(32).astype(np.float32)


def make_model(*, tied: bool = False) -> ir.Model:
    """Embedding, product, bias: out = table[ids] @ weight + bias, or with the table itself, read transposed."""
    inputs = [ir.Value(name="ids", shape=ir.Shape(["batch", "sequence"]), type=ir.TensorType(ir.DataType.INT64))]
    graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": 20, "com.microsoft": 1}, name="test")

    def weight(name: str, array: np.ndarray) -> ir.Value:
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.FLOAT),
            const_value=ir.tensor(array, name=name),
        )
        graph.register_initializer(value)
        return value

    def node(op: str, inputs: list[ir.Value], width: int, domain: str = "", **attributes: int) -> ir.Value:
        made = ir.node(op, inputs, attributes, domain=domain)
        made.outputs[0].name, made.outputs[0].type = f"{op}_out", ir.TensorType(ir.DataType.FLOAT)
        made.outputs[0].shape = ir.Shape(["batch", "sequence", width])
        graph.append(made)
        return made.outputs[0]

    table = weight("embedding", TABLE)
    embedded = node("Gather", [table, inputs[0]], 64, axis=0)
    if tied:
        graph.outputs.append(node("FusedMatMul", [embedded, table], 512, "com.microsoft", transB=1))
    else:
        product = node("MatMul", [embedded, weight("dense.weight", WEIGHT)], 32)
        graph.outputs.append(node("Add", [product, weight("dense.bias", BIAS)], 32))
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model) -> np.ndarray:
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"ids": IDS})[0]


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("axis", [0, 1])
def test_symmetric_rounding_is_within_half_a_step_of_what_is_not_cut_off(axis: int) -> None:
    quantized, scale = quantize_symmetric(WEIGHT, 63, axis=axis)
    assert quantized.dtype == np.int8
    assert scale.shape == tuple(1 if i == axis else n for i, n in enumerate(WEIGHT.shape))
    assert np.abs(quantized).max() == 63
    error = np.abs(quantized * scale - WEIGHT)
    cut = np.abs(WEIGHT) > 63 * scale
    assert (error[~cut] <= (np.broadcast_to(scale, WEIGHT.shape) / 2 + 1e-6)[~cut]).all()
    assert np.abs(quantized)[cut].min(initial=63) == 63


def test_a_rare_large_weight_is_cut_off_where_that_errs_less() -> None:
    even = np.linspace(-1, 1, 200, dtype=np.float32)[:, None]
    _, kept = quantize_symmetric(even, 63, axis=0)
    assert kept[0, 0] == pytest.approx(1 / 63, rel=0.05)  # nothing rare in it: all but the whole range
    rare = np.random.default_rng(0).standard_normal((2000, 1)).astype(np.float32)
    quantized, scale = quantize_symmetric(rare, 7, axis=0)
    whole = np.abs(rare).max() / 7
    assert scale[0, 0] < 0.95 * whole
    assert np.square(quantized * scale - rare).sum() < 0.9 * np.square(np.rint(rare / whole) * whole - rare).sum()


def test_channels_are_quantized_each_for_itself_however_many_there_are() -> None:
    many = np.random.default_rng(1).standard_normal((700, 300)).astype(np.float32)  # more than one block of them
    quantized, scale = quantize_symmetric(many, 63, axis=0)
    alone, its_scale = quantize_symmetric(many[:, 250:251], 63, axis=0)
    np.testing.assert_array_equal(quantized[:, 250:251], alone)
    np.testing.assert_array_equal(scale[:, 250:251], its_scale)


def test_a_channel_of_zeros_stays_zero() -> None:
    quantized, scale = quantize_symmetric(np.zeros((4, 2), np.float32), 63, axis=0)
    assert not quantized.any()
    assert np.isfinite(scale).all()


def test_int8_computes_nearly_the_same_with_the_bias_inside() -> None:
    model = make_model()
    want = run(model)
    report = quantize_int8_dynamic(model, Int8Dynamic())
    assert [n.op_type for n in model.graph] == ["Gather", "Gather", "Cast", "Mul", "DynamicQuantizeMatMul"]
    assert 0 < relative_error(run(model), want) < 0.02
    assert sorted(report.quantized) == ["dense.weight", "embedding"]


def test_weights_never_overflow_sixteen_bits() -> None:
    """Two products of an unsigned byte and a weight must fit into 16 bits, or AVX2 kernels saturate."""
    model = make_model()
    quantize_int8_dynamic(model, Int8Dynamic())
    weight = model.graph.initializers["dense.weight.int8"].const_value.numpy()
    assert 2 * 255 * int(np.abs(weight.astype(int)).max()) < 2**15


def test_a_tied_table_is_stored_once() -> None:
    model = make_model(tied=True)
    want = run(model)
    quantize_int8_dynamic(model, Int8Dynamic())
    model = ir.passes.common.RemoveUnusedNodesPass()(model).model
    assert relative_error(run(model), want) < 0.03
    large = [v for v in model.graph.initializers.values() if v.const_value.size >= TABLE.size]
    assert [v.const_value.dtype for v in large] == [ir.DataType.INT8]


def test_a_large_table_of_4_bits_gives_the_rows_that_its_integers_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_HUGE", TABLE.size)
    model = make_model()
    report = quantize_int8_dynamic(model, Int8Dynamic(keep_fp32="dense", tables=4))
    assert report.quantized == ["embedding"]
    assert [n.op_type for n in model.graph][:3] == ["Unsqueeze", "GatherBlockQuantized", "Reshape"]
    rows = round_to_nearest(TABLE, Grid(4, 64), RoundToNearest()).dequantized()
    np.testing.assert_allclose(run(model), rows[IDS] @ WEIGHT + BIAS, rtol=1e-4, atol=1e-4)


def test_a_table_that_is_multiplied_too_stays_in_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_HUGE", TABLE.size)
    model = make_model(tied=True)
    quantize_int8_dynamic(model, Int8Dynamic(tables=4))
    assert "GatherBlockQuantized" not in [n.op_type for n in model.graph]


@pytest.mark.parametrize(("pattern", "kept"), [("embedding", "embedding"), (r"dense\.weight", "dense.weight")])
def test_what_is_kept_in_fp32_is_named(pattern: str, kept: str) -> None:
    model = make_model()
    report = quantize_int8_dynamic(model, Int8Dynamic(keep_fp32=pattern))
    assert kept not in report.quantized
    assert str(report) == f"quantized 1 of 2 weights; skipped — kept in fp32 as asked: {kept}"
    assert model.graph.initializers[kept].const_value.dtype == ir.DataType.FLOAT


def test_fp16_keeps_inputs_and_outputs() -> None:
    model = make_model()
    want = run(model)
    convert_fp16(model)
    got = run(model)
    assert got.dtype == np.float32
    assert 0 < relative_error(got, want) < 2e-3
    assert {v.const_value.dtype for v in model.graph.initializers.values()} == {ir.DataType.FLOAT16}


@pytest.mark.parametrize(("adds", "skipped"), [("b", 0), ("extra", 1)])
def test_what_a_gemm_adds_is_never_lost(adds: str, skipped: int) -> None:
    rng = np.random.default_rng(0)
    weight, bias, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 8), (8,), (3, 16)))
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[3, 16] x, float[8] extra) => (float[3, 8] y) <float[16, 8] w, float[8] b>
        {{ c = Add(b, extra)  y = Gemm(x, w, {adds}) }}""",
        initializers=[ir.tensor(weight, name="w"), ir.tensor(bias, name="b")],
    )
    report = quantize_int8_dynamic(model, Int8Dynamic())
    assert len(report.skipped) == skipped
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    (got,) = session.run(None, {"x": x, "extra": bias})
    assert relative_error(got, x @ weight + bias) < 0.02


@pytest.mark.parametrize("tables", [8, 4])
def test_tables_of_a_model_that_writes_have_bits_of_their_own(tables: int) -> None:
    model = make_model(tied=True)
    note = quantize(model, "int4", Recipe(precisions=("int4",), tables=tables), generates=True)
    bits = {n.op_type: n.attributes["bits"].as_int() for n in model.graph if "bits" in n.attributes}
    assert bits == {"MatMulNBits": tables, "GatherBlockQuantized": tables}, note
