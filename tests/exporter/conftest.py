"""A tiny BERT folder, as `save_pretrained` writes it: what the exporter's tests start from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import make_tokenizer, tiny_config
from transformers import BertForSequenceClassification, BertForTokenClassification, PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A three-label text classifier."""
    folder = tmp_path_factory.mktemp("tiny-bert") / "tiny-bert"
    torch.manual_seed(0)
    config = tiny_config(id2label={0: "sad", 1: "neutral", 2: "glad"}, label2id={"sad": 0, "neutral": 1, "glad": 2})
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_ner() -> tuple[BertForTokenClassification, PreTrainedTokenizerFast]:
    """A token classifier in memory, with its tokenizer."""
    torch.manual_seed(1)
    return BertForTokenClassification(tiny_config(num_labels=5)).eval(), make_tokenizer()
