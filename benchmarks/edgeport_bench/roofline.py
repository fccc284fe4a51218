"""What this machine can do at best, measured in onnxruntime: operations a second in fp32 and int8, bytes a second.

Williams, Waterman, Patterson 2009: a kernel reaches at most the smaller of its peak and its operations a byte times the
bandwidth.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Roofline", "measure_roofline"]

_SIZE = 1024
_READ_VALUES = 2**26
"""Far more than the caches hold."""
_TIMES = 15


@dataclass(frozen=True)
class Roofline:
    """Of a number of threads."""

    fp32: float
    """Floating-point operations a second; a multiplication and an addition are two."""
    int8: float
    """Operations a second of products of bytes."""
    bandwidth: float
    """Bytes a second, read."""

    def share(self, operations: float, read: float, seconds: float, *, is_int8: bool) -> float:
        """How near something came to what is possible, from 0 to 1.

        Args:
            operations: Of its products.
            read: Bytes in and out.
            seconds: What it took.
            is_int8: Which peak counts.
        """
        least = max(operations / (self.int8 if is_int8 else self.fp32), read / self.bandwidth)
        return least / seconds if seconds > 0 else 0.0


def measure_roofline(threads: int) -> Roofline:
    """The best of a few runs each; takes about two seconds."""
    from onnx import TensorProto

    rng = np.random.default_rng(0)
    square = (_SIZE, _SIZE)
    floats = rng.normal(size=square).astype(np.float32)
    # Weights of 7 bits: with 8, processors without VNNI would have to choose between speed and exactness.
    bytes_ = rng.integers(0, 255, square).astype(np.uint8), rng.integers(-64, 64, square).astype(np.int8)
    products = 2.0 * _SIZE**3
    values = np.ones((64, _READ_VALUES // 64), np.float32)
    fp32 = _best("MatMul", {"a": floats}, floats, TensorProto.FLOAT, threads)
    int8 = _best("MatMulInteger", {"a": bytes_[0]}, bytes_[1], TensorProto.INT32, threads)
    read = _best("ReduceMax", {"a": values}, np.array([1]), TensorProto.FLOAT, threads)
    return Roofline(products / fp32, products / int8, values.nbytes / read)


def _best(operator: str, feeds: dict[str, Any], constant: Any, result: int, threads: int) -> float:
    """The least seconds of one operator on an input and a constant."""
    import onnxruntime
    from onnx import helper, numpy_helper

    (value,) = feeds.values()
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["c"])],
        operator,
        [helper.make_tensor_value_info("a", helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)],
        [helper.make_tensor_value_info("c", result, None)],
        [numpy_helper.from_array(constant, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    taken = []
    for _ in range(_TIMES):
        start = time.perf_counter()
        session.run(None, feeds)
        taken.append(time.perf_counter() - start)
    return min(taken)
