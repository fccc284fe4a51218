"""What a product takes in of the graph around it: that it is computed, and where it must be left alone."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from edgeport.session.kernel_graph import DOMAIN
from onnx import TensorProto, helper, numpy_helper

from .test_products import Product, assert_close

FLOAT = TensorProto.FLOAT
ROWS = ["batch", "new"]


class Surrounded:
    """A graph of one product, ``y`` from ``made``, and other nodes: ``made`` from ``x``, ``result`` from ``y``."""

    def __init__(self, before: list[onnx.NodeProto], after: list[onnx.NodeProto], k: int = 40, n: int = 24) -> None:
        self.product = Product(n, k, 8, 32)
        node = self.product.node()
        node.input[0] = "made"
        self.nodes = [*before, node, *after]
        self.result = "result" if after else "y"
        self.said = {"made": k, "y": n, "x": k, "r": n, "gate": k, "up": k}
        """The last axis of tensors: of those that are not here the graph says nothing."""
        self.constants: dict[str, np.ndarray] = {}
        self.results = [self.result]

    def model(self) -> onnx.ModelProto:
        made = {name for node in self.nodes for name in node.output}
        read = {name for node in self.nodes for name in node.input}
        described = {name: self.value(name) for name in (made | read) & {*self.said, *self.results}}
        arrays = {"w": self.product.packed(self.product.integers), "s": self.product.scales, **self.constants}
        inputs = [described[name] for name in sorted(read - made - set(arrays) - {""})]
        graph = helper.make_graph(
            self.nodes,
            "surrounded",
            inputs,
            [described[name] for name in self.results],
            [numpy_helper.from_array(array, name) for name, array in arrays.items()],
            value_info=[value for name, value in sorted(described.items()) if name in made - set(self.results)],
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def value(self, name: str) -> onnx.ValueInfoProto:
        axis = self.said.get(name, self.product.n)
        return helper.make_tensor_value_info(name, FLOAT, axis if isinstance(axis, list) else [*ROWS, axis])


def operators(graph: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(graph).graph.node]


def norm(operator: str, *, bias: bool = False, **attributes) -> onnx.NodeProto:
    return helper.make_node(operator, ["x", "scale", *(["bias"] if bias else [])], ["made"], **attributes)


def normalized(x: np.ndarray, scale: np.ndarray, bias: np.ndarray | float, epsilon: float, centred: bool) -> np.ndarray:
    x = x.astype(np.float64)
    x = x - x.mean(axis=-1, keepdims=True) if centred else x
    return (x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + epsilon) * scale + bias).astype(np.float32)


SILU = [helper.make_node("Sigmoid", ["x"], ["s1"]), helper.make_node("Mul", ["x", "s1"], ["made"])]
ACTIVATIONS = {
    "silu": (SILU, lambda x: x / (1 + np.exp(-x))),
    "silu-turned": ([SILU[0], helper.make_node("Mul", ["s1", "x"], ["made"])], lambda x: x / (1 + np.exp(-x))),
    "gelu": ([helper.make_node("Gelu", ["x"], ["made"])], lambda x: x * (1 + np.vectorize(math.erf)(x / 2**0.5)) / 2),
    "gelu-tanh": (
        [helper.make_node("Gelu", ["x"], ["made"], approximate="tanh")],
        lambda x: x * (1 + np.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2,
    ),
    "relu": ([helper.make_node("Relu", ["x"], ["made"])], lambda x: np.maximum(x, 0)),
}


def gated(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The activation of ``gate`` times ``up``, two halves of ``x``."""
    names = {"x": "gate", "made": "activated"}
    inner = []
    for node in nodes:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        for listed in (copy.input, copy.output):
            listed[:] = [names.get(name, name) for name in listed]
        inner.append(copy)
    split = helper.make_node("Split", ["x", "halves"], ["gate", "up"], axis=-1)
    return [split, *inner, helper.make_node("Mul", ["activated", "up"], ["made"])]


ADD = helper.make_node("Add", ["y", "r"], ["result"])
RMS = norm("SimplifiedLayerNormalization", axis=-1, epsilon=1e-6)
HALVES = np.array([40, 40], np.int64)


def draw(*shape: int, seed: int = 1, size: float = 3) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * size).astype(np.float32)


@pytest.mark.parametrize("k", [16, 40, 100])
@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize(
    ("node", "epsilon", "centred"),
    [
        (RMS, 1e-6, False),
        (norm("SimplifiedLayerNormalization"), 1e-5, False),
        (norm("LayerNormalization", axis=-1, epsilon=0.1), 0.1, True),
        (norm("LayerNormalization", bias=True, epsilon=1e-12), 1e-12, True),
    ],
    ids=["rms", "rms-defaults", "layer", "layer-bias"],
)
def test_normalizations(node, epsilon, centred, rows, k, rewrite, open_model):
    surrounded = Surrounded([node], [], k=k)
    scale, bias = draw(k, seed=2), draw(k, seed=3)
    surrounded.constants = {"scale": scale} | ({"bias": bias} if "bias" in node.input else {})
    graph = rewrite(surrounded.model())
    assert operators(graph) == ["MatMulNBits"]
    x = draw(2, rows, k) + np.float32(centred)
    want = surrounded.product.expected(normalized(x, scale, bias if "bias" in node.input else 0, epsilon, centred))
    assert_close(open_model(graph).run(None, {"x": x})[0], want)


