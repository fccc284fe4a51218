"""From texts on the command line to what a pipeline takes. Knows which tasks take several inputs by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeport.errors import InputError, UsageError

__all__ = ["Item", "items_of"]

_TEXT_KEYS = ("text", "inputs", "sequences")
"""Names of a lone text in a JSON object; its other keys are options."""


@dataclass(frozen=True)
class Item:
    """One input of a pipeline, and the options that it brought along."""

    value: Any
    options: Mapping[str, Any] = field(default_factory=dict)


def items_of(
    task: str, texts: Iterable[str], *, question: str | None, context: str | None, text_pair: str | None
) -> Iterator[Item]:
    """The pipeline's inputs for ``texts``, one each, in order.

    Args:
        task: The bundle's task.
        texts: Plain, or JSON objects with inputs by name.
        question: Asked of every text (question-answering).
        context: Holds the answers to every text (question-answering).
        text_pair: Goes with every text (text-classification, text-ranking).

    Raises:
        UsageError: an option that is another task's.
        InputError: a JSON object without the inputs.
    """
    if task != "question-answering" and (question is not None or context is not None):
        raise UsageError(f"--question and --context are for question-answering, and this bundle is for {task}.")
    if task not in ("text-classification", "text-ranking") and text_pair is not None:
        raise UsageError(f"--text-pair is for text-classification and text-ranking, and this bundle is for {task}.")
    return _items(task, texts, question, context, text_pair)


def _items(
    task: str, texts: Iterable[str], question: str | None, context: str | None, pair: str | None
) -> Iterator[Item]:
    if question is not None and context is not None:
        if list(texts):
            raise UsageError("--question and --context leave no room for a TEXT: leave one of the three out.")
        yield Item({"question": question, "context": context})
        return
    for text in texts:
        named = _json_object(text)
        if task == "question-answering":
            yield _question(text, named, question, context)
        elif task == "text-ranking":
            yield _ranking(text, named, pair)
        elif task == "text-classification" and named is None:
            yield Item(text if pair is None else {"text": text, "text_pair": pair})
        elif task == "text-classification":
            yield _split(named or {}, ("text", "text_pair"))
        elif task == "text-generation" and named is not None:
            yield _lone_text(named, (*_TEXT_KEYS, "messages"))
        else:
            yield Item(text) if named is None else _lone_text(named)


def _json_object(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None  # a text may begin with a brace
    return value if isinstance(value, dict) else None


def _question(text: str, named: Mapping[str, Any] | None, question: str | None, context: str | None) -> Item:
    if named is None and question is None and context is None:
        raise InputError(
            "question-answering needs a question and a context: give --question or --context, or lines such as "
            '{"question": ..., "context": ...}.'
        )
    if named is None:
        return Item({"question": question or text, "context": context or text})
    given = {k: v for k, v in {"question": question, "context": context}.items() if v is not None}
    return _split({**given, **named}, ("question", "context"))


def _ranking(text: str, named: Mapping[str, Any] | None, pair: str | None) -> Item:
    if named is not None:
        item = _split(named, ("text", "text_pair"))
        return Item((item.value.get("text"), item.value.get("text_pair", pair)), item.options)
    if pair is None:
        raise InputError(
            'text-ranking needs two texts: give --text-pair, or lines such as {"text": query, "text_pair": document}.'
        )
    return Item((text, pair))


def _split(named: Mapping[str, Any], keys: tuple[str, ...]) -> Item:
    return Item({k: v for k, v in named.items() if k in keys}, {k: v for k, v in named.items() if k not in keys})


def _lone_text(named: Mapping[str, Any], keys: tuple[str, ...] = _TEXT_KEYS) -> Item:
    key = next((key for key in keys if key in named), None)
    if key is None:
        wanted = "'text'" if keys == _TEXT_KEYS else "'text' or 'messages'"
        raise InputError(f"the JSON object has {', '.join(named) or 'no key'}, and no text: add the key {wanted}.")
    return Item(named[key], {k: v for k, v in named.items() if k != key})
