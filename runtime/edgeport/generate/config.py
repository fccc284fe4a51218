"""The options of a generation: names and defaults of transformers' ``GenerationConfig``, checked before anything runs.

Knows no model: what depends on a prompt's length is a method that is given the length. Options of transformers that are
not fields here (contrastive search, watermarks, encoder-decoder options, ...) do not exist in edgeport: ``ABSENT`` has
those that would change a text.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from edgeport.errors import InputError, UsageError
from edgeport.generate.options import ABSENT, OPTIONS, SAMPLING, normalise

__all__ = ["DEFAULT_NEW_TOKENS", "GenerationConfig"]

DEFAULT_NEW_TOKENS = 20
"""New tokens where neither ``max_new_tokens`` nor ``max_length`` is set."""


@dataclass(frozen=True)
class GenerationConfig:
    """How to generate. ``merged`` makes a checked one; the constructor takes what it is given.

    Lengths are counted row by row, as transformers counts them for a prompt alone: padding never counts.
    """

    max_new_tokens: int | None = None
    """Goes before ``max_length``."""
    max_length: int | None = None
    """Tokens of prompt and continuation together."""
    min_new_tokens: int | None = None
    min_length: int = 0
    """Tokens of prompt and continuation together."""

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    """0 is off."""
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    seed: int | None = None
    """The same seed and prompt give the same text, whatever else is in the batch; None draws a fresh one."""

    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    """OpenAI's: subtracted once from the logit of every token that the continuation already has."""
    frequency_penalty: float = 0.0
    """OpenAI's: subtracted as many times as the continuation has the token."""
    no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] | None = None
    suppress_tokens: tuple[int, ...] | None = None
    begin_suppress_tokens: tuple[int, ...] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | tuple[int, ...] | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    """New tokens after which it starts, and its factor."""

    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    """Stands in for an empty prompt."""
    stop_strings: tuple[str, ...] | None = None

    prompt_lookup_num_tokens: int | None = None
    """Most tokens to guess at once from what the row says already; None does not guess. See ``generate.speculate``."""
    max_matching_ngram_size: int | None = None
    """Tokens that must agree before a guess, where so many do; 2 if left out."""
    num_assistant_tokens: int = 20
    """Most tokens that an assistant guesses at once."""

    json_schema: str | None = None
    """JSON text of a schema that the continuation is a document of. See ``generate.constrain``."""
    regex: str | None = None
    """What the whole continuation matches."""
    choice: tuple[str, ...] | None = None
    """The continuation is one of these."""

    logprobs: int = 0
    """How many of the likeliest tokens to report at each step; 0 reports none, nor the chosen token's."""

    @classmethod
    def merged(cls, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> Self:
        """The caller's options over the model's.

        Args:
            defaults: What the model's generation_config.json holds. It is data: unknown keys are left out (``ignored``
                names those that matter), and None means transformers' default.
            given: The caller's options. Here None switches an option off, as in transformers' ``generate``:
                ``top_k=None`` keeps all tokens, while leaving it out gives the model's value, or 50.

        Raises:
            UsageError: an unknown option of the caller's, or a value that is not allowed. Sampling options of the
                model's own are left out, and so not checked, where nothing is sampled.
        """
        known = {field.name: field.default for field in fields(cls)}
        for name in given:
            if name not in known:
                raise UsageError(_absent(name) if name in ABSENT else _unknown(name, list(known)))
        stored = {name: _stored(name, value) for name, value in defaults.items() if name in known}
        stored = {name: value for name, value in stored.items() if value is not None}
        off = {**known, "top_k": 0}
        chosen = {name: off[name] if value is None else value for name, value in given.items()}
        values = {**stored, **chosen}
        checked: dict[str, Any] = {}
        sampling = bool(values.get("do_sample"))
        for name, value in values.items():
            if value is known[name] or value is off[name]:
                checked[name] = value
            elif sampling or name in chosen or name not in SAMPLING:
                checked[name] = normalise(name, value)
        config = cls(**checked)
        config._check_together()
        return config

    @staticmethod
    def ignored(defaults: Mapping[str, Any]) -> tuple[str, ...]:
        """Which of a model's own options would change its texts in transformers, and are left out here: ``a=1``."""
        found = {name: value for name, value in defaults.items() if name in ABSENT}
        return tuple(f"{name}={value!r:.40}" for name, value in found.items() if value and value != ABSENT[name])

    def _check_together(self) -> None:
        """Raise UsageError for options that exclude each other."""
        wanted = self.num_return_sequences
        if wanted > 1 and self.num_beams == 1 and not self.do_sample:
            raise UsageError(
                f"num_return_sequences={wanted} would all be the same text: set do_sample=True or num_beams."
            )
        if 1 < self.num_beams < wanted:
            raise UsageError(
                f"num_return_sequences={wanted} is more than num_beams={self.num_beams}: lower it or use more beams."
            )
        if self.num_beams > 1 and self.logprobs:
            raise UsageError(
                f"logprobs={self.logprobs} is not available with num_beams={self.num_beams}: use one beam."
            )
        if self.exponential_decay_length_penalty is not None and not self.eos_ids:
            raise UsageError("exponential_decay_length_penalty raises the score of eos_token_id: set that too.")

        if len(self.constraints) > 1:
            raise UsageError(f"{' and '.join(self.constraints)} exclude each other: use one of them.")
        if self.constraints and not self.eos_ids:
            raise UsageError(f"{self.constraints[0]} needs a token to end the text with: set eos_token_id.")

    @property
    def constraints(self) -> tuple[str, ...]:
        """Which of the options are set that say what the text looks like."""
        return tuple(name for name in ("json_schema", "regex", "choice") if getattr(self, name) is not None)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The tokens that end a text; none if ``eos_token_id`` is None."""
        return _ids(self.eos_token_id)

    @property
    def forced_eos_ids(self) -> tuple[int, ...]:
        """The tokens of which one is forced at the last place."""
        return _ids(self.forced_eos_token_id)

    @property
    def pad_id(self) -> int:
        """The token that rows are fed which have ended: ``pad_token_id``, else the first that ends a text, else 0."""
        return self.pad_token_id if self.pad_token_id is not None else (*self.eos_ids, 0)[0]

    def budget(self, prompt_length: int, max_positions: int | None = None) -> int:
        """Most new tokens after a prompt of ``prompt_length`` tokens, at least 1.

        Args:
            prompt_length: Tokens of the prompt.
            max_positions: Tokens that the model takes in all; None if there is no limit.

        Raises:
            InputError: the prompt leaves no room for a token.
        """
        if max_positions is not None and prompt_length >= max_positions:
            raise InputError(
                f"the prompt has {prompt_length} tokens and the model takes {max_positions}, continuation included: "
                "shorten the prompt."
            )
        new = DEFAULT_NEW_TOKENS
        if self.max_new_tokens is not None:
            new = self.max_new_tokens
        elif self.max_length is not None:
            new = self.max_length - prompt_length
            if new < 1:
                raise InputError(
                    f"the prompt has {prompt_length} tokens and max_length={self.max_length} counts them too: "
                    "raise it or use max_new_tokens."
                )
        return new if max_positions is None else min(new, max_positions - prompt_length)

    def prompts(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """The prompts, with ``bos_token_id`` for an empty one.

        Raises:
            InputError: there is an empty prompt and no such token.
        """
        rows = [[int(token) for token in prompt] for prompt in prompts]
        for row in rows:
            if not row:
                if self.bos_token_id is None:
                    raise InputError("the prompt is empty and the model has no token to start with: write a prompt.")
                row.append(self.bos_token_id)
        return rows


def _ids(value: int | tuple[int, ...] | None) -> tuple[int, ...]:
    return () if value is None else (value,) if isinstance(value, int) else value


def _stored(name: str, value: Any) -> Any:
    """A model's own value, where old checkpoints say -1 for a special token that they do not have."""
    if name in ("eos_token_id", "pad_token_id", "bos_token_id"):
        if isinstance(value, list | tuple):
            return [token for token in value if not _is_negative(token)]
        return None if _is_negative(value) else value
    return value


def _is_negative(value: Any) -> bool:
    return isinstance(value, int) and value < 0


def _absent(name: str) -> str:
    return f"the generation option {name!r} is one of transformers that edgeport does not have: leave it out."


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3) or [option for option in OPTIONS if name in option][:3]
    hint = f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(known)}."
    return f"the generation option {name!r} is unknown: {hint}"
