"""Which variant to run: a choice, and the reason as a sentence. Knows the manifest's variants; opens nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile

from edgeport.bundle import Variant
from edgeport.errors import BundleError
from edgeport.session.providers import Provider

__all__ = ["Choice", "choose_variant"]

Latencies = dict[str, float]
"""Shape (such as ``1x128``) to milliseconds."""


@dataclass(frozen=True)
class Choice:
    """A variant's name, and why it was picked."""

    name: str
    reason: str


def choose_variant(
    variants: Mapping[str, Variant],
    provider: Provider,
    features: frozenset[str],
    onnxruntime: str,
    *,
    asked: str | None = None,
) -> Choice:
    """Pick from ``variants`` the one that should be fastest on ``provider``.

    Args:
        variants: By name.
        provider: The first that was asked for.
        features: The CPU's instruction sets.
        onnxruntime: Its version.
        asked: The variant that the caller wants, whatever the others promise.

    Raises:
        BundleError: no such variant, or this onnxruntime is too old for it (or for all).
    """
    runnable = {name: v for name, v in variants.items() if _version(v.min_onnxruntime) <= _version(onnxruntime)}
    if asked is not None and asked not in variants:
        raise BundleError(f"the bundle has no variant {asked!r}: choose one of {', '.join(variants)}.")
    wanted = variants if asked is None else {asked: variants[asked]}
    if not any(name in runnable for name in wanted):
        least = min((v.min_onnxruntime for v in wanted.values()), key=_version)
        raise BundleError(
            f"{', '.join(wanted)} needs onnxruntime {least} or newer, and {onnxruntime} is installed: "
            "pip install --upgrade onnxruntime."
        )
    if asked is not None:
        return Choice(asked, "asked for")
    if len(runnable) == 1:
        name = next(iter(runnable))
        return Choice(name, "the only variant" if len(variants) == 1 else "the only one that this onnxruntime takes")
    fitting = {
        name: v for name, v in runnable.items() if provider.name in v.providers and features.issuperset(v.cpu_features)
    }
    return _by_latency(fitting, provider) or _by_precision(fitting or runnable, provider)


def _by_latency(variants: Mapping[str, Variant], provider: Provider) -> Choice | None:
    """The fastest by geometric mean over the shapes that all were measured at, if all were, on this provider."""
    measured = {name: _latencies(v, provider) for name, v in variants.items()}
    shapes = [s for s in next(iter(measured.values()), {}) if all(s in m for m in measured.values())]
    if len(measured) < 2 or not shapes:
        return None
    order = sorted(measured, key=lambda name: sum(math.log(measured[name][shape]) for shape in shapes))
    best, second, shape = order[0], order[1], shapes[-1]
    times = f"{measured[best][shape]:.1f} ms at {shape} against {measured[second][shape]:.1f} ms for {second}"
    return Choice(best, f"the fastest on {provider.name} when it was exported ({times})")


def _by_precision(variants: Mapping[str, Variant], provider: Provider) -> Choice:
    rank = {precision: i for i, precision in enumerate(provider.precisions)}
    best = min(variants, key=lambda name: rank.get(variants[name].precision, len(rank)))
    return Choice(best, f"{variants[best].precision} is usually the fastest here on {provider.name}; none was measured")


def _latencies(variant: Variant, provider: Provider) -> Latencies:
    """What the exporter measured on ``provider``; a stranger's manifest may hold anything here, or nothing."""
    latency = variant.measured.get("latency")
    if not isinstance(latency, Mapping) or latency.get("provider") != provider.name:
        return {}
    times = latency.get("milliseconds")
    if not isinstance(times, Mapping):
        return {}
    return {k: float(v) for k, v in times.items() if isinstance(v, int | float) and 0 < v < math.inf}


def _version(text: str) -> tuple[int, ...]:
    """``1.32.0`` as (1, 32, 0); a suffix such as ``rc1`` is cut off."""
    digits = ["".join(takewhile(str.isdecimal, part)) for part in text.split(".")]
    return tuple(map(int, takewhile(bool, digits)))
