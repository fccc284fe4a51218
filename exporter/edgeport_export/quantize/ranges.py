"""Range setting: which part of a distribution the 256 steps of a byte are spread over. Pure functions of a histogram.

What lies outside is cut off, what lies inside is rounded; a range trades the one error for the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeport_export.quantize.histogram import BINS, Histogram

__all__ = ["CALIBRATORS", "LEVELS", "Range", "entropy", "minmax", "mse", "percentile"]

LEVELS = 256
"""Steps of a byte."""

_SHARE = 0.99999
"""Of the values, inside of a percentile's range."""
_COARSE = 2**13
"""Bins that entropy compares: many to a step, and not so many that most are empty and the comparison is of noise."""
_CUTS = np.linspace(1.0, 0.05, 96)
"""Parts of the whole range that are tried, on each side."""


@dataclass(frozen=True)
class Range:
    """The numbers between which a byte's steps lie; zero is one of them."""

    low: float
    high: float

    def scale_and_zero(self) -> tuple[np.float32, np.uint8]:
        """What makes bytes of numbers: ``number ~ (byte - zero) * scale``."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        scale = np.float32((high - low) / (LEVELS - 1)) or np.float32(1)
        return scale, np.uint8(np.clip(round(-low / float(scale)), 0, LEVELS - 1))


def minmax(histogram: Histogram) -> Range:
    """All values."""
    return Range(histogram.low, histogram.high)


def percentile(histogram: Histogram, share: float = _SHARE) -> Range:
    """All but the rarest values: ``share`` of them, and half of the others on each side."""
    below = np.cumsum(histogram.counts) / histogram.counts.sum()
    cut = (1 - share) / 2
    first, last = np.searchsorted(below, cut, side="right"), np.searchsorted(below, 1 - cut, side="left")
    low, high = first * histogram.width - histogram.reach, (last + 1) * histogram.width - histogram.reach
    return Range(max(float(low), histogram.low), min(float(high), histogram.high))


def mse(histogram: Histogram) -> Range:
    """The least squared error, each side searched in turn (Nagel et al. 2021, "A White Paper on Neural Network
    Quantization", section 3.1)."""
    seen = histogram.counts > 0
    values, counts = histogram.centres[seen], histogram.counts[seen].astype(np.float64)
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)

    def error(between: Range) -> float:
        return _squared_error(values, counts, between)

    best = Range(low, high)
    for cuts, around in ((_CUTS[::8], 1.0), (_CUTS, 0.1)):  # coarsely over everything, then finely around
        for side, whole in (("high", high), ("low", low)):
            ends = [whole * cut for cut in cuts if abs(whole * cut - getattr(best, side)) <= abs(whole) * around]
            best = min([best, *(replace(best, **{side: end}) for end in ends)], key=error)
    return best


def _squared_error(values: NDArray[np.float64], counts: NDArray[np.float64], between: Range) -> float:
    scale, zero = (float(n) for n in between.scale_and_zero())
    error = (np.clip(np.rint(values / scale) + zero, 0, LEVELS - 1) - zero) * scale - values
    return float(counts @ (error * error))


def entropy(histogram: Histogram) -> Range:
    """The least Kullback-Leibler divergence of the quantized distribution from the original (Migacz 2017, "8-bit
    Inference with TensorRT"): the same magnitude on both sides, as far as there are values."""
    counts = histogram.counts.reshape(_COARSE, BINS // _COARSE).sum(axis=1).astype(np.float64)
    width = 2 * histogram.reach / _COARSE
    least, best = math.inf, minmax(histogram)
    magnitude = max(-histogram.low, histogram.high)
    for cut in _CUTS:
        tried = Range(max(histogram.low, -magnitude * cut), min(histogram.high, magnitude * cut))
        first = max(int((tried.low + histogram.reach) / width), 0)
        last = min(math.ceil((tried.high + histogram.reach) / width), _COARSE)
        if first >= last:  # nothing but zeros
            break
        divergence = _divergence(counts, first, last)
        if divergence < least:
            least, best = divergence, tried
    return best


def _divergence(counts: NDArray[np.float64], first: int, last: int) -> float:
    """Of the bins ``first`` to ``last`` in 256 steps from all bins, those outside moved to the nearest inside."""
    inside = counts[first:last]
    clipped = inside.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last:].sum()
    step = np.arange(inside.size) * LEVELS // max(inside.size, LEVELS)
    starts = np.searchsorted(step, np.arange(step[-1] + 1))
    filled = np.add.reduceat((inside > 0).astype(np.float64), starts)
    each = np.divide(np.add.reduceat(inside, starts), filled, out=np.zeros_like(filled), where=filled > 0)
    quantized = np.where(inside > 0, each[step], 0.0)
    p, q = clipped / clipped.sum(), quantized / max(quantized.sum(), 1.0)
    seen = p > 0
    # What was cut off may land in a bin that had nothing: its probability in steps is next to none.
    return float((p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-12))).sum())


CALIBRATORS: Mapping[str, Callable[[Histogram], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}
