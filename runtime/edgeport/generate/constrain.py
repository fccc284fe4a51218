"""Text in a given form: a JSON Schema, a regular expression, or one of several strings. Masks tokens, nothing else.

The package ``llguidance`` knows grammars and which tokens of a vocabulary may come next (Willard and Louf 2023; Koo,
Liu and He 2024). Here its masks become a logits processor that is a function of a row's tokens alone: so it works for
greedy search, sampling, beams and guesses, where rows are dropped, repeated and taken back. What was found out about a
beginning is kept for those that go on from it.

A token that ends the text is allowed where the text is complete, and nowhere else; the token budget may still cut it
off. As JSON Schema has it, objects may have more properties than named unless ``additionalProperties`` is false.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from edgeport.errors import MissingExtraError, UsageError
from edgeport.generate.config import GenerationConfig
from edgeport.generate.model import BoolArray, FloatArray, IntArray
from edgeport.generate.stop_strings import StopStrings

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from tokenizers import Tokenizer

__all__ = ["Constraint", "constraint_of"]

_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As ``json.dumps`` writes: where any white space is allowed, small models write it until the budget is used up."""

_KEPT = 4096
"""Beginnings that are remembered; a search needs as many as it has rows, and looks them up again if they are gone."""


def constraint_of(config: GenerationConfig, tokenizer: Tokenizer | None, vocab_size: int) -> Constraint | None:
    """What the options ask for; None where they ask for no form.

    Raises:
        UsageError: there is no tokenizer, or the schema or the expression is not one.
        MissingExtraError: llguidance is not installed.
    """
    if not config.constraints:
        return None
    (name,) = config.constraints
    value = getattr(config, name)
    if tokenizer is None:
        raise UsageError(f"{name}={value!r:.80} needs a tokenizer: pass the model's.")
    try:
        from llguidance import LLMatcher
    except ImportError as e:
        raise MissingExtraError(name, "constrained") from e
    if name == "json_schema":
        grammar = LLMatcher.grammar_from_json_schema(value, overrides=_JSON)
    elif name == "regex":
        grammar = LLMatcher.grammar_from_regex(value)
    else:
        grammar = LLMatcher.grammar_from_regex("|".join(map(re.escape, value)))
    vocabulary = _vocabulary(tokenizer, config.eos_ids)
    matcher = LLMatcher(vocabulary, grammar, log_level=0)
    if matcher.is_error():
        raise UsageError(f"{name}={value!r:.80} is not supported ({_reason(matcher.get_error())}): mend it.")
    return Constraint(matcher, vocab_size, beams=config.num_beams > 1)


class Constraint:
    """The form of one call's texts."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, *, beams: bool = False) -> None:
        """Use ``constraint_of``.

        Args:
            matcher: The grammar, with nothing read.
            vocab_size: Columns of the scores.
            beams: Whether rows may stand in for beams that there are not: these break the form, and count for nothing.
        """
        self._beams = beams
        self._start = matcher
        self._vocab_size = vocab_size
        self._known: dict[bytes, LLMatcher | None] = {b"": matcher}
        """By a continuation's tokens: the grammar after them; None where it does not allow them."""

    def mask(self, ids: Sequence[IntArray], scores: FloatArray, prompt_lengths: Sequence[int]) -> FloatArray:
        """Minus infinity for the tokens that may not come next.

        Args:
            ids: Tokens of every row, prompt included.
            scores: float32 (rows, vocab); not written into.
            prompt_lengths: Tokens of each row's prompt.

        Raises:
            UsageError: all tokens that the grammar allows are forbidden otherwise, or the grammar is too complex.
        """
        result = np.full_like(scores, -np.inf)
        for row, given, seen, start in zip(result, scores, ids, prompt_lengths, strict=True):
            matcher = self._after(seen[start:])
            if matcher is None:
                if self._beams:
                    continue  # its sum is minus infinity, or was lowered when it ended
                raise UsageError(f"the text has left its form at {seen[start:].tolist()[-3:]}: use another form.")
            allowed = self._allowed(matcher)
            row[allowed] = given[allowed]
            if not (row > -np.inf).any():
                raise UsageError("no token is left to choose from: the options forbid all that the form allows.")
        return result

    def _after(self, tokens: IntArray) -> LLMatcher | None:
        """The grammar after a continuation."""
        key = tokens.tobytes()
        if key in self._known:
            return self._known[key]
        before = self._known.get(tokens[:-1].tobytes())
        matcher = (before or self._start).deep_copy()
        found = matcher.consume_tokens(tokens[-1:].tolist() if before else tokens.tolist())
        if len(self._known) >= _KEPT:
            self._known = {b"": self._start}
        self._known[key] = matcher if found else None
        return self._known[key]

    def _allowed(self, matcher: LLMatcher) -> BoolArray:
        """bool (vocab,): the tokens that may come next."""
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        if matcher.is_error():
            raise UsageError(f"the form is too complex ({_reason(matcher.get_error())}): simplify it.")
        allowed = np.zeros(self._vocab_size, np.bool_)
        allowed[: len(bits)] = bits[: self._vocab_size]
        return allowed


@lru_cache(maxsize=2)
def _vocabulary(tokenizer: Tokenizer, ends: tuple[int, ...]) -> LLTokenizer:
    """The tokens as llguidance wants them; takes up to a second for a large vocabulary."""
    from llguidance import LLTokenizer

    text = tokenizer.to_str()
    # llguidance reads byte-level and byte-fallback tokens by itself, and Metaspace's white space not at all.
    if b"Metaspace" not in (b"" if tokenizer.decoder is None else tokenizer.decoder.__getstate__()):
        try:
            return LLTokenizer(text, eos_token=list(ends))
        except ValueError:
            pass
    try:
        return LLTokenizer(_Bytes(tokenizer, ends[0]), eos_token=list(ends))
    except ValueError as e:
        raise UsageError(f"the model's tokenizer cannot write text in a form ({_reason(str(e))}): leave it out.") from e


class _Bytes:
    """A vocabulary as bytes: llguidance's protocol for tokenizers that it does not know."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        added = tokenizer.get_added_tokens_decoder()
        reader = StopStrings(tokenizer, ())
        self.eos_token_id = end
        self.bos_token_id: int | None = None
        self.special_token_ids = [token for token, piece in added.items() if piece.special]
        self.tokens = [reader.bytes_of(token) for token in range(tokenizer.get_vocab_size())]
        self._numbers = {token: i for i, token in enumerate(self.tokens) if token and i not in self.special_token_ids}
        self._longest = max(map(len, self._numbers), default=0)

    def __call__(self, text: str | bytes) -> list[int]:
        """Tokens of a text that goes on, the longest first: where the form leaves no choice, these are written.

        The tokenizer's own would begin with a space.
        """
        rest = text.encode() if isinstance(text, str) else bytes(text)
        found = []
        while rest:
            sizes = range(min(self._longest, len(rest)), 0, -1)
            size = next((size for size in sizes if rest[:size] in self._numbers), None)
            if size is None:
                break
            found.append(self._numbers[rest[:size]])
            rest = rest[size:]
        return found


def _reason(message: str) -> str:
    """The line of llguidance's message that says what is wrong."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["unknown"])[0].rstrip(".:")[:200]
