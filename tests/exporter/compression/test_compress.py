"""A tiny classifier through the whole compression: the bundle, the report, the recipe, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edgeport
import pytest
import torch
from edgeport.bundle import Bundle
from edgeport.cli import main
from edgeport.errors import ProviderError, UsageError, ValidationError
from edgeport.session import PROVIDERS
from edgeport_export import CompressOptions, CompressResult, Recipe, compress, export, variants
from edgeport_export.compression import evaluate, pipeline, setup, stopwatch, target
from edgeport_export.compression.ship import ship
from edgeport_export.compression.timing import Timed
from edgeport_export.graph_io import ON_CPU, OpenBy
from edgeport_export.profile import Machine, Roofline, describe
from edgeport_export.quality.outcomes import Loss
from tiny_models import SPECIAL, make_tokenizer
from tokenizers import Tokenizer
from transformers import BertForSequenceClassification

LABELS = ("sad", "neutral", "glad")
WORDS = ["the", "boat", "has", "left", "a", "harbour", "and", "we", "all", "saw", "it", "go", "over", "water"]


@pytest.fixture(scope="module")
def rows(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts with the model's own labels, one in ten of them wrong."""
    model, tokenizer = BertForSequenceClassification.from_pretrained(tiny_folder).eval(), make_tokenizer()
    chance = random.Random(0)
    texts = [" ".join(chance.choice(WORDS) for _ in range(chance.randint(2, 9))) for _ in range(300)]
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    with path.open("w", newline="") as f, torch.no_grad():
        table = csv.writer(f)
        table.writerow(("text", "mood"))
        for i, text in enumerate(texts):
            label = LABELS[int(model(**tokenizer(text, return_tensors="pt")).logits.argmax())]
            table.writerow((text, label if i % 10 else "sad"))
    return path


def _same_time(
    models: dict[str, Any], *, turns: int, seconds: float, say: Callable[[str], None] = lambda doing: None
) -> dict[str, Timed]:
    for work in models.values():
        work[0]()
    return {name: Timed((4.0 if "torch" in name else 1.0,) * turns) for name in models}


@pytest.fixture(scope="module", autouse=True)
def _fast_clock() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stopwatch, "take_turns", _same_time)
        patch.setattr(setup, "_TO_LEARN", 0)  # how many steps there is time for depends on the machine
        yield


def _options(rows: Path, **more: Any) -> CompressOptions:
    return CompressOptions(str(rows), **{"budget": 5.0, "columns": {"label": "mood"}, "trials": 3, **more})


