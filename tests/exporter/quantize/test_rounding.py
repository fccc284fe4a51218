"""Rounding to nearest and half-quadratic rounding: what they minimise, and the format they share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from edgeport_export.quantize.blockwise import Grid, Quantized
from edgeport_export.quantize.hqq import HalfQuadratic, half_quadratic
from edgeport_export.quantize.round_to_nearest import RoundToNearest, round_to_nearest

RNG = np.random.default_rng(0)
HEAVY = RNG.standard_t(4, (200, 192)).astype(np.float32)  # as weights are: most small, some large
GRIDS = [Grid(bits, 32, symmetric) for bits in (4, 8) for symmetric in (True, False)]
METHODS: dict[str, Callable[[np.ndarray, Grid], Quantized]] = {
    "plain": lambda rows, grid: round_to_nearest(rows, grid, RoundToNearest(search=False)),
    "searched": lambda rows, grid: round_to_nearest(rows, grid, RoundToNearest()),
    "hqq": lambda rows, grid: half_quadratic(rows, grid, HalfQuadratic()),
}


def error(quantized: Quantized, rows: np.ndarray, power: float = 2) -> float:
    return float((np.abs(quantized.dequantized() - rows) ** power).sum())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_no_weight_is_further_than_half_a_step_unless_cut_off(method: str, grid: Grid) -> None:
    quantized = METHODS[method](HEAVY, grid)
    step = np.repeat(np.abs(quantized.scales), 32, axis=1)
    integers = quantized.integers.reshape(200, -1)
    inside = (integers > 0) & (integers < grid.top)
    assert (np.abs(quantized.dequantized() - HEAVY)[inside] <= step[inside] * 0.5001).all()
    assert inside.mean() > 0.8


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_search_lowers_the_squared_error(grid: Grid) -> None:
    plain, searched = error(METHODS["plain"](HEAVY, grid), HEAVY), error(METHODS["searched"](HEAVY, grid), HEAVY)
    assert searched < plain * {4: 0.95, 8: 0.995}[grid.bits]


@pytest.mark.parametrize("symmetric", [True, False])
def test_half_quadratic_lowers_the_norm_that_it_minimises(symmetric: bool) -> None:
    grid = Grid(4, 64, symmetric)
    assert error(METHODS["hqq"](HEAVY, grid), HEAVY, 0.7) < 0.99 * error(METHODS["searched"](HEAVY, grid), HEAVY, 0.7)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_zeros_and_constants_survive(method: str, grid: Grid) -> None:
    rows = np.zeros((3, 40), np.float32)
    rows[1], rows[2] = 0.25, -3.0
    quantized = METHODS[method](rows, grid)
    assert np.isfinite(quantized.scales).all()
    np.testing.assert_allclose(quantized.dequantized(), rows, rtol=1e-5)


def test_rows_are_quantized_each_for_itself_however_many_there_are() -> None:
    rows = RNG.standard_normal((700, 300)).astype(np.float32)  # more than are worked on at a time
    for method in METHODS.values():
        alone, among = method(rows[600:601], Grid()), method(rows, Grid())
        np.testing.assert_array_equal(among.integers[600:601], alone.integers)
        np.testing.assert_array_equal(among.scales[600:601], alone.scales)


def test_four_bit_integers_are_packed_low_half_first() -> None:
    integers = np.arange(16, dtype=np.uint8).reshape(1, 1, 16)
    grid = Grid(4, 16, symmetric=False)
    quantized = Quantized(grid, 16, integers, np.ones((1, 1), np.float32), np.full((1, 1), 9, np.uint8))
    assert quantized.packed()[0, 0, :3].tolist() == [0x10, 0x32, 0x54]
    assert quantized.packed_zeros().tolist() == [[0x09]]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="5 bits"):
        Grid(5)
    with pytest.raises(ValueError, match="blocks of 48"):
        Grid(4, 48)
    quantized = METHODS["plain"](HEAVY, Grid())
    with pytest.raises(ValueError, match="scales"):
        Quantized(quantized.grid, quantized.width, quantized.integers, quantized.scales[:, :1], None)
    with pytest.raises(ValueError, match="order"):
        Quantized(quantized.grid, quantized.width, quantized.integers, quantized.scales, None, np.zeros(192, np.int64))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_symmetric_grid_turns_its_longer_side_to_the_largest_weight(sign: int) -> None:
    """There are 8 steps below zero and 7 above; with a negative scale it is the other way round."""
    rows = sign * np.arange(-7, 9, dtype=np.float32)[None]
    np.testing.assert_allclose(METHODS["searched"](rows, Grid(4, 16)).dequantized(), rows, atol=1e-5)
