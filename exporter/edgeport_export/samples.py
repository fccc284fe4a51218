"""Inputs for tracing and for comparing: real sentences through the model's own tokenizer, in many shapes.

Every batch is a mapping of input name to int64 array of shape (batch, sequence); the names are those that both the
tokenizer gives and the model takes.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edgeport.errors import ExportError, UsageError
from numpy.typing import NDArray

from edgeport_export.batch import Batch
from edgeport_export.recipe import CALIBRATED, Recipe
from edgeport_export.source import Source

__all__ = [
    "Batch",
    "EvaluationText",
    "capture_batch",
    "check_vocabulary",
    "evaluation_text",
    "in_shape",
    "input_names",
    "padding_batches",
    "timing_batches",
    "validation_batches",
]

SENTENCES = (
    "Good morning.",
    "The harbour was quiet, and the last boat had left an hour ago.",
    "Please move my appointment on Tuesday, 14 March, to the week after.",
    "She paid £3.50 for coffee at Waterloo Station and ran for the 8:15 train.",
    "Why would anyone file the minutes of a meeting that never took place?",
    "Aspirin may cause bleeding in patients who already take warfarin.",
    "Das neue Museum in Zürich öffnet erst im nächsten Frühjahr.",
    "E-mail support@example.org if the update (v2.1.0-rc3) fails with error 0x80070005!",
    "I loved the first half of the film; the second half put me to sleep.",
    "Water boils at a lower temperature on a mountain, because the pressure of the air above it is smaller there than "
    "it is at the level of the sea.",
    "Marie Curie was born in Warsaw, studied in Paris, and received two Nobel Prizes.",
    "ok",
)
"""Short and long, questions and statements, names, numbers, accents and punctuation."""

QUESTION = "Who was born in Zürich?"
"""What comes first where the task takes pairs."""

_EVALUATED = 4096
"""Tokens, at most, that a model which writes text is scored on."""
_EVALUATED_VALUES = 2**24
"""Predictions that are kept of them, at most (two bytes each): 4,096 tokens of a vocabulary of as many."""
_EVALUATED_LEAST = 512
"""Tokens that there are to be however large the vocabulary is."""
_PIECE = 128
"""Tokens that are read at once."""

_PAIRED = ("question-answering", "text-ranking", "zero-shot-classification")
_TOKENIZER_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def input_names(source: Source, given: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The graph's inputs, in order: what the tokenizer gives (for a text, unless it is known) and the model takes."""
    given = source.tokenizer(SENTENCES[0]) if given is None else given
    taken = inspect.signature(source.model.forward).parameters
    known = _TOKENIZER_INPUTS[:2] if source.task.generates else _TOKENIZER_INPUTS
    return tuple(name for name in known if name in given and name in taken)


def capture_batch(source: Source, shape: tuple[int, int] | None = None) -> Batch:
    """A small padded batch to trace with: at least two rows of different length, unless ``shape`` fixes it."""
    if shape is not None:
        return _encode(source, SENTENCES[1 : 1 + shape[0]] or SENTENCES[:1], length=shape[1], rows=shape[0])
    # The short ones give padding even where a tokenizer makes a token of every letter.
    return _encode(source, (SENTENCES[1], SENTENCES[-1], SENTENCES[0]), length=min(23, source.max_length))


def validation_batches(
    source: Source, shape: tuple[int, int] | None = None, text: EvaluationText | None = None
) -> list[Batch]:
    """Batches of several sizes, lengths and paddings, the longest input included.

    Args:
        source: The model.
        shape: (rows, tokens) of every batch, where the graph has one shape.
        text: What is read anyway, where the model writes text: nothing that is as long as its first piece is added.
    """
    if shape is not None:
        rows, length = shape
        texts = (SENTENCES * rows)[: 2 * rows]
        return [_encode(source, texts[i : i + rows], length=length, rows=rows) for i in range(0, 2 * rows, rows)]
    longest = min(source.max_length, 512)
    if source.task.generates:  # every token's logits are as wide as the vocabulary: less of it
        batches = [
            _encode(source, SENTENCES[:1]),
            _encode(source, SENTENCES[:4]),
            _encode(source, SENTENCES[4:6], length=min(longest, 48)),
        ]
        if text is None or text.piece_tokens < min(longest, _PIECE):
            batches.append(_encode(source, (" ".join(SENTENCES * 4),), length=min(longest, _PIECE)))
        return batches
    batches = [
        _encode(source, SENTENCES[:1]),
        _encode(source, SENTENCES[:4]),
        _encode(source, SENTENCES),
        _encode(source, SENTENCES[4:6], length=min(longest, 64)),
        _encode(source, (" ".join(SENTENCES * 4),), length=min(longest, 128)),
    ]
    if longest > 128:
        batches.append(_encode(source, (" ".join(SENTENCES * 12),), length=longest))
    return batches


