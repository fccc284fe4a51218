"""The span of a context that answers a question. Contract: the question-answering pipeline of transformers 4.57.

From questions to rows and from logits to answers; which spans are likely is in ``answers``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeport.errors import InputError, UsageError
from edgeport.tasks.answers import Spans, likely_spans
from edgeport.tasks.base import Array, ReadingPipeline
from edgeport.tasks.options import positive
from edgeport.text import Truncation

if TYPE_CHECKING:
    from tokenizers import Encoding

__all__ = ["QuestionAnswering"]

_LONGEST_WINDOW = 384
_LONGEST_STRIDE = 128


@dataclass(frozen=True)
class _Options:
    top_k: int
    max_answer_len: int
    handle_impossible_answer: bool
    align_to_words: bool
    truncation: Truncation


@dataclass(frozen=True)
class _Question:
    question: str
    context: str


class QuestionAnswering(ReadingPipeline):
    """Graph outputs ``start_logits`` and ``end_logits`` (batch, sequence)."""

    task = "question-answering"
    outputs = ("start_logits", "end_logits")
    per_token = True

    def __call__(
        self,
        *args: Any,
        question: str | list[str] | None = None,
        context: str | list[str] | None = None,
        top_k: int = 1,
        doc_stride: int | None = None,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        max_question_len: int | None = None,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
        batch_size: int | None = None,
    ) -> Any:
        """Answer questions.

        Args:
            args: A dictionary with ``question`` and ``context``, a list or an iterator of them, or two strings.
            question: The question, or several.
            context: The text that holds the answer: one for all questions, or one for each.
            top_k: Most answers to a question.
            doc_stride: Overlap in tokens of the windows that a long context is split into; 128 or half a window.
            max_answer_len: Longest answer in tokens.
            max_seq_len: Longest window in tokens, the question included; 384 or the model's limit.
            max_question_len: Accepted and without effect, as with every fast tokenizer of transformers.
            handle_impossible_answer: Whether "no answer" is an answer: an empty one at 0.
            align_to_words: Widen answers to whole words, where the tokenizer knows words.
            batch_size: Most windows that run at once.

        Returns:
            ``{"score": float, "start": int, "end": int, "answer": str}`` (characters of the context), or a list of
            these where there are several; a list of such results for several questions.

        Raises:
            InputError: a question or a context that is missing, empty, or no string; a question that fills the window.
            UsageError: an unknown option value.
        """
        options = _Options(
            positive("top_k", top_k),
            positive("max_answer_len", max_answer_len),
            bool(handle_impossible_answer),
            bool(align_to_words),
            self._windows(max_seq_len, doc_stride),
        )
        inputs = _gather(args, question, context)
        if isinstance(inputs, Iterator):
            return self._map(map(_normalize, inputs), options, batch_size)
        questions = [_normalize(item) for item in inputs]
        return self._map(questions[0] if len(questions) == 1 else questions, options, batch_size)

    @property
    def _question_first(self) -> bool:
        return self._text.spec.padding_side == "right"

    def _windows(self, max_seq_len: int | None, doc_stride: int | None) -> Truncation:
        default = min(self._text.max_length, _LONGEST_WINDOW)
        length = default if max_seq_len is None else positive("max_seq_len", max_seq_len)
        stride = min(length // 2, _LONGEST_STRIDE) if doc_stride is None else doc_stride
        if isinstance(stride, bool) or not isinstance(stride, int) or not 0 <= stride <= length:
            raise UsageError(f"doc_stride={stride!r} is no number of tokens from 0 to max_seq_len ({length}).")
        return Truncation(length, "only_second" if self._question_first else "only_first", stride)

    def _encode(self, items: list[_Question], options: _Options) -> list[list[Encoding]]:
        texts = [item.question for item in items], [item.context for item in items]
        firsts, seconds = texts if self._question_first else texts[::-1]
        return self._text.encode(firsts, seconds, truncation=options.truncation, offsets=True)

    def _read(self, row: Encoding, values: tuple[Array, ...], options: _Options) -> tuple[Encoding, Spans]:
        start, end = values
        # Some candidates fall together when they are widened to words.
        count = options.top_k * 2 + 10 if options.align_to_words else options.top_k
        return row, likely_spans(start, end, self._allowed(row), count, options.max_answer_len)

    def _allowed(self, row: Encoding) -> Array:
        """Tokens that an answer may hold: the context's, and CLS, which stands for "no answer"."""
        if not self._question_first:
            return np.ones(len(row), dtype=bool)
        cls = self._text.special_id("cls_token")
        return np.array([i == 1 or token == cls for i, token in zip(row.sequence_ids, row.ids, strict=True)])

    def _finish(self, item: _Question, kept: list[tuple[Encoding, Spans]], options: _Options) -> Any:
        answers: dict[str, dict[str, Any]] = {}
        for row, spans in kept:
            for first, last, score in zip(spans.starts, spans.ends, spans.scores, strict=True):
                start, end = self._characters(row, int(first), int(last), options.align_to_words)
                text = item.context[start:end]
                answer = answers.setdefault(text.lower(), {"score": 0.0, "start": start, "end": end, "answer": text})
                answer["score"] += float(score)
        found = list(answers.values())
        if options.handle_impossible_answer:
            found.append({"score": min(spans.null_score for _, spans in kept), "start": 0, "end": 0, "answer": ""})
        found = sorted(found, key=lambda answer: -answer["score"])[: options.top_k]
        return found[0] if len(found) == 1 else found

    def _characters(self, row: Encoding, first: int, last: int, align_to_words: bool) -> tuple[int, int]:
        if align_to_words:
            sequence = 1 if self._question_first else 0
            words = [row.token_to_word(token) for token in (first, last)]
            spans = [None if word is None else row.word_to_chars(word, sequence_index=sequence) for word in words]
            if spans[0] is not None and spans[1] is not None:
                return spans[0][0], spans[1][1]
        return row.offsets[first][0], row.offsets[last][1]


