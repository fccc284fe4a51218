"""Attention that is written out, in several layers at once."""

from __future__ import annotations

import numpy as np
from edgeport_export.passes.fuse_attention import FuseAttention
from edgeport_export.passes.lower_attention import LowerAttention
from hand_built import HandBuilt, compare

RNG = np.random.default_rng(0)
HEADS, SIZE = 2, 4
SHAPE = ["batch", HEADS, "sequence", SIZE]
SCORES = ["batch", HEADS, "sequence", "sequence"]


def test_layers_that_share_their_masks_keep_names_apart() -> None:
    """The two masks are added up for each layer, and stand in the graph under two names."""
    x = RNG.standard_normal((2, HEADS, 5, SIZE)).astype(np.float32)
    mask = RNG.standard_normal((2, 1, 1, 5)).astype(np.float32)
    g = HandBuilt(x=(x, SHAPE), mask=(mask, ["batch", 1, 1, "sequence"]))
    masks = [g["mask"], g.node("Relu", [g["mask"]], g["mask"].shape)]
    value = g["x"]
    for _ in range(2):
        query, key, value = (g.node(op, [value], SHAPE) for op in ("Tanh", "Neg", "Relu"))
        turned = g.node("Transpose", [key], ["batch", HEADS, SIZE, "sequence"], perm=[0, 1, 3, 2])
        scores = g.node("MatMul", [query, turned], SCORES)
        for each in masks:
            scores = g.node("Add", [scores, each], SCORES)
        value = g.node("MatMul", [g.node("Softmax", [scores], SCORES, axis=-1), value], SHAPE)
    assert compare(g, [value], FuseAttention(), LowerAttention())["MultiHeadAttention"] == 2
    names = [output.name for node in g.graph for output in node.outputs]
    assert len(names) == len(set(names))
