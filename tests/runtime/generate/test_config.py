"""Generation options: transformers' defaults, the model's, the caller's, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from edgeport.errors import InputError, UsageError
from edgeport.generate.config import GenerationConfig
from edgeport.generate.options import ABSENT


def merged(given: dict[str, Any] | None = None, **defaults: Any) -> GenerationConfig:
    return GenerationConfig.merged(defaults, given or {})


def test_defaults_are_those_of_transformers() -> None:
    config = merged()
    assert config == GenerationConfig()
    for name, value in transformers.GenerationConfig._get_default_generation_params().items():
        if name != "max_length" and hasattr(config, name):  # 20 there means 20 new tokens
            assert getattr(config, name) == value, name
    assert config.budget(7) == 20


def test_all_names_are_those_of_transformers() -> None:
    ours = {"seed", "logprobs", "presence_penalty", "frequency_penalty", "json_schema", "regex", "choice"}
    assert {name for name in vars(GenerationConfig()) if not hasattr(transformers.GenerationConfig(), name)} == ours


def test_the_callers_go_before_the_models() -> None:
    config = merged({"top_k": 5, "eos_token_id": [1, 2]}, do_sample=True, top_k=9, top_p=0.5, eos_token_id=3, seeds=1)
    assert (config.top_k, config.top_p, config.eos_ids) == (5, 0.5, (1, 2))
    assert merged(temperature=None, top_k=None, num_beams=None) == GenerationConfig()


def test_none_from_the_caller_switches_off() -> None:
    config = merged(
        {"top_k": None, "temperature": None, "eos_token_id": None}, top_k=9, temperature=0.5, eos_token_id=3
    )
    assert (config.top_k, config.temperature, config.eos_ids) == (0, 1.0, ())


def test_forms() -> None:
    config = merged({"stop_strings": "x", "bad_words_ids": [[1], [2, 3]], "suppress_tokens": [], "temperature": 2})
    assert (config.stop_strings, config.bad_words_ids, config.suppress_tokens) == (("x",), ((1,), (2, 3)), None)
    assert (merged(eos_token_id=5).eos_ids, merged(eos_token_id=[5, 6]).eos_ids) == ((5,), (5, 6))
    assert hash(config) == hash(merged({"stop_strings": ["x"], "bad_words_ids": [[1], [2, 3]], "temperature": 2.0}))


def test_padding() -> None:
    assert merged(eos_token_id=[5, 6]).pad_id == 5
    assert merged(eos_token_id=5, pad_token_id=0).pad_id == 0
    assert merged().pad_id == 0
    old = merged(eos_token_id=2, pad_token_id=-1)
    assert (old.pad_token_id, old.pad_id) == (None, 2)


def test_budget() -> None:
    assert merged({"max_length": 10}).budget(7) == 3
    assert merged({"max_length": 10, "max_new_tokens": 4}).budget(70) == 4
    assert merged().budget(7, 12) == 5
    with pytest.raises(InputError):
        merged({"max_length": 10}).budget(10)
    with pytest.raises(InputError):
        merged({"max_new_tokens": 10}).budget(12, 12)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("max_tokens", "'max_tokens' is unknown: did you mean max_new_tokens"),
        ("topk", "did you mean top_k"),
        ("penalty", "did you mean"),
        ("zzz", "use one of max_new_tokens, "),
    ],
)
def test_unknown_options(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        merged({name: 1})
    assert merged(**{name: 1}) == GenerationConfig()


def test_what_edgeport_does_not_have_of_transformers() -> None:
    """Refused where it is asked for, named where a model brings it along, and nothing else that changes a text."""
    config = transformers.GenerationConfig()
    assert all(hasattr(config, name) for name in ABSENT)
    assert not set(ABSENT) & set(vars(GenerationConfig()))
    defaults = transformers.GenerationConfig._get_default_generation_params()
    assert {name: defaults[name] for name in ABSENT if name in defaults} == {
        n: ABSENT[n] for n in ABSENT if n in defaults
    }
    with pytest.raises(
        UsageError, match=r"'penalty_alpha' is one of transformers that edgeport does not have: leave it"
    ):
        merged({"penalty_alpha": 0.6})
    stored = {"penalty_alpha": 0.6, "num_beam_groups": 1, "dola_layers": "low", "use_cache": True, "top_k": 4}
    assert GenerationConfig.ignored({**stored, "max_time": None, "cache_implementation": "static"}) == (
        "penalty_alpha=0.6", "dola_layers='low'",
    )  # fmt: skip
    assert merged(**stored) == merged(top_k=4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", True),
        ("min_length", -1),
        ("do_sample", 1),
        ("temperature", 0),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_p", 1.1),
        ("top_p", -0.1),
        ("min_p", 2),
        ("typical_p", 0),
        ("repetition_penalty", 0),
        ("presence_penalty", float("inf")),
        ("no_repeat_ngram_size", -2),
        ("num_beams", 0),
        ("num_return_sequences", 0),
        ("early_stopping", "always"),
        ("bad_words_ids", [1, 2]),
        ("bad_words_ids", [[]]),
        ("suppress_tokens", [-1]),
        ("suppress_tokens", 3),
        ("eos_token_id", [1.5]),
        ("stop_strings", [""]),
        ("stop_strings", [3]),
        ("exponential_decay_length_penalty", (3,)),
        ("seed", -1),
        ("logprobs", -1),
        ("prompt_lookup_num_tokens", 0),
        ("max_matching_ngram_size", 0),
        ("num_assistant_tokens", 2.5),
        ("json_schema", "{"),
        ("json_schema", [1]),
        ("json_schema", {"enum": {1}}),
        ("regex", 3),
        ("choice", []),
        ("choice", "yes"),
        ("choice", [""]),
    ],
)
def test_values_that_are_not_allowed(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^{name}=.* is not allowed: use [^.]*\.$"):
        merged({name: value})


def test_a_models_unused_sampling_options_are_not_checked() -> None:
    """Checkpoints that sample nothing come with temperature 0."""
    assert merged(temperature=0.0).temperature == 1.0
    with pytest.raises(UsageError, match=r"temperature=0.0 is not allowed: use a number above 0 \(do_sample=False"):
        merged({"do_sample": True}, temperature=0.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_return_sequences": 2}, "set do_sample=True or num_beams"),
        ({"num_return_sequences": 3, "num_beams": 2}, "is more than num_beams=2"),
        ({"exponential_decay_length_penalty": (3, 1.1)}, "set that too"),
        ({"regex": "a", "choice": ["b"], "eos_token_id": 1}, "regex and choice exclude each other: use one"),
        ({"regex": "a"}, "regex needs a token to end the text with: set eos_token_id"),
    ],
)
def test_options_that_exclude_each_other(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        merged(given)
