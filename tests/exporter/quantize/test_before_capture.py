"""Methods that round the torch model, through the whole export."""

from __future__ import annotations

from pathlib import Path

import pytest
from architectures import tiny_model, tiny_tokenizer
from edgeport.errors import UsageError
from edgeport_export import Limits, Recipe, export, variants
from edgeport_export.quantize import before_capture
from edgeport_export.quantize.awq import AWQ
from edgeport_export.quantize.blockwise import Grid
from edgeport_export.quantize.gptq import GPTQ
from edgeport_export.recipe import PRECISIONS
from edgeport_export.source import load_source


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("the train was over water and the hour was 12:30; " * 80)
    return path


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_every_variant_begins_with_the_model_s_own_weights(method: str, texts: Path, tmp_path: Path) -> None:
    model = tiny_model("llama", "text-generation", hidden_size=64, head_dim=16, num_hidden_layers=2)
    before = load_source(model, Recipe(), tokenizer=tiny_tokenizer()).weights_sha256()
    recipe = Recipe(
        precisions=("int8", "int4", "fp32"),
        method=method,
        calibration=str(texts),
        limits=dict.fromkeys(PRECISIONS, Limits()),
    )
    manifest = export(model, tmp_path / "b", recipe, tokenizer=tiny_tokenizer()).manifest
    divergence = {name: v.measured["parity"]["mean_abs"] for name, v in manifest.variants.items()}
    assert divergence["fp32"] < divergence["int8"] < 0.2 * divergence["int4"]
    for precision, size in (("int8", 128), ("int4", 32)):
        (note,) = manifest.variants[precision].notes
        assert note.startswith(f"{method}, blocks of {size}: quantized")
        assert "handed over" not in note
    after = load_source(model, Recipe(), tokenizer=tiny_tokenizer())
    assert before == manifest.source.sha256 == after.weights_sha256()


@pytest.mark.parametrize("text", [None, "too short"])
def test_a_bad_calibration_file_is_named_before_any_work(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "texts.txt"
    if text is not None:
        path.write_text(text)
    for stage in ("_run_original", "_capture"):
        monkeypatch.setattr(variants, stage, lambda *_, stage=stage: pytest.fail(f"{stage} came first"))
    recipe = Recipe(precisions=("fp32", "int4"), method="awq", calibration=str(path))
    with pytest.raises(UsageError, match=r"--calibration .*texts\.txt"):
        export(tiny_model("llama", "text-generation"), tmp_path / "b", recipe, tokenizer=tiny_tokenizer())


def test_what_comes_before_the_capture() -> None:
    awq = Recipe(method="awq", calibration="t", keep_fp32="head", symmetric=False)
    assert before_capture("int4", awq, generates=True) == AWQ(Grid(4, 32, symmetric=False), keep_fp32="head")
    assert before_capture("int4", awq, generates=False) is not None
    gptq = Recipe(method="gptq", calibration="t", block_size=64)
    assert before_capture("int8", gptq, generates=True) == GPTQ(Grid(8, 64))
    assert before_capture("int8", gptq, generates=False) is None  # dynamic: activations too
    assert before_capture("fp32", gptq, generates=True) is None
    assert before_capture("int4", Recipe(method="hqq"), generates=True) is None
