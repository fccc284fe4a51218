"""What is recorded of a variant that writes text: its text, its figures, and where they can be read."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import edgeport
import pytest
import torch
from architectures import tiny_model, tiny_tokenizer
from edgeport.cli import main
from edgeport.errors import UsageError
from edgeport_export import Recipe, export
from edgeport_export.samples import evaluation_text, validation_batches
from edgeport_export.source import Source, load_source

WORDS = "the train was over water and an hour was over the water"


@pytest.fixture(scope="module")
def source() -> Source:
    model = tiny_model("llama", "text-generation", max_position_embeddings=96)
    return load_source(model, Recipe(), tokenizer=tiny_tokenizer())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """A bundle, its manifest and the model."""
    folder = tmp_path_factory.mktemp("quality")
    (folder / "words.txt").write_text(f"{WORDS}\n" * 40, encoding="utf-8")
    model = tiny_model("llama", "text-generation", max_position_embeddings=96, hidden_size=64)
    recipe = Recipe(precisions=("fp32", "int8", "int4"), evaluation=str(folder / "words.txt"))
    return folder / "bundle", export(model, folder / "bundle", recipe, tokenizer=tiny_tokenizer()).manifest, model


def test_the_figures_are_torchs(exported: tuple[Path, Any, Any]) -> None:
    bundle, manifest, model = exported
    recorded = {name: variant.measured["quality"] for name, variant in manifest.variants.items()}
    text = manifest.validation["text"]
    assert (text["name"], text["piece_tokens"]) == ("words.txt", 96)
    assert manifest.validation["shapes"][-1] == [1, 96]  # a variant has to be the original there, with its cache
    ids = tiny_tokenizer()(f"{WORDS}\n" * 40, add_special_tokens=False)["input_ids"]
    assert text["tokens"] == len(ids)  # the first of a piece follows the token that begins a text
    logs = []
    with edgeport.load(bundle, variant="int4") as pipe, pipe._model() as decoder, torch.no_grad():
        divergence = []
        for start in range(0, len(ids), 96):
            piece = [4, *ids[start : start + 96]]
            theirs = model(torch.tensor([piece[:-1]])).logits[0].log_softmax(-1)
            ours = torch.from_numpy(decoder.score([piece[:-1]])[0]).log_softmax(-1)
            logs.append(theirs.gather(1, torch.tensor(piece[1:])[:, None])[:, 0])
            divergence.append((theirs.exp() * (theirs - ours)).sum(-1))
    for figures in recorded.values():
        assert figures["original_perplexity"] == pytest.approx(float((-torch.cat(logs).mean()).exp()), rel=1e-5)
        assert figures["tokens"] == text["tokens"]
    assert recorded["int4"]["divergence"] == pytest.approx(float(torch.cat(divergence).mean()), rel=1e-2)


def test_fewer_bits_cost_more(exported: tuple[Path, Any, Any]) -> None:
    fp32, int8, int4 = (exported[1].variants[p].measured["quality"] for p in ("fp32", "int8", "int4"))
    assert 0 <= fp32["divergence"] < 1e-6 < int8["divergence"] < int4["divergence"]
    assert 1 >= fp32["agreement"] >= 0.99 > int4["agreement"] > 0.5
    assert fp32["perplexity"] == pytest.approx(fp32["original_perplexity"], rel=1e-5)


def test_they_can_be_read(exported: tuple[Path, Any, Any], capsys: pytest.CaptureFixture[str]) -> None:
    bundle, manifest, _ = exported
    quality = manifest.variants["int4"].measured["quality"]
    assert main(["inspect", str(bundle)]) == 0
    out = capsys.readouterr().out
    card = (bundle / "README.md").read_text(encoding="utf-8")
    for text in (out, card):
        assert f"{quality['perplexity']:.5g}" in text
        assert f"{quality['divergence']:.5f}" in text
        assert "words.txt" in text
    head, *rows = [line for line in out.splitlines() if line.startswith(("quality", "fp32", "int8", "int4"))][3:7]
    assert head.startswith("quality")
    assert {len(line) for line in rows} == {len(head)}
    assert max(map(len, out.splitlines())) <= 100


def test_the_summary_fits_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model("gpt2", "text-generation", n_positions=160)
    model.save_pretrained(tmp_path / "gpt2")
    tiny_tokenizer().save_pretrained(tmp_path / "gpt2")
    assert main(["export", str(tmp_path / "gpt2"), str(tmp_path / "b"), "--precision", "fp32,int4"]) == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines() if not line.startswith(("int4: ", "Wrote "))) <= 80
    rows = [line.split() for line in out.splitlines() if line.strip().startswith(("fp32 ", "int4 "))]
    assert [len(row) for row in rows] == [9, 9]
    assert "of the text that comes with edgeport" in " ".join(out.split())


def test_no_quality_without_validation(tmp_path: Path) -> None:
    recipe = Recipe(precisions=("fp32",), validate=False)
    manifest = export(
        tiny_model("gpt2", "text-generation"), tmp_path / "b", recipe, tokenizer=tiny_tokenizer()
    ).manifest
    assert manifest.variants["fp32"].measured == {}


def test_a_long_text_is_read_in_places_all_over_it(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("a " * 9000 + "b " * 9000, encoding="utf-8")
    text = evaluation_text(source, Recipe(evaluation=str(path)))
    letters = [piece[5] for piece in text.pieces]
    assert 4000 <= text.tokens <= 4096
    assert letters.count(letters[0]) == pytest.approx(len(letters) / 2, abs=1)
    assert all(piece[0] == 4 and len(piece) == 97 for piece in text.pieces)
    source = dataclasses.replace(source, task_options={"vocab_size": 250_000})
    assert 400 < evaluation_text(source, Recipe(evaluation=str(path))).tokens <= 512


def test_the_text_that_comes_along(source: Source) -> None:
    text = (files("edgeport_export") / "data" / "evaluation.txt").read_text(encoding="utf-8")
    assert 8000 < len(text.encode()) < 12000
    found = evaluation_text(source, Recipe())
    assert found.tokens > 3000
    assert found.name == "the text that comes with edgeport"


def test_a_short_text_is_not_all_that_a_variant_is_compared_on(source: Source) -> None:
    text = evaluation_text(source, Recipe())
    short = dataclasses.replace(text, pieces=[text.pieces[0][:9]])
    without, *others = (
        max(batch["input_ids"].shape[1] for batch in validation_batches(source, None, t)) for t in (text, short, None)
    )
    assert without < text.piece_tokens
    assert others == [96, 96]


def test_texts_that_do_not_do(source: Source, tmp_path: Path) -> None:
    seen, part, one = (tmp_path / name for name in ("seen.txt", "part.txt", "one.txt"))
    seen.write_text(f"{WORDS}. It rained.", encoding="utf-8")
    part.write_text(f"{WORDS}.\n", encoding="utf-8")
    one.write_text("a", encoding="utf-8")
    for first, second in ((seen, seen), (seen, part), (part, seen)):
        recipe = Recipe(method="gptq", calibration=str(first), evaluation=str(second))
        with pytest.raises(
            UsageError, match="share their text, and gptq does well on what it has seen: give two texts"
        ):
            evaluation_text(source, recipe)
    evaluation_text(source, Recipe(calibration=str(seen), evaluation=str(seen)))
    with pytest.raises(UsageError, match=r"one\.txt' has 1 tokens: give some thousand"):
        evaluation_text(source, Recipe(evaluation=str(one)))
    with pytest.raises(UsageError, match=r"--evaluation 'none\.txt' cannot be read"):
        evaluation_text(source, Recipe(evaluation="none.txt"))


def test_the_option_is_part_of_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model("gpt2", "text-generation").save_pretrained(tmp_path / "gpt2")
    arguments = ["export", str(tmp_path / "gpt2"), str(tmp_path / "b"), "--evaluation", "a.txt", "--dry-run", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["evaluation"] == "a.txt"
