"""The kernels' attention of models that read against onnxruntime's own, fed the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from edgeport.session.kernel_graph import DOMAIN
from onnx import TensorProto, helper, numpy_helper

from .test_taken_in import operators

FLOAT, INT32 = TensorProto.FLOAT, TensorProto.INT32


class Attention:
    """A graph of one MultiHeadAttention, or of one behind a Split."""

    def __init__(
        self, heads: int = 4, size: int = 16, *, packed: bool = False, masked: bool = True, **attributes
    ) -> None:
        self.heads, self.width, self.packed, self.masked = heads, heads * size, packed, masked
        self.attributes = {"num_heads": heads, **attributes}
        self.inputs = ["q", "k", "v", *(["", "mask"] if masked else [])]
        self.said = {name: ["batch", "new" if name == "q" else "keys", self.width] for name in "qkv"}
        self.outputs = ["y"]
        self.mask_type, self.mask_axes = INT32, ["batch", "keys"]

    def model(self) -> onnx.ModelProto:
        described = {name: helper.make_tensor_value_info(name, FLOAT, axes) for name, axes in self.said.items()}
        node = helper.make_node(
            "MultiHeadAttention", self.inputs, self.outputs, domain="com.microsoft", **self.attributes
        )
        inputs, nodes, parts = [described[n] for n in "qkv"], [node], []
        if self.packed:
            inputs = [helper.make_tensor_value_info("x", FLOAT, ["batch", "new", 3 * self.width])]
            nodes = [helper.make_node("Split", ["x", "parts"], ["q", "k", "v"], axis=-1), node]
            parts = [numpy_helper.from_array(np.array([self.width] * 3), "parts")]
        if self.masked:
            inputs.append(helper.make_tensor_value_info("mask", self.mask_type, self.mask_axes))
        extra = [helper.make_tensor_value_info(n, FLOAT, None) for n in self.inputs[5:] if n]
        graph = helper.make_graph(
            nodes,
            "attention",
            [*inputs, *extra],
            [helper.make_tensor_value_info(name, FLOAT, None) for name in self.outputs],
            parts,
            value_info=list(described.values()) if self.packed else [],
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def feeds(self, batch: int, new: int, keys: int | None = None) -> dict[str, np.ndarray]:
        draw = np.random.default_rng(new).standard_normal
        keys = keys or new
        if self.packed:
            found = {"x": draw((batch, new, 3 * self.width)).astype(np.float32)}
        else:
            found = {n: draw((batch, new if n == "q" else keys, self.width)).astype(np.float32) for n in "qkv"}
        return {**found, **({"mask": np.ones((batch, keys), np.int32)} if self.masked else {})}


@pytest.fixture
def assert_equal(rewrite, open_model):
    def compare(attention: Attention, feeds: dict[str, np.ndarray]) -> None:
        graph = rewrite(attention.model())
        assert operators(graph) == ["MultiHeadAttention"]
        assert onnx.load_from_string(graph).graph.node[0].domain == DOMAIN
        theirs = open_model(attention.model(), library=False).run(None, feeds)[0]
        ours = open_model(graph).run(None, feeds)[0]
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=3e-6)

    return compare


@pytest.mark.parametrize(("batch", "new"), [(1, 1), (1, 16), (2, 33), (1, 64), (3, 70), (1, 200)])
@pytest.mark.parametrize(
    "attention",
    [
        Attention(),
        Attention(12, 64, packed=True),
        Attention(2, 8, masked=False),
        Attention(3, 40, scale=0.05),
        Attention(1, 256, packed=True, masked=False),
    ],
    ids=lambda a: f"{a.heads}x{a.width // a.heads}{'-packed' * a.packed}",
)
def test_as_onnxruntime(attention, batch, new, assert_equal):
    assert_equal(attention, attention.feeds(batch, new))


@pytest.mark.parametrize("keys", [1, 5, 64, 130])
def test_other_tokens_as_keys(keys, assert_equal):
    attention = Attention()
    assert_equal(attention, attention.feeds(2, 20, keys))


@pytest.mark.parametrize("packed", [False, True])
def test_masks_of_any_form(packed, assert_equal):
    attention = Attention(packed=packed)
    feeds = attention.feeds(4, 90)
    mask = feeds["mask"]
    mask[0, 40:] = 0  # padding behind
    mask[1, :70] = 0  # in front
    mask[2] = np.random.default_rng(0).integers(0, 2, 90)
    mask[3, :-1] = 0  # one key
    assert_equal(attention, feeds)


def test_a_mask_that_hides_all_hides_nothing(rewrite, open_model):
    """Every score loses as much as the others; onnxruntime loses digits with it, and this does not."""
    attention = Attention()
    feeds = attention.feeds(2, 20)
    everything, nothing = feeds, {**feeds, "mask": np.zeros_like(feeds["mask"])}
    session = open_model(rewrite(attention.model()))
    ours = session.run(None, nothing)[0]
    np.testing.assert_array_equal(ours, session.run(None, everything)[0])
    theirs = open_model(attention.model(), library=False).run(None, nothing)[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_large_scores_do_not_overflow(rewrite, open_model):
    attention = Attention(2, 8, scale=60.0)
    feeds = attention.feeds(1, 40)
    ours = open_model(rewrite(attention.model())).run(None, feeds)[0]
    theirs = open_model(attention.model(), library=False).run(None, feeds)[0]
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def _bias(a: Attention) -> None:
    a.inputs[3] = "v"


def _attention_bias(a: Attention) -> None:
    a.inputs.append("more")


def _direction(a: Attention) -> None:
    a.attributes["unidirectional"] = 1


def _filter(a: Attention) -> None:
    a.attributes["mask_filter_value"] = -1.0


def _odd_heads(a: Attention) -> None:
    a.attributes["num_heads"] = 16


def _unknown_width(a: Attention) -> None:
    a.said["k"] = ["batch", "keys", "width"]


def _four_axes(a: Attention) -> None:
    a.said["k"] = ["batch", 4, "keys", 64]


def _mask_of_pairs(a: Attention) -> None:
    a.mask_axes = ["batch", "new", "keys"]


def _present(a: Attention) -> None:
    a.outputs = ["y", "present_key", "present_value"]


@pytest.mark.parametrize(
    "change",
    [
        _bias,
        _attention_bias,
        _direction,
        _filter,
        _odd_heads,
        _unknown_width,
        _four_axes,
        _mask_of_pairs,
        _present,
    ],
)
def test_other_attentions_stay(change, rewrite):
    attention = Attention()
    change(attention)
    assert rewrite(attention.model()) is None


def test_a_split_that_something_else_reads_stays(rewrite):
    attention = Attention(packed=True)
    model = attention.model()
    model.graph.output.append(helper.make_tensor_value_info("k", FLOAT, None))
    assert operators(rewrite(model)) == ["Split", "MultiHeadAttention"]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("q", (2, 9, 60), "no multiple of the heads|no multiple of 8"),
        ("k", (2, 8, 64), "differ in their sizes"),
        ("v", (2, 9, 32), "differ in their sizes"),
        ("k", (1, 9, 64), "differ in their sizes"),
        ("mask", (2, 8), "the mask has other sizes"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(name, shape, message, rewrite, open_model):
    """A graph says one thing, and is fed another."""
    attention = Attention()
    graph = onnx.load_from_string(rewrite(Attention().model()))
    for value in graph.graph.input:
        for axis in value.type.tensor_type.shape.dim:
            axis.Clear()
    session = open_model(graph)
    feeds = attention.feeds(2, 9)
    feeds[name] = np.ones(shape, feeds[name].dtype)
    with pytest.raises(Exception, match=message):
        session.run(None, feeds)
