"""The kernels' products against the definition of MatMulNBits, computed in numpy, and against onnxruntime's own."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from edgeport.session.kernel_graph import DOMAIN
from onnx import TensorProto, helper, numpy_helper


@dataclasses.dataclass
class Product:
    """A matrix in blocks, as MatMulNBits has it."""

    n: int
    k: int
    bits: int
    block: int
    shifted: bool = False
    bias: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        self.blocks = -(-self.k // self.block)
        self.integers = random.integers(0, 2**self.bits, (self.n, self.blocks, self.block), np.uint8)
        self.scales = random.uniform(0.001, 0.1, (self.n, self.blocks)).astype(np.float32)
        self.zeros = random.integers(0, 2**self.bits, (self.n, self.blocks), np.uint8)
        self.offsets = random.standard_normal(self.n).astype(np.float32)

    def packed(self, integers: np.ndarray) -> np.ndarray:
        """Two of 4 bits in a byte, the first in the low half."""
        if self.bits == 8:
            return integers
        padded = np.concatenate([integers, np.zeros_like(integers[..., : integers.shape[-1] % 2])], axis=-1)
        return padded[..., 0::2] | padded[..., 1::2] << 4

    def node(self, **changes) -> onnx.NodeProto:
        attributes = {"K": self.k, "N": self.n, "bits": self.bits, "block_size": self.block, "accuracy_level": 4}
        inputs = ["x", "w", "s", "z" if self.shifted else "", "", "b" if self.bias else ""]
        while not inputs[-1]:
            inputs.pop()
        return helper.make_node("MatMulNBits", inputs, ["y"], domain="com.microsoft", **{**attributes, **changes})

    def model(self, node: onnx.NodeProto | None = None, **constants) -> onnx.ModelProto:
        arrays = {"w": self.packed(self.integers), "s": self.scales}
        arrays |= {"z": self.packed(self.zeros)} if self.shifted else {}
        arrays |= {"b": self.offsets} if self.bias else {}
        graph = helper.make_graph(
            [node or self.node()],
            "product",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in {**arrays, **constants}.items()],
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def expected(self, x: np.ndarray) -> np.ndarray:
        """The definition: activations in 8 bits by blocks, integers multiplied, scaled and added up in float64."""
        rows = x.reshape(-1, self.k).astype(np.float64)
        padded = np.zeros((len(rows), self.blocks * self.block))
        padded[:, : self.k] = rows
        blocks = padded.reshape(len(rows), self.blocks, self.block)
        scales = np.abs(blocks).max(axis=2) / 127
        integers = np.rint(blocks / np.where(scales, scales, 1)[..., None])
        zeros = self.zeros if self.shifted else np.full_like(self.zeros, 2 ** (self.bits - 1))
        weights = self.integers.astype(np.float64) - zeros[..., None]
        dots = np.einsum("rbi,nbi->rnb", integers, weights)
        y = np.einsum("rnb,rb,nb->rn", dots, scales, self.scales.astype(np.float64))
        return (y + (self.offsets if self.bias else 0)).reshape(*x.shape[:-1], self.n)


@pytest.fixture
def run(rewrite, open_model):
    """The kernels' result for a product and activations."""

    def result(product: Product, x: np.ndarray) -> np.ndarray:
        return open_model(rewrite(product.model())).run(None, {"x": x})[0]

    return result


def assert_close(got: np.ndarray, want: np.ndarray) -> None:
    # Sums of fp32: the error is of the size of the largest terms. A quotient on the border between two integers may be
    # rounded either way, which a few elements in a thousand may show.
    assert got.shape == want.shape
    error = np.abs(got - want) / np.abs(want).max()
    assert np.quantile(error, 0.99) < 2e-6
    assert error.max() < 2e-3


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("n", "k", "block"),
    [(1, 16, 16), (7, 32, 32), (8, 64, 16), (13, 100, 32), (64, 256, 64), (530, 129, 128), (9, 700, 256)],
)
def test_the_definition(bits, n, k, block, shifted, run):
    product = Product(n, k, bits, block, shifted, bias=n % 2 == 1)
    x = np.random.default_rng(1).standard_normal((2, 3, k)).astype(np.float32)
    assert_close(run(product, x), product.expected(x))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [1, 2, 4, 5, 16, 17, 33])
