"""What a graph would take on another machine, by machines of round numbers and by a product that really runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgeport.session import open_graph
from edgeport_export.compression.estimate import Estimator, Work
from edgeport_export.profile import Machine, OperatorRun, Roofline
from onnx import TensorProto, helper, numpy_helper

HERE = Machine(2, Roofline(fp32=1e9, int8=4e9, bandwidth=1e9), operator=1e-6)
FP32 = OperatorRun("a", "MatMul", seconds=3e-3 + 1e-6, operations=2e6, read=1e3)
INT8 = OperatorRun("b", "MatMulInteger", seconds=2e-3 + 1e-6, operations=4e6, read=1e3)
READS = OperatorRun("c", "MatMul", seconds=2e-3 + 1e-6, operations=1e3, read=1e6)
OTHER = OperatorRun("d", "LayerNormalization", seconds=5e-4 + 1e-6, operations=0, read=1e3)
TINY = OperatorRun("e", "Add", seconds=5e-7, operations=0, read=8)


def _there(**roofline: float) -> Machine:
    return Machine(1, Roofline(**{"fp32": 1e9, "int8": 4e9, "bandwidth": 1e9, **roofline}), 1e-6)


def test_on_the_same_machine_it_takes_what_it_takes() -> None:
    for ran in (FP32, INT8, READS, OTHER):
        assert Estimator(HERE, HERE).seconds(ran) == pytest.approx(ran.seconds)
    assert Estimator(HERE, HERE).seconds(TINY) == HERE.operator  # what the clock cannot tell


@pytest.mark.parametrize(
    ("there", "seconds"),
    [
        (_there(int8=1e9), (3e-3, 8e-3, 2e-3, 5e-4)),
        (_there(fp32=5e8), (6e-3, 2e-3, 2e-3, 1e-3)),
        (_there(bandwidth=1e8), (3e-3, 2e-3, 2e-2, 5e-4)),
        (_there(bandwidth=1e5), (1.5e-2, 2e-2, 2e1, 5e-4)),  # where memory is the limit, of all products
    ],
)
def test_a_product_goes_with_what_limits_it(there: Machine, seconds: tuple[float, ...]) -> None:
    found = [Estimator(HERE, there).seconds(ran) - there.operator for ran in (FP32, INT8, READS, OTHER)]
    assert found == pytest.approx(list(seconds))


def test_operators_with_nothing_to_do_have_a_time_of_their_own() -> None:
    slow = Machine(1, HERE.roofline, operator=1e-4)
    assert Estimator(HERE, slow).seconds(TINY) == pytest.approx(1e-4)
    assert Estimator(HERE, slow).seconds(FP32) == pytest.approx(3e-3 + 1e-4)


def _product(path: Path, columns: int) -> None:
    weight = numpy_helper.from_array(np.ones((64, columns), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", columns])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)


def test_every_batch_of_every_turn_is_counted(tmp_path: Path) -> None:
    """There memory is so slow that its bytes alone decide, which are known exactly."""
    slow = Machine(1, Roofline(fp32=1e12, int8=1e12, bandwidth=1e3), 1e-9)
    here = Machine(1, Roofline(fp32=1e18, int8=1e18, bandwidth=1e18), 0.0)
    models = {}
    for columns in (8, 512):
        graph = tmp_path / f"{columns}.onnx"
        _product(graph, columns)

        def open_(profile: Path, graph: Path = graph) -> list[partial[object]]:
            session = open_graph(graph, threads=1, profile=profile)
            return [partial(session.run, None, {"x": np.ones((rows, 64), np.float32)}) for rows in (1, 3)]

        models[str(columns)] = Work(graph, open_)
    found = Estimator(here, slow).take_turns(models)
    assert {len(timed.turns) for timed in found.values()} == {9}
    assert all(timed.milliseconds > 0 for timed in found.values())
    # A second of clock here is 10^15 of it there; what is left of the ratio is the time that was measured.
    assert found["512"].milliseconds / found["8"].milliseconds > 0.01


def test_a_description_comes_back(tmp_path: Path) -> None:
    from edgeport_export.profile import describe, read_description

    path = tmp_path / "phone.toml"
    path.write_text(describe('a "phone" \\ tablet', HERE), encoding="utf-8")
    name, machine = read_description(path)
    assert (name, machine.threads) == ('a "phone" \\ tablet', 2)
    assert machine.roofline.int8 == pytest.approx(4e9)
    assert machine.operator == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("threads = 2\n", "does not say fp32_gflops"),
        ("threads = 2\nfp32_gflops = 0\nint8_gops = 1\nbandwidth_gb_s = 1\noperator_us = 1\n", "fp32_gflops = 0"),
        ("threads = 1.5\nfp32_gflops = 1\nint8_gops = 1\nbandwidth_gb_s = 1\noperator_us = 1\n", "a whole number"),
        ("threads = 1\nfp32_gflops = 1\nint8_gops = 1\nbandwidth_gb_s = 1\noperator_us = 1\ngpu = 1\n", "'gpu'"),
        ("threads = \n", "cannot be read"),
    ],
)
def test_a_wrong_description_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    from edgeport.errors import UsageError
    from edgeport_export.compression.target import parse_target

    path = tmp_path / "phone.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        parse_target(str(path))


def test_a_provider_brings_the_precision_that_it_likes() -> None:
    from edgeport_export.compression.target import parse_target

    assert [parse_target(name).plain for name in ("cpu", "cuda", "openvino:gpu", "xnnpack")] == [
        "int8",
        "fp16",
        "fp16",
        "fp32",
    ]
