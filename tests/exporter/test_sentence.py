"""Sentence heads against sentence-transformers' own modules, from folders that it saved itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from edgeport.errors import ExportError
from edgeport_export.capture import capture
from edgeport_export.head import ExportHead
from edgeport_export.passes import PREPARE, run_passes
from edgeport_export.recipe import Recipe
from edgeport_export.samples import SENTENCES, capture_batch, validation_batches
from edgeport_export.sentence import load_sentence_head
from edgeport_export.source import load_source
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Module, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from tiny_models import make_tokenizer, tiny_config
from transformers import BertModel

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    folder = tmp_path_factory.mktemp("transformer")
    torch.manual_seed(0)
    BertModel(tiny_config(initializer_range=0.2)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return Transformer(str(folder), max_seq_length=40)


def _save(folder: Path, transformer: Transformer, *after: Module) -> SentenceTransformer:
    model = SentenceTransformer(modules=[transformer, *after], device="cpu")
    model.save(str(folder))
    return model


def _embeddings(folder: Path) -> np.ndarray:
    source = load_source(folder, Recipe())
    assert source.task.name == "sentence-embedding"
    head = ExportHead(source)
    tokens = source.tokenizer(list(SENTENCES), padding=True, truncation=True, max_length=source.max_length)
    (vectors,) = head.run({name: np.array(tokens[name]) for name in head.names})
    return vectors.numpy()


@pytest.mark.parametrize("mode", [*MODES, ("cls", "max"), MODES], ids=str)
def test_pooling(mode: str | tuple[str, ...], transformer: Transformer, tmp_path: Path) -> None:
    theirs = _save(tmp_path, transformer, Pooling(32, pooling_mode=mode))
    np.testing.assert_allclose(_embeddings(tmp_path), theirs.encode(list(SENTENCES)), atol=2e-6)


@pytest.mark.parametrize(
    "after",
    [
        [Normalize()],
        [Dense(32, 12), Normalize()],
        [Dense(32, 12, bias=False, activation_function=torch.nn.Identity())],
        [Dense(32, 12, use_residual=True), Dense(12, 12, use_residual=True, activation_function=torch.nn.GELU())],
        [LayerNorm(32)],
    ],
    ids=lambda modules: "-".join(type(m).__name__ for m in modules),
)
def test_what_follows_the_pooling(after: list[Module], transformer: Transformer, tmp_path: Path) -> None:
    theirs = _save(tmp_path, transformer, Pooling(32, pooling_mode="mean"), *after)
    np.testing.assert_allclose(_embeddings(tmp_path), theirs.encode(list(SENTENCES)), atol=2e-6)


def test_the_older_names_of_the_modes(transformer: Transformer, tmp_path: Path) -> None:
    theirs = _save(tmp_path, transformer, Pooling(32, pooling_mode=("cls", "max")))
    config = next(tmp_path.glob("1_*/config.json"))
    older = {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False}
    config.write_text(json.dumps({"word_embedding_dimension": 32, **older}))
    np.testing.assert_allclose(_embeddings(tmp_path), theirs.encode(list(SENTENCES)), atol=2e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_mode_in_the_graph(side: str, transformer: Transformer, tmp_path: Path) -> None:
    _save(tmp_path, transformer, Pooling(32, pooling_mode=MODES), Dense(32 * len(MODES), 20), Normalize())
    source = load_source(tmp_path, Recipe())
    source.tokenizer.padding_side = side
    head = ExportHead(source)
    graph = run_passes(capture(head, capture_batch(source), opset=20).model, PREPARE)
    ir.save(graph, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for batch in validation_batches(source):
        (got,) = session.run(["sentence_embedding"], dict(batch))
        np.testing.assert_allclose(got, head.run(batch)[0].numpy(), atol=1e-5)


def _no_file(name: str) -> None:
    return None


@pytest.mark.parametrize(
    ("modules", "says"),
    [
        ([("StaticEmbedding", "")], "StaticEmbedding"),
        ([("Transformer", "")], "no Pooling"),
        ([("Transformer", ""), ("LSTM", "1_LSTM")], "LSTM"),
        ([("Transformer", ""), ("Pooling", "1_Pooling")], "1_Pooling/config.json is missing"),
    ],
)
def test_what_is_not_supported_is_named(modules: list[tuple[str, str]], says: str) -> None:
    listed = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in modules]
    with pytest.raises(ExportError, match=says):
        load_sentence_head(listed, _no_file)
