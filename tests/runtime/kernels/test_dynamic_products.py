"""The kernels' dynamic products: against their definition in numpy, and no further from floats than onnxruntime's."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from edgeport.session.kernel_graph import DOMAIN, WEIGHT_ONLY, rewritten
from onnx import TensorProto, helper, numpy_helper

from .test_products import assert_close
from .test_taken_in import operators

FLOAT = TensorProto.FLOAT


class Dynamic:
    """A graph of one DynamicQuantizeMatMul, ``y`` from ``x``."""

    def __init__(self, k: int, n: int, *, bias: bool = False, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.k, self.n = k, n
        self.constants = {
            "w": draw.integers(-128, 128, (k, n)).astype(np.int8),
            "s": draw.uniform(0.001, 0.1, n).astype(np.float32),
            "b": draw.standard_normal(n).astype(np.float32),
        }
        self.inputs = ["x", "w", "s", "", *(["b"] if bias else [])]
        self.before: list[onnx.NodeProto] = []
        self.after: list[onnx.NodeProto] = []

    def model(self) -> onnx.ModelProto:
        node = helper.make_node("DynamicQuantizeMatMul", self.inputs, ["y"], domain="com.microsoft")
        said = {"x": self.k, "made": self.k, "y": self.n, "r": self.n, "result": self.n}
        described = {k: helper.make_tensor_value_info(k, FLOAT, ["batch", "new", v]) for k, v in said.items()}
        nodes = [*self.before, node, *self.after]
        read, made = ({name for n in nodes for name in getattr(n, side)} for side in ("input", "output"))
        result = "result" if self.after else "y"
        graph = helper.make_graph(
            nodes,
            "product",
            [described[name] for name in sorted(read - made - set(self.constants) - {""})],
            [described[result]],
            [numpy_helper.from_array(a, name) for name, a in self.constants.items() if name in read],
            value_info=[described[name] for name in sorted(made - {result})],
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def exact(self, x: np.ndarray) -> np.ndarray:
        """The product in float64, nothing rounded but the matrix."""
        bias = self.constants["b"] if "b" in self.inputs else 0
        return x.astype(np.float64) @ (self.constants["w"].astype(np.float64) * self.constants["s"]) + bias

    def expected(self, x: np.ndarray) -> np.ndarray:
        """Activations in 8 bits, with a scale for each block of columns: as few as are no wider than 256."""
        blocks = math.ceil(self.k / 256)
        width = math.ceil(math.ceil(self.k / blocks) / 16) * 16
        y = np.zeros((*x.shape[:-1], self.n))
        for at in range(0, self.k, width):
            part = x[..., at : at + width].astype(np.float64)
            scale = np.abs(part).max(axis=-1, keepdims=True) / 127
            rounded = np.rint(part / np.where(scale, scale, 1)) * scale
            y += rounded @ (self.constants["w"][at : at + width] * self.constants["s"].astype(np.float64))
        return y + (self.constants["b"] if "b" in self.inputs else 0)


def draw(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("k", "n"), [(1, 1), (3, 40), (16, 32), (100, 33), (256, 64), (257, 8), (384, 72), (700, 530), (1536, 31)]
)
def test_the_definition(k, n, bias, rewrite, open_model):
    product = Dynamic(k, n, bias=bias)
    x = draw(2, 5, k)
    got = open_model(rewrite(product.model())).run(None, {"x": x})[0]
    assert_close(got, product.expected(x))


def test_closer_to_floats_than_one_range_for_all(rewrite, open_model):
    """The activations have rows of different size, as those of a model have."""
    product = Dynamic(512, 96, bias=True)
    x = draw(1, 20, 512) * np.linspace(0.1, 10, 20, dtype=np.float32)[:, None]
    theirs = open_model(product.model(), library=False).run(None, {"x": x})[0]
    ours = open_model(rewrite(product.model())).run(None, {"x": x})[0]
    errors = [np.abs(y - product.exact(x)).mean() for y in (ours, theirs)]
    assert errors[0] < 0.5 * errors[1]


def test_a_row_does_not_depend_on_others(rewrite, open_model):
    product = Dynamic(96, 40)
    session = open_model(rewrite(product.model()))
    x = draw(1, 9, 96)
    alone = np.concatenate([session.run(None, {"x": x[:, i : i + 1]})[0] for i in range(9)], axis=1)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], alone, rtol=1e-5, atol=1e-5)


def test_what_stands_around_is_taken_in(rewrite, open_model):
    product = Dynamic(64, 48, bias=True)
    product.before = [helper.make_node("Gelu", ["x"], ["made"])]
    product.inputs[0] = "made"
    product.after = [helper.make_node("Add", ["y", "r"], ["result"])]
    graph = rewrite(product.model())
    assert operators(graph) == ["DynamicQuantizeMatMul"]
    x, r = draw(1, 7, 64), draw(1, 7, 48, seed=2)
    gelu = (x * (1 + np.vectorize(math.erf)(x / 2**0.5)) / 2).astype(np.float32)
    got = open_model(graph).run(None, {"x": x, "r": r})[0]
    assert_close(got, product.expected(gelu) + r)


def _zero_points(product: Dynamic) -> None:
    product.inputs[3] = "z"
    product.constants["z"] = np.zeros(product.n, np.int8)


def _unsigned(product: Dynamic) -> None:
    product.constants["w"] = product.constants["w"].view(np.uint8)


def _one_scale(product: Dynamic) -> None:
    product.constants["s"] = np.array([0.1], np.float32)


def _another_bias(product: Dynamic) -> None:
    product.constants["b"] = product.constants["b"][:-1]


@pytest.mark.parametrize("change", [_zero_points, _unsigned, _one_scale, _another_bias])
def test_other_products_stay(change, rewrite):
    product = Dynamic(32, 24, bias=True)
    change(product)
    assert rewrite(product.model()) is None


def test_a_matrix_that_is_no_constant_stays(rewrite):
    model = Dynamic(32, 24).model()
    matrix = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    model.graph.initializer.remove(matrix)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.INT8, [32, 24]))
    assert rewrite(model) is None


def test_only_what_is_asked_for_is_replaced(rewrite):
    data = Dynamic(32, 24).model().SerializeToString()
    assert rewritten(data, {WEIGHT_ONLY}) is None
    changed = onnx.load_from_string(rewritten(data, {"DynamicQuantizeMatMul"}))
    assert changed.graph.node[0].domain == DOMAIN


@pytest.mark.parametrize("name", ["w", "s", "b"])
def test_sizes_that_do_not_fit_are_refused(name, rewrite, open_model):
    """A stranger's graph says one thing and holds another."""
    product = Dynamic(32, 24, bias=True)
    graph = onnx.load_from_string(rewrite(product.model()))
    for tensor in graph.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(product.constants[name][:-1], name))
    with pytest.raises(Exception, match="another type or size"):
        open_model(graph)
