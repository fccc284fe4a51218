"""Static int8, smoothing and sensitivity: onnxruntime against numpy on graphs by hand, and tiny models as they come."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from architectures import tiny_model, tiny_tokenizer
from edgeport.errors import UsageError
from edgeport_export.capture import capture
from edgeport_export.head import ExportHead
from edgeport_export.passes import FINISH, PREPARE, run_passes
from edgeport_export.quantize import Int8Dynamic, Int8Static, keep_pattern, quantize_int8_dynamic, sensitivity
from edgeport_export.quantize.int8_products import QuantizationReport, find_products, quantize_symmetric
from edgeport_export.quantize.int8_static import activation_ranges, quantize_int8_static
from edgeport_export.quantize.observe import histograms, largest_by_channel
from edgeport_export.quantize.ranges import Range
from edgeport_export.quantize.smooth import Smooth, smooth
from edgeport_export.recipe import Recipe
from edgeport_export.samples import Batch, capture_batch, validation_batches
from edgeport_export.source import load_source
from hand_built import HandBuilt, run_graph

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def names_read(model: ir.Model) -> list[str]:
    return list(dict.fromkeys(str(p.source.name) for p in find_products(model.graph, QuantizationReport())))


@functools.cache
def prepared(model_type: str, task: str, **more: int) -> tuple[ir.Model, list[Batch]]:
    """A tiny model's graph before quantization, and batches with padding in them."""
    source = load_source(tiny_model(model_type, task, **more), Recipe(task=task), tokenizer=tiny_tokenizer())
    captured = capture(ExportHead(source), capture_batch(source), opset=20)
    return run_passes(captured.model, PREPARE), validation_batches(source)[:3]


