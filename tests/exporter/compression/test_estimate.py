"""What a graph would take on another machine, by machines of round numbers and by a product that really runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgeport.errors import UsageError
from edgeport.session import open_graph
from edgeport_export.compression.estimate import Estimator, record
from edgeport_export.compression.target import parse_target
from edgeport_export.profile import Machine, OperatorRun, Roofline, describe, read_description
from onnx import TensorProto, helper, numpy_helper

HERE = Machine(2, Roofline(fp32=1e9, int8=4e9, bandwidth=1e9), operator=1e-6)
RECORDING = 5e-6
"""What each operator takes longer because it is recorded."""


def _ran(kind: str, seconds: float, operations: float, read: float) -> OperatorRun:
    return OperatorRun("a", kind, seconds + RECORDING, operations, read)


FP32 = _ran("MatMul", 3e-3, operations=2e6, read=1e3)
INT8 = _ran("MatMulInteger", 2e-3, operations=4e6, read=1e3)
READS = _ran("MatMul", 2e-3, operations=1e3, read=1e6)
OTHER = _ran("LayerNormalization", 5e-4, operations=0, read=1e3)
TINY = _ran("Add", 0, operations=0, read=8)


def _there(operator: float = 1e-6, **roofline: float) -> Machine:
    return Machine(1, Roofline(**{"fp32": 1e9, "int8": 4e9, "bandwidth": 1e9, **roofline}), operator)


def _factor(there: Machine, *ran: OperatorRun) -> float:
    return Estimator(HERE, there).factor([*ran, TINY])


@pytest.mark.parametrize(
    ("there", "factors"),
    [
        (HERE, (1, 1, 1, 1)),
        (_there(int8=1e9), (1, 4, 1, 1)),
        (_there(fp32=5e8), (2, 1, 1, 2)),
        (_there(bandwidth=1e8), (1, 1, 10, 1)),
        (_there(bandwidth=1e5), (5, 10, 1e4, 1)),  # where memory is the limit of all products
        (_there(fp32=2e9, int8=8e9, bandwidth=2e9), (0.5, 0.5, 0.5, 0.5)),
    ],
)
def test_an_operator_goes_with_what_limits_it(there: Machine, factors: tuple[float, ...]) -> None:
    found = [_factor(there, ran) for ran in (FP32, INT8, READS, OTHER)]
    assert found == pytest.approx(list(factors), rel=0.01)


def test_each_weighs_what_it_takes_here() -> None:
    assert _factor(_there(int8=1e9), FP32, INT8) == pytest.approx((3 + 4 * 2) / (3 + 2), rel=0.01)


def test_operators_with_nothing_to_do_have_a_time_of_their_own() -> None:
    assert _factor(_there(operator=1e-4), TINY) == pytest.approx(100)
    assert _factor(_there(operator=1e-4), FP32) == pytest.approx((3e-3 + 2e-4) / (3e-3 + 2e-6))


def test_the_operators_of_all_batches_are_recorded(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((64, 32), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["a"], "product"), helper.make_node("Relu", ["a"], ["y"], "relu")],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 32])],
        [weight],
    )
    path = tmp_path / "g.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)

    def open_by(profile: Path) -> list[partial[object]]:
        session = open_graph(path, threads=1, profile=profile)
        return [partial(session.run, None, {"x": np.ones((rows, 64), np.float32)}) for rows in (1, 3)]

    ran = record(path, open_by)
    assert [(o.kind, o.operations) for o in ran] == [
        ("MatMul", 2 * 64 * 32),
        ("Relu", 0),
        ("MatMul", 3 * 2 * 64 * 32),
        ("Relu", 0),
    ]
    assert ran[0].read == 4 * (64 + 64 * 32 + 32)
    assert all(o.seconds >= 0 for o in ran)


def test_a_description_comes_back(tmp_path: Path) -> None:
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
    path = tmp_path / "phone.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        parse_target(str(path))


def test_a_provider_brings_the_precision_that_it_likes() -> None:
    assert [parse_target(name).plain for name in ("cpu", "cuda", "openvino:gpu", "xnnpack")] == [
        "int8",
        "fp16",
        "fp16",
        "fp32",
    ]
