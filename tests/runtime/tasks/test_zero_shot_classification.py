"""zero-shot-classification, against the pipeline of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from edgeport.errors import InputError, UsageError

NLI = ["contradiction", "neutral", "entailment"]


def _both(tokenizers: Any, make: Any, tiny: Any, kind: str, labels: list[str], entailment: int) -> Any:
    tokenizer = tokenizers[kind]
    model = tiny(transformers.AutoModelForSequenceClassification, kind, tokenizer, labels)
    ours = make("zero-shot-classification", model, tokenizer, labels=labels, options={"entailment_id": entailment})
    return ours, transformers.pipeline("zero-shot-classification", model=model, tokenizer=tokenizer)


@pytest.fixture
def both(tokenizers: Any, make: Any, tiny: Any, kind: str) -> Any:
    return _both(tokenizers, make, tiny, kind, NLI, 2)


@pytest.mark.parametrize(
    "options",
    [{}, {"multi_label": True}, {"hypothesis_template": "It is about {}, they say."}],
    ids=str,
)
@pytest.mark.parametrize(
    "labels", [["animals", "politics", "film"], "animals, politics ,, film", "film", ["film"]], ids=str
)
def test_same_as_transformers(both: Any, corpus: Any, assert_same: Any, labels: Any, options: dict[str, Any]) -> None:
    ours, theirs = both
    for given in (corpus[0], corpus[:3], corpus[:1]):
        assert_same(ours(given, candidate_labels=labels, **options), theirs(given, candidate_labels=labels, **options))


def test_labels_by_position_and_generator(both: Any, corpus: Any, assert_same: Any) -> None:
    ours, theirs = both
    assert_same(ours(corpus[0], ["a", "b"]), theirs(corpus[0], ["a", "b"]))
    assert_same(list(ours((t for t in corpus[:3]), "a,b", batch_size=4)), theirs(corpus[:3], ["a", "b"]))


@pytest.mark.parametrize(
    "labels", [["entailment", "neutral", "contradiction"], ["Entailed", "no"], ["no", "yes"]], ids=str
)
def test_where_entailment_is(
    tokenizers: Any, make: Any, tiny: Any, corpus: Any, assert_same: Any, labels: list[str]
) -> None:
    position = 0 if labels[0].lower().startswith("entail") else -1
    build = lambda: _both(tokenizers, make, tiny, "wordpiece", labels, position)  # noqa: E731
    if position == -1:
        with pytest.warns(UserWarning, match="entailment"):
            ours, theirs = build()
    else:
        ours, theirs = build()
    for multi in (True, False):
        assert_same(ours(corpus, ["x", "y"], multi_label=multi), theirs(corpus, ["x", "y"], multi_label=multi))


def test_a_long_text_gives_way_to_the_label(both: Any, long_text: str, assert_same: Any) -> None:
    ours, theirs = both
    with pytest.warns(UserWarning, match="cut to 64"):
        result = ours(long_text, ["animals", "film"])
    assert_same(result, theirs(long_text, ["animals", "film"]))


def test_bad_input(both: Any, long_text: str) -> None:
    ours, _ = both
    for bad in (3, None, "", ["a", ""], [3]):
        with pytest.raises(InputError):
            ours(bad, ["x"])
    with pytest.raises(InputError, match="leaves no room"):
        ours("short", [long_text])
    for labels in ([], "", ", ,", 3, [3], None):
        with pytest.raises(UsageError):
            ours("a", labels)
    for template in ("no place", "{} {}", "{", "{label}", "{.x}"):
        with pytest.raises(UsageError, match="hypothesis_template"):
            ours("a", ["x"], hypothesis_template=template)
    assert ours([], ["x"]) == []
