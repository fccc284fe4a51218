"""``edgeport bench FILE.onnx``: anyone's graph, its inputs bound by name. No assertion on a time."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from edgeport.errors import UsageError
from edgeport_bench.bench import BenchOptions, bench
from edgeport_bench.cli import add_arguments, run
from edgeport_bench.graph_inputs import GraphInput, GraphInputs
from edgeport_bench.html_report import html_report
from edgeport_bench.report import as_json, print_report
from onnx import TensorProto, helper
from rich.console import Console


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
    assert (row["subject"], row["batch"], row["length"]) == ("fixed", 2, 0)  # and no tokens
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


def test_a_picture_has_no_tokens_in_any_output(tmp_path: Path) -> None:
    report = bench(_graph(tmp_path / "fixed.onnx", [2, 3, 4, 4]), BenchOptions(seconds=0.02, threads=1))
    console = Console(record=True, width=80)
    print_report(report, console)
    for said in (console.export_text(), html_report(as_json(report)).rpartition("</script>")[0]):
        assert "inputs/s" in said
        assert "tokens/s" not in said
        assert "× 0" not in said


def test_an_input_is_filled_with_what_was_given() -> None:
    ports = (GraphInput("wave", "tensor(float)", ("batch", "samples")), GraphInput("rate", "tensor(int64)", ()))
    inputs = GraphInputs(ports, axes={"samples": 512}, values={"rate": 16000})
    feeds = inputs.make_feeds([(3, 0)])[3, 0]
    assert feeds["rate"].dtype == np.int64
    assert feeds["rate"] == 16000
    assert feeds["wave"].shape == (3, 512)
    assert len(np.unique(feeds["wave"])) > 1000
    assert inputs.default_lengths() == [0]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--input", "rat=1"], "no input 'rat': its inputs are pixels"),
        (["--input", "rate"], "'rate' is no NAME=NUMBER"),
        (["--input", "rate=fast"], "is no NAME=NUMBER"),
        (["--input", "rate=nan"], "is no NAME=NUMBER"),
        (["--length", "7"], "has no axis of a length, and 7 was asked for"),
    ],
)
def test_inputs_and_lengths_that_are_not_there_are_refused(tmp_path: Path, argv: list[str], words: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(UsageError, match=words):
        run(parser.parse_args([str(_graph(tmp_path / "good.onnx", [1, 3, 4, 4])), *argv]))


def test_an_axis_without_a_name_is_told_how_to_be_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="open and has no name: set its size in the graph"):
        bench(_graph(tmp_path / "open.onnx", ["batch", 3, None, None]), BenchOptions())


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
