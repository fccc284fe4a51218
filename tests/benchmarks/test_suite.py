"""Suites: runs as data. No assertion on a time."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from edgeport.errors import UsageError
from edgeport_bench.bench import BenchOptions
from edgeport_bench.cli import add_arguments, run
from edgeport_bench.suite import read_suite


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "suite.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_runs_take_the_defaults_and_one_for_each_number_of_threads(tmp_path: Path) -> None:
    (tmp_path / "minilm").mkdir()
    text = """
    [defaults]
    seconds = 1
    length = 16
    [[run]]
    name = "short"
    model = "minilm"
    threads = [1, 2]
    [[run]]
    name = "long"
    model = "owner/name"
    length = [64, 128]
    against = ["torch", "openvino-int8"]
    columns = {label = "category"}
    eval = "test.csv"
    """
    first, second, third = read_suite(_write(tmp_path, text))
    assert (first.name, first.model) == ("short-1", str(tmp_path / "minilm"))
    assert (first.options, second.options) == tuple(BenchOptions(threads=t, lengths=(16,), seconds=1.0) for t in (1, 2))
    assert (third.name, third.model) == ("long", "owner/name")
    assert third.options == BenchOptions(
        lengths=(64, 128),
        seconds=1.0,
        against="torch,openvino-int8",
        columns=(("label", "category"),),
        evaluation=tmp_path / "test.csv",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[run]", "is no suite"),
        ("a = 1", "has a in it"),
        ("[[run]]\nname = 'x'", "has no name or no model"),
        ("[[run]]\nname = 'x'\nmodel = 'm'\nbatches = [1]", "no key 'batches': choose from name, model, variant"),
        ("[[run]]\nname = 'x'\nmodel = 'm'\nbatch = [0]", r"\[0\] is no list"),
        ("[[run]]\nname = 'x'\nmodel = 'm'\nseconds = 'long'", "the run 'x' of"),
        ("[[run]]\nname = 'x'\nmodel = 'm'\n[[run]]\nname = 'x'\nmodel = 'n'", "a name of its own"),
    ],
)
def test_a_suite_that_is_wrong_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_suite(_write(tmp_path, text))


def test_results_are_written_by_name(tiny_bundle: Path, tmp_path: Path) -> None:
    text = f"[[run]]\nname = 'a'\nmodel = '{tiny_bundle}'\nlength = 5\nbatch = 1\nseconds = 0.01\nthreads = 1\n"
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args([str(_write(tmp_path, text)), "--out", str(tmp_path / "results")])) == 0
    found = json.loads((tmp_path / "results" / "a.json").read_text(encoding="utf-8"))
    assert {m["subject"] for m in found["measurements"]} == {"fp32", "wrong"}
    assert "Plotly" in (tmp_path / "results" / "a.html").read_text(encoding="utf-8")
