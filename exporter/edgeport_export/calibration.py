"""Calibration samples: the rows of a file as a model reads them, with labels where the rows have some.

What rounds, prunes or distils a model wants to see what the model will see. Any file that the task's scorer reads will
do, labelled or not, and so does plain text (``.txt``: a row a line; for models that write text, pieces of the whole).
Rows of one length go into one batch, so that there is no padding to keep out of anybody's sums.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from edgeport.errors import UsageError
from torch import Tensor

from edgeport_export.quality import SCORERS
from edgeport_export.quality.rows import Row, Scorer, columns_of, read_rows
from edgeport_export.recipe import Recipe
from edgeport_export.samples import check_vocabulary, input_names
from edgeport_export.source import Source

__all__ = ["Calibration", "LabelledBatch", "corpus", "load_calibration"]

_LONGEST = 512
"""Tokens of a row, at most."""
_PIECE = 128
"""Tokens that a model which writes text reads at once."""


@dataclass(frozen=True)
class LabelledBatch:
    """Rows of one length."""

    inputs: Mapping[str, Tensor]
    """(rows, tokens) int64, by the names of the model's inputs; nothing is padded."""
    labels: Mapping[str, Tensor]
    """By the names that the model's ``forward`` computes a loss from: ``labels`` (class ids, scores, or a flag for each
    class; tags with -100 off the first token of a word; next tokens) or ``start_positions`` and ``end_positions``;
    empty where there are none."""


