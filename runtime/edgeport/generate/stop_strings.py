"""Strings that end a text, found in its bytes: tokens end anywhere, even within a character.

Knows a ``tokenizers.Tokenizer``: its tokens, and its decoder for what a token adds to a text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeport.generate.model import IntArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["StopStrings"]

_ANCHOR = "abcdef"
"""Text before a token, as in transformers: decoders treat the first token of a text differently."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class StopStrings:
    """Strings that end a text once they are in it.

    As with transformers' ``StopStringCriteria``: the last token must have brought (part of) the string, of which a part
    may stand in the prompt; special tokens count with their text; and the tokens are kept, so that the text ends in the
    stop string and whatever else its last token brought.
    """

    def __init__(self, tokenizer: Tokenizer, strings: Sequence[str]) -> None:
        """Remember the strings, none of them empty."""
        self._tokenizer = tokenizer
        self._decoder = tokenizer.decoder
        self._strings = tuple(string.encode() for string in strings)
        self._longest = max(map(len, self._strings), default=0)
        self._known: dict[int, bytes] = {}
        state = b"" if self._decoder is None else self._decoder.__getstate__()
        fallback, level = b'"ByteFallback"' in state, b'"ByteLevel"' in state
        self._fallback = fallback
        self._bytes = _byte_level() if level and not fallback else {}
        anchor = tokenizer.encode(_ANCHOR, add_special_tokens=False).tokens
        self._anchor = anchor if _ANCHOR in self._join(anchor) else [_ANCHOR]

    def hit(self, ids: IntArray) -> bool:
        """Whether the last token of a row, int64 (length,) with its prompt, completes a stop string."""
        text = last = self.bytes_of(int(ids[-1]))
        for token in ids[-2::-1]:
            if len(text) >= len(last) + self._longest - 1:
                break
            text = self.bytes_of(int(token)) + text
        before = len(text) - len(last)
        return any(text.find(string, max(0, before - len(string) + 1)) >= 0 for string in self._strings)

    def bytes_of(self, token: int) -> bytes:
        """What the token adds to a text that goes on."""
        if token not in self._known:
            self._known[token] = self._look_up(self._tokenizer.id_to_token(token) or "")
        return self._known[token]

    def _look_up(self, piece: str) -> bytes:
        if self._fallback and (match := _BYTE.fullmatch(piece)):
            return bytes([int(match[1], 16)])
        if self._bytes and all(char in self._bytes for char in piece):
            return bytes(self._bytes[char] for char in piece)
        text = self._join([*self._anchor, piece])
        return text[text.find(_ANCHOR) + len(_ANCHOR) :].encode()

    def _join(self, pieces: list[str]) -> str:
        return " ".join(pieces) if self._decoder is None else str(self._decoder.decode(pieces))


def _byte_level() -> dict[str, int]:
    """The byte of each character of byte-level tokens (Radford et al. 2019): itself if it prints, else one from 256."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
