"""Models without the words that a corpus does not need: on its texts they say what the whole models say."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import edgeport
import pytest
import torch
from architectures import tiny_model, tiny_tokenizer
from edgeport.cli import main
from edgeport.errors import ExportError, UsageError
from edgeport_export import export
from edgeport_export.prune import prune
from edgeport_export.prune.renumber import mentioned, renumber
from edgeport_export.pruning import Prune
from edgeport_export.recipe import Recipe
from edgeport_export.source import Source, load_source
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

TEXTS = ("the train was over", "an hour and the sea", "quiet boats!")
GONE = ("##ing", "water")
"""Words of the tokenizer that are in none of them."""

CASES = (
    ("bert", "text-classification", {}),
    ("roberta", "question-answering", {}),  # positions start behind the padding token
    ("bart", "text-classification", {}),  # reads the text twice, the second time from the end of text on; looks for it
    ("t5", "token-classification", {}),
    ("xlnet", "question-answering", {}),  # tokens before rows
    ("bert", "fill-mask", {}),
    ("albert", "fill-mask", {}),  # a bias beside the layer
    ("xlm", "fill-mask", {}),
    ("llama", "text-classification", {"num_hidden_layers": 2}),  # looks for padding
    ("gpt2", "text-generation", {"n_layer": 2}),  # shares its table
    ("llama", "text-generation", {"num_hidden_layers": 2}),  # does not
    ("bart", "text-generation", {"is_decoder": True, "forced_eos_token_id": None}),
    ("gemma2", "text-generation", {"num_hidden_layers": 2, "sliding_window": 4}),
)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    rows = [{"text": t, "tokens": t.split(), "question": "the", "context": t} for t in TEXTS]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "rows.jsonl"


def source_for(model: PreTrainedModel | str, task: str, more: dict[str, Any] | None = None) -> Source:
    made = tiny_model(model, task, **(more or {})) if isinstance(model, str) else model
    return load_source(made, Recipe(task=task), tokenizer=tiny_tokenizer())


def outputs(source: Source, text: str) -> list[Tensor]:
    """What transformers makes of a text beside a longer one, padded with the token that the tokenizer pads with."""
    encoded = source.tokenizer([text, TEXTS[1] + " the"], return_tensors="pt", padding=True)
    taken = {k: v for k, v in encoded.items() if k != "token_type_ids"}
    with torch.no_grad():
        return [getattr(source.model(**taken), name) for name in source.task.outputs]


@pytest.mark.parametrize(("model_type", "task", "more"), CASES, ids=[f"{m}-{t}" for m, t, _ in CASES])
def test_on_the_corpus_the_outputs_are_the_same(model_type: str, task: str, more: dict[str, Any], texts: Path) -> None:
    whole, small = (source_for(model_type, task, more) for _ in range(2))
    prune(small, Recipe(calibration=str(texts), prune=Prune(vocabulary="corpus")))
    table = small.model.get_input_embeddings()
    stays = [t for t, _ in sorted(whole.tokenizer.get_vocab().items(), key=lambda item: item[1]) if t not in GONE]
    assert len(table.weight) == small.config.get_text_config().vocab_size == len(stays)
    assert sorted(small.tokenizer.get_vocab(), key=small.tokenizer.get_vocab().__getitem__) == stays
    assert small.pruning["vocabulary"]["kept"] == len(stays) < small.pruning["vocabulary"]["of"] == 128
    old = whole.tokenizer.convert_tokens_to_ids(stays)
    for text in TEXTS:
        assert small.tokenizer.tokenize(text) == whole.tokenizer.tokenize(text)
        for before, after in zip(outputs(whole, text), outputs(small, text), strict=True):
            wanted = before[..., old] if task in ("fill-mask", "text-generation") else before
            torch.testing.assert_close(after, wanted, atol=1e-5, rtol=1e-5)
    assert small.tokenizer.tokenize("water") == ["w", "##a", "##t", "##e", "##r"]
    layer = small.model.get_output_embeddings() if task in ("fill-mask", "text-generation") else None
    if layer is not None:
        shared = whole.model.get_output_embeddings().weight is whole.model.get_input_embeddings().weight
        assert (layer.weight is table.weight) == shared
        assert layer.out_features == len(stays)


def test_a_share_keeps_the_most_frequent(texts: Path) -> None:
    source = source_for("bert", "text-classification")
    known = len(source.tokenizer) - len(GONE)
    prune(source, Recipe(calibration=str(texts), prune=Prune(vocabulary=(known + 0.4 - 4) / 128)))
    vocabulary = source.tokenizer.get_vocab()
    assert len(vocabulary) == source.pruning["vocabulary"]["kept"] == known - 4
    words = ("the", "was", "and", "hour", "train", "over")
    assert [word for word in words if word in vocabulary] == ["the", "was"]  # twice, and the first of those once
    assert not source.pruning["vocabulary"]["complete"]
    assert source.tokenizer.tokenize("the train") == ["the", "t", "##r", "##a", "##i", "##n"]


def test_a_bundle_answers_as_before(texts: Path, tmp_path: Path) -> None:
    model, recipe = tiny_model("bert", "text-classification"), Recipe(precisions=("fp32", "int8"))
    export(model, tmp_path / "whole", recipe, tokenizer=tiny_tokenizer())
    cut = Recipe(precisions=("fp32", "int8"), calibration=str(texts), prune=Prune(vocabulary="corpus"))
    manifest = export(model, tmp_path / "small", cut, tokenizer=tiny_tokenizer()).manifest
    assert manifest.pruning["vocabulary"]["kept"] < 100
    assert "removed 30 of 128 tokens" in (tmp_path / "small" / "README.md").read_text()
    with (
        edgeport.load(tmp_path / "whole", variant="fp32") as one,
        edgeport.load(tmp_path / "small", variant="fp32") as two,
    ):
        for before, after in zip(one(list(TEXTS), top_k=None), two(list(TEXTS), top_k=None), strict=True):
            assert [a["label"] for a in after] == [b["label"] for b in before]
            assert [a["score"] for a in after] == pytest.approx([b["score"] for b in before], abs=1e-5)
        assert two("underwater £ 中文")[0]["label"]
    sizes = [edgeport.Bundle.open(tmp_path / name).variant("fp32").size_bytes for name in ("whole", "small")]
    assert sizes[0] - sizes[1] == pytest.approx(30 * 32 * 4, rel=0.1)


def test_a_model_that_writes_is_told_its_new_ids(texts: Path, tmp_path: Path) -> None:
    model, ids = tiny_model("llama", "text-generation", num_hidden_layers=2), tiny_tokenizer().get_vocab()
    model.generation_config = GenerationConfig(
        bos_token_id=ids["[BOS]"],
        eos_token_id=[ids["[EOS]"], ids["train"]],
        bad_words_ids=[[ids["the"], ids["over"]], [ids["water"]]],
        suppress_tokens=[ids["was"], ids["##ing"]],
        max_new_tokens=12,
    )
    whole, original = tiny_tokenizer(), copy.deepcopy(model)
    recipe = Recipe(
        task="text-generation", precisions=("fp32",), calibration=str(texts), prune=Prune(vocabulary="corpus")
    )
    options = export(model, tmp_path / "b", recipe, tokenizer=whole).manifest.task_options
    new = edgeport.load(tmp_path / "b")._text.tokenizer.get_vocab()
    assert options["vocab_size"] == len(new) == len(ids) - len(GONE)
    wanted = {
        "eos_token_id": [new["[EOS]"], new["train"]],
        "bad_words_ids": [[new["the"], new["over"]]],
        "suppress_tokens": [new["was"]],
    }
    assert {name: options["generation"][name] for name in wanted} == wanted
    assert new["train"] != ids["train"]
    # transformers writes the same with the whole model that may not write what is gone.
    absent = [i for i in range(128) if i not in [ids[t] for t in new]]
    encoded = whole("the train", return_tensors="pt", add_special_tokens=True)
    written = original.generate(
        input_ids=encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        suppress_tokens=[*absent, ids["was"]],
        bad_words_ids=[[ids["the"], ids["over"]]],
        do_sample=False,
    )[0]
    with edgeport.load(tmp_path / "b") as pipe:
        found = pipe("the train", return_tensors=True, do_sample=False)[0]["generated_token_ids"]
    back = {i: t for t, i in new.items()}
    assert [back[int(i)] for i in found] == whole.convert_ids_to_tokens(written.tolist())


def test_ids_in_configurations() -> None:
    inner = PretrainedConfig(pad_token_id=5, image_token_index=7)
    model = nn.Module()
    model.config = PretrainedConfig(eos_token_id=[2, 5], bos_token_id=-1, text_config=inner)
    model.config.vocab_size = 10
    model.generation_config = GenerationConfig(
        forced_bos_token_id=9, sequence_bias=[[[2, 5], 1.5], [[3], 2.0]], force_words_ids=[[2], [[9, 5]]]
    )
    model.mask_token_id = 8
    assert mentioned(model) == {2, 5, 7, 8, 9}
    renumber(model, {2: 0, 5: 1, 7: 2, 8: 3, 9: 4}, 10)
    assert (model.config.eos_token_id, model.config.bos_token_id, model.config.vocab_size) == ([0, 1], -1, 5)
    assert (inner.pad_token_id, inner.image_token_index, model.mask_token_id) == (1, 2, 3)
    written = model.generation_config
    assert (written.forced_bos_token_id, written.sequence_bias) == (4, [[[0, 1], 1.5]])
    assert written.force_words_ids == [[0], [[4, 1]]]


def test_what_has_no_words_to_cut_is_said(texts: Path, tmp_path: Path) -> None:
    recipe = Recipe(calibration=str(texts), prune=Prune(vocabulary="corpus"))
    with pytest.raises(
        UsageError, match="CanineForSequenceClassification has no table that token ids are looked up in"
    ):
        prune(source_for("canine", "text-classification"), recipe)
    with pytest.raises(UsageError, match="pass --calibration FILE"):
        Recipe(prune=Prune(vocabulary=0.5))
    with pytest.raises(UsageError, match=r"vocabulary=words' has no value that fits"):
        Prune.parse("vocabulary=words")
    with pytest.raises(UsageError, match=r"prune vocabulary=1\.5: it is 'corpus'"):
        Prune.parse("vocabulary=1.5")


def test_a_model_that_counts_its_words_is_refused(texts: Path) -> None:
    source = source_for("bert", "text-classification")
    words = source.model.bert.embeddings.word_embeddings
    words.register_forward_hook(lambda module, _, output: output * module.num_embeddings)
    with pytest.raises(ExportError, match="gives other outputs without the words that the corpus does not need"):
        prune(source, Recipe(calibration=str(texts), prune=Prune(vocabulary="corpus")))


def test_together_with_heads_and_on_the_command_line(tiny_folder: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS * 3))
    argv = ["export", str(tiny_folder), str(tmp_path / "b"), "--precision", "fp32", "--calibration"]
    spec = "vocabulary=corpus,heads=0.25"
    assert main([*argv, str(tmp_path / "texts.txt"), "--prune", spec]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Pruned: removed 2 of 8 heads, " in printed
    assert re.search(r"\d+ of 128 tokens stay: texts\.txt has \d+; special ones and single", printed)
    manifest = edgeport.Bundle.open(tmp_path / "b").manifest
    assert set(manifest.pruning) >= {"vocabulary", "heads", "importance"}
    assert Recipe.from_dict(manifest.recipe).prune == Prune.parse(spec)
