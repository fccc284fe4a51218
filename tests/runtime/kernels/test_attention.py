"""The kernels' attention to a cache against onnxruntime's own, fed the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

POSITIONS = 600


@dataclasses.dataclass(frozen=True)
class Heads:
    """An attention of one node."""

    heads: int = 4
    kv_heads: int = 2
    size: int = 32
    packed: bool = False
    pairs: int = 0
    """Rotated ones; 0 for none."""
    interleaved: bool = False
    scale: float | None = None

    def node(self, **changes) -> onnx.NodeProto:
        inputs = ["query", "", "", "past_key", "past_value", "last", "total"]
        if not self.packed:
            inputs[1:3] = ["key", "value"]
        attributes = {"num_heads": self.heads, "kv_num_heads": self.kv_heads}
        if self.pairs:
            inputs += ["cos", "sin"]
            attributes |= {"do_rotary": 1, "rotary_interleaved": int(self.interleaved)}
        if self.scale is not None:
            attributes["scale"] = self.scale
        extra = changes.pop("extra", [])
        inputs += [""] * (9 - len(inputs)) + extra if extra else []
        names = ["output", "present_key", "present_value"]
        return helper.make_node(
            "GroupQueryAttention", inputs, names, domain="com.microsoft", **{**attributes, **changes}
        )

    def model(self, node: onnx.NodeProto | None = None, *, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
        names = ["query", *([] if self.packed else ["key", "value"]), "past_key", "past_value"]
        inputs = [helper.make_tensor_value_info(name, kind, None) for name in names]
        inputs.append(helper.make_tensor_value_info("last", TensorProto.INT32, ["batch"]))
        inputs.append(helper.make_tensor_value_info("total", TensorProto.INT32, []))
        outputs = [
            helper.make_tensor_value_info(name, kind, None) for name in ("output", "present_key", "present_value")
        ]
        angles = np.random.default_rng(5).uniform(-3, 3, (POSITIONS, max(self.pairs, 1))).astype(np.float32)
        tables = [numpy_helper.from_array(np.cos(angles), "cos"), numpy_helper.from_array(np.sin(angles), "sin")]
        graph = helper.make_graph([node or self.node()], "attention", inputs, outputs, tables if self.pairs else [])
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def feeds(self, new: int, lengths: list[int], capacity: int, seed: int = 0) -> dict[str, np.ndarray]:
        """``new`` tokens for rows that are ``lengths`` long with them."""
        draw = np.random.default_rng(seed).standard_normal
        rows, width = len(lengths), self.kv_heads * self.size
        values = {
            "query": draw((rows, new, self.heads * self.size + (2 * width if self.packed else 0))),
            **({} if self.packed else {"key": draw((rows, new, width)), "value": draw((rows, new, width))}),
            "past_key": draw((rows, self.kv_heads, capacity, self.size)),
            "past_value": draw((rows, self.kv_heads, capacity, self.size)),
        }
        return {
            **{name: array.astype(np.float32) for name, array in values.items()},
            "last": np.array(lengths, np.int32) - 1,
            "total": np.array(max(lengths), np.int32),
        }


@pytest.fixture
def assert_equal(rewrite, open_model):
    """Both give the same outputs, and the same cache as far as rows reach."""

    def compare(heads: Heads, new: int, lengths: list[int], capacity: int) -> None:
        feeds = heads.feeds(new, lengths, capacity)
        theirs = open_model(heads.model(), library=False).run(None, feeds)
        ours = open_model(rewrite(heads.model())).run(None, feeds)
        assert [a.shape for a in ours] == [a.shape for a in theirs]
        begins = new == max(lengths)
        for row, length in enumerate(lengths):
            used = length if begins else new
            np.testing.assert_allclose(ours[0][row, :used], theirs[0][row, :used], atol=3e-6)
            for mine, other in zip(ours[1:], theirs[1:], strict=True):
                np.testing.assert_allclose(mine[row, :, :length], other[row, :, :length], atol=1e-6)

    return compare


@pytest.mark.parametrize(
    "heads",
    [
        Heads(),
        Heads(heads=6, kv_heads=6, size=64),
        Heads(heads=8, kv_heads=1, size=128),
        Heads(heads=3, kv_heads=1, size=8),
        Heads(heads=10, kv_heads=2, size=40, scale=0.3),
        Heads(size=256),
        Heads(packed=True, pairs=16),
        Heads(heads=4, kv_heads=4, size=48, pairs=8, interleaved=True),
        Heads(heads=16, kv_heads=4, size=64, packed=True, pairs=32),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("new", "lengths", "capacity"),
    [
        (1, [1], 8),
        (5, [5], 16),
        (70, [70], 70),
        (150, [150, 31, 1], 256),  # prompts of different length
        (1, [300], 512),
        (1, [2, 130, 257], 300),  # rows that go on
        (3, [133], 140),
        (40, [300], 300),
    ],
)
def test_as_onnxruntime(heads, new, lengths, capacity, assert_equal):
    assert_equal(heads, new, lengths, capacity)


def test_the_cache_is_written_in_place(rewrite, open_model):
    import onnxruntime

    heads = Heads(heads=8, kv_heads=2, packed=True, pairs=16)
    session = open_model(rewrite(heads.model()))
    feeds = heads.feeds(1, [40], 64)
    want = session.run(None, feeds)[0]
    binding = session.io_binding()
    before = {name: array.copy() for name, array in feeds.items()}
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_output("output")
    for name in ("key", "value"):
        binding.bind_ortvalue_output(f"present_{name}", values[f"past_{name}"])
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), want)
    for name in ("past_key", "past_value"):
        changed = (feeds[name] != before[name]).any(axis=(0, 1, 3))
        assert changed.nonzero()[0].tolist() == [39]


def test_large_scores_do_not_overflow(rewrite, open_model):
    heads = Heads(scale=50.0)
    feeds = heads.feeds(20, [200], 256)
    theirs = open_model(heads.model(), library=False).run(None, feeds)[0]
    ours = open_model(rewrite(heads.model())).run(None, feeds)[0]
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(ours, theirs, atol=2e-4)  # a difference of 1e-6 in a score of 1,000 counts here


@pytest.mark.parametrize(
    "changes",
    [
        {"softcap": 20.0},
        {"local_window_size": 16},
        {"smooth_softmax": 1},
        {"kv_cache_bit_width": 8},
        {"extra": ["positions"]},
        {"extra": ["", "bias"]},
    ],
    ids=str,
)
def test_other_attention_stays_with_onnxruntime(changes, rewrite):
    assert rewrite(Heads().model(Heads().node(**changes))) is None


def test_a_cache_in_fp16_stays_with_onnxruntime(rewrite):
    assert rewrite(Heads().model(kind=TensorProto.FLOAT16)) is None


# Lengths and tables are data of the call: nothing may be read or written beside the cache.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"last": np.array([64], np.int32), "total": np.array(64, np.int32)}, "does not fit its cache"),
        ({"last": np.array([2**31 - 1], np.int32)}, "does not fit its cache"),
        ({"last": np.array([-5], np.int32), "total": np.array(9, np.int32)}, "does not fit its cache"),
        ({"last": np.array([1, 2], np.int32)}, "lengths are missing"),
        ({"key": np.zeros((1, 1, 32), np.float32)}, "differ in their sizes"),
        ({"past_key": np.zeros((1, 2, 64, 16), np.float32)}, "other sizes than the keys"),
        ({"query": np.zeros((1, 1, 100), np.float32)}, r"multiple of 8|no multiple of the heads|differ in their sizes"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(changes, message, rewrite, open_model):
    session = open_model(rewrite(Heads().model()))
    with pytest.raises(Exception, match=message):
        session.run(None, {**Heads().feeds(1, [40], 64), **changes})


def test_a_position_beyond_the_tables_is_refused(rewrite, open_model):
    heads = Heads(pairs=16)
    session = open_model(rewrite(heads.model()))
    session.run(None, heads.feeds(1, [POSITIONS], POSITIONS + 8))
    with pytest.raises(Exception, match="beyond the tables"):
        session.run(None, heads.feeds(1, [POSITIONS + 1], POSITIONS + 8))
