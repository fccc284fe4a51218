"""``edgeport bench`` of a tiny Llama that writes, beside transformers' ``generate``. No assertion on a time."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeport.bundle import Bundle
from edgeport.errors import UsageError
from edgeport_bench.bench import BenchOptions, bench
from edgeport_bench.cli import add_arguments, run
from edgeport_bench.harness import FIRST, NEXT, Measurement
from edgeport_bench.inputs import bundle_inputs
from edgeport_bench.machine import describe_machine
from edgeport_bench.process import Worker
from edgeport_bench.report import BenchReport, speedups, wrong_outputs
from edgeport_bench.subjects import KINDS, SubjectSpec, bundle_writer, torch_writer

PROMPTS = np.array([[20, 31, 42, 53, 64], [28, 50, 61, 72, 83]])


def _run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(list(argv)))


def _spec(bundle: Path) -> SubjectSpec:
    return SubjectSpec(
        "fp32", "bundle-writer", {"path": str(bundle), "variant": "fp32", "providers": None, "threads": 1}
    )


@pytest.fixture(scope="module")
def result(tiny_writer: Any) -> dict[str, Any]:
    """The JSON of a whole run."""
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", printed.append)
        argv = [
            str(tiny_writer.bundle),
            "--against",
            f"torch={tiny_writer.original}",
            "--batch",
            "1,2",
            "--length",
            "7,40",
        ]
        assert _run(*argv, "--new-tokens", "12", "--seconds", "0.02", "--threads", "1", "--json") == 0
    found: dict[str, Any] = json.loads("\n".join(printed))
    return found


def test_json_has_both_phases_of_every_subject_at_every_shape(result: dict[str, Any]) -> None:
    found = [(m["subject"], m["phase"], m["batch"], m["length"]) for m in result["measurements"]]
    wanted = [(s, p, b, n) for s in ("torch", "fp32", "int8") for p in (FIRST, NEXT) for b in (1, 2) for n in (7, 40)]
    assert sorted(found) == sorted(wanted)
    assert (result["baseline"], result["settings"]["new_tokens"]) == ("torch", 12)


def test_figures_follow_from_the_raw_samples(result: dict[str, Any]) -> None:
    firsts = {}
    for m in result["measurements"]:
        rounds, key = m["samples_ms"], (m["subject"], m["batch"], m["length"])
        assert m["p50_ms"] == pytest.approx(np.median(np.concatenate(rounds)), abs=1e-3)
        tokens = m["batch"] * (m["length"] if m["phase"] == FIRST else 1)
        assert m["tokens_per_second"] == pytest.approx(1e3 * tokens / m["p50_ms"])
        assert "texts_per_second" not in m
        if m["phase"] == FIRST:
            firsts[key] = rounds
        else:
            assert [len(r) for r in rounds] == [11 * len(r) for r in firsts[key]]
        assert (m["speedup"] is None) == (m["subject"] == "torch")


def test_fp32_writes_what_torch_writes(result: dict[str, Any]) -> None:
    shares = {(m["subject"], m["agreement"]) for m in result["measurements"] if m["subject"] != "int8"}
    assert shares == {("torch", None), ("fp32", 1.0)}
    assert all(0.5 < m["agreement"] <= 1 for m in result["measurements"] if m["subject"] == "int8")


def test_subjects_tell_their_cost(tiny_writer: Any, result: dict[str, Any]) -> None:
    variants = Bundle.open(tiny_writer.bundle).manifest.variants
    for s in result["subjects"]:
        assert s["peak_rss"] >= s["loaded_rss"] > 1e6
        assert s["load_ms"] > 0
        if s["name"] != "torch":
            assert s["about"]["size_bytes"] == variants[s["name"]].size_bytes


def test_table_for_people(tiny_writer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("--length", "9", "--new-tokens", "4", "--seconds", "0.01", "--cold", "--threads", "1")
    assert _run(str(tiny_writer.bundle), *argv) == 0
    shown = capsys.readouterr().out
    for words in ("The first token", "Each token after it", "1 × 9", "tokens/s", "same", "first result"):
        assert words in shown
    assert "texts/s" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_both_subjects_write_the_same_and_time_every_token(tiny_writer: Any) -> None:
    ours = bundle_writer.open_subject(_spec(tiny_writer.bundle).options)
    options = {"model": str(tiny_writer.original), "architecture": "LlamaForCausalLM", "threads": None}
    theirs = torch_writer.open_subject(options)
    for prompts in (PROMPTS, PROMPTS[:1]):
        steps: list[str] = []
        written = theirs.write(prompts, 20, lambda: steps.append("torch"))
        assert (ours.write(prompts, 20, lambda: steps.append("ours")) == written).all()
        assert written.shape == (len(prompts), 20)
        assert steps == ["torch"] * 20 + ["ours"] * 20
        assert (ours.follow(prompts, written) == written).all()
        other = written[:, ::-1].copy()
        assert (ours.follow(prompts, other) == theirs.follow(prompts, other)).all()
        assert (ours.follow(prompts, other) != other).any()
    ours.close()


def test_a_prompt_is_read_anew_each_time(tiny_writer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder would keep what it knows of a single row, and the first token would cost nothing."""
    ours = bundle_writer.open_subject(_spec(tiny_writer.bundle).options)
    read: list[int] = []
    decoder = type(ours._decoder)
    extend = decoder._extend
    monkeypatch.setattr(
        decoder, "_extend", lambda self, tokens, **o: (read.append(len(tokens)), extend(self, tokens, **o))[1]
    )
    for _ in range(2):
        ours.write(PROMPTS[:1], 3, lambda: None)
    assert read == [5, 5]
    ours.close()


