"""``edgeport bench`` on the readable bundle: what its JSON holds, and what wrong calls get. No assertion on a time."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from edgeport.bundle import Bundle
from edgeport.errors import BundleError, MissingExtraError, UsageError
from edgeport_bench.bench import BenchOptions, bench
from edgeport_bench.cli import add_arguments, run
from edgeport_bench.harness import Measurement
from edgeport_bench.inputs import bundle_inputs
from edgeport_bench.machine import describe_machine, load_warning
from edgeport_bench.peers import specs
from edgeport_bench.report import BenchReport, speedups
from edgeport_export.quality.cli import evaluate
from tiny_bundle import MAX_LENGTH


def _run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(list(argv)))


@pytest.fixture(scope="module")
def result(tiny_bundle: Path) -> dict[str, Any]:
    """The JSON of a whole run."""
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", printed.append)
        argv = [str(tiny_bundle), "--batch", "1,3", "--length", "5,48", "--seconds", "0.02", "--threads", "1", "--cold"]
        assert _run(*argv, "--json") == 0
    found: dict[str, Any] = json.loads("\n".join(printed))
    return found


def test_json_has_every_variant_at_every_shape(result: dict[str, Any]) -> None:
    shapes = [(m["subject"], m["batch"], m["length"]) for m in result["measurements"]]
    assert sorted(shapes) == sorted((s, b, n) for s in ("fp32", "wrong") for b in (1, 3) for n in (5, 48))
    assert (result["schema"], result["task"], result["source"]) == (2, "sentence-embedding", "tiny")


def test_json_figures_follow_from_its_raw_samples(result: dict[str, Any]) -> None:
    for m in result["measurements"]:
        samples = np.concatenate(m["samples_ms"])
        assert m["runs"] == samples.size
        found = [m["p50_ms"], m["p90_ms"], m["p95_ms"], m["p99_ms"]]
        assert found == pytest.approx(np.percentile(samples, [50, 90, 95, 99]), abs=1e-3)
        assert all(low <= m[f"{p}_ms"] <= high for p, (low, high) in m["interval_ms"].items())
        assert m["cpu_ms"] > 0
        assert m["texts_per_second"] == pytest.approx(1e3 * m["batch"] / m["mean_ms"])
        assert m["tokens_per_second"] == pytest.approx(m["length"] * m["texts_per_second"])


def test_json_tells_cost_and_machine(tiny_bundle: Path, result: dict[str, Any]) -> None:
    manifest = Bundle.open(tiny_bundle).manifest
    for s in result["subjects"]:
        assert s["about"]["size_bytes"] == manifest.variants[s["name"]].size_bytes
        assert s["peak_rss"] >= s["loaded_rss"] > 1e6
        assert s["load_ms"] > 0
        assert len(s["cold_ms"]) == 3
    assert result["settings"]["threads"] == 1
    assert result["machine"]["versions"]["onnxruntime"]


def test_other_outputs_are_found_and_told(result: dict[str, Any]) -> None:
    assert result["reference"] == "fp32"
    cosines = {m["cosine"] for m in result["measurements"] if m["subject"] == "wrong"}
    assert max(cosines) < 0.9
    assert any("wrong gives other outputs than fp32" in w for w in result["warnings"])


def test_table_for_people(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(str(tiny_bundle), "--variant", "fp32", "--batch", "2", "--length", "7", "--seconds", "0.01") == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("2 × 7", "fp32", "p99", "tokens/s", "peak RSS"))
    assert "wrong" not in shown


def test_inputs_have_the_exact_shape_without_padding(tiny_bundle: Path) -> None:
    inputs = bundle_inputs(Bundle.open(tiny_bundle))
    feeds = inputs.make_feeds([(1, 1), (5, MAX_LENGTH)])
    for shape, tensors in feeds.items():
        assert {a.shape for a in tensors.values()} == {shape}
        assert tensors["attention_mask"].all()
        assert (tensors["input_ids"] != 0).all()
    assert len(np.unique(feeds[5, MAX_LENGTH]["input_ids"], axis=0)) == 5  # no two rows alike
    assert inputs.default_lengths() == [16, MAX_LENGTH]


def _report(cosine: float | None) -> BenchReport:
    slow = Measurement("torch", 1, 8, [[4.0, 4.0]] * 5, None)
    fast = Measurement("int8", 1, 8, [[1.0, 1.0]] * 5, cosine)
    return BenchReport("b", "s", "t", describe_machine(), {}, [], [slow, fast], "torch", "torch", [], [])


def test_speedup_is_the_baseline_over_the_rest() -> None:
    first, second = speedups(_report(0.99))
    assert first is None
    assert second is not None
    assert (second.value, second.low, second.high) == (4.0, 4.0, 4.0)


def test_nobody_wins_by_being_wrong() -> None:
    assert speedups(_report(0.5)) == [None, None]


def test_a_busy_machine_is_told() -> None:
    machine = describe_machine()
    for busy, told in ((0.0, False), (0.2, False), (0.5, True)):
        warning = load_warning(dataclasses.replace(machine, busy=busy))
        assert (warning is not None) == told
    assert warning is not None
    assert "50% of the processors" in warning


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--batch", "0"], "'0' is no list"),
        (["--batch", "1,,2"], "'1,,2' is no list"),
        (["--length", "many"], "'many' is no list"),
        (["--length", "49"], "length 49 is more than the 48"),
        (["--seconds", "0"], "0.0 seconds"),
        (["--seconds", "nan"], "nan seconds"),
        (["--threads", "0"], "0 threads"),
        (["--against", "jax"], "'jax' is unknown"),
        (["--variant", "fp32", "--variant", "fp32"], "name each once"),
    ],
)
def test_wrong_calls_are_refused(tiny_bundle: Path, argv: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        _run(str(tiny_bundle), *argv)


def test_unknown_variant(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"'int3'.*fp32, wrong"):
        bench(tiny_bundle, BenchOptions(variants=("int3",)))


def test_original_needs_the_export_extra(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specs, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"edgeport\[export\]"):
        bench(tiny_bundle, BenchOptions(against="torch"))


def test_results_keep_to_the_schema(result: dict[str, Any]) -> None:
    text = (files("edgeport_bench") / "result.schema.json").read_text(encoding="utf-8")
    validator = jsonschema.Draft202012Validator(json.loads(text))
    validator.check_schema(validator.schema)
    assert [e.message for e in validator.iter_errors(result)] == []
    assert list(validator.iter_errors({**result, "schema": 1}))
    assert list(validator.iter_errors({**result, "measurements": [{**result["measurements"][0], "p50_ms": "fast"}]}))


def test_quality_stands_beside_speed(tiny_bundle: Path, tmp_path: Path) -> None:
    data = tmp_path / "pairs.tsv"
    data.write_text("1\ta man\tthe dog\n3\ta dog\ta dog .\n2\tman\ttwo man\n", encoding="utf-8")
    options = BenchOptions(batches=(1,), lengths=(5,), seconds=0.01, threads=1, evaluation=data)
    found = bench(tiny_bundle, options).subjects
    wanted = {r["variant"]: r["metrics"] for r in evaluate(tiny_bundle, [data])}
    assert {s.name: s.quality for s in found} == wanted


def test_other_bundles_take_turns_with_it(tiny_bundle: Path, tmp_path: Path) -> None:
    other, data = tmp_path / "other", tmp_path / "pairs.tsv"
    shutil.copytree(tiny_bundle, other)
    data.write_text("1\ta man\tthe dog\n3\ta dog\ta dog .\n2\tman\ttwo man\n", encoding="utf-8")
    options = BenchOptions(
        variants=("fp32",), batches=(1,), lengths=(5,), seconds=0.02, threads=1, evaluation=data, against=str(other)
    )
    report = bench(tiny_bundle, options)
    names = ["fp32", f"{other}/fp32", f"{other}/wrong"]
    assert [s.name for s in report.subjects] == names
    assert report.baseline == names[1]
    quality = {s.name: s.quality for s in report.subjects}
    assert quality["fp32"] == quality[names[1]] != quality[names[2]]
    assert [w for w in report.warnings if names[2] in w and "wrong" in w]
    assert {m.subject: len(m.rounds) for m in report.measurements}[names[1]] > 0


def test_a_bundle_for_something_else_is_no_peer(tiny_bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_bundle, other)
    manifest = json.loads((other / "edgeport.json").read_text())
    (other / "edgeport.json").write_text(json.dumps({**manifest, "task": "feature-extraction"}))
    with pytest.raises(UsageError, match="is for feature-extraction, what is measured for sentence-embedding"):
        bench(tiny_bundle, BenchOptions(against=str(other), seconds=0.01))


def test_each_provider_is_a_subject_and_one_that_is_absent_ends_nothing(tiny_bundle: Path) -> None:
    options = BenchOptions(variants=("fp32",), providers=("cpu", "coreml"), batches=(1,), lengths=(5,), seconds=0.02)
    report = bench(tiny_bundle, options)
    assert [s.name for s in report.subjects] == ["fp32 on cpu"]
    ((name, why),) = [(r.subject, r.reason) for r in report.refusals]
    assert name == "fp32 on coreml"
    assert "'coreml' is not in this onnxruntime" in why
