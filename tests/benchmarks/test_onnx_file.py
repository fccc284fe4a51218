"""``edgeport bench FILE.onnx``: anyone's graph, its inputs bound by name. No assertion on a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from edgeport.errors import UsageError
from edgeport_bench.bench import BenchOptions, bench
from edgeport_bench.graph_inputs import GraphInput, GraphInputs
from edgeport_bench.report import as_json
from onnx import TensorProto, helper


def _graph(path: Path, shape: list[Any]) -> Path:
    """A picture and nothing else: its values doubled."""
    node = helper.make_node("Add", ["pixels", "pixels"], ["twice"])
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("pixels", "twice")]
    model = helper.make_model(
        helper.make_graph([node], "twice", ports[:1], ports[1:]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=9,
    )
    onnx.save(model, path)
    return path


def test_a_graph_of_fixed_shape_needs_no_option(tmp_path: Path) -> None:
    found = as_json(bench(_graph(tmp_path / "fixed.onnx", [2, 3, 4, 4]), BenchOptions(seconds=0.02, threads=1)))
    (row,) = found["measurements"]
    assert (row["subject"], row["batch"]) == ("fixed", 2)
    assert found["subjects"][0]["about"]["size_bytes"] == (tmp_path / "fixed.onnx").stat().st_size


def test_open_axes_come_from_options(tmp_path: Path) -> None:
    path = _graph(tmp_path / "open.onnx", ["batch", 3, "height", "width"])
    with pytest.raises(UsageError, match=r"axis 2 of the input 'pixels' is height.*--axis height=SIZE"):
        bench(path, BenchOptions(batches=(2,)))
    options = BenchOptions(batches=(2,), axes=(("height", 5), ("width", 6)), seconds=0.02, threads=1)
    assert as_json(bench(path, options))["measurements"][0]["runs"] >= 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (BenchOptions(axes=(("hieght", 5),)), "no axis .* 'hieght': those that have one are batch, sequence"),
        (BenchOptions(axes=(("sequence", 512),), lengths=(16,)), "length is 512 and not open, and 16 was asked for"),
    ],
)
def test_axes_and_lengths_that_change_nothing_are_refused(tmp_path: Path, options: BenchOptions, words: str) -> None:
    path = _graph(tmp_path / "open.onnx", ["batch", "sequence"])
    with pytest.raises(UsageError, match=words):
        bench(path, options)


def test_a_length_that_is_given_as_an_axis_is_the_one_that_is_shown(tmp_path: Path) -> None:
    path = _graph(tmp_path / "open.onnx", ["batch", "sequence"])
    found = as_json(bench(path, BenchOptions(axes=(("sequence", 12),), batches=(2,), seconds=0.02, threads=1)))
    assert [(row["batch"], row["length"]) for row in found["measurements"]] == [(2, 12)]


def test_inputs_are_made_by_name() -> None:
    text = ("batch_size", "sequence_length")
    inputs = GraphInputs(
        (
            GraphInput("input_ids", "tensor(int64)", text),
            GraphInput("attention_mask", "tensor(int64)", text),
            GraphInput("token_type_ids", "tensor(int64)", text),
            GraphInput("position_ids", "tensor(int64)", text),
            GraphInput("past_key_values.0.key", "tensor(float)", ("batch_size", 4, "past_sequence_length", 8)),
        )
    )
    made = inputs.make_feeds([(2, 7)])[2, 7]
    assert {a.shape for n, a in made.items() if not n.startswith("past")} == {(2, 7)}
    assert made["past_key_values.0.key"].shape == (2, 4, 0, 8)
    assert made["attention_mask"].all()
    assert not made["token_type_ids"].any()
    assert (made["position_ids"] == np.arange(7)).all()
    assert len(np.unique(made["input_ids"])) > 3
    assert inputs.default_lengths() == [16, 128]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("none.onnx", BenchOptions(), "there is no file"),
        ("bad.onnx", BenchOptions(), "give a valid ONNX model"),
        ("good.onnx", BenchOptions(variants=("int8",)), "--variant int8 does not go with an ONNX file"),
        ("good.onnx", BenchOptions(against="openvino"), "pass --original MODEL"),
        ("good.onnx", BenchOptions(new_tokens=3), "this is a plain graph"),
        ("folder", BenchOptions(), "no edgeport.json or config.json"),
    ],
)
def test_wrong_calls_are_refused(tmp_path: Path, name: str, options: BenchOptions, words: str) -> None:
    _graph(tmp_path / "good.onnx", [1, 2])
    (tmp_path / "bad.onnx").write_text("no graph")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=words):
        bench(tmp_path / name, options)


def test_quality_is_asked_of_bundles_alone(tmp_path: Path) -> None:
    path = _graph(tmp_path / "good.onnx", [1, 2])
    with pytest.raises(UsageError, match="--eval scores bundles"):
        bench(path, BenchOptions(evaluation=tmp_path / "data.tsv"))
