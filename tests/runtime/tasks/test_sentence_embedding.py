"""sentence-embedding and its measures of similarity, against sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from edgeport.errors import InputError, UsageError
from edgeport.tasks.similarity import MEASURES, similarity

sentence_transformers = pytest.importorskip("sentence_transformers")

PROMPTS = {"query": "query: ", "passage": "passage: "}


@pytest.fixture(params=["wordpiece", "bpe", "unigram"])
def reference(request: pytest.FixtureRequest, tmp_path: Path, tokenizers: Any, tiny: Any) -> Any:
    from sentence_transformers import models

    tokenizer = tokenizers[request.param]
    tiny(transformers.AutoModel, request.param, tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    transformer = models.Transformer(str(tmp_path))
    pooling = models.Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    modules = [transformer, pooling]
    return sentence_transformers.SentenceTransformer(modules=modules, device="cpu", prompts=PROMPTS), tokenizer


class _Embedder:
    """The reference's modules, called with the graph's inputs."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, **feeds: torch.Tensor) -> Any:
        return self.model({**feeds, "modality": "text"})


@pytest.fixture
def both(reference: Any, make: Any) -> Any:
    model, tokenizer = reference
    ours = make("sentence-embedding", _Embedder(model), tokenizer, options={"prompts": PROMPTS})
    return ours, model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompt_name": "query"},
        {"prompt": "find this: "},
        {"normalize_embeddings": True},
        {"truncate_dim": 7, "normalize_embeddings": True},
    ],
    ids=str,
)
def test_same_as_sentence_transformers(both: Any, corpus: Any, options: dict[str, Any]) -> None:
    ours, theirs = both
    for given in ([*corpus, "", "short"], corpus[:1], corpus[0]):
        result, expected = ours(given, **options), theirs.encode(given, **options)
        assert isinstance(result, np.ndarray)
        assert result.dtype == np.float32
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, atol=1e-5, rtol=1e-5)


def test_default_prompt(reference: Any, make: Any, corpus: Any) -> None:
    model, tokenizer = reference
    ours = make(
        "sentence-embedding",
        _Embedder(model),
        tokenizer,
        options={"prompts": PROMPTS, "default_prompt_name": "passage"},
    )
    model.default_prompt_name = "passage"
    np.testing.assert_allclose(ours(corpus), model.encode(corpus), atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(ours(corpus, prompt=""), model.encode(corpus, prompt=""), atol=1e-5, rtol=1e-5)
    assert np.abs(ours(corpus) - ours(corpus, prompt="")).max() > 0.01


def test_stream_and_empty(both: Any, corpus: Any) -> None:
    ours, theirs = both
    np.testing.assert_allclose(np.stack(list(ours(iter(corpus)))), theirs.encode(corpus), atol=1e-5, rtol=1e-5)
    assert ours([]).shape == (0, 32)
    assert ours([], truncate_dim=5).shape == (0, 5)


@pytest.mark.parametrize("name", list(MEASURES))
def test_similarity(both: Any, make: Any, corpus: Any, name: str) -> None:
    ours, theirs = both
    theirs.similarity_fn_name = name
    a, b = ours(corpus[:2]), ours(corpus)
    np.testing.assert_allclose(similarity(name, a, b), theirs.similarity(a, b).numpy(), atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(
        similarity(name, a[0], b[0]), theirs.similarity(a[0], b[0]).numpy(), atol=2e-5, rtol=1e-4
    )
    pipe = make(
        "sentence-embedding", _Embedder(theirs), theirs.tokenizer, options={"similarity_fn_name": name}, max_length=64
    )
    np.testing.assert_array_equal(pipe.similarity(a, b), similarity(name, a, b))


def test_bad_input(both: Any) -> None:
    ours, _ = both
    for bad in (3, None, ["a", 3], {"text": "a"}):
        with pytest.raises(InputError):
            ours(bad)
    for option in ({"prompt_name": "question"}, {"prompt": 3}, {"truncate_dim": 0}):
        with pytest.raises(UsageError):
            ours("a", **option)
    with pytest.raises(UsageError, match="cosine, dot"):
        similarity("hamming", np.ones(3), np.ones(3))
    with pytest.raises(UsageError, match="3 and 4 dimensions"):
        similarity("dot", np.ones(3), np.ones(4))
