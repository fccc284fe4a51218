from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgeport.bundle.onnx_scan import external_files
from edgeport.errors import BundleError
from onnx import TensorProto, helper, numpy_helper


def external_tensor(name: str, location: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("offset", "0"), ("location", location)):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph(*nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], list(initializers))


def test_every_place_that_can_hold_a_tensor(tmp_path: Path) -> None:
    """Each kind of field in onnx.proto that leads to a tensor, with a file of its own."""
    branch = graph(helper.make_node("Constant", [], ["c"], value=external_tensor("t", "branch")))
    nodes = [
        helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=graph()),
        helper.make_node("Several", [], ["z"], domain="d", tensors=[external_tensor("t", "list")]),
        helper.make_node("Graphs", [], ["z"], domain="d", graphs=[branch]),
    ]
    model = helper.make_model(graph(*nodes, initializers=(external_tensor("w", "weights"),)))
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(external_tensor("v", "values"))
    sparse.indices.CopyFrom(external_tensor("i", "indices"))
    attribute = model.graph.node[1].attribute.add(name="s", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.values.CopyFrom(external_tensor("v", "sparse attribute"))
    function = model.functions.add(name="f", domain="d")
    function.node.append(helper.make_node("Constant", [], ["c"], value=external_tensor("t", "function")))
    function.attribute_proto.append(helper.make_attribute("a", external_tensor("t", "default")))
    model.training_info.add().algorithm.CopyFrom(graph(initializers=(external_tensor("w", "training"),)))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert external_files(path) == {
        "branch", "list", "weights", "values", "indices", "sparse attribute", "function", "default", "training",
    }  # fmt: skip


def test_weights_inside_need_no_file(tmp_path: Path, scores: onnx.ModelProto) -> None:
    scores.doc_string = "location"
    (tmp_path / "m.onnx").write_bytes(scores.SerializeToString())
    assert external_files(tmp_path / "m.onnx") == frozenset()


@pytest.mark.parametrize("data", [b"", b"not a graph", b"\x00" * 100, b"\xff" * 100, b"PK\x03\x04"])
def test_what_is_no_onnx_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=r"m\.onnx"):
        external_files(tmp_path / "m.onnx")


def test_every_truncation_is_an_error_or_harmless(tmp_path: Path, scores: onnx.ModelProto) -> None:
    """A cut never raises anything else, and a cut within the graph is always noticed."""
    whole = scores.SerializeToString()
    path = tmp_path / "m.onnx"
    noticed = 0
    for end in range(1, len(whole), 7):
        path.write_bytes(whole[:end])
        try:
            external_files(path)
        except BundleError:
            noticed += 1
    assert noticed > 0.9 * len(range(1, len(whole), 7))


def test_garbage_raises_nothing_else(tmp_path: Path, scores: onnx.ModelProto) -> None:
    whole = scores.SerializeToString()
    generator = random.Random(0)
    path = tmp_path / "m.onnx"
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(5):
            data[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(bytes(data))
        try:
            external_files(path)
        except BundleError:
            continue


def field(number: int, payload: bytes) -> bytes:
    """A protobuf field with a length, written by hand: the library refuses to nest as deep as a stranger may."""
    length, size = bytearray(), len(payload)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2]) + bytes([*length, size]) + payload


@pytest.mark.parametrize("depth", [2, 5000])
def test_deep_nesting_is_refused(tmp_path: Path, depth: int) -> None:
    inner = field(1, field(5, field(5, external_tensor("t", "deep").SerializeToString())))
    for _ in range(depth):
        inner = field(1, field(5, field(6, inner)))
    (tmp_path / "m.onnx").write_bytes(field(7, inner))
    if depth == 2:
        assert external_files(tmp_path / "m.onnx") == {"deep"}
        return
    with pytest.raises(BundleError, match="nests deeper"):
        external_files(tmp_path / "m.onnx")


def test_a_compiled_program_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context="program.bin")
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph(node)).SerializeToString())
    with pytest.raises(BundleError, match="compiled program"):
        external_files(tmp_path / "m.onnx")
