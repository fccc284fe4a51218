"""``edgeport bench compare A.json B.json``: what changed between two results, and whether it is more than noise.

The two were taken at different times, so rounds are drawn for each by itself. A change counts where a Mann-Whitney test
of the rounds finds it as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeport.errors import UsageError

from edgeport_bench.harness import shape_of
from edgeport_bench.measure import PERCENTILES, change_of_percentile, rank_test

__all__ = ["Change", "Condition", "compare", "only_in", "parse_condition", "read_result"]

SIGNIFICANT = 0.05
"""Probability, at most, that rounds of equal speed differ as much."""

_SAMPLED = {f"p{p}": p for p in PERCENTILES}
_COSTS: Mapping[str, Callable[[Mapping[str, Any]], float | None]] = {
    "size": lambda s: s["about"].get("size_bytes"),
    "load": lambda s: s["load_ms"],
    "peak_rss": lambda s: s["peak_rss"],
    "steady_rss": lambda s: s["steady_rss"],
}
_CONDITION = re.compile(r"\s*(\w+)\s*([<>])\s*([+-]?\d+(?:\.\d+)?)\s*%\s*")


@dataclass(frozen=True)
class Condition:
    """A change that is not accepted."""

    text: str
    """As it was given."""
    metric: str
    """``p50`` and so on, or a key of what a subject costs."""
    above: bool
    percent: float

    def holds(self, change: Change) -> bool:
        """Whether ``change`` is that bad, and more than noise."""
        if change.metric != self.metric or (change.p_value is not None and change.p_value >= SIGNIFICANT):
            return False
        return change.percent > self.percent if self.above else change.percent < self.percent


@dataclass(frozen=True)
class Change:
    """One figure of one subject, before and after."""

    subject: str
    where: str
    """Phase and shape; empty for what a subject costs."""
    metric: str
    before: float
    after: float
    percent: float
    low: float
    """Percent: where the interval begins that holds the change with 95 % confidence."""
    high: float
    p_value: float | None
    """Of the Mann-Whitney test; None for a single figure, which has no spread to test."""


def parse_condition(text: str) -> Condition:
    """``p50>+5%`` as a condition.

    Raises:
        UsageError: it is none.
    """
    match = _CONDITION.fullmatch(text)
    known = [*_SAMPLED, *_COSTS]
    if match is None or match[1] not in known:
        raise UsageError(
            f"--fail-if {text!r} is no condition: write it like 'p50>+5%', with one of {', '.join(known)}."
        )
    return Condition(text.strip(), match[1], match[2] == ">", float(match[3]))


def read_result(path: Path) -> dict[str, Any]:
    """A result that ``edgeport bench --json`` wrote.

    Raises:
        UsageError: it cannot be read, or is something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        schema = found["schema"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UsageError(f"{str(path)!r} is no result of `edgeport bench --json` ({type(e).__name__}).") from e
    if schema != 2:
        raise UsageError(f"{str(path)!r} has schema {schema}, and 2 is read: measure again with this edgeport.")
    result: dict[str, Any] = found
    return result


def compare(before: Mapping[str, Any], after: Mapping[str, Any], metrics: Sequence[str] = ("p50",)) -> list[Change]:
    """Every figure that both results have: ``metrics`` of each measurement, then what each subject costs.

    Raises:
        UsageError: they have none in common.
    """
    rows = {_place(m): m for m in before["measurements"]}
    found = [
        _sampled(rows[_place(m)], m, metric)
        for m in after["measurements"]
        if _place(m) in rows
        for metric in metrics
        if metric in _SAMPLED
    ]
    costs = {s["name"]: s for s in before["subjects"]}
    for subject in after["subjects"]:
        for metric, read in _COSTS.items():
            if subject["name"] in costs:
                found += _single(subject["name"], metric, read(costs[subject["name"]]), read(subject))
    if not found:
        raise UsageError("the two results have no subject at the same shape: compare runs of the same benchmark.")
    return found


def only_in(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What the one result has and the other has not: subjects, and shapes of subjects that both have."""
    known, places = {s["name"] for s in other["subjects"]}, set(map(_place, other["measurements"]))
    missing = [s["name"] for s in one["subjects"] if s["name"] not in known]
    shapes = (m for m in one["measurements"] if m["subject"] in known and _place(m) not in places)
    return [*missing, *(f"{m['subject']}, {_where(m)}" for m in shapes)]


def _where(m: Mapping[str, Any]) -> str:
    return f"{m['phase']} {shape_of(m['batch'], m['length'])}"


def _place(m: Mapping[str, Any]) -> tuple[str, str, int, int]:
    return m["subject"], m["phase"], m["batch"], m["length"]


def _sampled(before: Mapping[str, Any], after: Mapping[str, Any], metric: str) -> Change:
    ratio = change_of_percentile(after["samples_ms"], before["samples_ms"], _SAMPLED[metric])
    percent, low, high = (100 * (r - 1) for r in (ratio.value, ratio.low, ratio.high))
    values = before[f"{metric}_ms"], after[f"{metric}_ms"]
    p_value = rank_test(after["samples_ms"], before["samples_ms"])
    return Change(after["subject"], _where(after), metric, *values, percent, low, high, p_value)


def _single(subject: str, metric: str, before: float | None, after: float | None) -> list[Change]:
    if not before or after is None:
        return []
    percent = 100 * (after / before - 1)
    return [Change(subject, "", metric, before, after, percent, percent, percent, None)]
