"""text-ranking, against sentence-transformers' CrossEncoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from edgeport.errors import InputError, UsageError

sentence_transformers = pytest.importorskip("sentence_transformers")


def _both(folder: Path, tokenizer: Any, make: Any, tiny: Any, kind: str, classes: int, function: str) -> Any:
    model = tiny(transformers.AutoModelForSequenceClassification, kind, tokenizer, num_labels=classes)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ours = make("text-ranking", model, tokenizer, options={"function_to_apply": function})
    return ours, sentence_transformers.CrossEncoder(str(folder), device="cpu")


@pytest.fixture
def both(tmp_path: Path, tokenizers: Any, make: Any, tiny: Any, kind: str) -> Any:
    return _both(tmp_path, tokenizers[kind], make, tiny, kind, 1, "sigmoid")


def test_same_as_cross_encoder(both: Any, corpus: Any) -> None:
    ours, theirs = both
    pairs = [(corpus[0], text) for text in corpus] + [("", "a"), ("the fox", "")]
    scores = ours(pairs)
    assert scores.dtype == np.float32
    assert scores.shape == (len(pairs),)
    assert np.ptp(scores) > 0.01
    np.testing.assert_allclose(scores, theirs.predict(pairs), atol=1e-5)
    one = ours(pairs[0])
    assert isinstance(one, float)
    np.testing.assert_allclose(one, theirs.predict(pairs[0]), atol=1e-5)
    np.testing.assert_allclose(ours([list(p) for p in pairs]), scores, atol=1e-5)
    np.testing.assert_allclose(list(ours(iter(pairs))), scores, atol=1e-5)
    raw = theirs.predict(pairs, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(ours(pairs, function_to_apply="none"), raw, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"return_documents": True}, {"top_k": 99}], ids=str)
def test_rank(both: Any, corpus: Any, assert_same: Any, options: dict[str, Any]) -> None:
    ours, theirs = both
    assert_same(ours.rank("Who is it?", corpus, **options), theirs.rank("Who is it?", corpus, **options))


def test_several_classes(tmp_path: Path, tokenizers: Any, make: Any, tiny: Any, corpus: Any) -> None:
    ours, theirs = _both(tmp_path, tokenizers["wordpiece"], make, tiny, "wordpiece", 3, "none")
    pairs = [(corpus[0], "a"), (corpus[1], "b")]
    assert ours(pairs).shape == (2, 3)
    np.testing.assert_allclose(ours(pairs), theirs.predict(pairs), atol=1e-4)
    np.testing.assert_allclose(ours(pairs[0]), theirs.predict(pairs[0]), atol=1e-4)
    softmax = theirs.predict(pairs, apply_softmax=True)
    np.testing.assert_allclose(ours(pairs, function_to_apply="softmax"), softmax, atol=1e-5)
    with pytest.raises(UsageError, match="3 classes"):
        ours.rank("a", ["b"])


def test_bad_input(both: Any) -> None:
    ours, _ = both
    for bad in ("one text", 3, None, ["a", "b", "c"], [("a", 3)], [("a", "b", "c")], {"text": "a"}, [None]):
        with pytest.raises(InputError):
            ours(bad)
    with pytest.raises(UsageError, match="function_to_apply"):
        ours(("a", "b"), function_to_apply="tanh")
    with pytest.raises(UsageError, match="top_k"):
        ours.rank("a", ["b"], top_k=0)
    assert ours([]).shape == (0,)
    assert ours.rank("a", []) == []
