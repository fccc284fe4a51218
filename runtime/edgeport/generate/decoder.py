"""The model as a loop sees it: tokens in, the next token's logits out, and the cache in between.

``open_decoder`` takes a session; the graph's inputs tell which of three forms it has (they are the exporter's, see
docs/bundle.md). Knows sessions and arrays; knows no text and no sampling.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from edgeport.bundle import Manifest
from edgeport.errors import BundleError, InputError

if TYPE_CHECKING:
    from edgeport.session.binding import Buffer

__all__ = ["Decoder", "GraphSession", "cache_shapes", "decoder_options", "open_decoder", "shared_start"]

Array = npt.NDArray[Any]

_CHUNK = 512
"""Tokens of a single prompt that are read at a time: bounds the memory of the attention's scores."""

_BLOCK = 256
"""Buffers grow to multiples of this many tokens."""


class GraphSession(Protocol):
    """What a decoder needs of ``edgeport.session.Session``."""

    input_names: tuple[str, ...]
    input_types: dict[str, str]
    input_shapes: dict[str, tuple[int | str | None, ...]]
    output_names: tuple[str, ...]

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Arrays by name in, arrays by name out."""

    def bind(self) -> Any:
        """A ``Binding``."""


CacheShapes = dict[str, tuple[int, int]]
"""Name of each past input to (heads, head size)."""


def cache_shapes(inputs: Mapping[str, Sequence[Any]]) -> CacheShapes:
    """The past among a graph's inputs, name to shape: (batch, heads, past, head size)."""
    return {name: (int(s[1]), int(s[3])) for name, s in inputs.items() if name.startswith("past.") and len(s) == 4}


def open_decoder(session: GraphSession, *, vocab_size: int, context_length: int | None) -> Decoder:
    """A decoder with an empty cache.

    Args:
        session: The open graph.
        vocab_size: Tokens that the logits tell apart.
        context_length: Most tokens of a row, prompt included; None for no limit.
    """
    cache = cache_shapes(session.input_shapes)
    kind = _Uncached if not cache else _Plugged if "total" in session.input_names else _Appended
    return kind(session, cache, vocab_size, context_length)


def decoder_options(manifest: Manifest) -> dict[str, Any]:
    """What ``open_decoder`` has to be told of a bundle: all its arguments but the session.

    Raises:
        BundleError: the manifest does not say how many tokens there are.
    """
    size, context = (manifest.task_options.get(name) for name in ("vocab_size", "context_length"))
    if not isinstance(size, int):
        raise BundleError("the bundle does not say how many tokens the model knows: export it again.")
    return {
        "vocab_size": size,
        "context_length": context if isinstance(context, int) else None,
    }


def shared_start(old: Sequence[int], new: Sequence[int]) -> int:
    """How many tokens ``new`` begins with as ``old`` does; never all of it, since its last token gives logits."""
    length = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    return max(0, min(length, len(new) - 1))


