"""feature-extraction, against the pipeline of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import transformers
from edgeport.errors import InputError, UsageError


@pytest.fixture
def both(tokenizers: Any, make: Any, tiny: Any, kind: str) -> Any:
    tokenizer = tokenizers[kind]
    model = tiny(transformers.AutoModel, kind, tokenizer)
    return (
        make("feature-extraction", model, tokenizer),
        transformers.pipeline("feature-extraction", model=model, tokenizer=tokenizer),
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"truncation": True}, {"tokenize_kwargs": {"truncation": True, "max_length": 7, "padding": True}}],
    ids=str,
)
def test_same_as_transformers(both: Any, corpus: Any, assert_same: Any, options: dict[str, Any]) -> None:
    ours, theirs = both
    for given in (corpus[0], "", corpus, corpus[:1]):
        assert_same(ours(given, **options), theirs(given, **options))


def test_arrays(both: Any, corpus: Any) -> None:
    ours, theirs = both
    one, expected = ours(corpus[0], return_tensors=True), theirs(corpus[0], return_tensors=True).numpy()
    assert one.dtype == np.float32
    assert one.shape == expected.shape == (1, expected.shape[1], 32)
    np.testing.assert_allclose(one, expected, atol=1e-5)
    many = ours(corpus, return_tensors=True)
    for a, b in zip(many, theirs(corpus, return_tensors=True), strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-5)
    assert all(a.base is None or a.base.shape[0] == 1 for a in many), "a view would keep the whole batch alive"


def test_bad_input(both: Any) -> None:
    ours, _ = both
    for bad in (3, None, ["a", 3], {"text": "a"}):
        with pytest.raises(InputError):
            ours(bad)
    with pytest.raises(UsageError, match="twice"):
        ours("a", truncation=True, tokenize_kwargs={"truncation": True})
    assert ours([]) == []
