"""The original beside its export, on a tiny random BERT."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from edgeport.errors import UsageError
from edgeport_bench.bench import BenchOptions, bench
from edgeport_bench.peers import specs
from edgeport_bench.report import as_json
from edgeport_bench.subjects.torch_original import TorchOriginal, open_subject
from edgeport_export import Recipe, export
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "the",
    "is",
    "in",
    "on",
    "of",
    "and",
    "man",
    "dog",
    "two",
    ".",
]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers-like folder without modules.json: mean pooling."""
    folder = tmp_path_factory.mktemp("original") / "tiny-bert"
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("exported") / "tiny"
    export(original, bundle, Recipe(task="sentence-embedding", precisions=("fp32",)))
    return bundle


def test_the_original_runs_beside_the_bundle(original: Path, exported: Path) -> None:
    options = BenchOptions(batches=(2,), lengths=(9,), seconds=0.02, threads=1, against=f"torch={original}")
    report = as_json(bench(exported, options))
    torch_row, ours = report["measurements"]
    assert (torch_row["subject"], ours["subject"]) == ("torch", "fp32")
    assert (report["reference"], report["baseline"]) == ("torch", "torch")
    assert ours["cosine"] > 0.99999
    assert len(torch_row["samples_ms"]) == len(ours["samples_ms"]) >= 5
    medians = [np.median(np.concatenate(m["samples_ms"])) for m in (torch_row, ours)]
    assert ours["speedup"]["value"] == pytest.approx(medians[0] / medians[1], rel=0.05)
    about = report["subjects"][0]["about"]
    assert about["threads"] == 1
    weights = transformers.BertModel.from_pretrained(original, add_pooling_layer=False).state_dict().values()
    assert about["size_bytes"] == pytest.approx(sum(w.nbytes for w in weights), rel=0.2)


def test_the_original_is_untouched_and_exact(original: Path) -> None:
    """Mean pooling of transformers' own hidden states."""
    feeds = {
        "input_ids": np.array([[2, 5, 12, 3], [2, 6, 3, 0]]),
        "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]]),
    }
    options = {"model": str(original), "architecture": "BertModel", "outputs": ["sentence_embedding"], "threads": None}
    subject = open_subject(options)
    model = transformers.BertModel.from_pretrained(original, attn_implementation="eager").eval()
    with torch.no_grad():
        hidden = model(**{k: torch.from_numpy(v) for k, v in feeds.items()}).last_hidden_state.numpy()
    wanted = [hidden[0].mean(axis=0), hidden[1, :3].mean(axis=0)]
    np.testing.assert_allclose(subject.run(feeds)["sentence_embedding"], wanted, atol=1e-5)
    assert subject.describe()["attention"] in ("sdpa", "eager")


@pytest.mark.parametrize(
    ("model", "architecture", "words"),
    [("none", "BertModel", "--against torch=MODEL"), (".", "NoSuchModel", "has no NoSuchModel")],
)
def test_an_original_that_cannot_be_loaded(tmp_path: Path, model: str, architecture: str, words: str) -> None:
    options = {"model": str(tmp_path / model), "architecture": architecture, "outputs": ["logits"], "threads": None}
    with pytest.raises(UsageError, match=words):
        open_subject(options)


def test_peers_run_in_their_own_process_and_those_that_cannot_are_told(
    original: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment of every peer is this one: sentence-transformers is here, CTranslate2 is not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(specs, "environment_python", lambda name, say: sys.executable)
    options = BenchOptions(
        batches=(2,),
        lengths=(9,),
        seconds=0.02,
        threads=1,
        original=str(original),
        against="sentence-transformers-torch,ctranslate2-int8,llama.cpp-q8_0",
    )
    report = as_json(bench(exported, options))
    assert [m["subject"] for m in report["measurements"]] == ["sentence-transformers-torch", "fp32"]
    assert (report["reference"], report["baseline"]) == ("sentence-transformers-torch",) * 2
    assert report["measurements"][1]["cosine"] > 0.99999
    told = {r["subject"]: r["reason"] for r in report["refusals"]}
    assert "No module named 'ctranslate2'" in told["ctranslate2-int8"]
    assert "not measured for sentence-embedding, only for text-generation" in told["llama.cpp-q8_0"]


def test_texts_are_read_whole_by_pipelines(
    original: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(specs, "environment_python", lambda name, say: sys.executable)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    texts = tmp_path / "texts.txt"
    texts.write_text("a man .\n\ntwo dog on the man in a dog .\n", encoding="utf-8")
    options = BenchOptions(
        texts=texts, seconds=0.02, threads=1, original=str(original), against="sentence-transformers-torch"
    )
    report = as_json(bench(exported, options))
    rows = [(m["subject"], m["phase"], m["batch"], m["length"]) for m in report["measurements"]]
    assert rows == [(s, "texts", 2, 8) for s in ("sentence-transformers-torch", "fp32")]
    assert report["measurements"][1]["cosine"] > 0.99999
    with pytest.raises(UsageError, match="openvino reads tokens and no texts"):
        bench(exported, BenchOptions(texts=texts, against="openvino"))


def test_a_hugging_face_model_is_measured_by_itself(original: Path) -> None:
    report = as_json(bench(original, BenchOptions(batches=(1,), lengths=(5,), seconds=0.02, threads=1)))
    assert [m["subject"] for m in report["measurements"]] == ["torch"]
    assert (report["task"], report["baseline"]) == ("feature-extraction", "torch")


def test_what_runs_in_the_models_place_is_not_asked_for_its_truth() -> None:
    class Compiled:
        """As torch's: asked whether it is true, it counts the model's parts, and a model has none."""

        def __call__(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"y": x + 1}

        def __len__(self) -> int:
            raise TypeError("the model does not support len()")

    subject = TorchOriginal(torch.nn.Identity(), None, ["y"], run=Compiled())
    assert subject.run({"x": np.zeros(2, np.float32)})["y"].tolist() == [1, 1]
