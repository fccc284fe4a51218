"""text-classification, against the pipeline of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from edgeport.errors import InputError, UsageError

LABELS = ["NEGATIVE", "NEUTRAL", "POSITIVE", "MIXED"]


@pytest.fixture
def both(tokenizers: Any, make: Any, tiny: Any, kind: str) -> Any:
    tokenizer = tokenizers[kind]
    model = tiny(transformers.AutoModelForSequenceClassification, kind, tokenizer, LABELS)
    ours = make("text-classification", model, tokenizer, labels=LABELS, options={"function_to_apply": "softmax"})
    return ours, transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": None},
        {"top_k": 1},
        {"top_k": 2},
        {"top_k": 99},
        {"function_to_apply": "sigmoid"},
        {"function_to_apply": "NONE", "top_k": None},
        {"function_to_apply": "softmax", "top_k": 3},
        {"truncation": True, "max_length": 6, "top_k": None},
    ],
    ids=str,
)
def test_same_as_transformers(both: Any, corpus: Any, assert_same: Any, options: dict[str, Any]) -> None:
    ours, theirs = both
    pair = {"text": corpus[0], "text_pair": "an apple"}
    inputs: list[Any] = [
        corpus[0],
        "",
        corpus,
        corpus[:1],
        pair,
        [pair, {"text": corpus[1]}, {"text": corpus[1], "text_pair": ""}],
        [[corpus[0], "and more"]],
    ]
    for given in inputs:
        if given is inputs[-1]:
            given = [given]  # transformers takes a list of a list of a pair
        assert_same(ours(given, **options), theirs(given, **options))


def test_a_single_item_of_each_kind_is_nested_as_in_transformers(both: Any) -> None:
    ours, _ = both
    assert isinstance(ours("a"), list)
    assert isinstance(ours("a", top_k=1), list)
    assert isinstance(ours({"text": "a"}), dict)
    assert isinstance(ours(["a"])[0], dict)
    assert isinstance(ours(["a"], top_k=2)[0], list)


def test_generator(both: Any, corpus: Any, assert_same: Any) -> None:
    ours, theirs = both
    result = ours((text for text in corpus), batch_size=4)
    assert iter(result) is result
    assert_same(list(result), list(theirs(text for text in corpus)))


@pytest.mark.parametrize(
    ("problem", "function", "labels"),
    [
        ("regression", "none", ["score"]),
        ("multi_label_classification", "sigmoid", LABELS),
        ("single_label_classification", "softmax", LABELS),
        (None, "sigmoid", ["spam"]),
    ],
)
def test_the_models_own_function(
    tokenizers: Any, make: Any, tiny: Any, corpus: Any, assert_same: Any, problem: str, function: str, labels: list[str]
) -> None:
    tokenizer = tokenizers["wordpiece"]
    auto = transformers.AutoModelForSequenceClassification
    model = tiny(auto, "wordpiece", tokenizer, labels, problem_type=problem)
    ours = make("text-classification", model, tokenizer, labels=labels, options={"function_to_apply": function})
    theirs = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)
    assert_same(ours(corpus, top_k=None), theirs(corpus, top_k=None))
    assert_same(ours(corpus, function_to_apply="default"), theirs(corpus))


def test_too_long_is_cut_with_a_warning(both: Any, long_text: str, assert_same: Any) -> None:
    ours, theirs = both
    with pytest.warns(UserWarning, match="cut to 64"):
        result = ours(long_text)
    assert_same(result, theirs(long_text, truncation=True))


def test_bad_input(both: Any) -> None:
    ours, _ = both
    for bad in (3, None, b"bytes", [1], {"txt": "a"}, {"text": 3}, {"text": "a", "text_pair": 3}, [["a", "b"]], [None]):
        with pytest.raises(InputError):
            ours(bad)
    for option in ({"top_k": 0}, {"top_k": "two"}, {"top_k": True}, {"function_to_apply": "tanh"}, {"batch_size": 0}):
        with pytest.raises(UsageError):
            ours("a", **option)
    assert ours([]) == []
