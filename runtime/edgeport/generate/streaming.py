"""Text from tokens as they come: never half a character, and all pieces together are the tokenizer's decoding of all.

Knows a ``tokenizers.Tokenizer`` and nothing of models. What a pipeline does to the decoded text afterwards (to spaces
before punctuation, say) is not done here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["TextStream", "pieces"]

_REPLACEMENT = "\ufffd"
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class TextStream:
    """The text of one row, piece by piece.

    Each token is decoded behind the tokens of the piece before, because decoders treat the first token of a text
    differently; what that prefix alone decodes to is taken off. Text is held back while more tokens can change it:

    - while it ends in U+FFFD: a byte-level token may be the beginning of a character;
    - after a byte-fallback token (``<0xE4>``), until another kind of token comes: their decoder gives one U+FFFD a byte
      for a whole run of them if the run is not UTF-8, the characters before included.

    ``tokenizers.decoders.DecodeStream`` holds back only the first, has no end that gives the rest, and raises where a
    run of byte-fallback tokens turns out not to be UTF-8.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        """Start an empty text."""
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        added = tokenizer.get_added_tokens_decoder() if skip_special_tokens else {}
        self._skipped = frozenset(token for token, piece in added.items() if piece.special)
        self._ids: list[int] = []
        self._emitted = 0
        """How many of ``_ids``, from the left, are in the pieces given; they are the prefix of the next one."""

    def put(self, token: int) -> str:
        """The text that is certain now that this token has come; empty while it is held back."""
        if token in self._skipped:
            return ""  # before the rest: a run of byte-fallback tokens goes on behind it
        self._ids.append(int(token))
        if _BYTE.fullmatch(self._tokenizer.id_to_token(int(token)) or ""):
            return ""
        prefix, text = self._decode(self._ids[: self._emitted]), self._decode(self._ids)
        if text.endswith(_REPLACEMENT) or len(text) <= len(prefix) or not text.startswith(prefix):
            return ""
        del self._ids[: self._emitted]
        self._emitted = len(self._ids)
        return text[len(prefix) :]

    def end(self) -> str:
        """What was still held back. The next token begins a new text."""
        prefix, text = self._decode(self._ids[: self._emitted]), self._decode(self._ids)
        self._ids, self._emitted = [], 0
        return text[len(prefix) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=self._skip)) if ids else ""


def pieces(tokenizer: Tokenizer, tokens: Iterable[int], *, skip_special_tokens: bool = True) -> Iterator[str]:
    """The text of the tokens in pieces, none of them empty, each as soon as it is certain."""
    stream = TextStream(tokenizer, skip_special_tokens=skip_special_tokens)
    for token in tokens:
        if piece := stream.put(token):
            yield piece
    if piece := stream.end():
        yield piece