def test_a_process_writes(tiny_writer: Any) -> None:
    with Worker(_spec(tiny_writer.bundle)) as worker:
        worker.load()
        worker.feed({"input_ids": PROMPTS}, 6)
        assert [len(run) for run in worker.run(3, untimed=1).ms] == [6] * 3
        written = worker.tokens()
        assert written.shape == (2, 6)
        assert (worker.tokens(written) == written).all()


def test_the_process_of_a_bundle_needs_no_tokenizer_and_no_torch(tiny_writer: Any, tmp_path: Path) -> None:
    load = {"op": "load", "options": dict(_spec(tiny_writer.bundle).options)}
    feeds = tmp_path / "feeds.npz"
    np.savez(feeds, input_ids=np.array([[5, 6]]))
    requests = [{"op": "import", "module": KINDS["bundle-writer"]}, load]
    requests += [
        {"op": "feed", "tensors": str(feeds), "texts": None, "new_tokens": 2},
        {"op": "run", "times": 1, "untimed": 0},
    ]
    code = (
        "import io, json, sys\n"
        "from edgeport.session import memory\n"
        "from edgeport_bench.worker import Server\n"
        "replies = io.StringIO()\n"
        f"Server(memory).serve(map(json.dumps, {requests!r}), replies)\n"
        "assert 'error' not in replies.getvalue(), replies.getvalue()\n"
        "print(*sorted({'torch', 'transformers', 'tokenizers', 'jinja2', 'onnx', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_prompts_have_the_exact_shape_and_leave_room(tiny_writer: Any) -> None:
    inputs = bundle_inputs(Bundle.open(tiny_writer.bundle))
    prompts = inputs.make_prompts([(1, 1), (3, 80)], 16)
    assert {shape: feeds["input_ids"].shape for shape, feeds in prompts.items()} == {(1, 1): (1, 1), (3, 80): (3, 80)}
    assert len(np.unique(prompts[3, 80]["input_ids"], axis=0)) == 3
    assert inputs.default_new_tokens() == 48
    assert inputs.default_prompts(48) == [16, 48]
    assert inputs.default_prompts(8) == [16, 88]


def _report(agreement: float) -> BenchReport:
    rows = [
        Measurement("torch", 1, 8, [[8.0]] * 5, phase=FIRST),
        Measurement("int8", 1, 8, [[1.0]] * 5, phase=FIRST, agreement=agreement),
        Measurement("torch", 1, 8, [[4.0]] * 5, phase=NEXT),
        Measurement("int8", 1, 8, [[2.0]] * 5, phase=NEXT, agreement=agreement),
    ]
    return BenchReport("b", "s", "t", describe_machine(), {}, [], rows, "torch", "torch", [], [])


def test_each_phase_has_its_own_speedup() -> None:
    assert [s and s.value for s in speedups(_report(0.9))] == [None, 8.0, None, 2.0]


def test_a_model_that_writes_something_else_does_not_win() -> None:
    report = _report(0.25)
    assert speedups(report) == [None] * 4
    (warning,) = wrong_outputs(report.measurements, "torch")
    assert warning.startswith("int8 gives other outputs than torch (25% of its tokens, at least 70% is asked for)")
    assert wrong_outputs(_report(0.9).measurements, "torch") == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (BenchOptions(lengths=(90,), new_tokens=8), "90 tokens and 8 new ones are more than the model's context of 96"),
        (BenchOptions(batches=(0,)), "is no shape"),
        (BenchOptions(against="torch=/nowhere", lengths=(4,), new_tokens=2), "--against torch=MODEL"),
    ],
)
def test_wrong_calls_are_refused(tiny_writer: Any, options: BenchOptions, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        bench(tiny_writer.bundle, options)


def test_new_tokens_are_for_models_that_write(tiny_bundle: Path) -> None:
    with pytest.raises(UsageError, match="--new-tokens is for text-generation, and this is sentence-emb"):
        bench(tiny_bundle, BenchOptions(new_tokens=4))
    with pytest.raises(UsageError, match="1 new tokens leave none"):
        BenchOptions(new_tokens=1)
