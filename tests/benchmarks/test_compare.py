"""``edgeport bench compare``: what counts as a change, and what a build is told."""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeport.errors import UsageError
from edgeport_bench.cli import add_arguments, run
from edgeport_bench.compare import compare, only_in, parse_condition
from edgeport_bench.harness import Measurement, SubjectRecord
from edgeport_bench.machine import describe_machine
from edgeport_bench.report import BenchReport, as_json
from scipy.stats import mannwhitneyu


def _result(slower: float = 1.0, *, noise: float = 0.02, seed: int = 0, peak: int = 1000) -> dict[str, Any]:
    rounds = (10 * slower * np.random.default_rng(seed).normal(1, noise, size=(10, 20))).tolist()
    subject = SubjectRecord("int8", "bundle", 1.0, 2.0, 3, {"size_bytes": 4}, peak, 5)
    rows = [Measurement("int8", 1, 16, rounds)]
    return as_json(BenchReport("b", "s", "t", describe_machine(), {"threads": 2}, [subject], rows, None, None, [], []))


def test_a_change_is_found_with_its_interval_and_the_probability_of_chance() -> None:
    before, after = _result(), _result(1.2, seed=1)
    change = compare(before, after)[0]
    assert (change.subject, change.where, change.metric) == ("int8", "read 1 × 16", "p50")
    assert change.low < change.percent < change.high
    assert change.percent == pytest.approx(20, abs=2)
    medians = [[np.median(r) for r in x["measurements"][0]["samples_ms"]] for x in (after, before)]
    assert change.p_value == pytest.approx(mannwhitneyu(*medians).pvalue)


def test_what_subjects_cost_is_compared_as_it_is() -> None:
    changes = {c.metric: c for c in compare(_result(), _result(peak=1100))}
    assert changes["peak_rss"].percent == pytest.approx(10)
    assert changes["peak_rss"].p_value is None


def _status(tmp_path: Path, before: Any, after: Any, *argv: str) -> int:
    for name, result in (("a", before), ("b", after)):
        (tmp_path / name).write_text(json.dumps(result), encoding="utf-8")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(["compare", str(tmp_path / "a"), str(tmp_path / "b"), *argv]))


@pytest.mark.parametrize(
    ("slower", "noise", "condition", "status"),
    [
        (1.2, 0.02, "p50>+5%", 1),
        (1.2, 0.02, "p50>+30%", 0),
        (0.8, 0.02, "p50>+5%", 0),
        (0.8, 0.02, "p50<-10%", 1),
        (1.2, 0.02, "p99 > 10 %", 1),
        (1.0, 3.0, "p50>-100%", 0),  # noise alone is no change, however wide the limit
        (1.2, 0.02, "peak_rss>+5%", 0),
    ],
)
def test_the_exit_status_is_for_builds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], slower: float, noise: float, condition: str, status: int
) -> None:
    before, after = _result(noise=noise), _result(slower, noise=noise, seed=1)
    assert _status(tmp_path, before, after, "--fail-if", condition) == status
    said = capsys.readouterr().out
    assert "read 1 × 16" in said
    assert (f"✗ {condition}" in said) == bool(status)
    assert ("no condition holds" in said) != bool(status)
    assert max(map(len, said.splitlines())) <= 80
    assert _status(tmp_path, before, after, "--fail-if", condition, "--json") == status
    rows = json.loads(capsys.readouterr().out)["changes"]
    assert any(row["fails"] for row in rows) == bool(status)
    assert [c for row in rows for c in row["conditions"]] == [condition] * status


def test_what_only_one_of_them_has_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = _result(), _result()
    before["subjects"].append({**before["subjects"][0], "name": "torch"})
    before["measurements"].append({**before["measurements"][0], "subject": "torch"})
    after["measurements"].append({**after["measurements"][0], "batch": 8})
    assert only_in(before, after) == ["torch"]
    assert only_in(after, before) == ["int8, read 8 × 16"]
    assert _status(tmp_path, before, after) == 0
    said = capsys.readouterr().out.replace("\n", "")
    assert f"only in {tmp_path / 'a'}: torch" in said
    assert f"only in {tmp_path / 'b'}: int8, read 8 × 16" in said


def test_wrong_calls_are_refused(tmp_path: Path) -> None:
    good = _result()
    other = copy.deepcopy(good)
    other["measurements"][0]["batch"] = 9
    other["subjects"] = []
    for before, after, argv, words in (
        (good, good, ["--fail-if", "p50"], "'p50' is no condition"),
        (good, good, ["--fail-if", "p51>+5%"], "one of p50"),
        (good, {}, [], "is no result"),
        (good, {**good, "schema": 1}, [], "has schema 1"),
        (good, other, [], "no subject at the same shape"),
        (good, good, ["--html", "x.html"], "writes no page"),
    ):
        with pytest.raises(UsageError, match=words):
            _status(tmp_path, before, after, *argv)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for argv, words in (
        (["compare", "x"], "1 results cannot"),
        (["x", "--fail-if", "p50>1%"], "are for `edgeport bench c"),
    ):
        with pytest.raises(UsageError, match=words):
            run(parser.parse_args(argv))


def test_conditions_say_direction_and_limit() -> None:
    found = parse_condition(" p95 < -2.5 % ")
    assert (found.metric, found.above, found.percent) == ("p95", False, -2.5)