class Decoder(ABC):
    """Rows of tokens and their cache. Not for several threads at once."""

    def __init__(self, session: GraphSession, cache: CacheShapes, vocab_size: int, context_length: int | None) -> None:
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.tokens: list[list[int]] = []
        """What each row has read."""
        self._session = session
        self._cache = cache
        self._dtype = _cache_dtype(session, cache)

    def start(self, prompts: Sequence[Sequence[int]], *, room: int = 0) -> Array:
        """Read new prompts; a single one keeps what it shares with the row that was read before.

        Args:
            prompts: Token ids of each row; at least one each.
            room: Tokens that will follow, as far as is known: the cache is made that long at once.

        Returns:
            float32 (rows, vocab): the logits of the token after each.

        Raises:
            InputError: a prompt is empty or longer than the context.
        """
        rows = self._checked(prompts)
        kept = shared_start(self.tokens[0], rows[0]) if len(rows) == len(self.tokens) == 1 else 0
        self._reserve(len(rows), max(map(len, rows)) + room)
        if kept:
            self.truncate(kept)
            return self._extend(rows[0][kept:], last=True)
        return np.stack([logits[-1] for logits in self._read(rows, every=False)])

    def score(self, prompts: Sequence[Sequence[int]]) -> list[Array]:
        """Read new prompts as ``start`` does; returns the logits after every token, (length, vocab) for each row."""
        rows = self._checked(prompts)
        self._reserve(len(rows), max(map(len, rows)))
        return self._read(rows, every=True)

    def extend(self, tokens: Sequence[int]) -> Array:
        """Let the single row read several tokens; returns the logits after each, (tokens, vocab)."""
        self._check_room(len(tokens))
        return self._extend(list(tokens), last=False)

    def copy(self, length: int) -> Self:
        """Another decoder of the same session, which has read the single row's first ``length`` tokens."""
        other = type(self)(self._session, self._cache, self.vocab_size, self.context_length)
        other.tokens = [self.tokens[0][:length]]
        other._copy_cache(self, length)
        return other

    @abstractmethod
    def step(self, tokens: Array) -> Array:
        """Let each row read one token, int64 (rows,); returns the next logits, (rows, vocab)."""

    @abstractmethod
    def reorder(self, rows: Array) -> None:
        """New row i continues old row ``rows[i]``; a row may be repeated or left out."""

    @abstractmethod
    def truncate(self, length: int) -> None:
        """Forget what the single row read after its first ``length`` tokens."""

    @abstractmethod
    def _copy_cache(self, other: Self, length: int) -> None:
        """Take over what the other's single row has kept of its first ``length`` tokens."""

    @abstractmethod
    def _reserve(self, rows: int, length: int) -> None:
        """Make room for that many rows and tokens."""

    @abstractmethod
    def _read(self, rows: list[list[int]], *, every: bool) -> list[Array]:
        """Read prompts from the beginning; the logits after every token, or after the last, of each row."""

    @abstractmethod
    def _extend(self, tokens: list[int], *, last: bool) -> Array:
        """Let the single row go on; the logits after each token, or after the last alone."""

    def _checked(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        rows = [[int(token) for token in prompt] for prompt in prompts]
        for row in rows:
            if not row:
                raise InputError("a prompt is empty: give it at least one token.")
            self._check_length(len(row))
        return rows

    def _append(self, tokens: Array) -> None:
        """Note one more token for each row.

        Raises:
            InputError: the context has no room for it.
        """
        self._check_room(1)
        for row, token in zip(self.tokens, tokens, strict=True):
            row.append(int(token))

    def _check_room(self, more: int) -> None:
        self._check_length(max(map(len, self.tokens)) + more)

    def _check_length(self, length: int) -> None:
        if self.context_length is not None and length > self.context_length:
            raise InputError(
                f"{length} tokens are more than the model's context of {self.context_length}: "
                "shorten the prompt or ask for fewer new tokens."
            )


class _Plugged(Decoder):
    """Buffers that the graph reads and writes in place; rows are padded on the right."""

    def __init__(self, session: GraphSession, cache: CacheShapes, vocab_size: int, context_length: int | None) -> None:
        super().__init__(session, cache, vocab_size, context_length)
        self._capacity = 0
        self._rows = 0
        self._buffers: dict[str, Buffer] = {}
        self._inputs: dict[str, Array] = {}
        self._binding: Any = None

    def step(self, tokens: Array) -> Array:
        self._append(tokens)
        self._grow(max(map(len, self.tokens)))
        lengths = np.array([len(row) for row in self.tokens], np.int64)
        positions = np.zeros((len(lengths), 1), np.int64)
        return self._run(np.asarray(tokens, np.int64)[:, None], lengths, positions)[:, 0]

    def reorder(self, rows: Array) -> None:
        if len(rows) == self._rows and (rows == np.arange(self._rows)).all():
            return
        used, old = max(map(len, self.tokens)), self._buffers
        if len(rows) != self._rows:
            self._allocate(len(rows), self._capacity)
        self._fill(old, used, rows)
        self.tokens = [list(self.tokens[row]) for row in rows]

    def truncate(self, length: int) -> None:
        self.tokens = [row[:length] for row in self.tokens]

    def _copy_cache(self, other: Self, length: int) -> None:
        self._allocate(1, other._capacity)
        self._fill(other._buffers, length)

    def _reserve(self, rows: int, length: int) -> None:
        if self.context_length is not None:
            length = min(length, self.context_length)
        if rows != self._rows:
            self.tokens = []
            self._allocate(rows, -(-length // _BLOCK) * _BLOCK)
        elif length > self._capacity:
            self._grow(length)

    def _grow(self, length: int) -> None:
        if length <= self._capacity:
            return
        old, used = self._buffers, self._capacity
        # Half as much again, so that growing token by token copies each of them a few times only.
        self._allocate(self._rows, -(-max(length, used * 3 // 2) // _BLOCK) * _BLOCK)
        self._fill(old, used)

    def _allocate(self, rows: int, capacity: int) -> None:
        self._rows, self._capacity = rows, capacity
        self._inputs = {}
        self._binding = self._session.bind()
        self._binding.output("logits")
        self._buffers = {
            name: self._binding.shared(
                name, name.replace("past.", "present.", 1), (rows, heads, capacity, size), self._dtype
            )
            for name, (heads, size) in self._cache.items()
        }

    def _fill(self, others: Mapping[str, Buffer], length: int, rows: Array | slice = slice(None)) -> None:
        """Take over the first ``length`` tokens of the others' ``rows``."""
        for name, buffer in self._buffers.items():
            array = buffer.read()
            array[:, :, :length] = others[name].read()[rows, :, :length]
            buffer.write(array)

    def _read(self, rows: list[list[int]], *, every: bool) -> list[Array]:
        self.tokens = [[] for _ in rows]
        if len(rows) == 1:
            logits = self._extend(rows[0], last=not every)
            return [logits]
        width = max(map(len, rows))
        ids = np.zeros((len(rows), width), np.int64)
        for line, row in zip(ids, rows, strict=True):
            line[: len(row)] = row
        lengths = np.array([len(row) for row in rows], np.int64)
        at = np.tile(np.arange(width), (len(rows), 1)) if every else lengths[:, None] - 1
        logits = self._run(ids, lengths, at)
        self.tokens = [list(row) for row in rows]
        return [line[:length] if every else line for line, length in zip(logits, lengths, strict=True)]

    def _extend(self, tokens: list[int], *, last: bool) -> Array:
        self._grow(len(self.tokens[0]) + len(tokens))
        found = []
        for start in range(0, len(tokens), _CHUNK):
            chunk = tokens[start : start + _CHUNK]
            self.tokens[0] += chunk
            at = np.array([[len(chunk) - 1]]) if last else np.arange(len(chunk))[None]
            found.append(self._run(np.array([chunk], np.int64), np.array([len(self.tokens[0])]), at)[0])
        return found[-1] if last else np.concatenate(found)

    def _run(self, ids: Array, lengths: Array, logits_at: Array) -> Array:
        """``lengths`` (rows,) are those of the rows with the new tokens in them."""
        new, total = ids.shape[1], int(lengths.max())
        # Where rows go on, all of them have as many new tokens; where they begin, the shorter ones are padded.
        first = np.zeros_like(lengths) if new == total else lengths - new
        self._set("input_ids", ids)
        self._set("logits_at", np.asarray(logits_at, np.int64))
        if "position_ids" in self._session.input_names:
            self._set("position_ids", first[:, None] + np.arange(new))
        self._set("last", (lengths - 1).astype(np.int32))
        self._set("total", np.array(total, np.int32))
        logits: Array = self._binding.run()[0]
        return logits

    def _set(self, name: str, array: Array) -> None:
        held = self._inputs.get(name)
        if held is not None and held.shape == array.shape:
            held[...] = array
            return
        self._inputs[name] = held = np.array(array, order="C")  # our own: later tokens are written over it
        self._binding.input(name, held)


class _Appended(Decoder):
    """The graph returns the longer cache each time; rows are padded on the left."""

    def __init__(self, session: GraphSession, cache: CacheShapes, vocab_size: int, context_length: int | None) -> None:
        super().__init__(session, cache, vocab_size, context_length)
        self._mask = np.zeros((0, 0), np.int64)
        self._past: dict[str, Array] = {}

    def step(self, tokens: Array) -> Array:
        self._append(tokens)
        ids = np.asarray(tokens, np.int64)[:, None]
        return self._run(ids, np.ones_like(ids), np.zeros_like(ids))[:, 0]

    def reorder(self, rows: Array) -> None:
        self._past = {name: array[rows] for name, array in self._past.items()}
        self._mask = self._mask[rows]
        self.tokens = [list(self.tokens[row]) for row in rows]

    def truncate(self, length: int) -> None:
        self.tokens = [row[:length] for row in self.tokens]
        self._mask = self._mask[:, :length]
        self._past = {name: np.ascontiguousarray(array[:, :, :length]) for name, array in self._past.items()}

    def _copy_cache(self, other: Self, length: int) -> None:
        self._mask = other._mask[:, :length]
        self._past = {name: array[:, :, :length].copy() for name, array in other._past.items()}

    def _reserve(self, rows: int, length: int) -> None:
        return

    def _read(self, rows: list[list[int]], *, every: bool) -> list[Array]:
        self._mask = np.zeros((len(rows), 0), np.int64)
        self._past = {
            name: np.zeros((len(rows), heads, 0, size), self._dtype) for name, (heads, size) in self._cache.items()
        }
        ids, mask = _padded_left(rows)
        width = ids.shape[1]
        at = np.arange(width) if every else np.array([width - 1])
        logits = self._run(ids, mask, np.tile(at, (len(rows), 1)))
        self.tokens = [list(row) for row in rows]
        return [line[-len(row) :] for line, row in zip(logits, rows, strict=True)]

    def _extend(self, tokens: list[int], *, last: bool) -> Array:
        self.tokens[0] += tokens
        at = np.array([[len(tokens) - 1]]) if last else np.arange(len(tokens))[None]
        logits: Array = self._run(np.array([tokens], np.int64), np.ones((1, len(tokens)), np.int64), at)[0]
        return logits

    def _run(self, ids: Array, mask: Array, logits_at: Array) -> Array:
        whole = np.concatenate([self._mask, mask], axis=1)
        feeds = {
            "input_ids": ids,
            "logits_at": logits_at,
            "attention_mask": mask,
            "past_mask": self._mask,
            "position_ids": _positions(whole)[:, -ids.shape[1] :],
            **self._past,
        }
        results = self._session.run({name: feeds[name] for name in self._session.input_names})
        self._past = {name: results[name.replace("past.", "present.", 1)] for name in self._cache}
        self._mask = whole
        return results["logits"]


class _Uncached(Decoder):
    """The graph reads the whole text every time."""

    def step(self, tokens: Array) -> Array:
        self._append(tokens)
        return np.stack([logits[-1] for logits in self._read(self.tokens, every=False)])

    def reorder(self, rows: Array) -> None:
        self.tokens = [list(self.tokens[row]) for row in rows]

    def truncate(self, length: int) -> None:
        self.tokens = [row[:length] for row in self.tokens]

    def _copy_cache(self, other: Self, length: int) -> None:
        return

    def _reserve(self, rows: int, length: int) -> None:
        return

    def _read(self, rows: list[list[int]], *, every: bool) -> list[Array]:
        ids, mask = _padded_left(rows)
        width = ids.shape[1]
        at = np.tile(np.arange(width) if every else np.array([width - 1]), (len(rows), 1))
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": _positions(mask), "logits_at": at}
        logits = self._session.run({name: feeds[name] for name in self._session.input_names})["logits"]
        self.tokens = [list(row) for row in rows]
        return [line[-len(row) :] for line, row in zip(logits, rows, strict=True)]

    def _extend(self, tokens: list[int], *, last: bool) -> Array:
        row = self.tokens[0] + tokens
        logits = self._read([row], every=not last)[0]
        return logits[-1:] if last else logits[-len(tokens) :]


def _cache_dtype(session: GraphSession, cache: CacheShapes) -> npt.DTypeLike:
    """What keys and values are kept in: the graph's own type, float16 or float32."""
    return np.float16 if any(session.input_types[name] == "tensor(float16)" for name in cache) else np.float32


def _padded_left(rows: list[list[int]]) -> tuple[Array, Array]:
    """Token ids and mask, int64 (rows, longest) each."""
    width = max(map(len, rows))
    ids, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = row
        mask[i, width - len(row) :] = 1
    return ids, mask


def _positions(mask: Array) -> Array:
    """Position of each token among those that the mask lets through."""
    positions: Array = np.maximum(mask.cumsum(axis=1) - 1, 0)
    return positions
