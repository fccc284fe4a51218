"""Rotary positions as models write them out: halves and pairs, whole heads and parts, both orders of the axes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from edgeport_export.passes.fuse_rotary import FuseRotary
from edgeport_export.passes.simplify_shapes import SimplifyShapes
from hand_built import HandBuilt, compare

RNG = np.random.default_rng(0)
BATCH, SEQUENCE, HEADS, SIZE = 2, 5, 3, 16
POSITIONS = np.array([[0, 1, 2, 3, 4], [7, 8, 9, 10, 11]])


class Rotary:
    """A graph with tables from positions, and rotations that read them."""

    def __init__(self, *, width: int = SIZE, pairs: bool = False, heads_first: bool = True, one_row: bool = False):
        self.width, self.pairs, self.heads_first = width, pairs, heads_first
        self.batch = 1 if one_row else "batch"
        x = RNG.standard_normal((BATCH, SEQUENCE, HEADS * SIZE)).astype(np.float32)
        positions = POSITIONS[1:] if one_row else POSITIONS
        self.g = HandBuilt(x=(x, ["batch", "sequence", HEADS * SIZE]), positions=(positions, [self.batch, "sequence"]))
        self.cos, self.sin = (self.table(op) for op in ("Cos", "Sin"))

    def table(self, op: str, scale: float = 1.1) -> ir.Value:
        g, rows = self.g, [self.batch, "sequence"]
        column = g.node("Unsqueeze", [g["positions"], [2]], [*rows, 1])
        column = g.node("Cast", [column], [*rows, 1], to=1, dtype=ir.DataType.FLOAT)
        half = self.width // 2
        angles = g.node("Mul", [column, np.float32(100.0) ** -np.linspace(0, 1, half, dtype=np.float32)], [*rows, half])
        if self.pairs:
            stacked = g.node("Unsqueeze", [angles, [-1]], [*rows, half, 1])
            twice = g.node("Expand", [stacked, [1, 1, 1, 2]], [*rows, half, 2])
            twice = g.node("Reshape", [twice, [0, 0, self.width]], [*rows, self.width])
        else:
            twice = g.node("Concat", [angles, angles], [*rows, self.width], axis=-1)
        table = g.node("Mul", [g.node(op, [twice], [*rows, self.width]), scale], [*rows, self.width])
        axis = 1 if self.heads_first else 2
        shape = [*rows[:axis], 1, *rows[axis:], self.width]
        return g.node("Unsqueeze", [table, [axis]], shape)

    def rotated(self, *, sign: str = "second") -> ir.Value:
        g = self.g
        split = g.node("Reshape", [g["x"], [0, 0, HEADS, SIZE]], ["batch", "sequence", HEADS, SIZE])
        shape = ["batch", "sequence", HEADS, SIZE]
        if self.heads_first:
            shape = ["batch", HEADS, "sequence", SIZE]
            split = g.node("Transpose", [split], shape, perm=[0, 2, 1, 3])
        rows, width = shape[:3], self.width
        x = split if width == SIZE else g.node("Slice", [split, [0], [width], [3], [1]], [*rows, width])
        if self.pairs:
            even, odd = (g.node("Slice", [x, [at], [2**63 - 1], [3], [2]], [*rows, width // 2]) for at in (0, 1))
            parts = [
                g.node("Unsqueeze", [v, [-1]], [*rows, width // 2, 1]) for v in self.quarter(even, odd, rows, sign)
            ]
            stacked = g.node("Concat", parts, [*rows, width // 2, 2], axis=-1)
            turned = g.node("Reshape", [stacked, [0, 0, 0, width]], [*rows, width])
        else:
            half = width // 2
            first = g.node("Slice", [x, [0], [half], [3], [1]], [*rows, half])
            second = g.node("Slice", [x, [half], [2**63 - 1], [3], [1]], [*rows, half])
            turned = g.node("Concat", self.quarter(first, second, rows, sign), [*rows, width], axis=-1)
        straight = g.node("Mul", [x, self.cos], [*rows, width])
        result = g.node("Add", [straight, g.node("Mul", [turned, self.sin], [*rows, width])], [*rows, width])
        if width != SIZE:
            rest = g.node("Slice", [split, [width], [2**63 - 1], [3], [1]], [*rows, SIZE - width])
            result = g.node("Concat", [result, rest], [*rows, SIZE], axis=-1)
        if self.heads_first:
            result = g.node("Transpose", [result], ["batch", "sequence", HEADS, SIZE], perm=[0, 2, 1, 3])
        return g.node("Relu", [g.node("Reshape", [result, [0, 0, -1]], g["x"].shape)], g["x"].shape)

    def quarter(self, first: ir.Value, second: ir.Value, rows: list, sign: str) -> list[ir.Value]:
        negative = second if sign == "second" else first
        negated = self.g.node("Neg", [negative], [*rows, self.width // 2])
        return [negated, first] if sign == "second" else [second, negated]


@pytest.mark.parametrize("pairs", [False, True], ids=["halves", "pairs"])
@pytest.mark.parametrize("width", [SIZE, 8], ids=["whole", "part"])
@pytest.mark.parametrize("heads_first", [True, False], ids=["heads first", "sequence first"])
@pytest.mark.parametrize("one_row", [False, True], ids=["positions of each row", "positions of all"])
def test_a_rotation_becomes_one_operator(pairs: bool, width: int, heads_first: bool, one_row: bool) -> None:
    rotary = Rotary(width=width, pairs=pairs, heads_first=heads_first, one_row=one_row)
    found = compare(rotary.g, [rotary.rotated()], FuseRotary(), SimplifyShapes())
    assert found["RotaryEmbedding"] == 1
    assert not {"Transpose", "Neg", "Concat", "Slice", "Expand", "Add"} & set(found)
    assert found["Reshape"] == (2 if one_row else 3)  # of the two tables and the numbers of their rows


def test_all_layers_read_the_same_tables() -> None:
    rotary = Rotary()
    found = compare(rotary.g, [rotary.rotated(), rotary.rotated()], FuseRotary())
    assert found["RotaryEmbedding"] == 2
    assert (found["Cos"], found["Sin"], found["Range"]) == (1, 1, 1)


@pytest.mark.parametrize("pairs", [False, True], ids=["halves", "pairs"])
def test_a_table_of_the_other_kind_is_left_alone(pairs: bool) -> None:
    rotary = Rotary(pairs=pairs)
    rotary.pairs = not pairs
    assert "RotaryEmbedding" not in compare(rotary.g, [rotary.rotated()], FuseRotary())


def test_a_rotation_the_other_way_is_left_alone() -> None:
    rotary = Rotary()
    assert "RotaryEmbedding" not in compare(rotary.g, [rotary.rotated(sign="first")], FuseRotary())
