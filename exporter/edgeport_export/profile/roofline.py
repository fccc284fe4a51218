"""What a machine can do at best, measured in onnxruntime: operations a second in fp32 and int8, bytes a second, and how
soon an operator is done that has nothing to do.

Williams, Waterman, Patterson 2009: a kernel reaches at most the smaller of its peak and its operations a byte times the
bandwidth.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import GraphProto

__all__ = ["Machine", "Roofline", "measure_machine", "measure_roofline"]

_SIZE = 1024
_READ_VALUES = 2**26
"""Far more than the caches hold."""
_CHAIN = 256
"""Operators with nothing to do, one after the other."""
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

    def least(self, operations: float, read: float, *, is_int8: bool) -> float:
        """The seconds that a product of so many operations on so many bytes takes at least."""
        return max(operations / (self.int8 if is_int8 else self.fp32), read / self.bandwidth)


@dataclass(frozen=True)
class Machine:
    """What decides how long a graph takes on a processor."""

    threads: int
    roofline: Roofline
    """Of so many threads."""
    operator: float
    """Seconds that an operator takes which has nothing to do."""


def measure_machine(threads: int) -> Machine:
    """This machine with so many threads; takes about two seconds."""
    return Machine(threads, measure_roofline(threads), _operator(threads))


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
    fp32 = _product("MatMul", floats, floats, TensorProto.FLOAT, threads)
    int8 = _product("MatMulInteger", *bytes_, TensorProto.INT32, threads)
    read = _product("ReduceMax", values, np.array([1]), TensorProto.FLOAT, threads)
    return Roofline(products / fp32, products / int8, values.nbytes / read)


def _product(operator: str, value: Any, constant: Any, result: int, threads: int) -> float:
    """The least seconds of one operator on an input and a constant."""
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["c"])],
        operator,
        [helper.make_tensor_value_info("a", helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)],
        [helper.make_tensor_value_info("c", result, None)],
        [numpy_helper.from_array(constant, "b")],
    )
    return _best(graph, value, threads)


def _operator(threads: int) -> float:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Neg", [f"x{i}"], [f"x{i + 1}"]) for i in range(_CHAIN)],
        "chain",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, [8])],
        [helper.make_tensor_value_info(f"x{_CHAIN}", TensorProto.FLOAT, [8])],
    )
    return _best(graph, np.ones(8, np.float32), threads) / _CHAIN


def _best(graph: GraphProto, value: Any, threads: int) -> float:
    """The least seconds of a graph on its one input."""
    import onnxruntime
    from onnx import helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Negations that cancel each other would be removed, and they are what is measured.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {graph.input[0].name: value}
    taken = []
    for _ in range(_TIMES):
        start = time.perf_counter()
        session.run(None, feeds)
        taken.append(time.perf_counter() - start)
    return min(taken)