@pytest.fixture(scope="module")
def result(tiny_folder: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> CompressResult:
    return compress(tiny_folder, tmp_path_factory.mktemp("out") / "small", _options(rows))


def test_the_bundle_holds_the_chosen_variant_and_the_original(result: CompressResult, rows: Path) -> None:
    bundle = Bundle.open(result.path, verify=True)
    assert set(bundle.manifest.variants) == {"small", "fp32"}
    measured = bundle.manifest.variants["small"].measured["compression"]
    assert measured["high"] <= 5
    assert measured["metric"] == "accuracy"
    assert measured["times_as_fast_as"]["torch fp32"]["value"] == 4
    texts = ["the boat has left", "a harbour and we"]
    for variant in ("small", "fp32"):
        with edgeport.load(result.path, variant=variant) as pipe:
            assert {answer["label"] for answer in pipe(texts)} <= set(LABELS)
    assert {p.name for p in result.path.iterdir()} >= {"report.html", "report.json", "recipe.toml", "README.md"}


def test_the_loss_is_measured_on_rows_that_the_search_never_saw(result: CompressResult) -> None:
    report = json.loads((result.path / "report.json").read_text())
    counts = report["rows"]
    assert sum(counts.values()) == 300
    assert report["chosen"]["loss"]["rows"] == counts["test"] > counts["search"]
    assert all(c["loss"]["rows"] == counts["search"] for c in report["candidates"])
    assert report["chosen"]["verdict"] == "held"
    assert report["summary"] in (result.path / "README.md").read_text()


def test_the_recipe_makes_the_same_graph_without_a_search(
    result: CompressResult, tiny_folder: Path, tmp_path: Path
) -> None:
    recipe = Recipe.from_toml(result.path / "recipe.toml")
    assert recipe.to_dict() == {**result.report["chosen"]["recipe"], "precisions": recipe.precisions}
    export(tiny_folder, tmp_path / "again", recipe)
    with edgeport.load(tmp_path / "again") as one, edgeport.load(result.path, variant="small") as other:
        assert one(WORDS, top_k=None) == other(WORDS, top_k=None)


def test_where_size_counts_the_vocabulary_is_trimmed(
    tiny_folder: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[dict[str, list[list[int]]]] = []

    def remember(models: dict[str, Any], **options: Any) -> dict[str, Timed]:
        turns.append({n: [run.args[0]["input_ids"][0].tolist() for run in work] for n, work in models.items()})
        return _same_time(models, **options)

    monkeypatch.setattr(stopwatch, "take_turns", remember)
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    pieces = sorted(data["model"]["vocab"], key=data["model"]["vocab"].__getitem__)
    pieces[len(SPECIAL) : len(SPECIAL)] = ["lorem", "ipsum"]  # which no text has
    data["model"]["vocab"] = {piece: number for number, piece in enumerate(pieces)}
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    original = Tokenizer.from_file(str(folder / "tokenizer.json"))
    result = compress(folder, tmp_path / "small", _options(rows, trials=2, minimize="size", budget=50.0))
    whole, trimmed = result.report["candidates"]
    assert (whole["choice"]["vocabulary"], trimmed["choice"]["vocabulary"]) == ("whole", "corpus")
    assert trimmed["size_bytes"] < whole["size_bytes"]
    assert trimmed["loss"]["value"] == whole["loss"]["value"]  # the corpus has all words
    assert result.report["chosen"]["choice"] == trimmed["choice"]
    tokenizer = Tokenizer.from_file(str(result.path / "tokenizer.json"))
    assert original.get_vocab_size() - tokenizer.get_vocab_size() == 2
    assert len(turns) == 3
    for models in turns[1:]:  # the same texts in the tokens of each
        assert models["small"] != models[stopwatch.PLAIN]
        assert [tokenizer.decode(ids) for ids in models["small"]] == [
            original.decode(ids) for ids in models[stopwatch.PLAIN]
        ]
    with edgeport.load(result.path, variant="fp32") as pipe, edgeport.load(result.path, variant="small") as small:
        assert pipe("the boat has left")[0]["label"] == small("the boat has left")[0]["label"]
    with torch.no_grad():
        ids = torch.tensor([original.encode("the boat has left").ids])
        wanted = BertForSequenceClassification.from_pretrained(folder)(ids).logits.softmax(-1).max().item()
    with edgeport.load(result.path, variant="fp32") as pipe:
        assert pipe("the boat has left")[0]["score"] == pytest.approx(wanted, abs=1e-5)


def test_the_page_is_whole_and_needs_no_network(result: CompressResult) -> None:
    text = (result.path / "report.html").read_text()
    report = result.report
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", text)
    body = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert f"{report['chosen']['share_of_original']:.1%}" in body
    assert report["command"] in body.replace("&#x27;", "'")
    for candidate in report["candidates"]:
        assert f"<td>{candidate['number']}</td>" in body
    for part in report["sensitivity"]:
        assert part["part"] in text
    assert text.count('class="plotly-graph-div"') == 2


def test_the_command_in_the_report_does_it_again(result: CompressResult) -> None:
    assert re.search(
        r"edgeport compress \S+ small --budget 5% --eval \S+ --columns label=mood", result.report["command"]
    )
    assert "--trials 3" in result.report["command"]


def test_a_seed_makes_the_same_recipe(result: CompressResult, tiny_folder: Path, rows: Path, tmp_path: Path) -> None:
    again = compress(tiny_folder, tmp_path / "small", _options(rows))
    here, there = ({**r.report["chosen"]["recipe"], "calibration": None} for r in (result, again))
    assert here == there
    assert [c["choice"] for c in again.report["candidates"]] == [c["choice"] for c in result.report["candidates"]]
    assert again.report["chosen"]["loss"] == result.report["chosen"]["loss"]


def test_an_interruption_keeps_what_is_done(
    tiny_folder: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    original = evaluate.Evaluator.evaluate

    def counted(self: Any, number: int, choice: Any) -> Any:
        if number == 1 and len(made) == 1:
            raise KeyboardInterrupt
        made.append(number)
        return original(self, number, choice)

    monkeypatch.setattr(evaluate.Evaluator, "evaluate", counted)
    with pytest.raises(KeyboardInterrupt):
        compress(tiny_folder, tmp_path / "small", _options(rows))
    assert not (tmp_path / "small").exists()
    made.append(-1)  # so that it goes on
    report = compress(tiny_folder, tmp_path / "small", _options(rows, trials=2)).report
    assert made == [0, -1, 1]
    assert [c["number"] for c in report["candidates"]] == [0, 1]
    assert not (tmp_path / "small.search" / "candidates").exists()


def test_killed_after_the_first_candidate_it_goes_on_from_there(tiny_folder: Path, rows: Path, tmp_path: Path) -> None:
    """By SIGKILL, of which a process learns nothing: what was written is all that there is."""
    out, folder = tmp_path / "small", tmp_path / "small.search"
    options = ["--eval", str(rows), "--columns", "label=mood", "--budget", "5%", "--trials", "3"]
    command = [sys.executable, "-m", "edgeport", "compress", str(tiny_folder), str(out), *options]
    paths = os.pathsep.join(sys.path)
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.DEVNULL)
    while not (done := _finished(folder)):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = _finished(folder)
    assert not out.exists()
    before = {name: (folder / "candidates" / name / "edgeport.json").stat().st_mtime_ns for name in done}
    seen: dict[str, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "ship", lambda *a, **k: _remember_times(folder, seen) or ship(*a, **k))
        report = compress(tiny_folder, out, _options(rows)).report
    assert [c["name"] for c in report["candidates"][: len(done)]] == done
    assert len({c["name"] for c in report["candidates"]}) == len(report["candidates"]) == 3
    assert {name: seen[name] for name in done} == before  # not made again
    assert Bundle.open(out, verify=True).manifest.variants.keys() == {"small", "fp32"}
    assert {path.name for path in tmp_path.iterdir()} == {"small", "small.search"}
    assert {path.name for path in folder.iterdir()} == {"calibration.jsonl", "settings.json"}


def _finished(folder: Path) -> list[str]:
    """Names of the candidates that the study on disk has."""
    try:
        lines = (folder / "study.journal").read_text().splitlines()
    except OSError:
        return []
    stored = [json.loads(line).get("user_attr", {}).get("candidate") for line in lines if line.endswith("}")]
    return [json.loads(text)["name"] for text in stored if text]


def _remember_times(folder: Path, seen: dict[str, int]) -> None:
    seen |= {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("candidates/*/edgeport.json")}


def test_several_processes_make_the_same(result: CompressResult, tiny_folder: Path, rows: Path, tmp_path: Path) -> None:
    report = compress(tiny_folder, tmp_path / "small", _options(rows, trials=2, jobs=2)).report
    wanted = [(c["choice"], c["loss"], c["size_bytes"]) for c in result.report["candidates"][:2]]
    assert [(c["choice"], c["loss"], c["size_bytes"]) for c in report["candidates"]] == wanted
    tokenizer, model = make_tokenizer(), BertForSequenceClassification.from_pretrained(tiny_folder)
    with pytest.raises(UsageError, match="--jobs 2 needs a model that other processes can load"):
        compress(model, tmp_path / "other", _options(rows, jobs=2), tokenizer=tokenizer)


def test_a_ray_cluster_makes_the_same(
    result: CompressResult, tiny_folder: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("RAY_worker_niceness", "0")  # tests run beside it
    with pytest.raises(UsageError, match=r"--ray .127\.0\.0\.1:1. does not answer"):
        compress(tiny_folder, tmp_path / "other", _options(rows, trials=2, ray="127.0.0.1:1"))
    report = compress(tiny_folder, tmp_path / "small", _options(rows, trials=2, jobs=2, ray="local")).report
    wanted = [(c["choice"], c["loss"], c["size_bytes"]) for c in result.report["candidates"][:2]]
    assert [(c["choice"], c["loss"], c["size_bytes"]) for c in report["candidates"]] == wanted


def test_nothing_holds_the_budget(
    tiny_folder: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Loss(7.5, 6.0, 9.0, 0.95, 90.0, 82.5, 150, False)
    monkeypatch.setattr(evaluate, "loss_interval", lambda *_, **__: bad)
    argv = ["compress", str(tiny_folder), str(tmp_path / "small"), "--eval", str(rows), "--columns", "label=mood"]
    assert main([*argv, "--trials", "1"]) == 1
    said = capsys.readouterr().err
    assert "nothing held the budget of 1 points: the closest lost 7.50 (6.00 to 9.00) points of accuracy" in said
    assert not (tmp_path / "small").exists()
    page = (tmp_path / "small.search" / "report.html").read_text()
    assert "nothing was shipped" in page
    with pytest.raises(ValidationError):
        compress(tiny_folder, tmp_path / "small", _options(rows, trials=1))


def test_too_few_rows_to_prove_it_is_said(
    tiny_folder: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = Loss(0.5, -3.0, 9.0, 0.95, 90.0, 89.5, 150, False)
    monkeypatch.setattr(evaluate, "loss_interval", lambda *_, **__: wide)
    report = compress(tiny_folder, tmp_path / "small", _options(rows, trials=1)).report
    assert report["chosen"]["verdict"] == "unproven"
    assert "the rows are too few to prove it" in report["summary"]


def test_threads_are_those_that_the_model_will_have(
    tiny_folder: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int | None] = []
    runner = variants.runner

    def watched(path: Path, outputs: Any, how: OpenBy = ON_CPU) -> Any:
        opened.append(how.threads)
        return runner(path, outputs, how)

    torch_threads: list[int] = []

    def turns(models: dict[str, Any], **options: Any) -> dict[str, Timed]:
        torch_threads.append(torch.get_num_threads())
        return _same_time(models, **options)

    monkeypatch.setattr(variants, "runner", watched)
    monkeypatch.setattr(stopwatch, "take_turns", turns)
    before = torch.get_num_threads()
    report = compress(tiny_folder, tmp_path / "small", _options(rows, trials=1, threads=1)).report
    assert opened.count(1) == 1 + 2 + 4  # whether the target takes it, beside the candidate, and at the end
    assert torch_threads == [before, 1]
    assert torch.get_num_threads() == before
    assert report["machine"]["threads"] == 1
    assert "--threads 1" in report["command"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"budget": 0.0}, "a budget of 0 is not between"),
        ({"minimize": "beauty"}, "--minimize 'beauty' is not known"),
        ({"length": 8, "lengths_from": "x"}, "exclude each other"),
        ({"threads": 0}, "--threads 0 is too small"),
        ({"columns": {}}, "has no column 'label'"),
        ({"metric": "BLEU"}, "'BLEU' is not one of"),
        ({"lengths_from": "nowhere.txt"}, "--lengths-from 'nowhere.txt' cannot be read"),
    ],
)
def test_wrong_calls(tiny_folder: Path, rows: Path, tmp_path: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        compress(tiny_folder, tmp_path / "small", _options(rows, **more))
    assert not (tmp_path / "small").exists()


def test_another_machine_is_estimated_and_that_is_said(tiny_folder: Path, rows: Path, tmp_path: Path) -> None:
    phone = tmp_path / "phone.toml"
    phone.write_text(describe("a phone", Machine(2, Roofline(6e10, 2.4e11, 1.5e10), 2e-6)), encoding="utf-8")
    report = compress(tiny_folder, tmp_path / "small", _options(rows, trials=1, target=str(phone))).report
    assert report["target"]["machine"]["roofline"]["int8"] == 2.4e11
    there = report["estimate"]["times_as_fast_as"][stopwatch.PLAIN]["value"]
    assert (
        f"On a phone it should be {there:.2f} times as fast as plain int8, which is an estimate." in report["summary"]
    )
    assert report["speed"]["times_as_fast_as"][stopwatch.PLAIN]["value"] == 1  # here, by the clock of these tests
    page = (tmp_path / "small" / "report.html").read_text(encoding="utf-8")
    assert "as fast as plain int8 on a phone, estimated" in page
    assert f"--target {phone}" in report["command"]


def test_where_fp16_is_liked_best_it_is_what_candidates_are_made_of(
    tiny_folder: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU in the place of a provider that likes fp16: all but the device."""
    like_a_gpu = dataclasses.replace(PROVIDERS["cpu"], precisions=("fp16", "fp32", "int8"))
    monkeypatch.setattr(target, "resolve_providers", lambda name: (like_a_gpu,))
    report = compress(tiny_folder, tmp_path / "small", _options(rows, trials=3)).report
    assert report["baseline"] == "plain fp16"
    assert set(report["original"]) == {"fp32", "fp16"}
    assert [c["choice"]["precision"] for c in report["candidates"]] == ["fp16"] * 3
    assert Bundle.open(tmp_path / "small").variant("small").precision == "fp16"
    assert "as fast as plain fp16" in report["summary"]


def test_a_provider_that_is_not_here(tiny_folder: Path, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match=r"coreml.*pip install"):
        compress(tiny_folder, tmp_path / "small", _options(rows, trials=1, target="coreml"))


def test_a_search_with_other_settings_begins_anew(tiny_folder: Path, rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small.search"
    (folder / "candidates" / "old").mkdir(parents=True)
    (folder / "settings.json").write_text('{"model": "another"}')
    (folder / "study.journal").write_text("of another space of choices")
    assert len(compress(tiny_folder, tmp_path / "small", _options(rows, trials=1)).report["candidates"]) == 1
    assert {path.name for path in folder.iterdir()} == {"calibration.jsonl", "settings.json"}
    assert "space" in json.loads((folder / "settings.json").read_text())


def test_a_folder_of_somebody_else_s_is_left_alone(tiny_folder: Path, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "small.search").mkdir()
    (tmp_path / "small.search" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is no search of edgeport's"):
        compress(tiny_folder, tmp_path / "small", _options(rows))
    assert (tmp_path / "small.search" / "thesis.txt").read_text() == "years of work"
