"""Histograms against numpy, range setting against brute force and onnxruntime's calibrators."""

from __future__ import annotations

import numpy as np
import pytest
from edgeport_export.quantize import ranges
from edgeport_export.quantize.histogram import BINS, Histogram
from edgeport_export.quantize.ranges import CALIBRATORS, Range, entropy, minmax, mse, percentile
from edgeport_export.recipe import CALIBRATORS as NAMED
from onnxruntime.quantization.calibrate import HistogramCollector

RNG = np.random.default_rng(0)
NORMAL = RNG.standard_normal(50_000).astype(np.float32)
OUTLIERS = np.concatenate([NORMAL, np.array([-9.0, 40.0], np.float32)])
GELU = np.where(NORMAL > 0, NORMAL * 3, NORMAL * 0.05).astype(np.float32)


def seen(*batches: np.ndarray) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch)
    return histogram


def squared_error(values: np.ndarray, between: Range) -> float:
    scale, zero = (float(n) for n in between.scale_and_zero())
    integers = np.clip(np.rint(values / scale) + zero, 0, 255)
    return float(np.square((integers - zero) * scale - values).mean())


def test_batches_are_counted_as_numpy_counts_all_of_them() -> None:
    batches = [NORMAL[:1000] * 0.01, NORMAL[1000:40_000], OUTLIERS[40_000:]]  # the reach doubles twice or more
    histogram, every = seen(*batches), np.concatenate(batches)
    assert histogram.reach == 64
    want, _ = np.histogram(every.astype(np.float64), bins=BINS, range=(-64, 64))
    # A float32 within rounding of an edge may fall on either side of it.
    assert np.abs(histogram.counts - want).sum() <= 0.001 * every.size
    assert histogram.counts.sum() == every.size
    assert (histogram.low, histogram.high) == (every.min(), every.max())


def test_the_order_of_batches_makes_no_difference() -> None:
    parts = np.array_split(OUTLIERS, 7)
    first, second = seen(*parts), seen(*reversed(parts))
    assert first.reach == second.reach
    np.testing.assert_array_equal(first.counts, second.counts)


@pytest.mark.parametrize("values", [np.zeros(5), np.full(3, 2.0), np.array([-1.0]), np.zeros((2, 0))], ids=str)
def test_a_tensor_of_one_value_or_none_has_a_range(values: np.ndarray) -> None:
    histogram = seen(values.astype(np.float32), np.array([0.0], np.float32))
    for calibrate in CALIBRATORS.values():
        scale, zero = calibrate(histogram).scale_and_zero()
        assert scale > 0
        errors = np.abs((np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale - values)
        assert errors.max(initial=0) <= scale


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        seen(np.array([1.0, np.nan], np.float32))


def test_the_least_and_the_largest() -> None:
    assert minmax(seen(OUTLIERS)) == Range(-9.0, 40.0)


def test_a_percentile_is_that_of_numpy() -> None:
    found = percentile(seen(OUTLIERS), 0.999)
    width = seen(OUTLIERS).width
    assert found.low == pytest.approx(np.quantile(OUTLIERS, 0.0005), abs=2 * width)
    assert found.high == pytest.approx(np.quantile(OUTLIERS, 0.9995), abs=2 * width)


def test_a_percentile_is_that_of_onnxruntime() -> None:
    theirs = HistogramCollector("percentile", False, 8192, 128, 99.9, "same")
    theirs.collect({"x": [NORMAL]})
    low, high = theirs.compute_collection_result()["x"][:2]
    ours = percentile(seen(NORMAL), 0.999)
    assert (ours.low, ours.high) == pytest.approx((float(low), float(high)), abs=0.05)


@pytest.mark.parametrize("values", [NORMAL, OUTLIERS, GELU], ids=["normal", "outliers", "gelu"])
def test_the_least_squared_error_is_that_of_every_range_tried(values: np.ndarray) -> None:
    sample = values[::5] if values is not OUTLIERS else np.concatenate([values[::5], [-9.0, 40.0]]).astype(np.float32)
    low, high = min(float(sample.min()), 0), float(sample.max())
    parts = np.linspace(1, 0.05, 30)
    best = min(squared_error(sample, Range(low * a, high * b)) for a in parts for b in parts)
    assert squared_error(sample, mse(seen(sample))) <= 1.02 * best


def test_entropy_cuts_off_what_is_rare() -> None:
    found = entropy(seen(OUTLIERS))
    assert 3 < found.high < 10
    assert found.low >= -9
    theirs = HistogramCollector("entropy", False, 2048, 256, 99.9, "same")
    theirs.collect({"x": [OUTLIERS]})
    _, high = theirs.compute_collection_result()["x"][:2]
    assert found.high <= float(high) + 1


def test_entropy_is_the_divergence_written_out() -> None:
    counts = np.array([5, 0, 3, 2, 7, 1, 4, 2], np.float64)
    p = np.array([5, 3, 2, 7 + 1 + 4 + 2]) / counts.sum()
    q = np.array([5, 3, 2, 7]) / 17
    wanted = float((p * np.log(p / q)).sum())
    assert ranges._divergence(counts, 0, 5) == pytest.approx(wanted)


def test_zero_is_a_step_of_every_range() -> None:
    for between in (Range(0.5, 2.0), Range(-3.0, -1.0), Range(-1.0, 3.0)):
        scale, zero = between.scale_and_zero()
        assert zero.dtype == np.uint8
        low, high = (0 - float(zero)) * float(scale), (255 - float(zero)) * float(scale)
        assert low - float(scale) / 2 <= min(between.low, 0) + 1e-6
        assert high + float(scale) / 2 >= max(between.high, 0) - 1e-6


def test_the_recipe_names_the_calibrators_that_there_are() -> None:
    assert sorted(NAMED) == sorted(CALIBRATORS)