def outputs(model: ir.Model, batches: list[Batch]) -> np.ndarray:
    finished = run_passes(model.clone(), FINISH["int8"])
    return np.concatenate([run_graph(finished, dict(batch))[0].ravel() for batch in batches])


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def two_products() -> tuple[ir.Model, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """relu(x) @ first + bias, and relu(x) @ second."""
    x, first, second, bias = normal(3, 5, 16), normal(16, 8), normal(16, 4), normal(8)
    built = HandBuilt(x=(x, ["batch", "sequence", 16]))
    source = built.node("Relu", [built["x"]], ["batch", "sequence", 16])
    product = built.node("MatMul", [source, first], ["batch", "sequence", 8])
    one = built.node("Add", [product, bias], ["batch", "sequence", 8])
    two = built.node("MatMul", [source, second], ["batch", "sequence", 4])
    built.graph.outputs.extend([one, two])
    return ir.Model(built.graph, ir_version=10), x, first, second, bias


def test_products_are_those_of_the_integers() -> None:
    model, x, first, second, bias = two_products()
    between = Range(0.0, 2.0)
    report = quantize_int8_static(model, {names_read(model)[0]: between}, Int8Static())
    assert len(report.quantized) == 2
    operators = Counter(node.op_type for node in model.graph)
    assert operators == {"Relu": 1, "QuantizeLinear": 1, "MatMulIntegerToFloat": 2}  # read twice, made once
    scale, zero = (float(n) for n in between.scale_and_zero())
    integers = np.clip(np.rint(np.maximum(x, 0) / np.float32(scale)), 0, 255)
    assert zero == 0
    for got, weight, add in zip(run_graph(model, {"x": x}), (first, second), (bias, 0), strict=True):
        rounded, steps = quantize_symmetric(weight, 63, axis=0)
        np.testing.assert_allclose(got, integers @ rounded * (steps * scale) + add, rtol=1e-4, atol=1e-4)


def test_what_is_kept_or_has_no_range_is_named() -> None:
    model, *_ = two_products()
    names = [p.name for p in find_products(model.graph, QuantizationReport())]
    report = quantize_int8_static(model, {}, Int8Static(keep_fp32=keep_pattern(names[:1])))
    assert not report.quantized
    assert report.skipped == {names[0]: "kept in fp32 as asked", names[1]: "what it reads has no range"}


def test_a_model_without_products_is_refused() -> None:
    x = normal(2, 3)
    built = HandBuilt(x=(x, ["batch", 3]))
    built.graph.outputs.append(built.node("Relu", [built["x"]], ["batch", 3]))
    with pytest.raises(UsageError, match="no product with a constant matrix"):
        activation_ranges(ir.Model(built.graph, ir_version=10), [], Int8Static())


def test_padding_is_not_observed() -> None:
    model, batches = prepared("bert", "token-classification", num_hidden_layers=2)
    padded = next(batch for batch in batches if not batch["attention_mask"].all())
    name = names_read(model)[1]  # a later layer's: what stands there for padding is like nothing else
    seen = histograms(model, [name], [padded])[name]
    assert seen.counts.sum() == padded["attention_mask"].sum() * 32
    changed = {**padded, "input_ids": np.where(padded["attention_mask"] == 1, padded["input_ids"], 9)}
    other = histograms(model, [name], [changed])[name]
    np.testing.assert_array_equal(seen.counts, other.counts)
    largest = largest_by_channel(model, [name], [padded])[name]
    assert largest.shape == (32,)
    assert largest.max() == pytest.approx(max(-seen.low, seen.high))


@pytest.mark.parametrize(("calibrator", "most"), [("minmax", 0.1), ("percentile", 0.1), ("entropy", 0.4), ("mse", 0.1)])
def test_static_int8_is_near_the_model(calibrator: str, most: float) -> None:
    model, batches = prepared("bert", "token-classification", num_hidden_layers=2)
    model = model.clone()
    want = outputs(model, batches)
    config = Int8Static(calibrator)
    quantize_int8_static(model, activation_ranges(model, batches, config), config)
    assert 0 < relative_error(outputs(model, batches), want) < most


MINMAX = Int8Static("minmax")

SMOOTHED = [
    ("bert", "token-classification", {"num_hidden_layers": 2}),
    ("albert", "token-classification", {"num_hidden_layers": 2}),
    ("modernbert", "token-classification", {"num_hidden_layers": 2}),
    ("llama", "text-classification", {"num_hidden_layers": 2}),
    ("t5", "token-classification", {"num_layers": 2}),
]


@pytest.mark.parametrize(("model_type", "task", "more"), SMOOTHED, ids=[f"{s[0]}-{s[1]}" for s in SMOOTHED])
def test_smoothing_changes_no_output(model_type: str, task: str, more: dict[str, int]) -> None:
    model, batches = prepared(model_type, task, **more)
    want = outputs(model, batches)
    smoothed = model.clone()
    note = smooth(smoothed, batches, Smooth(0.5))
    np.testing.assert_allclose(outputs(smoothed, batches), want, rtol=1e-3, atol=1e-4 * np.abs(want).max())
    np.testing.assert_array_equal(outputs(model, batches), want)  # the model that it was made of is as it was
    assert note.startswith("smoothed the inputs of")
    report = quantize_int8_static(smoothed, activation_ranges(smoothed, batches, MINMAX), MINMAX)
    assert not report.skipped
    assert relative_error(outputs(smoothed, batches), want) < 0.15


def test_factors_are_carried_where_nothing_else_reads() -> None:
    """Post-norm keeps a node behind a normalization that a residual reads too; pre-norm and attention need none."""
    post, batches = prepared("bert", "token-classification", num_hidden_layers=2)
    muls, post = sum(node.op_type == "Mul" for node in post.graph), post.clone()
    assert smooth(post, batches, Smooth()) == "smoothed the inputs of 7 products, 3 of them at no cost (alpha 0.5)"
    assert sum(node.op_type == "Mul" for node in post.graph) == muls + 4
    before, batches = prepared("llama", "text-classification", num_hidden_layers=2)
    muls, before = sum(node.op_type == "Mul" for node in before.graph), before.clone()
    smooth(before, batches, Smooth())
    assert sum(node.op_type == "Mul" for node in before.graph) == muls


def test_large_channels_are_made_smaller_and_int8_better() -> None:
    x, weight, gamma = normal(4, 6, 32), normal(32, 16), np.ones(32, np.float32)
    gamma[:2] = 60.0
    built = HandBuilt(x=(x, ["batch", "sequence", 32]))
    norm = built.node("LayerNormalization", [built["x"], gamma, normal(32)], ["batch", "sequence", 32], axis=-1)
    built.graph.outputs.append(built.node("MatMul", [norm, weight], ["batch", "sequence", 16]))
    model = ir.Model(built.graph, ir_version=10)
    batches: list[Batch] = [{"x": x}]
    (want,), config = run_graph(model, {"x": x}), Int8Static("minmax")
    smoothed = model.clone()
    smooth(smoothed, batches, Smooth(0.5))
    (name,) = names_read(smoothed)
    largest = largest_by_channel(smoothed, [name], batches)[name]
    (product,) = find_products(smoothed.graph, QuantizationReport())
    heaviest = np.abs(product.weight.const_value.numpy()).max(axis=1)
    np.testing.assert_allclose(largest, heaviest, rtol=1e-3)  # alpha 0.5 makes both sides equally large
    errors = []
    for one in (model, smoothed):
        quantize_int8_static(one, activation_ranges(one, batches, config), config)
        errors.append(relative_error(run_graph(one, {"x": x})[0], want))
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("config", [Int8Dynamic(), Int8Static("minmax")], ids=["dynamic", "static"])
def test_sensitivity_is_the_error_of_each_layer_quantized_alone(config: Int8Dynamic | Int8Static) -> None:
    model, batches = prepared("bert", "token-classification", num_hidden_layers=2)
    want = outputs(model, batches)
    found = sensitivity(model, batches, config)
    names = [p.name for p in find_products(model.graph, QuantizationReport())]
    assert sorted(found) == sorted(names)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    np.testing.assert_array_equal(outputs(model, batches), want)
    worst = next(iter(found))
    alone = model.clone()
    ranges = activation_ranges(alone, batches, Int8Static("minmax"))
    others = "embed|" + keep_pattern([name for name in names if name != worst])
    if isinstance(config, Int8Static):
        quantize_int8_static(alone, ranges, Int8Static(keep_fp32=others))
    else:
        quantize_int8_dynamic(alone, Int8Dynamic(keep_fp32=others))
    assert relative_error(outputs(alone, batches), want) == pytest.approx(found[worst], rel=0.05)
