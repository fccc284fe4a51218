"""Graphs of one node, with the kernels and without."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest
from edgeport.session.cpu import cpu_features
from edgeport.session.kernel_graph import ATTENTION, DYNAMIC, HEADS, WEIGHT_ONLY
from edgeport.session.kernels import CHOICE, Kernels

edgeport_kernels = pytest.importorskip("edgeport_kernels")


@pytest.fixture(scope="session")
def kernels():
    library = edgeport_kernels.library()
    if library is None or "avx2" not in cpu_features():
        pytest.skip("there are no kernels for this processor")
    return Kernels(library, edgeport_kernels.__version__, frozenset({WEIGHT_ONLY, DYNAMIC, ATTENTION, HEADS}))


@pytest.fixture(params=[name for name in ("avx2", "avx512_vnni") if name in cpu_features()] or ["none"])
def instructions(request, monkeypatch):
    """What the kernels multiply by: each that this processor has, in turn."""
    monkeypatch.setenv(CHOICE, "avx2" if request.param == "avx2" else "1")
    return request.param


@pytest.fixture
def rewrite(kernels, tmp_path):
    """A model as the kernels run it, in bytes; None where they have nothing for it."""

    def write(model: onnx.ModelProto) -> bytes | None:
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return kernels.graph(path)

    return write


@pytest.fixture
def open_model(kernels, instructions):
    """Opens a model, with the kernels' library or without."""

    def opened(model: onnx.ModelProto | bytes, *, library: bool = True) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        options.log_severity_level = 4
        if library:
            options.register_custom_ops_library(str(kernels.library))
        data = model if isinstance(model, bytes) else model.SerializeToString()
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    return opened
