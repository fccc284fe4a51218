"""Text to tokens and back, by the bundle's ``tokenizer.json``.

The tokenizer object is shared by all threads and never changed after loading: it only tokenizes. Truncation and special
tokens come afterwards, per call: the library would keep their settings in the tokenizer, where two threads would race.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeport.bundle import TextSpec
from edgeport.errors import BundleError, InputError, UsageError
from edgeport.text.decoding import tidy
from edgeport.text.truncation import Truncation, fit

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

__all__ = ["TextEncoder"]

_DEFAULT = Truncation()


class TextEncoder:
    """A tokenizer with the model's limits. Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer, spec: TextSpec) -> None:
        """Take over ``tokenizer``: its truncation, padding and post-processor are removed from it."""
        from tokenizers.processors import TemplateProcessing

        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._processor = tokenizer.post_processor or TemplateProcessing("$A", "$A $B:1", [])
        tokenizer.post_processor = None
        self._tokenizer = tokenizer
        self._added = {pair: self._processor.num_special_tokens_to_add(pair) for pair in (False, True)}
        self._tidy = spec.clean_up_tokenization_spaces and type(tokenizer.model).__name__ != "BPE"
        self._warned = False
        self._decoder = tokenizer.decoder
        self.spec = spec
        self.max_length = min(spec.max_length, spec.fixed_length or spec.max_length)
        """Longest input in tokens, special tokens included."""
        self.marks_subwords = bool(getattr(tokenizer.model, "continuing_subword_prefix", None))
        """Whether tokens inside a word carry a prefix such as ``##``."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The library's own object, to decode with; its settings are not to be changed."""
        return self._tokenizer

    @classmethod
    def open(cls, path: Path, spec: TextSpec) -> TextEncoder:
        """Load the tokenizer in ``path``.

        Raises:
            BundleError: it cannot be read.
        """
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as e:  # the library raises a bare Exception
            raise BundleError(f"{path.name} is no tokenizer that this tokenizers library reads ({e}).") from e
        return cls(tokenizer, spec)

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str | None] | None = None,
        *,
        truncation: Truncation = _DEFAULT,
        offsets: bool = False,
    ) -> list[list[Encoding]]:
        """Tokenize texts, or pairs of texts, and add the special tokens; nothing is padded.

        Args:
            texts: The texts, or the first of each pair.
            pairs: The second of each pair, None where there is none.
            truncation: What to do with those that are too long.
            offsets: Whether the encodings need offsets and words; without them it is faster.

        Returns:
            The rows of each text: one, or its windows where ``truncation`` has a stride.

        Raises:
            InputError: a text that is not valid Unicode, that gives no token, or that cannot be cut to size.
            UsageError: a stride too large for the length.
        """
        firsts = self._tokenize(texts, offsets)
        if pairs is None:
            return [self._finish(first, None, truncation) for first in firsts]
        given = iter(self._tokenize([p for p in pairs if p is not None], offsets))
        seconds = [None if p is None else next(given) for p in pairs]
        return [self._finish(a, b, truncation) for a, b in zip(firsts, seconds, strict=True)]

    def prompt(self, text: str) -> list[int]:
        """Token ids of a text that a model is to go on with: special tokens added, nothing cut, possibly none at all.

        Raises:
            InputError: the text is not valid Unicode.
        """
        return list(self._processor.process(self._tokenize([text], offsets=False)[0]).ids)

    def encode_words(self, words: Sequence[str], *, truncation: Truncation = _DEFAULT) -> list[Encoding]:
        """The rows of a text that is already split into words; offsets count from the start of each word."""
        try:
            encoding = self._tokenizer.encode(list(words), is_pretokenized=True)
        except (TypeError, UnicodeError) as e:
            raise InputError(f"one of {len(words)} words is not valid Unicode text ({e}): replace it.") from e
        return self._finish(encoding, None, truncation)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids, spaces before punctuation tidied where the model's tokenizer does so."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return tidy(text) if self._tidy else text

    def join(self, tokens: list[str]) -> str:
        """The text of tokens (their strings, as in the vocabulary)."""
        return self._decoder.decode(tokens) if self._decoder is not None else " ".join(tokens)

    def id_of(self, token: str) -> int | None:
        """The id of a token of the vocabulary."""
        return self._tokenizer.token_to_id(token)

    def special_id(self, role: str) -> int | None:
        """The id of the special token of a role such as ``mask_token``; None where there is none."""
        token = self.spec.special_tokens.get(role)
        return None if token is None else self.id_of(token)

    def token_of(self, token_id: int) -> str | None:
        """The token that has this id.

        An encoding's own ``tokens`` may differ: some tokenizers put the text there where the token is unknown.
        """
        return self._tokenizer.id_to_token(token_id)

    def ids_of_text(self, text: str) -> list[int]:
        """Token ids without special tokens and without truncation."""
        return list(self._tokenize([text], offsets=False)[0].ids)

    def _tokenize(self, texts: Sequence[str], offsets: bool) -> list[Encoding]:
        """Tokenize each distinct text once: pairs repeat their query, their context or their hypotheses."""
        unique = texts if len(texts) < 2 else list(dict.fromkeys(texts))
        encode = self._tokenizer.encode_batch if offsets else self._tokenizer.encode_batch_fast
        try:
            encodings: list[Encoding] = encode(list(unique))
        except (TypeError, UnicodeError) as e:
            bad = next((t for t in unique if not _is_unicode(t)), "")
            raise InputError(f"{bad!r:.60} is not valid Unicode text, so it cannot be tokenized: replace it.") from e
        if len(unique) == len(texts):
            return encodings
        by_text = dict(zip(unique, encodings, strict=True))
        return [by_text[t] for t in texts]

    def _finish(self, first: Encoding, second: Encoding | None, truncation: Truncation) -> list[Encoding]:
        room = min(truncation.max_length or self.max_length, self.max_length) - self._added[second is not None]
        if len(first) + (0 if second is None else len(second)) <= room:
            rows = [self._processor.process(first, second)]
        else:
            firsts, seconds = self._cut(first, second, max(room, 0), truncation)
            rows = [self._processor.process(a, b) for a in firsts for b in seconds]
        if not len(rows[0]):
            raise InputError("the text gives no token, and this model needs at least one: leave it out.")
        return rows

    def _cut(
        self, first: Encoding, second: Encoding | None, room: int, truncation: Truncation
    ) -> tuple[list[Encoding], list[Encoding] | list[None]]:
        sizes = (len(first), None if second is None else len(second))
        keep = fit(*sizes, room, truncation.strategy)
        if truncation.stride is None and not truncation.asked and not self._warned:
            self._warned = True
            added = self._added[second is not None]
            warnings.warn(
                f"a text of {sum(s or 0 for s in sizes) + added} tokens was cut to {room + added}, the most that this"
                " model takes; later ones are cut without a word.",
                stacklevel=2,
            )
        firsts = self._shorten(first, keep[0], truncation)
        if second is None or keep[1] is None:
            return firsts, [None]
        return firsts, self._shorten(second, keep[1], truncation)

    def _shorten(self, encoding: Encoding, length: int, truncation: Truncation) -> list[Encoding]:
        """The encoding's first tokens, or, with a stride, all its windows."""
        if len(encoding) <= length:
            return [encoding]
        stride = truncation.stride or 0
        if length and stride >= length:
            raise UsageError(
                f"windows of {length} tokens cannot overlap by {stride}: use a smaller stride, or a larger max_length."
            )
        # ``truncate`` works in place, and other pairs may hold the same encoding.
        copy = type(encoding).merge([encoding], growing_offsets=False)
        copy.truncate(length, stride=stride, direction=self.spec.truncation_side)
        return [copy] if truncation.stride is None else [copy, *copy.overflowing]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeError:
        return False
    return True
