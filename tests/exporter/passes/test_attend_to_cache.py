"""Written-out attention over a cache: what becomes the operator, and what is left as it is.

That the operator computes the same is tested in ``tests/exporter/capture/test_decoders.py``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from edgeport_export.operators import CACHED_ATTENTION, CAUSAL_MASK, DOMAIN
from edgeport_export.passes.attend_to_cache import AttendToCache
from edgeport_export.passes.fuse_attention import FuseAttention
from hand_built import HandBuilt
from onnx_ir.passes.common import RemoveUnusedNodesPass

HEADS, SIZE, KEYS = 2, 8, "past + new"
NEW, PAST, ALL = (["batch", HEADS, n, SIZE] for n in ("new", "past", KEYS))
SCORES = ["batch", HEADS, "new", KEYS]
FLOAT = ir.DataType.FLOAT


class WrittenOut:
    """One layer; its scores can be changed before ``attend`` ends it."""

    def __init__(self) -> None:
        new, past = np.zeros((2, HEADS, 3, SIZE), np.float32), np.zeros((2, HEADS, 5, SIZE), np.float32)
        alibi, relative = np.zeros((HEADS, 1, 8), np.float32), np.zeros((1, HEADS, 3, 8), np.float32)
        inputs = {"query": (new, NEW), "key": (new, NEW), "value": (new, NEW)}
        inputs |= {"past.0.key": (past, PAST), "past.0.value": (past, PAST)}
        inputs |= {"last": (np.zeros(2, np.int64), ["batch"]), "total": (np.array(8), [])}
        inputs |= {"alibi": (alibi, [HEADS, 1, KEYS]), "relative": (relative, [1, HEADS, "new", KEYS])}
        self.g = g = HandBuilt(**inputs)
        self.keys, self.values = (g.node("Concat", [g[f"past.0.{n}"], g[n]], ALL, axis=2) for n in ("key", "value"))
        turned = g.node("Transpose", [self.keys], ["batch", HEADS, SIZE, KEYS], perm=[0, 1, 3, 2])
        self.scores = g.node("MatMul", [g["query"], turned], SCORES)

    def mask(self, window: int = -1, dtype: ir.DataType = FLOAT) -> ir.Value:
        shape = ["batch", 1, "new", KEYS]
        return self.g.node(CAUSAL_MASK, [], shape, domain=DOMAIN, dtype=dtype, window=window)

    def add(self, value: ir.Value | float) -> None:
        self.scores = self.g.node("Add", [self.scores, value], SCORES)

    def attend(self) -> list[ir.Node]:
        g = self.g
        weights = g.node("Softmax", [self.scores], SCORES, axis=-1)
        g.graph.outputs.extend([g.node("MatMul", [weights, self.values], NEW), self.keys, self.values])
        passes = (FuseAttention(), AttendToCache(), RemoveUnusedNodesPass())
        ir.passes.Sequential(*passes)(ir.Model(g.graph, ir_version=10))
        return [node for node in g.graph if node.op_type == CACHED_ATTENTION]


def test_a_masked_layer_becomes_one_operator() -> None:
    layer = WrittenOut()
    layer.add(layer.mask())
    layer.scores = layer.g.node("Mul", [layer.scores, 0.5], SCORES)
    (attention,) = layer.attend()
    names = ["query", "key", "value", "past.0.key", "past.0.value", "last", "total"]
    assert [value.name for value in attention.inputs if value is not None] == names
    assert (attention.attributes["scale"].value, attention.attributes["window"].value) == (0.5, -1)
    assert list(layer.g.graph.outputs[1:]) == list(attention.outputs[1:])
    assert {node.op_type for node in layer.g.graph} == {CACHED_ATTENTION, "Transpose"}


def test_scores_filled_by_a_mask_are_masked_ones() -> None:
    layer = WrittenOut()
    seen = layer.mask(window=4, dtype=ir.DataType.BOOL)
    layer.scores = layer.g.node("Where", [seen, layer.scores, -1e30], SCORES, dtype=FLOAT)
    layer.add(layer.mask())
    layer.scores = layer.g.node("Max", [layer.scores, -3e38], SCORES)
    (attention,) = layer.attend()
    assert attention.attributes["window"].value == 4


@pytest.mark.parametrize("scaled", [False, True])
def test_a_bias_of_the_keys_goes_in(scaled: bool) -> None:
    layer = WrittenOut()
    layer.add(layer.g["alibi"])
    if scaled:
        layer.scores = layer.g.node("Mul", [layer.scores, 0.5], SCORES)
    layer.add(layer.mask())
    (attention,) = layer.attend()
    assert attention.inputs[8] is not None
    assert list(attention.inputs[8].shape) == [1, HEADS, 1, KEYS]
    assert sum(node.op_type == "Mul" for node in layer.g.graph) == scaled


def test_a_bias_that_differs_between_queries_is_left_alone() -> None:
    layer = WrittenOut()
    layer.add(layer.g["relative"])
    layer.add(layer.mask())
    assert not layer.attend()


def test_attention_without_a_causal_mask_is_left_alone() -> None:
    layer = WrittenOut()
    layer.add(layer.g["alibi"])
    assert not layer.attend()


def test_attention_over_something_else_than_the_cache_is_left_alone() -> None:
    layer = WrittenOut()
    layer.add(layer.mask())
    layer.values = layer.g.node("Relu", [layer.values], ALL)
    assert not layer.attend()
