"""token-classification, against the pipeline of transformers."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import transformers
from edgeport.errors import InputError, UsageError

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]
STRATEGIES = ["none", "simple", "first", "average", "max"]


@pytest.fixture
def both(tokenizers: Any, make: Any, tiny: Any, kind: str) -> Any:
    tokenizer = tokenizers[kind]
    model = tiny(transformers.AutoModelForTokenClassification, kind, tokenizer, LABELS)
    ours = make("token-classification", model, tokenizer, labels=LABELS)
    return ours, transformers.pipeline("token-classification", model=model, tokenizer=tokenizer)


@pytest.fixture(autouse=True)
def no_heuristic_warning() -> Any:
    """transformers warns at every token of a tokenizer that marks no subwords."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Tokenizer does not support real words")
        yield


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_same_as_transformers(both: Any, corpus: Any, assert_same: Any, strategy: str) -> None:
    ours, theirs = both
    unknown = "a 漢字 word [SEP] and <mask> or 🎉 it"
    for given in (corpus[1], corpus, corpus[:1], "", unknown, [unknown, " padded  text "]):
        result = ours(given, aggregation_strategy=strategy)
        assert_same(result, theirs(given, aggregation_strategy=strategy))
    entities = ours(corpus[1], aggregation_strategy=strategy)
    assert len(entities) >= 3
    assert len({e.get("entity", e.get("entity_group")) for e in entities}) > 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ignored_labels(both: Any, corpus: Any, assert_same: Any, strategy: str) -> None:
    ours, theirs = both
    for ignored in ([], ["MISC"], ["O", "PER", "B-LOC"]):
        options = {"aggregation_strategy": strategy, "ignore_labels": ignored}
        assert_same(ours(corpus, **options), theirs(corpus, **options))


@pytest.mark.parametrize("strategy", [None, "simple", "first", "average", "max"])
@pytest.mark.parametrize("stride", [0, 10, 30])
def test_long_texts(both: Any, long_text: str, assert_same: Any, strategy: str | None, stride: int) -> None:
    ours, theirs = both
    options = {"stride": stride, "ignore_labels": []} | ({"aggregation_strategy": strategy} if strategy else {})
    assert_same(ours([long_text, "short"], **options), theirs([long_text, "short"], **options))
    assert ours(long_text, **options)[-1]["end"] > 400


def test_a_long_text_without_stride_is_cut(both: Any, long_text: str, assert_same: Any) -> None:
    ours, theirs = both
    with pytest.warns(UserWarning, match="cut to 64"):
        result = ours(long_text, aggregation_strategy="simple")
    assert_same(result, theirs(long_text, aggregation_strategy="simple"))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("delimiter", [None, "", " - "])
def test_words(both: Any, corpus: Any, assert_same: Any, strategy: str, delimiter: str | None) -> None:
    ours, theirs = both
    options = {"is_split_into_words": True, "aggregation_strategy": strategy, "delimiter": delimiter}
    words = corpus[1].split()
    for given in (words, [words, corpus[2].split()]):
        assert_same(ours(given, **options), theirs(given, **options))


def test_generator(both: Any, corpus: Any, assert_same: Any) -> None:
    ours, theirs = both
    result = ours((t for t in corpus), aggregation_strategy="simple", batch_size=2)
    assert_same(list(result), theirs(corpus, aggregation_strategy="simple"))


def test_bad_input(both: Any) -> None:
    ours, _ = both
    for bad in (3, None, [3], {"text": "a"}, ["a", ["b"]]):
        with pytest.raises(InputError):
            ours(bad)
    with pytest.raises(InputError, match="list of strings"):
        ours("one string", is_split_into_words=True)
    with pytest.raises(InputError, match="list of strings"):
        ours([["a", 3]], is_split_into_words=True)
    for option in (
        {"aggregation_strategy": "mean"},
        {"stride": 64},
        {"stride": -1},
        {"stride": 5, "aggregation_strategy": "none"},
    ):
        with pytest.raises(UsageError):
            ours("a", **option)
    assert ours([]) == []
