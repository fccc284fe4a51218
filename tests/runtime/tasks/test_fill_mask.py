"""fill-mask, against the pipeline of transformers."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from edgeport.errors import BundleError, InputError, UsageError


@pytest.fixture
def both(tokenizers: Any, make: Any, tiny: Any, kind: str) -> Any:
    tokenizer = tokenizers[kind]
    model = tiny(transformers.AutoModelForMaskedLM, kind, tokenizer)
    theirs = transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer)
    return make("fill-mask", model, tokenizer), theirs, tokenizer.mask_token


@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"top_k": 12}], ids=str)
def test_same_as_transformers(both: Any, assert_same: Any, options: dict[str, Any]) -> None:
    ours, theirs, mask = both
    one = f"The quick brown {mask} jumps over the lazy dog."
    two = f"Marie {mask} was born in {mask}."
    for given in (one, two, [one], [two], [one, two, one], [f"I live in {mask}!", one]):
        assert_same(ours(given, **options), theirs(given, **options))


@pytest.mark.filterwarnings("ignore:the target")
def test_targets(both: Any, tokenizers: Any, assert_same: Any) -> None:
    ours, theirs, mask = both
    text = f"The {mask} fox and the {mask}."
    known = [t for t in ("the", "fox", "Ġthe", "▁the", "a", "e") if t in theirs.tokenizer.get_vocab()]
    assert len(known) >= 2
    for targets in (known, known[0], [*known, known[0]], [*known, "jumping"], "wolfhound"):
        assert_same(ours(text, targets=targets), theirs(text, targets=targets))
    assert_same(ours(text, targets=known, top_k=1), theirs(text, targets=known, top_k=1))


def test_an_unknown_target_warns(both: Any) -> None:
    ours, _, mask = both
    with pytest.warns(UserWarning, match="'wolfhound' is not in the vocabulary: "):
        ours(f"a {mask}", targets=["the", "wolfhound"])
    with pytest.warns(UserWarning, match="is left out"), pytest.raises(UsageError, match="none of the targets"):
        ours(f"a {mask}", targets=[""])


def test_tokenizer_kwargs(both: Any, long_text: str, assert_same: Any) -> None:
    ours, theirs, mask = both
    text = f"A {mask} " + long_text
    options = {"tokenizer_kwargs": {"truncation": True, "max_length": 20}}
    assert_same(ours(text, **options), theirs(text, **options))


def test_decoding_is_tidied(tokenizers: Any, make: Any, tiny: Any, assert_same: Any) -> None:
    tokenizer = type(tokenizers["wordpiece"])(
        tokenizer_object=tokenizers["wordpiece"].backend_tokenizer,
        clean_up_tokenization_spaces=True,
        **tokenizers["wordpiece"].special_tokens_map,
    )
    model = tiny(transformers.AutoModelForMaskedLM, "wordpiece", tokenizer)
    ours = make("fill-mask", model, tokenizer, max_length=64)
    assert ours._text._tidy
    text = "it doesn't [MASK], the fox. is it?"
    assert_same(ours(text), transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer)(text))


def test_batches_are_small(both: Any) -> None:
    ours, _, mask = both
    ours([f"{mask} a b c d e f g h i j k l"] * 60)
    assert all(rows * length <= ours.max_tokens for rows, length in ours._runner.shapes)


def test_bad_input(both: Any, long_text: str) -> None:
    ours, _, mask = both
    with pytest.raises(InputError, match="put one in"):
        ours("no mask")
    with pytest.raises(InputError, match="within the model's length"), pytest.warns(UserWarning, match="cut"):
        ours(f"{long_text} {mask}")
    for bad in (3, None, {"text": mask}, [mask, 3], ""):
        with pytest.raises(InputError):
            ours(bad)
    for option in ({"top_k": 0}, {"targets": []}, {"tokenizer_kwargs": {"stride": 3}}, {"targets": [3]}):
        with pytest.raises(UsageError):
            ours(mask, **option)
    assert ours([]) == []


def test_a_tokenizer_without_mask(tokenizers: Any, make: Any, tiny: Any) -> None:
    tokenizer = tokenizers["wordpiece"]
    model = tiny(transformers.AutoModelForMaskedLM, "wordpiece", tokenizer)
    with pytest.raises(BundleError, match="no mask token"):
        make("fill-mask", model, tokenizer, special_tokens={})
