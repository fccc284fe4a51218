"""Where the time goes, on two layers of one product each. No assertion on a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from edgeport_bench.bench import BenchOptions
from edgeport_bench.profile import profile_graph
from edgeport_bench.profile_cli import run_profile
from edgeport_export.profile import Roofline, measure_roofline
from onnx import TensorProto, helper, numpy_helper

ROWS, INNER, COLUMNS = 6, 40, 24


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """x (ROWS, INNER) → product → Relu → product."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(INNER, COLUMNS)), rng.normal(size=(COLUMNS, INNER))
    nodes = [
        helper.make_node("MatMul", ["x", "layer.0.weight"], ["a"], "one"),
        helper.make_node("Relu", ["a"], ["b"], "two"),
        helper.make_node("MatMul", ["b", "layer.1.weight"], ["y"], "three"),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [ROWS, INNER]) for n in ("x", "y")]
    weights = [
        numpy_helper.from_array(w.astype(np.float32), f"layer.{i}.weight") for i, w in enumerate((first, second))
    ]
    made = helper.make_graph(nodes, "layers", ports[:1], ports[1:], weights)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "g.onnx")
    return tmp_path / "g.onnx"


def test_kinds_and_layers_hold_all_nodes(graph: Path) -> None:
    feeds = {"x": np.ones((ROWS, INNER), np.float32)}
    profile = profile_graph(graph, feeds, Roofline(1e9, 1e9, 1e9), threads=1, runs=3)
    kinds, layers = profile.kinds, profile.layers
    found = {part.name: part for part in kinds}
    assert {name: part.nodes for name, part in found.items()} == {"MatMul": 2, "Relu": 1}
    assert found["MatMul"].operations == 2 * 2 * ROWS * INNER * COLUMNS
    values = ROWS * INNER + INNER * COLUMNS + ROWS * COLUMNS
    assert found["MatMul"].read == 2 * 4 * values
    assert found["Relu"].of_roofline is None
    assert {part.name: part.nodes for part in layers} == {"layer 0": 2, "layer 1": 1}
    for parts in (kinds, layers):
        assert sum(part.share for part in parts) == pytest.approx(1)
        assert [part.milliseconds for part in parts] == sorted((p.milliseconds for p in parts), reverse=True)


def test_the_roof_is_the_lower_of_the_two_limits() -> None:
    roofline = Roofline(fp32=100.0, int8=400.0, bandwidth=10.0)
    assert roofline.least(200.0, 1.0, is_int8=False) == pytest.approx(2)  # products
    assert roofline.least(200.0, 1.0, is_int8=True) == pytest.approx(0.5)
    assert roofline.least(200.0, 40.0, is_int8=True) == pytest.approx(4)  # reading


def test_the_machine_is_measured() -> None:
    found = measure_roofline(1)
    assert min(found.fp32, found.int8, found.bandwidth) > 1e6


def test_the_command_prints_both_tables(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = BenchOptions(threads=1)
    assert run_profile(str(graph), options, as_json=False) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("GFLOP/s", "MatMul", "layer 1", "of roofline"))
    assert run_profile(str(graph), options, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["profiles"]["g, 6"]["layers"][0]["name"].startswith("layer")


def test_a_page_draws_the_roofline(graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "profile.html"
    assert run_profile(str(graph), BenchOptions(threads=1), as_json=True, html=page) == 0
    found = json.loads(capsys.readouterr().out)
    figures = json.loads(page.read_text().rsplit("const figures = ", 1)[1].split(";\n", 1)[0])
    fp32_roof, int8_roof, fp32, int8 = figures[0]["data"]
    assert max(fp32_roof["y"]) == pytest.approx(found["roofline"]["fp32"] / 1e9)
    assert max(int8_roof["y"]) == pytest.approx(found["roofline"]["int8"] / 1e9)
    (product,) = (part for part in found["profiles"]["g, 6"]["kinds"] if part["name"] == "MatMul")
    assert fp32["x"] == [product["operations"] / product["read"]]
    assert int8["x"] == []
    assert [len(f["data"][0]["y"]) for f in figures[1:]] == [2, 2]


def test_models_that_write_are_profiled_by_prompt_and_token(
    tiny_writer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    options = BenchOptions(variants=("fp32",), lengths=(20,), threads=1)
    assert run_profile(str(tiny_writer.bundle), options, as_json=True) == 0
    profiles = json.loads(capsys.readouterr().out)["profiles"]
    assert list(profiles) == ["fp32, prompt of 20", "fp32, token behind 20"]
    prompt, token = (sum(part["operations"] for part in profile["kinds"]) for profile in profiles.values())
    assert prompt > 10 * token > 0