@dataclass(frozen=True)
class Calibration:
    """The rows of a calibration file, as the model reads them."""

    name: str
    rows: Sequence[Mapping[str, Any]]
    """Lists of token ids by input name, and the labels beside them."""
    available: int
    """Rows of the file, of which ``rows`` are a sample."""
    labels: tuple[str, ...]
    """Which of a row's names are labels; none where the loss is to be against the original's own outputs."""

    def batches(self, size: int = 16, *, tokens: int | None = None) -> list[LabelledBatch]:
        """All rows, the short ones first, ``size`` at most to a batch, and no more ``tokens`` unless one row has."""
        return [self._batch(rows) for rows in _of_one_length(self.rows, size, tokens)]

    def _batch(self, rows: Sequence[Mapping[str, Any]]) -> LabelledBatch:
        tensors = {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
        inputs = {name: tensor for name, tensor in tensors.items() if name not in self.labels}
        return LabelledBatch(inputs, {name: tensors[name] for name in self.labels})

    def __str__(self) -> str:
        kind = "labelled" if self.labels else "unlabelled"
        of = f" of {self.available:,}" if self.available > len(self.rows) else ""
        return f"{len(self.rows):,}{of} {kind} rows of {self.name}"


def load_calibration(source: Source, recipe: Recipe, rows: int = 512, *, tokens: int | None = None) -> Calibration:
    """At most ``rows`` rows of the recipe's calibration file, drawn by its seed; fewer where they have more ``tokens``.

    Raises:
        UsageError: there is no file, it cannot be read or has no rows, or a label is not the model's.
    """
    path = _file(recipe)
    labels: tuple[str, ...] = ("labels",)
    if source.task.generates:
        found = _pieces(source, path, recipe.columns)
    else:
        encode = _ENCODE[source.task.name]
        given, labelled = _read(path, source.task.name, recipe.columns)
        found = [row for number, one in enumerate(given, 1) for row in encode.rows(source, one, labelled, number)]
        labels = encode.labels if labelled else ()
    chosen = random.Random(recipe.seed).sample(range(len(found)), min(rows, len(found)))
    if tokens is not None:
        read = accumulate(len(found[i]["input_ids"]) for i in chosen)
        chosen = [i for i, so_far in zip(chosen, read, strict=True) if so_far <= tokens] or chosen[:1]
    sample = [found[i] for i in sorted(chosen)]
    check_vocabulary(source, max(max(row["input_ids"]) for row in sample))
    return Calibration(path.name, sample, len(found), labels)


def corpus(source: Source, recipe: Recipe) -> list[str | list[str]]:
    """All that the recipe's calibration file has for the model to read, uncut: texts, and words where it reads those.

    Raises:
        UsageError: there is no file, it cannot be read, or has no rows.
    """
    path = _file(recipe)
    if source.task.generates:
        return list(_texts(path, recipe.columns))
    rows, _ = _read(path, source.task.name, recipe.columns)
    found = (row[column] for row in rows for column in _ENCODE[source.task.name].columns if column in row)
    return [[str(word) for word in value] if isinstance(value, list) else str(value) for value in found]


def _file(recipe: Recipe) -> Path:
    if recipe.calibration is None:
        raise UsageError("there are no samples of what the model will see: pass --calibration FILE.")
    return Path(recipe.calibration)


def _of_one_length(
    rows: Sequence[Mapping[str, Any]], size: int, tokens: int | None
) -> Iterator[list[Mapping[str, Any]]]:
    by_length: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_length.setdefault(len(row["input_ids"]), []).append(row)
    for length, same in sorted(by_length.items()):
        step = size if tokens is None else min(size, max(1, tokens // length))
        yield from (same[i : i + step] for i in range(0, len(same), step))


@dataclass(frozen=True)
class _Encode:
    """How a task's rows become inputs and labels."""

    columns: tuple[str, ...]
    """What the model reads; lines of plain text are the first of them, where there is only one."""
    target: tuple[str, ...]
    """Columns with the answer; a file need not have them."""
    labels: tuple[str, ...]
    """What the answer becomes."""
    rows: Callable[[Source, Row, bool, int], Iterator[dict[str, Any]]]
    """A row, whether it is labelled, and its number in the file, to one or more encoded ones."""


def _read(path: Path, task: str, columns: Mapping[str, str]) -> tuple[list[Row], bool]:
    """The file's rows, and whether they are labelled. Where labels are named, or some rows have them, all rows must."""
    encode, scorer = _ENCODE[task], SCORERS.get(task)
    plain = scorer.plain if scorer is not None else None
    if path.suffix == ".txt":
        if encode.columns[-1] not in ("text", "tokens", "sentence2"):
            raise UsageError(
                f"--calibration {str(path)!r} is plain text, and this task reads {' and '.join(encode.columns)}: "
                "give a .csv or .jsonl file with these columns."
            )
        lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
        if not lines:
            raise UsageError(f"--calibration {str(path)!r} has no lines: give a text file with a sample a line.")
        return [{"text": line, "tokens": line.split(), "sentence1": line} for line in lines], False
    every = (*encode.columns, *encode.target)
    meant = any(column in columns or column in columns_of(path) for column in encode.target)
    try:
        return read_rows(path, _reads(every, plain), columns), bool(encode.labels)
    except UsageError:
        if meant or not encode.target:
            raise
        return read_rows(path, _reads(encode.columns, plain), columns), False


def _reads(columns: tuple[str, ...], plain: Callable[[str, str], list[Row]] | None = None) -> Scorer:
    return Scorer(columns, score=lambda *_: {}, plain=plain)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"--calibration {str(path)!r} cannot be read ({e}): give a UTF-8 text file.") from e


def _is_plain(path: Path) -> bool:
    return path.suffix not in (".jsonl", ".json", ".csv")


def _texts(path: Path, columns: Mapping[str, str]) -> list[str]:
    """For a model that writes text: the whole file, or the rows of one."""
    return [_text(path)] if _is_plain(path) else [row["text"] for row in read_rows(path, _reads(("text",)), columns)]


def _pieces(source: Source, path: Path, columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """Texts in pieces of as many tokens as are read at once; a text shorter than that is a piece by itself, unless
    it is what is left of a longer one. The next token is the label, which transformers' models shift by themselves."""
    plain, length = _is_plain(path), min(_PIECE, source.max_length)
    texts = _texts(path, columns)
    encoded = [source.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
    pieces = [ids[i : i + length] for ids in encoded for i in range(0, max(len(ids) - length, 0) + 1, length)]
    pieces = [piece for piece in pieces if len(piece) >= (length if plain else 2)]
    if not pieces:
        raise UsageError(f"--calibration {str(path)!r} has {sum(map(len, encoded))} tokens: give at least {length}.")
    names = input_names(source)
    return [
        {"input_ids": p, **({"attention_mask": [1] * len(p)} if "attention_mask" in names else {}), "labels": p}
        for p in pieces
    ]


def _encode(source: Source, *texts: Any, words: bool = False) -> tuple[dict[str, Any], Any]:
    """A text, a pair, or one of words: the model's inputs, and all that the tokenizer gave."""
    limit = min(source.max_length, _LONGEST)
    given = source.tokenizer(*texts, truncation=True, max_length=limit, is_split_into_words=words)
    return {name: given[name] for name in input_names(source, given)}, given


def _one_text(source: Source, row: Row, labelled: bool, number: int) -> Iterator[dict[str, Any]]:
    encoded, _ = _encode(source, str(row["text"]))
    yield {**encoded, **({"labels": _class(source, row["label"], number)} if labelled else {})}


def _two_texts(first: str, second: str) -> Callable[[Source, Row, bool, int], Iterator[dict[str, Any]]]:
    def rows(source: Source, row: Row, labelled: bool, number: int) -> Iterator[dict[str, Any]]:
        encoded, _ = _encode(source, str(row[first]), str(row[second]))
        yield {**encoded, **({"labels": _class(source, row["label"], number)} if labelled else {})}

    return rows


def _each_sentence(source: Source, row: Row, labelled: bool, number: int) -> Iterator[dict[str, Any]]:
    """Both sentences of a pair by themselves, as the model reads them."""
    for name in ("sentence1", "sentence2"):
        if name in row:
            yield _encode(source, str(row[name]))[0]


def _tagged_words(source: Source, row: Row, labelled: bool, number: int) -> Iterator[dict[str, Any]]:
    encoded, given = _encode(source, [str(word) for word in row["tokens"]], words=True)
    if labelled:
        tags = [_class(source, tag, number) for tag in row["tags"]]
        words = given.word_ids()
        first = [w is not None and (i == 0 or words[i - 1] != w) for i, w in enumerate(words)]
        encoded["labels"] = [tags[w] if begins else -100 for w, begins in zip(words, first, strict=True)]
    yield encoded


def _answered(source: Source, row: Row, labelled: bool, number: int) -> Iterator[dict[str, Any]]:
    """A question and its context. An answer that there is not, or that the limit cuts off, is the first token."""
    encoded, given = _encode(source, str(row["question"]), str(row["context"]))
    if labelled:
        start, end = _span(row["answers"], number)
        first = last = 0
        if end > start:
            inside = [i for i, part in enumerate(given.sequence_ids()) if part == 1]
            spans = [given.token_to_chars(i) for i in inside]
            touched = [i for i, s in zip(inside, spans, strict=True) if s.start < end and s.end > start]
            if touched and spans[-1].end >= end:
                first, last = touched[0], touched[-1]
        encoded |= {"start_positions": first, "end_positions": last}
    yield encoded


def _span(answers: Any, number: int) -> tuple[int, int]:
    """First and last character of the first answer, in SQuAD's form; empty where there is no answer."""
    try:
        if isinstance(answers, Mapping):
            answers = [
                {"text": t, "answer_start": s} for t, s in zip(answers["text"], answers["answer_start"], strict=True)
            ]
        if not answers:
            return 0, 0
        start = int(answers[0]["answer_start"])
        return start, start + len(answers[0]["text"])
    except (TypeError, KeyError, ValueError) as e:
        raise UsageError(
            f"answers of row {number} are {answers!r:.80}: write {{'text': …, 'answer_start': …}} as SQuAD does."
        ) from e


def _class(source: Source, label: Any, number: int) -> int | float | list[float]:
    """What the loss wants for a label: a class id, a score of a regression, or a flag for each class."""
    config = source.config
    if config.problem_type == "multi_label_classification":
        chosen = {_class_id(source, one, number) for one in (label if isinstance(label, list) else [label])}
        return [float(i in chosen) for i in range(config.num_labels)]
    if config.problem_type == "regression" or config.num_labels == 1:
        try:
            return float(label)
        except (TypeError, ValueError) as e:
            raise UsageError(f"label {label!r} of row {number} is no number, and the model gives scores.") from e
    return _class_id(source, label, number)


def _class_id(source: Source, label: Any, number: int) -> int:
    names = {str(name): int(i) for i, name in source.config.id2label.items()}
    if str(label) in names:
        return names[str(label)]
    if str(label).isdecimal() and int(label) < source.config.num_labels:
        return int(label)
    shown = ", ".join(list(names)[:8]) + (", …" if len(names) > 8 else "")
    raise UsageError(f"label {label!r} of row {number} is not one of the model's ({shown}): correct the file.")


_TEXT = _Encode(("text",), (), (), _one_text)

_ENCODE: Mapping[str, _Encode] = {
    "text-classification": _Encode(("text",), ("label",), ("labels",), _one_text),
    "token-classification": _Encode(("tokens",), ("tags",), ("labels",), _tagged_words),
    "question-answering": _Encode(
        ("question", "context"), ("answers",), ("start_positions", "end_positions"), _answered
    ),
    "fill-mask": _TEXT,
    "feature-extraction": _TEXT,
    "sentence-embedding": _Encode(("sentence1", "sentence2"), ("score",), (), _each_sentence),
    "zero-shot-classification": _Encode(
        ("premise", "hypothesis"), ("label",), ("labels",), _two_texts("premise", "hypothesis")
    ),
    "text-ranking": _Encode(("query", "document"), ("label",), ("labels",), _two_texts("query", "document")),
}
