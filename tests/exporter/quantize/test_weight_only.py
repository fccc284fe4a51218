"""MatMulNBits and GatherBlockQuantized in onnxruntime against numpy on the weights that the integers stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from edgeport_export.quantize.blockwise import Grid, Quantized
from edgeport_export.quantize.hqq import HalfQuadratic
from edgeport_export.quantize.round_to_nearest import RoundToNearest, round_to_nearest
from edgeport_export.quantize.weight_only import WeightOnly, quantize_weight_only
from onnx_ir.passes.common import RemoveUnusedNodesPass

RNG = np.random.default_rng(0)
GRIDS = [Grid(bits, size, symmetric) for bits in (4, 8) for size in (16, 32, 64, 128) for symmetric in (True, False)]
IDS = np.array([[1, 5, 299], [0, 9, 9]], np.int64)


class Builder:
    """A graph under construction; its inputs are ``x`` (batch, sequence, width) and ``ids`` (batch, sequence)."""

    def __init__(self, width: int) -> None:
        self.x = ir.Value(name="x", shape=ir.Shape(["batch", "sequence", width]), type=ir.TensorType(ir.DataType.FLOAT))
        self.ids = ir.Value(name="ids", shape=ir.Shape(["batch", "sequence"]), type=ir.TensorType(ir.DataType.INT64))
        self.graph = ir.Graph([self.x, self.ids], [], nodes=[], opset_imports={"": 20, "com.microsoft": 1}, name="test")

    def weight(self, name: str, array: np.ndarray) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def node(self, op: str, *inputs: ir.Value, domain: str = "", **attributes: Any) -> ir.Value:
        made = ir.node(op, list(inputs), attributes, domain=domain)
        made.outputs[0].name, made.outputs[0].type = f"{op}_{len(self.graph)}", ir.TensorType(ir.DataType.FLOAT)
        self.graph.append(made)
        return made.outputs[0]

    def model(self, *outputs: ir.Value) -> ir.Model:
        self.graph.outputs.extend(outputs)
        return ir.Model(self.graph, ir_version=10)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def run(model: ir.Model, x: np.ndarray | None = None, ids: np.ndarray = IDS) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    feeds = {"x": normal(1, 1, 64) if x is None else x, "ids": ids}
    return session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})


def operators(model: ir.Model) -> list[str]:
    return [n.op_type for n in model.graph]


def exact(grid: Grid, **more: Any) -> WeightOnly:
    """Activations in fp32, so that the result is that of the dequantized weights."""
    return WeightOnly(grid, accuracy_level=1, **more)


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("width", [256, 200])  # 200: none of the blocks divides it
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_product_is_that_of_the_dequantized_weights(grid: Grid, width: int) -> None:
    weight, bias, x = normal(width, 48), normal(48), normal(2, 3, width)
    build = Builder(width)
    product = build.node("MatMul", build.x, build.weight("dense.weight", weight))
    model = build.model(build.node("Add", product, build.weight("dense.bias", bias)))
    report = quantize_weight_only(model, exact(grid))
    assert operators(model) == ["MatMulNBits"]
    assert report.quantized == ["dense.weight"]
    dequantized = round_to_nearest(weight.T, grid, RoundToNearest()).dequantized().T
    assert 0 < relative_error(dequantized, weight) < {4: 0.15, 8: 0.01}[grid.bits]
    np.testing.assert_allclose(run(model, x)[0], x @ dequantized + bias, atol=2e-4)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_products_in_int8_are_close(grid: Grid) -> None:
    weight, x = normal(256, 48), normal(2, 3, 256)
    build = Builder(256)
    model = build.model(build.node("MatMul", build.x, build.weight("w", weight)))
    quantize_weight_only(model, WeightOnly(grid))
    assert model.graph[0].attributes["accuracy_level"].as_int() == 4
    dequantized = round_to_nearest(weight.T, grid, RoundToNearest()).dequantized().T
    assert relative_error(run(model, x)[0], x @ dequantized) < 0.015


@pytest.mark.parametrize("width", [128, 200])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_tied_table_is_stored_once_and_read_by_both(grid: Grid, width: int) -> None:
    table, x = normal(300, width), normal(2, 3, width)
    build = Builder(width)
    stored = build.weight("embedding", table)
    model = build.model(
        build.node("Gather", stored, build.ids, axis=0),
        build.node("FusedMatMul", build.x, stored, domain="com.microsoft", transB=1),
    )
    report = quantize_weight_only(model, exact(grid))
    assert report.quantized == ["embedding"]
    large = [v for v in model.graph.initializers.values() if v.const_value.size >= table.size // 4]
    assert [v.const_value.dtype for v in large] == [ir.DataType.UINT8]
    assert {n.op_type for n in (use.node for use in large[0].uses())} == {"GatherBlockQuantized", "MatMulNBits"}
    dequantized = round_to_nearest(table, grid, RoundToNearest()).dequantized()
    embedded, logits = run(model, x)
    np.testing.assert_allclose(embedded, dequantized[IDS], atol=1e-6)
    np.testing.assert_allclose(logits, x @ dequantized.T, atol=2e-4)


def test_an_output_layer_may_read_the_table_through_a_transpose() -> None:
    table, x = normal(300, 64), normal(2, 3, 64)
    build = Builder(64)
    stored = build.weight("embedding", table)
    swapped = build.node("Transpose", stored, perm=[1, 0])
    model = build.model(build.node("MatMul", build.x, swapped), build.node("Gather", stored, build.ids))
    quantize_weight_only(model, exact(Grid()))
    assert "Transpose" not in operators(model)
    assert "embedding" not in model.graph.initializers
    dequantized = round_to_nearest(table, Grid(), RoundToNearest()).dequantized()
    logits, embedded = run(model, x)
    np.testing.assert_allclose(logits, x @ dequantized.T, atol=2e-4)
    np.testing.assert_allclose(embedded, dequantized[IDS], atol=1e-6)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("bias", [(48,), (1, 48), None], ids=str)
def test_gemm_is_a_product_and_a_bias(swapped: bool, bias: tuple[int, ...] | None) -> None:
    weight, x = normal(128, 48), normal(4, 128)
    addend = normal(*bias) if bias else None
    build = Builder(128)
    build.x.shape = ir.Shape(["rows", 128])
    stored = build.weight("w", np.ascontiguousarray(weight.T) if swapped else weight)
    inputs = [build.x, stored, *([build.weight("b", addend)] if addend is not None else [])]
    model = build.model(build.node("Gemm", *inputs, transB=int(swapped)))
    quantize_weight_only(model, exact(Grid()))
    assert operators(model) == (["MatMulNBits", "Add"] if bias == (1, 48) else ["MatMulNBits"])
    want = x @ round_to_nearest(weight.T, Grid(), RoundToNearest()).dequantized().T
    np.testing.assert_allclose(run(model, x)[0], want if addend is None else want + addend, atol=2e-4)


def test_integers_handed_over_are_stored_as_they_are() -> None:
    """Transposed, joined with others along the outputs, in another order; not what rounding would give."""
    grid = Grid(4, 32, symmetric=False)

    def chosen(rows: int) -> Quantized:
        integers = RNG.integers(0, 16, (rows, 4, 32)).astype(np.uint8)
        scales = (0.1 + RNG.random((rows, 4))).astype(np.float32)
        return Quantized(grid, 128, integers, scales, RNG.integers(0, 16, (rows, 4)).astype(np.uint8))

    given = {name: chosen(rows) for name, rows in (("q", 64), ("k", 32), ("v", 32), ("up", 48), ("gone", 48))}
    joined = np.concatenate([given[n].dequantized() for n in "qkv"]).T
    mixed = RNG.permutation(64)
    build = Builder(128)
    model = build.model(
        build.node("MatMul", build.x, build.weight("model.q.packed", np.ascontiguousarray(joined))),
        build.node(
            "FusedMatMul", build.x, build.weight("any", given["up"].dequantized()), domain="com.microsoft", transB=1
        ),
        build.node("MatMul", build.x, build.weight("mixed", np.ascontiguousarray(given["q"].dequantized()[mixed].T))),
        build.node("MatMul", build.x, build.weight("own", normal(128, 64))),
    )
    report = quantize_weight_only(model, WeightOnly(Grid(8, 64)), given)
    packed = model.graph.initializers["model.q.packed.int4"].const_value.numpy()
    np.testing.assert_array_equal(packed, np.concatenate([given[n].packed() for n in "qkv"]))
    scales = model.graph.initializers["model.q.packed.int4.scale"].const_value.numpy()
    np.testing.assert_array_equal(scales, np.concatenate([given[n].scales for n in "qkv"]))
    zeros = model.graph.initializers["model.q.packed.int4.zero"].const_value.numpy()
    np.testing.assert_array_equal(zeros, np.concatenate([given[n].packed_zeros() for n in "qkv"]))
    np.testing.assert_array_equal(model.graph.initializers["any.int4"].const_value.numpy(), given["up"].packed())
    np.testing.assert_array_equal(
        model.graph.initializers["mixed.int4"].const_value.numpy(), given["q"].packed()[mixed]
    )
    assert [n.attributes["bits"].as_int() for n in model.graph] == [4, 4, 4, 8]
    assert report.skipped == {"gone": "handed over, but no weight of the graph has these values"}


def test_inputs_handed_over_in_another_order_are_gathered_first() -> None:
    """As GPTQ leaves them where it rounds by activity; a row of zeros, here and elsewhere, does not confuse."""
    grid, width = Grid(4, 32), 100

    def chosen(order: np.ndarray | None) -> Quantized:
        scales = (0.1 + RNG.random((300, 4))).astype(np.float32)
        integers = RNG.integers(0, 16, (300, 4, 32)).astype(np.uint8)
        integers[7] = grid.middle
        return Quantized(grid, width, integers, scales, None, order)

    order = RNG.permutation(width)
    given = {"ordered": chosen(order), "plain": chosen(None)}
    values = {name: quantized.dequantized() for name, quantized in given.items()}
    build, x = Builder(width), normal(2, 3, width)
    bias = normal(300)
    table = build.weight("ordered", values["ordered"])
    product = build.node("FusedMatMul", build.x, table, domain="com.microsoft", transB=1)
    model = build.model(
        build.node("Add", product, build.weight("bias", bias)),
        build.node("MatMul", build.x, build.weight("plain", np.ascontiguousarray(values["plain"].T))),
        build.node("Gather", table, build.ids, axis=0),
    )
    report = quantize_weight_only(model, exact(Grid(8, 64)), given)
    assert report.skipped == {}
    assert operators(model).count("Gather") == 2
    np.testing.assert_array_equal(
        model.graph.initializers["ordered.int4"].const_value.numpy(), given["ordered"].packed()
    )
    ordered, plain, embedded = run(model, x)
    np.testing.assert_allclose(ordered, x @ values["ordered"].T + bias, atol=1e-3)
    np.testing.assert_allclose(plain, x @ values["plain"].T, atol=1e-3)
    np.testing.assert_array_equal(embedded, values["ordered"][IDS])
    for row in (0, 5):
        by_hand = np.zeros(width, np.float32)
        for place, source in enumerate(order):
            block, inside = divmod(place, 32)
            by_hand[source] = (int(given["ordered"].integers[row, block, inside]) - 8) * given["ordered"].scales[
                row, block
            ]
        np.testing.assert_array_equal(values["ordered"][row], by_hand)


def test_a_weight_that_was_changed_is_rounded_anew_and_named() -> None:
    quantized = round_to_nearest(normal(64, 128), Grid(), RoundToNearest())
    values = quantized.dequantized().T.copy()
    values[5, 60] += 1e-4
    build = Builder(128)
    model = build.model(build.node("MatMul", build.x, build.weight("w", values)))
    report = quantize_weight_only(model, WeightOnly(), {"w": quantized})
    assert report.quantized == ["w"]
    assert list(report.skipped) == ["w"]


@pytest.mark.parametrize(("pattern", "kept"), [("embed", "embedding"), (r"dense\.weight", "dense.weight")])
def test_what_is_kept_in_fp32_is_named(pattern: str, kept: str) -> None:
    build = Builder(64)
    embedded = build.node("Gather", build.weight("embedding", normal(512, 64)), build.ids)
    model = build.model(build.node("MatMul", embedded, build.weight("dense.weight", normal(64, 64))))
    report = quantize_weight_only(model, WeightOnly(keep_fp32=pattern))
    assert str(report) == f"quantized 1 of 2 weights; skipped — kept in fp32 as asked: {kept}"
    assert model.graph.initializers[kept].const_value.dtype == ir.DataType.FLOAT


def test_what_cannot_be_quantized_is_named_and_still_right() -> None:
    x = normal(2, 3, 64)
    build = Builder(64)
    model = build.model(
        build.node("MatMul", build.x, build.weight("small", normal(64, 8))),
        build.node("FusedMatMul", build.x, build.weight("scaled", normal(64, 64)), domain="com.microsoft", alpha=0.5),
        build.node("MatMul", build.x, build.weight("stack", normal(2, 64, 64))),
        build.node("Gather", build.weight("types", normal(2, 64)), build.ids),
        build.node("Gather", build.weight("columns", normal(64, 512)), build.ids, axis=1),
    )
    before = run(RemoveUnusedNodesPass()(model).model, x, IDS % 2)
    report = quantize_weight_only(model, WeightOnly())
    assert report.quantized == []
    assert report.skipped == {
        "small": "too small to gain",
        "scaled": "scaled or transposed product",
        "stack": "not a matrix",
    }
    for got, want in zip(run(model, x, IDS % 2), before, strict=True):
        np.testing.assert_array_equal(got, want)


def test_exceptions_and_rounding_are_by_configuration() -> None:
    weight = normal(64, 128)
    build = Builder(64)
    model = build.model(
        build.node("MatMul", build.x, build.weight("body", weight)),
        build.node("MatMul", build.x, build.weight("lm_head.weight", weight)),
    )
    quantize_weight_only(model, WeightOnly(exceptions={"lm_head": Grid(8, 64)}, rounding=HalfQuadratic()))
    assert [(n.attributes["bits"].as_int(), n.attributes["block_size"].as_int()) for n in model.graph] == [
        (4, 32),
        (8, 64),
    ]
    plain = round_to_nearest(weight.T, Grid(), RoundToNearest()).packed()
    assert (model.graph.initializers["body.int4"].const_value.numpy() != plain).any()
