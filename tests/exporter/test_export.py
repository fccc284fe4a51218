"""The whole export: what lands in the bundle, what is refused, and that nothing is half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import edgeport
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from edgeport.bundle import Bundle
from edgeport.errors import UsageError, ValidationError
from edgeport_export import Limits, Recipe, export, variants
from tiny_models import make_tokenizer, tiny_config
from transformers import BertForMaskedLM, BertForSequenceClassification
from transformers import pipeline as hugging_face


@pytest.fixture(scope="module")
def exported(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("export") / "bundle"
    export(tiny_folder, out, Recipe(precisions=("fp32", "fp16", "int8")))
    return Bundle.open(out, verify=True)


def test_the_bundle_is_complete_and_verifies(exported: Bundle) -> None:
    manifest = exported.manifest
    assert manifest.task == "text-classification"
    assert manifest.labels == ("sad", "neutral", "glad")
    assert list(manifest.variants) == ["fp32", "fp16", "int8"]
    assert set(manifest.files) == {
        "README.md", "model.fp16.onnx", "model.fp32.onnx", "model.int8.onnx", "tokenizer.json",
    }  # fmt: skip
    assert [i.shape for i in manifest.inputs] == [("batch", "sequence")] * 3
    assert manifest.capture == {"path": "fused", "fused_attentions": 2, "reason": ""}
    assert manifest.validation["performed"] is True


def test_every_variant_carries_its_figures(exported: Bundle) -> None:
    for name, variant in exported.manifest.variants.items():
        parity = variant.measured["parity"]
        assert parity["rows"] >= 20, name
        assert variant.measured["latency"]["milliseconds"]
        assert variant.size_bytes == (exported.root / f"model.{name}.onnx").stat().st_size
    differences = [exported.manifest.variants[p].measured["parity"]["max_abs"] for p in ("fp32", "fp16", "int8")]
    assert differences == sorted(differences)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_attention_is_one_operator(exported: Bundle, precision: str) -> None:
    graph = onnx.load(exported.path(f"model.{precision}.onnx")).graph
    operators = [n.op_type for n in graph.node]
    assert operators.count("MultiHeadAttention") == 2
    assert "Softmax" not in operators
    assert not {n.domain for n in graph.node} - {"", "com.microsoft"}


def test_a_graph_says_nothing_of_the_machine_that_made_it(exported: Bundle) -> None:
    for variant in exported.manifest.variants.values():
        graph = exported.graph(variant.graphs["model"]).read_bytes()
        assert not any(word in graph for word in (b"site-packages", b"stack_trace", str(Path.cwd()).encode(), b".py"))


def test_the_stored_tokenizer_neither_cuts_nor_pads(exported: Bundle) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(exported.path("tokenizer.json")))
    assert tokenizer.truncation is None
    assert tokenizer.padding is None


def test_an_existing_bundle_is_kept_unless_forced(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    recipe = Recipe(precisions=("fp32",), validate=False)
    export(tiny_folder, out, recipe)
    created = Bundle.open(out).manifest.to_json()
    with pytest.raises(UsageError, match="--force"):
        export(tiny_folder, out, recipe)
    assert Bundle.open(out).manifest.to_json() == created
    export(tiny_folder, out, Recipe(precisions=("int8",), validate=False), force=True)
    assert list(Bundle.open(out, verify=True).manifest.variants) == ["int8"]
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_is_no_bundle_is_never_replaced(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not a bundle"):
        export(tiny_folder, tmp_path, force=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_no_validation_is_recorded(tiny_folder: Path, tmp_path: Path) -> None:
    manifest = export(tiny_folder, tmp_path / "b", Recipe(precisions=("fp32",), validate=False)).manifest
    assert manifest.validation == {"performed": False}
    assert manifest.variants["fp32"].measured == {}
    assert "Not validated" in (tmp_path / "b" / "README.md").read_text()


def _spoil(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    """Damage a weight of one variant after it was made, as a wrong pass would."""
    original = variants.quantize

    def spoiled(model: Any, chosen: str, recipe: Recipe, **more: Any) -> str:
        note = original(model, chosen, recipe, **more)
        if chosen == precision:
            name, value = next(
                (k, v) for k, v in model.graph.initializers.items() if v.const_value.shape == [3] and "bias" in k
            )
            damaged = (-7 * value.const_value.numpy() + [9, -9, 4]).astype(np.float32)
            value.const_value = ir.tensor(damaged, name=name)
        return note

    monkeypatch.setattr(variants, "quantize", spoiled)


def test_a_wrong_int8_is_left_out_and_fp32_ships(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil(monkeypatch, "int8")
    result = export(tiny_folder, tmp_path / "b")
    assert list(result.manifest.variants) == ["fp32"]
    assert "cosine" in result.refused["int8"]
    assert not (tmp_path / "b" / "model.int8.onnx").exists()
    assert result.manifest.validation["refused"] == result.refused


def test_a_wrong_fp32_ships_nothing(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _spoil(monkeypatch, "fp32")
    with pytest.raises(ValidationError, match="nothing was written"):
        export(tiny_folder, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_limits_come_from_the_recipe(tiny_folder: Path, tmp_path: Path) -> None:
    recipe = Recipe(precisions=("int8",), limits={"int8": Limits(cosine=0.9999999)})
    with pytest.raises(ValidationError, match="no variant"):
        export(tiny_folder, tmp_path / "b", recipe)


def test_a_fixed_shape_leaves_no_open_axis(tiny_folder: Path, tmp_path: Path) -> None:
    manifest = export(tiny_folder, tmp_path / "b", Recipe(precisions=("fp32",), fixed_shape=(1, 32))).manifest
    assert [i.shape for i in manifest.inputs] == [(1, 32)] * 3
    assert manifest.text is not None
    assert (manifest.text.fixed_batch, manifest.text.fixed_length, manifest.text.max_length) == (1, 32, 32)


def test_a_model_that_has_no_open_axes_gets_one_shape(tmp_path: Path) -> None:
    """Funnel pools the sequence and brings it back, which no exporter traces for all lengths."""
    from architectures import tiny_model, tiny_tokenizer

    model = tiny_model("funnel", "text-classification", block_sizes=[1, 1])
    manifest = export(model, tmp_path / "b", Recipe(precisions=("fp32",)), tokenizer=tiny_tokenizer()).manifest
    assert manifest.text is not None
    length = manifest.text.fixed_length
    assert manifest.recipe["fixed_shape"] == (1, length)
    text = "the train was over an hour late"
    with edgeport.load(tmp_path / "b") as pipe:
        ours = pipe(text, top_k=None)
    theirs = hugging_face("text-classification", model=model, tokenizer=tiny_tokenizer())(text, top_k=None)
    assert [o["label"] for o in ours] == [t["label"] for t in theirs]
    np.testing.assert_allclose([o["score"] for o in ours], [t["score"] for t in theirs], atol=1e-4)


def test_a_wrong_fp32_is_tried_for_one_shape_before_it_is_refused(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil(monkeypatch, "fp32")
    with pytest.raises(ValidationError, match=r"^the fp32 graph .* Nor does it work for 1x128 alone: the fp32 graph"):
        export(tiny_folder, tmp_path / "b")
    with pytest.raises(ValidationError, match=r"^the fp32 graph [^.]*\d[^N]*nothing was written\.$"):
        export(tiny_folder, tmp_path / "b", Recipe(fixed_shape=(1, 32)))


def test_a_model_in_memory(tiny_ner: Any, tmp_path: Path) -> None:
    model, tokenizer = tiny_ner
    before = model.config._attn_implementation
    manifest = export(model, tmp_path / "b", tokenizer=tokenizer).manifest
    assert manifest.task == "token-classification"
    assert len(manifest.labels) == 5
    assert model.config._attn_implementation == before
    with pytest.raises(UsageError, match="tokenizer"):
        export(model, tmp_path / "c")


def test_a_tied_output_layer_is_stored_once(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = BertForMaskedLM(tiny_config(vocab_size=1024)).eval()
    export(model, tmp_path / "b", Recipe(precisions=("fp32", "int8")), tokenizer=make_tokenizer())
    for precision, dtype in (("fp32", onnx.TensorProto.FLOAT), ("int8", onnx.TensorProto.INT8)):
        graph = onnx.load(tmp_path / "b" / f"model.{precision}.onnx").graph
        tables = [t.data_type for t in graph.initializer if sorted(t.dims) == [32, 1024]]
        assert tables == [dtype], precision


def test_the_same_model_gives_the_same_graphs(tiny_folder: Path, tmp_path: Path) -> None:
    recipe = Recipe(validate=False)
    first, second = (export(tiny_folder, tmp_path / name, recipe).manifest for name in "ab")
    assert first.files["model.fp32.onnx"] == second.files["model.fp32.onnx"]
    assert first.files["model.int8.onnx"] == second.files["model.int8.onnx"]
    assert first.source == second.source


@pytest.mark.parametrize("opset", [18, 21, 23])
def test_opsets(tiny_folder: Path, tmp_path: Path, opset: int) -> None:
    export(tiny_folder, tmp_path / "b", Recipe(precisions=("fp32",), opset=opset))
    imports = {o.domain: o.version for o in onnx.load(tmp_path / "b" / "model.fp32.onnx").opset_import}
    assert imports[""] == opset


def test_weights_in_half_precision_are_computed_in_fp32(tmp_path: Path) -> None:
    torch.manual_seed(3)
    BertForSequenceClassification(tiny_config()).half().save_pretrained(tmp_path / "half")
    make_tokenizer().save_pretrained(tmp_path / "half")
    manifest = export(tmp_path / "half", tmp_path / "b", Recipe(precisions=("fp32",))).manifest
    assert manifest.variants["fp32"].measured["parity"]["max_abs"] < 1e-5