def padding_batches(source: Source) -> list[tuple[Batch, Batch]]:
    """Texts alone and with padding, to see whether the model notices.

    One of them has a token or two: a convolution carries padding a few places only, and must reach the first token.
    """
    pairs = []
    for text in (SENTENCES[-1:], SENTENCES[1:2]):
        alone = _encode(source, text)
        length = alone["input_ids"].shape[1]
        pairs.append((alone, _encode(source, text, length=min(length + 9, max(source.max_length, length)))))
    return pairs


@dataclass(frozen=True)
class EvaluationText:
    """A text in pieces for a model that writes text to predict."""

    name: str
    """The file's, or what the text is called that comes along."""
    sha256: str
    pieces: Sequence[list[int]]
    """Token ids. Each begins as the tokenizer begins a text; a token is predicted from those before it in its piece."""
    unpredicted: int
    """Tokens behind the first of each piece that are not predicted: special ones."""

    def batch(self, start: int = 0, rows: int = 1) -> Batch:
        """Pieces to read, without their last tokens: from ``start`` on, at most ``rows``, all as long as the first."""
        some = self.pieces[start : start + rows]
        ids = np.array([piece[:-1] for piece in takewhile(lambda p: len(p) == len(some[0]), some)], np.int64)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    @property
    def piece_tokens(self) -> int:
        """How many are read at once: by the first piece, which is as long as any."""
        return len(self.pieces[0]) - 1

    @property
    def tokens(self) -> int:
        """How many are predicted."""
        return sum(len(piece) - 1 - self.unpredicted for piece in self.pieces)

    def to_dict(self) -> dict[str, Any]:
        """What the manifest says of it."""
        counts = {"tokens": self.tokens, "piece_tokens": self.piece_tokens}
        return {"name": self.name, "sha256": self.sha256, **counts}


