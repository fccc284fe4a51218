"""Where the time goes, on two layers of one product each. No assertion on a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from edgeport.errors import UsageError
from edgeport_bench.bench import BenchOptions
from edgeport_bench.profile import profile_graph
from edgeport_bench.profile_cli import run_profile
from edgeport_bench.roofline import Roofline, measure_roofline
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
    kinds, layers = profile_graph(graph, feeds, Roofline(1e9, 1e9, 1e9), threads=1, runs=3)
    found = {part.name: part for part in kinds}
    assert {name: part.nodes for name, part in found.items()} == {"MatMul": 2, "Relu": 1}
    assert found["MatMul"].operations == 2 * 2 * ROWS * INNER * COLUMNS
    assert found["Relu"].of_roofline is None
    assert {part.name: part.nodes for part in layers} == {"layer 0": 2, "layer 1": 1}
    for parts in (kinds, layers):
        assert sum(part.share for part in parts) == pytest.approx(1)
        assert [part.milliseconds for part in parts] == sorted((p.milliseconds for p in parts), reverse=True)


def test_the_roof_is_the_lower_of_the_two_limits() -> None:
    roofline = Roofline(fp32=100.0, int8=400.0, bandwidth=10.0)
    assert roofline.share(200.0, 1.0, 4.0, is_int8=False) == pytest.approx(0.5)  # 2 s of products
    assert roofline.share(200.0, 1.0, 4.0, is_int8=True) == pytest.approx(0.125)
    assert roofline.share(200.0, 40.0, 8.0, is_int8=True) == pytest.approx(0.5)  # 4 s of reading


def test_the_machine_is_measured() -> None:
    found = measure_roofline(1)
    assert min(found.fp32, found.int8, found.bandwidth) > 1e6


def test_the_command_prints_both_tables(graph: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = BenchOptions(threads=1)
    assert run_profile(str(graph), options, as_json=False) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("GFLOP/s", "MatMul", "layer 1", "of roofline"))
    assert run_profile(str(graph), options, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["profiles"]["g"]["layers"][0]["name"].startswith("layer")


def test_models_that_write_are_refused(tiny_writer: Any) -> None:
    with pytest.raises(UsageError, match="is not profiled"):
        run_profile(str(tiny_writer.bundle), BenchOptions(), as_json=False)