@pytest.mark.parametrize("form", ["plain", "gated"])
@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_activations(name, form, rewrite, open_model):
    nodes, function = ACTIVATIONS[name]
    surrounded = Surrounded(gated(nodes) if form == "gated" else nodes, [])
    if form == "gated":
        surrounded.said["x"] = 80
        surrounded.constants = {"halves": HALVES}
    graph = rewrite(surrounded.model())
    assert operators(graph) == ["MatMulNBits"]
    x = draw(2, 5, surrounded.said["x"], size=6)
    wide = x.astype(np.float64)
    activated = function(wide) if form == "plain" else function(wide[..., :40]) * wide[..., 40:]
    assert_close(open_model(graph).run(None, {"x": x})[0], surrounded.product.expected(activated.astype(np.float32)))


@pytest.mark.parametrize("name", list(ACTIVATIONS))
@pytest.mark.parametrize("value", [-3e38, -1e4, -90.0, -0.0, 0.0, 1e-30, 90.0, 1e4, 1e30])
def test_activations_of_large_and_small_numbers(name, value, rewrite, open_model):
    nodes, function = ACTIVATIONS[name]
    surrounded = Surrounded(nodes, [])
    x = np.full((1, 1, 40), value, np.float32)
    with np.errstate(over="ignore"):
        want = surrounded.product.expected(function(x.astype(np.float64)).astype(np.float32))
    got = open_model(rewrite(surrounded.model())).run(None, {"x": x})[0]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-30)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("rows", [1, 6])
def test_a_residual(rows, turned, rewrite, open_model):
    add = helper.make_node("Add", ["r", "y"] if turned else ["y", "r"], ["result"])
    surrounded = Surrounded([RMS], [add])
    surrounded.constants = {"scale": draw(40, seed=2)}
    graph = rewrite(surrounded.model())
    assert operators(graph) == ["MatMulNBits"]
    x, r = draw(2, rows, 40), draw(2, rows, 24, seed=4, size=50)
    want = surrounded.product.expected(normalized(x, surrounded.constants["scale"], 0, 1e-6, False)) + r
    assert_close(open_model(graph).run(None, {"x": x, "r": r})[0], want)


def test_products_that_read_the_same_normalization(rewrite, open_model):
    surrounded = Surrounded([RMS], [ADD])
    other = surrounded.product.node()
    other.input[0], other.output[0] = "made", "r"
    surrounded.nodes.insert(1, other)
    surrounded.constants = {"scale": draw(40, seed=2)}
    graph = rewrite(surrounded.model())
    assert operators(graph) == ["MatMulNBits", "MatMulNBits"]  # and one has taken in the sum of both
    x = draw(2, 3, 40)
    want = 2 * surrounded.product.expected(normalized(x, surrounded.constants["scale"], 0, 1e-6, False))
    assert_close(open_model(graph).run(None, {"x": x})[0], want)


def test_a_residual_that_is_made_later(rewrite, open_model):
    late = helper.make_node("Neg", ["x2"], ["r"])
    surrounded = Surrounded([helper.make_node("Relu", ["x"], ["made"])], [late, ADD])
    surrounded.said["x2"] = 24
    graph = rewrite(surrounded.model())
    assert operators(graph) == ["Neg", "MatMulNBits"]
    x, r = draw(1, 2, 40), draw(1, 2, 24, seed=5)
    got = open_model(graph).run(None, {"x": x, "x2": r})[0]
    assert_close(got, surrounded.product.expected(np.maximum(x, 0)) - r)


# What something else depends on, or what the library has not, stays.


def _read_elsewhere(s: Surrounded) -> None:
    s.nodes.append(helper.make_node("Neg", ["made"], ["also"]))
    s.said["also"] = 40
    s.results.append("also")


def _given_away(s: Surrounded) -> None:
    s.results.append("made")


def _product_given_away(s: Surrounded) -> None:
    s.results.append("y")


def _read_by_a_subgraph(s: Surrounded) -> None:
    inner = helper.make_graph([helper.make_node("Neg", ["made"], ["n"])], "inner", [], [s.value("n")])
    s.said["n"] = s.said["chosen"] = 40
    s.nodes.append(helper.make_node("If", ["yes"], ["chosen"], then_branch=inner, else_branch=inner))
    s.constants["yes"] = np.array(True)
    s.results.append("chosen")


def _said_to_be_alike(name: str, axes: list[int | str]):
    def change(s: Surrounded) -> None:
        s.said[name] = axes

    change.__name__ = f"{name}{axes}"
    return change