def test_any_number_of_rows(bits, rows, run):
    product = Product(72, 96, bits, 32)
    x = np.random.default_rng(rows).standard_normal((rows, 96)).astype(np.float32)
    assert_close(run(product, x), product.expected(x))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("integer", ["least", "most"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_numbers_do_not_overflow(bits, integer, sign, shifted, run):
    product = Product(16, 512, bits, 128, shifted)
    product.integers[:] = 0 if integer == "least" else 2**bits - 1
    product.zeros[:] = 2**bits - 1 if integer == "least" else 0
    x = np.full((3, 512), sign, np.float32)
    np.testing.assert_allclose(run(product, x), product.expected(x), rtol=1e-5)


def test_zeros_and_nothing(rewrite, open_model):
    product = Product(24, 64, 4, 32, bias=True)
    session = open_model(rewrite(product.model()))
    zeros = session.run(None, {"x": np.zeros((2, 64), np.float32)})[0]
    np.testing.assert_array_equal(zeros, np.stack([product.offsets] * 2))
    assert session.run(None, {"x": np.zeros((0, 5, 64), np.float32)})[0].shape == (0, 5, 24)


@pytest.mark.parametrize("bits", [4, 8])
def test_as_close_to_exact_products_as_onnxruntime(bits, run, open_model):
    product = Product(256, 512, bits, 32, shifted=True)
    x = np.random.default_rng(2).standard_normal((40, 512)).astype(np.float32)
    weights = (product.integers.astype(np.float32) - product.zeros[..., None]) * product.scales[..., None]
    exact = x @ weights.reshape(256, -1)[:, :512].T
    theirs = open_model(product.model(), library=False).run(None, {"x": x})[0]
    ours = run(product, x)
    assert np.abs(ours - exact).mean() <= 1.02 * np.abs(theirs - exact).mean()


def test_many_sessions_come_and_go(rewrite, open_model):
    product = Product(512, 2048, 8, 128)
    graph = rewrite(product.model())
    x = np.random.default_rng(3).standard_normal((1, 2048)).astype(np.float32)
    want = product.expected(x)
    kept = []
    for i in range(80):  # 80 MB of weights: several pieces of memory
        kept.append(open_model(graph))
        if i % 3 == 2:
            kept.pop(i // 3)
    for session in kept:
        assert_close(session.run(None, {"x": x})[0], want)


# What is left to onnxruntime.


@pytest.mark.parametrize(
    "changes",
    [
        {"accuracy_level": 1},
        {"bits": 2},
        {"block_size": 512},
        {"domain": "other"},
        {"op_type": "MatMulNBitsToo"},
        {"inputs": ["x", "w", "s", "", "order"]},
        {"inputs": ["x", "x", "s"]},
    ],
    ids=str,
)
def test_other_nodes_stay_as_they_are(changes, rewrite):
    product = Product(8, 32, 4, 32)
    plain = {k: v for k, v in changes.items() if k not in ("domain", "op_type", "inputs")}
    node = product.node(**plain)
    node.domain, node.op_type = changes.get("domain", node.domain), changes.get("op_type", node.op_type)
    if "inputs" in changes:
        node.ClearField("input")
        node.input.extend(changes["inputs"])
    assert rewrite(product.model(node, order=np.arange(32, dtype=np.int32))) is None


def test_zero_points_in_fp32_stay_with_onnxruntime(rewrite):
    product = Product(8, 32, 4, 32, shifted=True)
    assert rewrite(product.model(z=np.zeros((8, 1), np.float32))) is None


def test_the_graph_is_the_same_but_for_the_domain(rewrite):
    model = Product(8, 32, 4, 32).model()
    changed = onnx.load_from_string(rewrite(model))
    assert changed.graph.node[0].domain == DOMAIN
    assert changed.opset_import[-1].domain == DOMAIN
    assert changed.opset_import[-1].version == 1
    changed.graph.node[0].domain = "com.microsoft"
    del changed.opset_import[-1]
    assert changed == model


# A stranger's graph says one thing and holds another.


@pytest.mark.parametrize(
    ("changes", "constants"),
    [
        ({"N": 2**30}, {}),
        ({"N": 2**62}, {}),
        ({"N": 0}, {}),
        ({"N": -8}, {}),
        ({"K": 2**31 - 1}, {}),
        ({"K": 33}, {}),
        ({}, {"w": np.zeros((8, 1, 15), np.uint8)}),
        ({}, {"s": np.zeros((8, 2), np.float32)}),
        ({}, {"z": np.zeros(7, np.uint8)}),
        ({}, {"b": np.zeros(9, np.float32)}),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused(changes, constants, rewrite, open_model):
    product = Product(8, 32, 4, 32, shifted=True, bias=True)
    graph = rewrite(product.model(product.node(**changes), **constants))
    assert graph is not None
    with pytest.raises(Exception, match=r"out of range|another type or size"):
        open_model(graph)


def test_activations_of_another_width_are_refused(rewrite, open_model):
    session = open_model(rewrite(Product(8, 32, 4, 32).model()))
    with pytest.raises(Exception, match="last axis is not K"):
        session.run(None, {"x": np.zeros((1, 31), np.float32)})
