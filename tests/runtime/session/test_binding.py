"""A loop over a graph: an operator that writes over its input, and memory that numpy does not see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from edgeport.session.binding import Binding, Buffer
from edgeport.session.open_graph import all_on
from edgeport.session.providers import PROVIDERS
from onnx import TensorProto, helper

WIDTH = 8


@pytest.fixture
def attention(tmp_path: Path) -> onnxruntime.InferenceSession:
    """One head of attention over a cache of any length."""
    fp, i32 = TensorProto.FLOAT, TensorProto.INT32
    cache = [1, 1, "capacity", WIDTH]
    node = helper.make_node(
        "GroupQueryAttention",
        ["x", "x", "x", "past.key", "past.value", "last", "total"],
        ["y", "present.key", "present.value"],
        domain="com.microsoft",
        num_heads=1,
        kv_num_heads=1,
    )
    inputs = [("x", fp, [1, 1, WIDTH]), ("past.key", fp, cache), ("past.value", fp, cache)]
    inputs += [("last", i32, [1]), ("total", i32, [])]
    outputs = [("y", fp, [1, 1, WIDTH]), ("present.key", fp, cache), ("present.value", fp, cache)]
    graph = helper.make_graph(
        [node], "attention", *([helper.make_tensor_value_info(*v) for v in values] for values in (inputs, outputs))
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("copied", [False, True])
def test_inputs_are_read_as_they_are_at_each_run(attention: onnxruntime.InferenceSession, copied: bool) -> None:
    binding = Binding(attention, copied=copied)
    x, last, total = np.ones((1, 1, WIDTH), np.float32), np.zeros(1, np.int32), np.array(1, np.int32)
    for name, array in (("x", x), ("last", last), ("total", total)):
        binding.input(name, array)
    binding.output("y")
    key, value = (
        binding.shared(f"past.{part}", f"present.{part}", (1, 1, 4, WIDTH), np.float32) for part in ("key", "value")
    )
    np.testing.assert_allclose(binding.run()[0], 1)
    x[...], last[...], total[...] = 3, 1, 2
    # The second token's scores are 3 * 1 * 8 / sqrt(8) and 3 * 3 * 8 / sqrt(8): nearly all on itself.
    second = np.exp((3 - 9) * np.sqrt(WIDTH))
    np.testing.assert_allclose(binding.run()[0], (3 + second) / (1 + second), rtol=1e-5)
    np.testing.assert_array_equal(value.read()[0, 0, :, 0], [1, 3, 0, 0])
    assert np.shares_memory(key.read(), key.read())


def test_what_lies_on_a_device_is_read_as_a_copy_and_written_back() -> None:
    value = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(3, np.float32))
    buffer = Buffer(value, None)
    array = buffer.read().copy()
    array[1] = 5
    np.testing.assert_array_equal(buffer.read(), [0, 0, 0])
    buffer.write(array)
    np.testing.assert_array_equal(buffer.read(), [0, 5, 0])


def test_an_operator_left_to_the_cpu_is_noticed(attention: onnxruntime.InferenceSession) -> None:
    assert all_on(attention, "GroupQueryAttention", PROVIDERS["cpu"])
    assert not all_on(attention, "GroupQueryAttention", PROVIDERS["cuda"])
    assert all_on(attention, "MatMul", PROVIDERS["cuda"]), "there is none"