def _gather(args: tuple[Any, ...], question: Any, context: Any) -> list[Any] | Iterator[Any]:
    """The items, from any of the ways to pass them."""
    if args:
        if len(args) == 2 and all(isinstance(arg, str) for arg in args):
            return [{"question": args[0], "context": args[1]}]
        inputs = args[0] if len(args) == 1 else list(args)
        if isinstance(inputs, dict):
            return [inputs]
        if isinstance(inputs, list | tuple):
            return list(inputs)
        if isinstance(inputs, Iterator):
            return inputs
        raise InputError(f"question-answering takes dictionaries with question and context, not {inputs!r:.60}.")
    if isinstance(question, str) and isinstance(context, str):
        return [{"question": question, "context": context}]
    if isinstance(question, list) and isinstance(context, str):
        return [{"question": q, "context": context} for q in question]
    if isinstance(question, list) and isinstance(context, list):
        if len(question) != len(context):
            raise InputError(
                f"{len(question)} questions do not go with {len(context)} contexts: give one context for each."
            )
        return [{"question": q, "context": c} for q, c in zip(question, context, strict=True)]
    raise InputError(
        "question-answering takes question= and context=: two strings, two lists, or questions and one context."
    )


def _normalize(item: Any) -> _Question:
    if not isinstance(item, dict):
        raise InputError(f"a question is a dictionary with question and context, not {item!r:.60}.")
    for key in ("question", "context"):
        if key not in item:
            raise InputError(f"the dictionary of a question lacks {key!r}; it has {list(item)}.")
        if not isinstance(item[key], str) or not item[key]:
            raise InputError(f"{key} must be a string that is not empty, not {item[key]!r:.60}.")
    if len(item) > 2:
        raise InputError(f"the dictionary of a question has the keys question and context, not {list(item)}.")
    return _Question(item["question"], item["context"])
