"""MLPerf's scenarios, driven by LoadGen on pipelines that are small or made up. No assertion on a time."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from edgeport.errors import EdgeportError, UsageError
from edgeport_bench.cli import add_arguments, run
from edgeport_bench.scenarios import run_scenario

TEXTS = [f"text {i}" for i in range(20)]


class Noting:
    """A pipeline that keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self._lock = Lock()

    def __call__(self, texts: list[str]) -> list[int]:
        with self._lock:
            self.calls.append(list(texts))
        return [len(text) for text in texts]


@pytest.mark.parametrize(
    ("scenario", "most"), [("single-stream", 1), ("multi-stream", 8), ("offline", 32), ("server", 32)]
)
def test_scenarios_send_as_many_at_a_time_as_they_say(scenario: str, most: int) -> None:
    pipe = Noting()
    found = run_scenario(pipe, TEXTS, scenario, variant="x", seconds=0.05, rate=2000.0)
    asked = pipe.calls[2:]  # two are for the rate that offline expects
    assert 1 <= max(map(len, asked)) <= most
    assert {text for call in asked for text in call} <= set(TEXTS)
    assert (found.scenario, found.variant) == (scenario, "x")
    assert any("second" in name or "QPS" in name or "percentile" in name for name in found.figures)


def test_a_pipeline_that_fails_ends_the_run_with_its_reason() -> None:
    calls: list[int] = []

    def pipe(texts: list[str]) -> None:
        calls.append(len(texts))
        if len(calls) > 2:
            raise ValueError("no room")

    with pytest.raises(EdgeportError, match=r"failed under load \(no room\)"):
        run_scenario(pipe, TEXTS, "single-stream", variant="x", seconds=0.01)


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(UsageError, match="'batch' is unknown: choose from single-stream"):
        run_scenario(Noting(), TEXTS, "batch", variant="x", seconds=1)
    with pytest.raises(UsageError, match="pass --rate"):
        run_scenario(Noting(), TEXTS, "server", variant="x", seconds=1)


def test_the_command_runs_every_variant(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    argv = [str(tiny_bundle), "--scenario", "single-stream", "--seconds", "0.02", "--threads", "1"]
    assert run(parser.parse_args([*argv, "--json"])) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [(r["scenario"], r["variant"]) for r in found] == [("single-stream", "fp32"), ("single-stream", "wrong")]
    assert run(parser.parse_args(argv)) == 0
    assert "p90, ms" in capsys.readouterr().out