def evaluation_text(source: Source, recipe: Recipe) -> EvaluationText:
    """The recipe's text, or the one that comes along: pieces from all over it.

    Raises:
        UsageError: the file cannot be read, is too short, or has in it what the weights are calibrated with.
    """
    text = _evaluated(recipe)
    tokenizer = source.tokenizer
    marked = tokenizer(SENTENCES[0], return_special_tokens_mask=True)
    both = zip(marked["input_ids"], marked["special_tokens_mask"], strict=True)
    start = [number for number, _ in takewhile(lambda pair: pair[1], both)]
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if len(ids) < 2:
        raise UsageError(f"--evaluation {recipe.evaluation!r} has {len(ids)} tokens: give some thousand of them.")
    check_vocabulary(source, max(ids))
    read = min(_PIECE, source.max_length)
    own = max(read + 1 - len(start), 2)  # the last one is predicted and not read
    vocabulary = source.task_options["vocab_size"]
    most = max(1, min(_EVALUATED, max(_EVALUATED_LEAST, _EVALUATED_VALUES // vocabulary)) // read)
    # Where nothing stands before it, a piece's first token is predicted as the last of the piece before.
    overlap = 0 if start else 1
    pieces = [ids[i : i + own] for i in range(0, len(ids) - overlap, own - overlap)]
    if len(pieces) > most:
        whole = pieces[:-1]
        pieces = [whole[i * len(whole) // most] for i in range(most)]
    digest = hashlib.sha256(text.encode()).hexdigest()
    name = Path(recipe.evaluation).name if recipe.evaluation is not None else "the text that comes with edgeport"
    return EvaluationText(name, digest, [start + piece for piece in pieces], max(len(start) - 1, 0))


def _evaluated(recipe: Recipe) -> str:
    """The text, unless the weights are rounded by what it says."""
    if recipe.evaluation is None:
        return (files("edgeport_export") / "data" / "evaluation.txt").read_text(encoding="utf-8")
    text = _read("--evaluation", recipe.evaluation)
    if recipe.method in CALIBRATED and recipe.calibration is not None:
        seen = _read("--calibration", recipe.calibration)
        if text.strip() in seen or seen.strip() in text:
            raise UsageError(
                f"--evaluation {recipe.evaluation!r} and --calibration {recipe.calibration!r} share their text, and "
                f"{recipe.method} does well on what it has seen: give two texts."
            )
    return text


def _read(option: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{option} {path!r} cannot be read ({e}): give a UTF-8 text file.") from e


def timing_batches(source: Source, shape: tuple[int, int] | None = None) -> list[Batch]:
    """One short and one longer text, without padding: 1 x 16 and 1 x 128 tokens, as far as the model goes."""
    if shape is not None:
        return [capture_batch(source, shape)]
    text = (" ".join(SENTENCES * 6),)
    lengths = sorted({min(length, source.max_length) for length in (16, 128)})
    return [_encode(source, text, length=length) for length in lengths]


def _encode(
    source: Source,
    texts: tuple[str, ...],
    *,
    length: int | None = None,
    rows: int | None = None,
) -> Batch:
    tokenizer = source.tokenizer
    if rows is not None:
        texts = (texts * rows)[:rows]
    encoded = [_tokenize(source, text, length or min(source.max_length, 512)) for text in texts]
    width = length or max(len(e["input_ids"]) for e in encoded)
    # Without a padding token any id does: the attention mask hides it.
    fill = _filling(source)
    batch: dict[str, NDArray[np.int64]] = {}
    for name in input_names(source):
        array = np.full((len(texts), width), fill[name], dtype=np.int64)
        for row, e in zip(array, encoded, strict=True):
            ids = e[name]
            left = tokenizer.padding_side == "left" and not source.task.generates
            row[slice(width - len(ids), None) if left else slice(len(ids))] = ids
        batch[name] = array
    check_vocabulary(source, int(batch["input_ids"].max()))
    return batch


def in_shape(source: Source, batch: Batch, shape: tuple[int, int]) -> Iterator[Batch]:
    """A batch's rows as batches of (rows, tokens): padded or cut to it; the last row fills up the last batch."""
    rows, length = shape
    fill, left = _filling(source), source.tokenizer.padding_side == "left"
    for start in range(0, batch["input_ids"].shape[0], rows):
        piece = {}
        for name, array in batch.items():
            part = array[start : start + rows, :length]
            missing = length - part.shape[1]
            sides = (missing, 0) if left else (0, missing)
            part = np.pad(part, ((0, 0), sides), constant_values=fill[name])
            piece[name] = np.pad(part, ((0, rows - part.shape[0]), (0, 0)), mode="edge")
        yield piece


def _filling(source: Source) -> dict[str, int]:
    """What stands where there is no token, by input."""
    tokenizer = source.tokenizer
    return {
        "input_ids": tokenizer.pad_token_id or 0,
        "attention_mask": 0,
        "token_type_ids": tokenizer.pad_token_type_id,
    }


def _tokenize(source: Source, text: str, limit: int) -> Mapping[str, list[int]]:
    tokenizer = source.tokenizer
    pair = (QUESTION, text) if source.task.name in _PAIRED else (text,)
    try:
        encoded = tokenizer(*pair, truncation=True, max_length=limit)
    except Exception:  # a limit with no room for the special tokens
        encoded = tokenizer(*pair)
    # Some leave a pair as it is where the limit has no room for both.
    return {name: ids[:limit] for name, ids in encoded.items()}


def check_vocabulary(source: Source, largest: int) -> None:
    """Refuse a tokenizer whose ids lie beyond the model's table."""
    try:
        table = source.model.get_input_embeddings()
    except NotImplementedError:  # a model that hashes characters has none
        return
    size = table.num_embeddings if isinstance(table, torch.nn.Embedding) else largest + 1
    if largest >= size:
        raise ExportError(
            f"the tokenizer gives the id {largest} and the model embeds {size} ids: they do not belong together; "
            "load the tokenizer that the model was trained with."
        )
