"""Which values each generation option takes, and the one form in which it is kept.

Knows no defaults and no options that depend on each other; ``config`` has both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgeport.errors import UsageError

__all__ = ["ABSENT", "OPTIONS", "SAMPLING", "normalise"]

SAMPLING = frozenset({"temperature", "top_k", "top_p", "min_p", "typical_p"})
"""Options that have no effect without ``do_sample``."""

ABSENT: Mapping[str, Any] = {
    "assistant_early_exit": None,
    "constraints": None,
    "diversity_penalty": 0.0,
    "dola_layers": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "force_words_ids": None,
    "guidance_scale": 1.0,
    "max_time": None,
    "num_beam_groups": 1,
    "penalty_alpha": 0.0,
    "sequence_bias": None,
    "token_healing": False,
    "top_h": None,
    "watermarking_config": None,
}
"""Options of transformers that change a text and do not exist here, with the value that switches each off."""

_Reader = Callable[[Any], Any]
"""Returns the value as it is kept; raises TypeError or ValueError if it is not allowed."""


def _require(condition: bool | np.bool_) -> None:
    if not condition:
        raise ValueError


def _whole(least: int) -> _Reader:
    def read(value: Any) -> int:
        _require(isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= least)
        return int(value)

    return read


def _number(low: float, high: float, *, open_low: bool = False) -> _Reader:
    def read(value: Any) -> float:
        _require(isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool))
        _require(math.isfinite(value) and low <= value <= high and not (open_low and value == low))
        return float(value)

    return read


def _flag(value: Any) -> bool:
    _require(isinstance(value, bool | np.bool_))
    return bool(value)


def _stopping(value: Any) -> bool | str:
    return "never" if isinstance(value, str) and value == "never" else _flag(value)


def _ids(value: Any) -> tuple[int, ...]:
    _require(isinstance(value, list | tuple | np.ndarray) and len(value) > 0)
    return tuple(_token(item) for item in value)


def _one_or_more(value: Any) -> int | tuple[int, ...]:
    return _ids(value) if isinstance(value, list | tuple | np.ndarray) else _token(value)


def _words(value: Any) -> tuple[tuple[int, ...], ...]:
    _require(isinstance(value, list | tuple) and len(value) > 0)
    return tuple(_ids(item) for item in value)


def _strings(value: Any) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else tuple(value)
    _require(len(strings) > 0 and all(isinstance(item, str) and item for item in strings))
    return strings


def _pattern(value: Any) -> str:
    _require(isinstance(value, str))
    return str(value)


def _choices(value: Any) -> tuple[str, ...]:
    _require(isinstance(value, list | tuple))
    return _strings(value)


def _schema(value: Any) -> str:
    schema = json.loads(value) if isinstance(value, str) else value
    _require(isinstance(schema, dict))
    return json.dumps(schema, ensure_ascii=False)


def _decay(value: Any) -> tuple[int, float]:
    start, factor = value
    return _whole(0)(start), _number(0, math.inf, open_low=True)(factor)


_token = _whole(0)
_COUNT = (_whole(1), "a positive integer")
_COUNT_OR_0 = (_whole(0), "an integer from 0")
_TOKEN = (_token, "a token id, an integer from 0")
_TOKENS = (_ids, "a list of token ids, integers from 0, with one at least")
_TOKEN_OR_TOKENS = (_one_or_more, "a token id or a list of them, integers from 0")
_SHARE = (_number(0, 1), "a number from 0 to 1")
_FINITE = (_number(-math.inf, math.inf), "a finite number")

OPTIONS: dict[str, tuple[_Reader, str]] = {
    "max_new_tokens": _COUNT,
    "max_length": _COUNT,
    "min_new_tokens": _COUNT_OR_0,
    "min_length": _COUNT_OR_0,
    "do_sample": (_flag, "True or False"),
    "temperature": (
        _number(0, math.inf, open_low=True),
        "a number above 0 (do_sample=False takes the likeliest token)",
    ),
    "top_k": (_whole(0), "an integer from 0 (0 keeps all tokens)"),
    "top_p": _SHARE,
    "min_p": _SHARE,
    "typical_p": (_number(0, 1, open_low=True), "a number above 0, at most 1"),
    "seed": _COUNT_OR_0,
    "repetition_penalty": (_number(0, math.inf, open_low=True), "a number above 0 (1 is off)"),
    "presence_penalty": _FINITE,
    "frequency_penalty": _FINITE,
    "no_repeat_ngram_size": (_whole(0), "an integer from 0 (0 is off)"),
    "bad_words_ids": (_words, "a list of lists of token ids, each with one at least"),
    "suppress_tokens": _TOKENS,
    "begin_suppress_tokens": _TOKENS,
    "forced_bos_token_id": _TOKEN,
    "forced_eos_token_id": _TOKEN_OR_TOKENS,
    "exponential_decay_length_penalty": (_decay, "a pair of an integer from 0 and a factor above 0"),
    "num_beams": _COUNT,
    "num_return_sequences": _COUNT,
    "length_penalty": _FINITE,
    "early_stopping": (_stopping, "True, False or 'never'"),
    "eos_token_id": _TOKEN_OR_TOKENS,
    "pad_token_id": _TOKEN,
    "bos_token_id": _TOKEN,
    "stop_strings": (_strings, "a string or a list of strings, none of them empty"),
    "prompt_lookup_num_tokens": _COUNT,
    "max_matching_ngram_size": _COUNT,
    "num_assistant_tokens": _COUNT,
    "json_schema": (_schema, "a JSON Schema object, as a dictionary or as JSON text"),
    "regex": (_pattern, "a regular expression as a string"),
    "choice": (_choices, "a list of strings, none of them empty"),
    "logprobs": (_whole(0), "an integer from 0 (0 is off)"),
}

_LISTS = frozenset(
    {"bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id", "eos_token_id", "stop_strings"}
)


def normalise(name: str, value: Any) -> Any:
    """The option's value in the form in which it is kept: tuples for lists, None for empty ones, Python's own numbers.

    Raises:
        UsageError: the option does not take it.
    """
    read, allowed = OPTIONS[name]
    if name in _LISTS and isinstance(value, list | tuple) and not value:
        return None
    try:
        return read(value)
    except (TypeError, ValueError):
        raise UsageError(f"{name}={value!r:.80} is not allowed: use {allowed}.") from None
