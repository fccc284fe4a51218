"""Norms that are written out in the ways that models write them."""

from __future__ import annotations

import numpy as np
import pytest
from edgeport_export.passes.fuse_rms_norm import FuseRmsNorm
from hand_built import HandBuilt, compare

RNG = np.random.default_rng(0)
WIDTH = 8
SHAPE = ["batch", "sequence", WIDTH]
X = RNG.standard_normal((2, 5, WIDTH)).astype(np.float32)


def written_out(g: HandBuilt, x, shape, *, square: str = "Pow", divide: str = "Reciprocal", axis: int = -1, of=None):
    one = [*shape[:-1], 1] if axis == -1 else [shape[0], 1, *shape[2:]]
    squared = g.node("Pow", [x, 2.0], shape) if square == "Pow" else g.node("Mul", [x, x], shape)
    mean = g.node("ReduceMean", [squared, [axis]], one, keepdims=1)
    root = g.node("Sqrt", [g.node("Add", [mean, 1e-6], one)], one)
    of = x if of is None else of
    if divide == "Div":
        return g.node("Div", [of, root], shape)
    return g.node("Mul", [of, g.node("Reciprocal", [root], one)], shape)


@pytest.mark.parametrize("square", ["Pow", "Mul"])
@pytest.mark.parametrize("divide", ["Reciprocal", "Div"])
@pytest.mark.parametrize("weight", ["left", "right", "one plus", "none"])
def test_a_norm_becomes_one_operator(square: str, divide: str, weight: str) -> None:
    g = HandBuilt(x=(X, SHAPE))
    normalized = written_out(g, g["x"], SHAPE, square=square, divide=divide)
    gamma = RNG.standard_normal(WIDTH).astype(np.float32)
    if weight == "one plus":
        plus = g.node("Add", [gamma, 1.0], [WIDTH])
        normalized = g.node("Mul", [normalized, plus], SHAPE)
    elif weight != "none":
        normalized = g.node("Mul", [normalized, gamma] if weight == "right" else [gamma, normalized], SHAPE)
    last = g.node("Relu", [normalized], SHAPE)
    assert compare(g, [last], FuseRmsNorm()) == {"SimplifiedLayerNormalization": 1, "Relu": 1}


def test_a_norm_of_centered_values_is_a_layer_norm() -> None:
    g = HandBuilt(x=(X, SHAPE))
    centered = g.node("Sub", [g["x"], g.node("ReduceMean", [g["x"], [-1]], [*SHAPE[:2], 1], keepdims=1)], SHAPE)
    scaled = g.node("Mul", [written_out(g, centered, SHAPE), RNG.standard_normal(WIDTH)], SHAPE)
    assert compare(g, [scaled], FuseRmsNorm()) == {"LayerNormalization": 1}


def test_a_norm_of_heads_moves_before_their_transpose() -> None:
    heads = RNG.standard_normal((2, 5, 3, WIDTH)).astype(np.float32)
    g = HandBuilt(x=(heads, ["batch", "sequence", 3, WIDTH]))
    forward = ["batch", 3, "sequence", WIDTH]
    turned = g.node("Transpose", [g["x"]], forward, perm=[0, 2, 1, 3])
    scaled = g.node("Mul", [written_out(g, turned, forward), RNG.standard_normal(WIDTH)], forward)
    assert compare(g, [scaled], FuseRmsNorm()) == {"SimplifiedLayerNormalization": 1, "Transpose": 1}
    assert [node.op_type for node in g.graph] == ["SimplifiedLayerNormalization", "Transpose"]


def test_a_weight_for_each_row_stays_a_product() -> None:
    g = HandBuilt(x=(X, SHAPE))
    scaled = g.node("Mul", [written_out(g, g["x"], SHAPE), RNG.standard_normal((5, 1))], SHAPE)
    assert compare(g, [scaled], FuseRmsNorm()) == {"SimplifiedLayerNormalization": 1, "Mul": 1}


def test_a_mean_along_another_axis_is_left_alone() -> None:
    g = HandBuilt(x=(X, SHAPE))
    assert "ReduceMean" in compare(g, [written_out(g, g["x"], SHAPE, axis=1)], FuseRmsNorm())


def test_dividing_something_else_is_left_alone() -> None:
    g = HandBuilt(x=(X, SHAPE))
    other = g.node("Relu", [g["x"]], SHAPE)
    assert "ReduceMean" in compare(g, [written_out(g, g["x"], SHAPE, of=other)], FuseRmsNorm())
