"""Figures against numpy, the standard library, scipy and scikit-learn."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from edgeport_bench.measure import agreement, latency, least_cosine, median_rate, ratio_of_medians, throughput
from scipy.stats import bootstrap
from sklearn.metrics.pairwise import cosine_similarity


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(1).lognormal(1.0, 0.4, size=(20, 7))


def test_percentiles_are_those_of_the_standard_library(samples: np.ndarray) -> None:
    found = latency(samples.tolist())
    cuts = statistics.quantiles(samples.ravel(), n=100, method="inclusive")
    assert (found.p50, found.p90, found.p99) == pytest.approx((cuts[49], cuts[89], cuts[98]))
    assert found.mean == pytest.approx(statistics.fmean(samples.ravel()))
    assert found.runs == 140


def test_rounds_may_have_different_numbers_of_runs() -> None:
    assert latency([[1.0], [2.0, 3.0], [4.0, 5.0]]).p50 == 3.0


def test_no_run_has_no_latency() -> None:
    with pytest.raises(ValueError, match="no sample"):
        latency([[], []])


def test_throughput_counts_what_came_through() -> None:
    found = throughput([[100.0, 300.0]], batch=8, length=16)  # 16 texts in 0.4 s
    assert found.texts == pytest.approx(40.0)
    assert found.tokens == pytest.approx(640.0)


def test_interval_is_that_of_scipy_where_a_round_is_one_run(samples: np.ndarray) -> None:
    slow, fast = 3 * samples[:, 0] + samples[:, 1], samples[:, 0]
    ours = ratio_of_medians(slow[:, None].tolist(), fast[:, None].tolist(), resamples=4000)

    def ratio(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    theirs = bootstrap(
        (slow, fast),
        ratio,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert ours.value == pytest.approx(np.median(slow) / np.median(fast))
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.05)
    assert ours.low < ours.value < ours.high


def test_interval_treats_a_round_as_one_draw() -> None:
    """Twenty copies of a run tell no more than the run: the interval must not shrink."""
    once = [[1.0], [2.0], [3.0], [4.0], [5.0]]
    often = [r * 20 for r in once]
    flat = [[1.0]] * 5
    assert ratio_of_medians(often, flat) == ratio_of_medians(once, flat)


def test_disturbance_of_a_round_cancels() -> None:
    disturbance = [1.0, 5.0, 2.0, 9.0, 3.0]
    found = ratio_of_medians([[4 * d] for d in disturbance], [[d] for d in disturbance])
    assert (found.value, found.low, found.high) == pytest.approx((4.0, 4.0, 4.0))


def test_ratio_needs_common_rounds() -> None:
    with pytest.raises(ValueError, match="2 rounds against 1"):
        ratio_of_medians([[1.0], [2.0]], [[1.0]])


def test_least_cosine_is_the_smallest_of_all_rows_and_outputs() -> None:
    rng = np.random.default_rng(2)
    theirs = {"x": rng.normal(size=(4, 3, 5)), "y": rng.normal(size=(4, 2))}
    ours = {name: array + 0.3 * rng.normal(size=array.shape) for name, array in theirs.items()}
    wanted = min(cosine_similarity(ours[n].reshape(4, -1), theirs[n].reshape(4, -1)).diagonal().min() for n in theirs)
    assert least_cosine(ours, theirs) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("ours", "wanted"),
    [
        ({"x": np.array([[1.0, 0.0], [0.0, 0.0]])}, 1.0),
        ({"x": np.array([[1.0, 0.0], [0.0, 1.0]])}, -1.0),
        ({"x": np.array([[np.nan, 0.0], [0.0, 0.0]])}, -1.0),
        ({"x": np.array([[1.0], [0.0]])}, -1.0),
        ({"y": np.array([[1.0, 0.0], [0.0, 0.0]])}, -1.0),
    ],
    ids=["equal, with a row of zeros", "zeros against something", "no number", "other shape", "other name"],
)
def test_least_cosine_of_what_has_no_angle(ours: dict[str, np.ndarray], wanted: float) -> None:
    assert least_cosine(ours, {"x": np.array([[1.0, 0.0], [0.0, 0.0]])}) == wanted


def test_a_rate_is_that_of_the_median_run() -> None:
    assert median_rate([[1.0, 4.0], [2.0]], 8) == 4000.0


def test_agreement_is_a_share_of_tokens() -> None:
    assert agreement(np.array([[1, 2], [3, 4]]), np.array([[1, 2], [4, 4]])) == 0.75
    assert agreement(np.array([[1, 2]]), np.array([[1, 2, 3]])) == 0.0