@pytest.mark.parametrize("change", [_read_elsewhere, _given_away, _read_by_a_subgraph], ids=lambda f: f.__name__)
def test_a_prologue_that_something_else_needs_stays(change, rewrite, open_model):
    surrounded = Surrounded([RMS], [])
    surrounded.constants = {"scale": draw(40, seed=2)}
    change(surrounded)
    graph = rewrite(surrounded.model())
    assert "SimplifiedLayerNormalization" in operators(graph)
    assert DOMAIN in [node.domain for node in onnx.load_from_string(graph).graph.node]
    x = draw(2, 3, 40)
    got, *others = open_model(graph).run(None, {"x": x})
    made = normalized(x, surrounded.constants["scale"], 0, 1e-6, False)
    assert_close(got, surrounded.product.expected(made))
    np.testing.assert_allclose(np.abs(others[0]), np.abs(made), rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        _product_given_away,
        _said_to_be_alike("r", [24]),
        _said_to_be_alike("r", [1, "new", 24]),
        _said_to_be_alike("r", ["other", "new", 24]),
        _said_to_be_alike("y", [None, None, 24]),
        lambda s: s.said.pop("y"),
    ],
    ids=lambda f: f.__name__,
)
def test_an_addition_that_is_not_known_to_be_of_one_shape_stays(change, rewrite, open_model):
    surrounded = Surrounded([helper.make_node("Relu", ["x"], ["made"])], [ADD])
    change(surrounded)
    graph = rewrite(surrounded.model())
    assert operators(graph) == ["MatMulNBits", "Add"]
    axes = surrounded.value("r").type.tensor_type.shape.dim
    x, r = draw(2, 2, 40), draw(*(axis.dim_value or 2 for axis in axes), seed=4)
    got = open_model(graph).run(["result"], {"x": x, "r": r})[0]
    assert_close(got, surrounded.product.expected(np.maximum(x, 0)) + r)


@pytest.mark.parametrize(
    "node",
    [
        norm("LayerNormalization", axis=1),
        norm("SimplifiedLayerNormalization", axis=2),
        helper.make_node("LayerNormalization", ["x", "scale"], ["made", "mean"]),
        helper.make_node("Tanh", ["x"], ["made"]),
        helper.make_node("Gelu", ["x"], ["made"], domain="com.microsoft"),
        helper.make_node("Mul", ["x", "x"], ["made"]),
        helper.make_node("Mul", ["x", "scale"], ["made"]),
    ],
    ids=lambda node: f"{node.op_type}{node.domain}{len(node.output)}{len(node.attribute)}",
)
def test_other_operators_stay(node, rewrite):
    surrounded = Surrounded([node], [])
    surrounded.constants = {"scale": draw(40, seed=2)}
    assert operators(rewrite(surrounded.model())) == [node.op_type, "MatMulNBits"]


def _second_half_first(nodes: list[onnx.NodeProto]) -> None:
    nodes[0].output[:] = ["up", "gate"]


def _another_axis(nodes: list[onnx.NodeProto]) -> None:
    nodes[0].attribute[0].i = 2


def _gate_read_twice(nodes: list[onnx.NodeProto]) -> None:
    nodes[-1].input[:] = ["activated", "gate"]


@pytest.mark.parametrize(
    ("change", "left"),
    [(_second_half_first, {"Split", "Sigmoid"}), (_another_axis, {"Split", "Sigmoid"}), (_gate_read_twice, {"Split"})],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_other_gates_stay(change, left, rewrite):
    nodes = gated(SILU)
    change(nodes)
    surrounded = Surrounded(nodes, [])
    surrounded.said["x"] = 80
    surrounded.constants = {"halves": HALVES}
    assert left < set(operators(rewrite(surrounded.model())))


# A stranger's graph says one thing and holds another.


def test_a_residual_of_another_size_is_refused(rewrite, open_model):
    surrounded = Surrounded([helper.make_node("Relu", ["x"], ["made"])], [ADD])
    session = open_model(rewrite(surrounded.model()))
    with pytest.raises(Exception, match="another size"):
        session.run(None, {"x": draw(1, 2, 40), "r": draw(1, 1, 24)})


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"prologue": 7}, "no such prologue"),
        ({"prologue": -1}, "no such prologue"),
        ({"gated": 1}, "no such prologue"),
        ({"prologue": 1, "gated": 1}, "no such prologue"),
        ({"prologue": 2}, "no scale"),
    ],
    ids=str,
)
def test_prologues_that_do_not_exist_are_refused(attributes, message, rewrite, open_model):
    product = Product(8, 32, 8, 32)
    model = onnx.load_from_string(rewrite(product.model()))
    model.graph.node[0].attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
    with pytest.raises(Exception, match=message):
        open_model(model).run(None, {"x": draw(1, 32)})


def test_a_scale_of_another_size_is_refused(rewrite, open_model):
    product = Product(8, 32, 8, 32)
    model = onnx.load_from_string(rewrite(product.model(scale=draw(31))))
    model.graph.node[0].attribute.append(helper.make_attribute("prologue", 1))
    model.graph.node[0].input.extend(["", "", "", "scale"])
    with pytest.raises(Exception, match="another size"):
        open_model(model).run(None, {"x": draw(1, 32)})
