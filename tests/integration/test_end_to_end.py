"""From a transformers model to the runtime's answers, against transformers' own pipelines on the same model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import edgeport
import numpy as np
import pytest
import torch
import transformers
from edgeport_export import Recipe, export
from tiny_models import make_tokenizer, tiny_config
from transformers import pipeline

TEXTS = [
    "good morning.",
    "the harbour was quiet, and the last boat had left an hour ago.",
    "why would anyone file the minutes of a meeting that never took place?",
    "x",
]
FP32 = Recipe(precisions=("fp32",), validate=False)


def make_bundle(auto_class: str, out: Path, *, task: str | None = None, **config: Any) -> tuple[Any, Any]:
    """Export a tiny random model; returns it with its tokenizer."""
    torch.manual_seed(0)
    architecture = auto_class.removeprefix("AutoModel")
    model = getattr(transformers, f"Bert{architecture or 'Model'}")(tiny_config(**config)).eval()
    tokenizer = make_tokenizer()
    export(model, out, Recipe(precisions=("fp32",), validate=False, task=task), tokenizer=tokenizer)
    return model, tokenizer


def same(ours: Any, theirs: Any) -> None:
    """Equal structure, labels and offsets; numbers to 1e-4."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            same(ours[key], theirs[key])
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    elif isinstance(theirs, (float, np.floating)):
        assert ours == pytest.approx(float(theirs), abs=1e-4)
    else:
        assert ours == theirs


def test_text_classification(tmp_path: Path) -> None:
    model, tokenizer = make_bundle("AutoModelForSequenceClassification", tmp_path / "b", num_labels=3)
    theirs = pipeline("text-classification", model=model, tokenizer=tokenizer)
    with edgeport.load(tmp_path / "b") as ours:
        same(ours(TEXTS), theirs(TEXTS))
        same(ours(TEXTS[0], top_k=None), theirs(TEXTS[0], top_k=None))


def test_token_classification(tmp_path: Path) -> None:
    model, tokenizer = make_bundle("AutoModelForTokenClassification", tmp_path / "b", num_labels=5)
    with edgeport.load(tmp_path / "b") as ours:
        for strategy in ("none", "simple", "first", "average", "max"):
            theirs = pipeline("ner", model=model, tokenizer=tokenizer, aggregation_strategy=strategy)
            same(ours(TEXTS, aggregation_strategy=strategy), theirs(TEXTS))


def test_fill_mask(tmp_path: Path) -> None:
    model, tokenizer = make_bundle("AutoModelForMaskedLM", tmp_path / "b", vocab_size=len(make_tokenizer()))
    theirs = pipeline("fill-mask", model=model, tokenizer=tokenizer)
    texts = ["the [MASK] was quiet.", "[MASK] morning"]
    with edgeport.load(tmp_path / "b") as ours:
        same(ours(texts), theirs(texts))


def test_zero_shot(tmp_path: Path) -> None:
    labels = {0: "contradiction", 1: "neutral", 2: "entailment"}
    names = {"id2label": labels, "label2id": {v: k for k, v in labels.items()}}
    task = "zero-shot-classification"
    model, tokenizer = make_bundle("AutoModelForSequenceClassification", tmp_path / "b", task=task, **names)
    theirs = pipeline("zero-shot-classification", model=model, tokenizer=tokenizer)
    with edgeport.load(tmp_path / "b") as ours:
        for multi_label in (False, True):
            options: dict[str, Any] = {"candidate_labels": ["sea", "office", "food"], "multi_label": multi_label}
            same(ours(TEXTS[:2], **options), theirs(TEXTS[:2], **options))


def test_feature_extraction(tmp_path: Path) -> None:
    model, tokenizer = make_bundle("AutoModel", tmp_path / "b")
    theirs = pipeline("feature-extraction", model=model, tokenizer=tokenizer)
    with edgeport.load(tmp_path / "b") as ours:
        for a, b in zip(ours(TEXTS), theirs(TEXTS), strict=True):
            np.testing.assert_allclose(np.array(a), np.array(b), atol=1e-4)


def test_a_fixed_shape_gives_the_same_answers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(tiny_config(num_labels=3)).eval()
    tokenizer = make_tokenizer()
    export(model, tmp_path / "b", Recipe(precisions=("fp32",), fixed_shape=(2, 96)), tokenizer=tokenizer)
    theirs = pipeline("text-classification", model=model, tokenizer=tokenizer)
    with edgeport.load(tmp_path / "b") as ours:
        same(ours(TEXTS[:3]), theirs(TEXTS[:3]))


def test_the_runtime_answers_without_torch(tmp_path: Path) -> None:
    """A fresh interpreter runs the bundle and finds nothing of the workshop in its modules."""
    make_bundle("AutoModelForSequenceClassification", tmp_path / "b", num_labels=2)
    code = (
        "import sys, json, edgeport\n"
        f"print(json.dumps(edgeport.load({str(tmp_path / 'b')!r})('good morning.')))\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnx_ir', 'optimum', 'edgeport_export', 'edgeport_bench'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert json.loads(out[0])[0]["label"].startswith("LABEL_")
    assert json.loads(out[1]) == []
