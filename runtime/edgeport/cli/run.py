"""``edgeport run``: texts in, one line of JSON for each out. Knows how to call a pipeline, and no task's insides."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from edgeport.cli.items import Item, items_of
from edgeport.cli.options import add_generation_arguments, add_option_argument, add_session_arguments, given_options
from edgeport.cli.streams import lines_of, plain_warnings, printable, utf8
from edgeport.errors import UsageError
from edgeport.load import load

__all__ = ["add_arguments", "run"]

_BATCH_SIZE = 32

_DESCRIPTION = """\
Run a bundle on texts, and print one line of JSON for each, in order. Texts are arguments, or lines on stdin.
A text that is a JSON object gives several inputs by name ({"question": ..., "context": ...}), a chat
({"messages": [...]}), or options for it alone.
"""
_EPILOG = """\
examples:
  edgeport run intents 'I lost my card' --top-k 3
  cat mails.txt | edgeport run intents --batch-size 16 > labels.jsonl
  edgeport run qa --question 'Who wrote it?' --context 'It was written by Ada.'
  edgeport run nli 'The match was lost' --candidate-labels sport,politics --option multi_label=true
  edgeport run ner 'Ada lives in London' --aggregation-strategy simple
  edgeport run writer 'Once upon a time' --max-new-tokens 60 --seed 1 --stream
  edgeport run writer '{"messages": [{"role": "user", "content": "Hello!"}]}' --greedy
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="the bundle's folder")
    parser.add_argument("texts", metavar="TEXT", nargs="*", default=[], help="texts (default: each line on stdin)")
    where = parser.add_argument_group("how to run it")
    add_session_arguments(where)
    where.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help=f"most texts that run at once (default: {_BATCH_SIZE}; text-generation: 1)",
    )
    where.add_argument(
        "--stream", action="store_true", help="text-generation: print the new text as it comes, and no JSON"
    )
    task = parser.add_argument_group("options of the task")
    task.add_argument("--top-k", type=int, help="how many results for each text, or tokens to choose from")
    task.add_argument("--candidate-labels", metavar="LIST", help="zero-shot-classification: labels, comma-separated")
    task.add_argument("--question", help="question-answering: asked of every text")
    task.add_argument("--context", help="question-answering: holds the answers; the texts are then the questions")
    task.add_argument("--text-pair", metavar="TEXT", help="text-classification, text-ranking: goes with every text")
    task.add_argument(
        "--aggregation-strategy",
        choices=["none", "simple", "first", "average", "max"],
        help="token-classification: how tokens become entities (default: none)",
    )
    add_option_argument(task)
    add_generation_arguments(parser.add_argument_group("text-generation"))


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    options = given_options(args, ("top_k", "candidate_labels", "aggregation_strategy"))
    interactive = not args.texts and args.question is None and args.context is None and sys.stdin.isatty()
    size = _BATCH_SIZE if args.batch_size is None else args.batch_size
    if args.stream and args.batch_size is not None:
        raise UsageError("--stream writes one text at a time: leave --batch-size out.")
    if args.batch_size is not None and not interactive:
        options["batch_size"] = size
    with (
        plain_warnings(),
        load(
            args.bundle,
            variant=args.variant,
            providers=args.provider,
            threads=args.threads,
            batch_size=1 if interactive else size,  # someone waits for each answer
        ) as pipe,
    ):
        _check_options(pipe, options)
        texts = args.texts or _lines(args)
        items = items_of(pipe.task, texts, question=args.question, context=args.context, text_pair=args.text_pair)
        utf8(sys.stdout)
        if args.stream:
            _stream(pipe, items, options)
            return 0
        for result in _results(pipe, items, options):
            print(json.dumps(result, ensure_ascii=False, default=_plain), flush=interactive)
    return 0


def _stream(pipe: Any, items: Iterable[Item], options: Mapping[str, Any]) -> None:
    """Print each item's new text in the pieces in which it comes, and end its last line."""
    if not hasattr(pipe, "stream"):
        raise UsageError(f"--stream is for text-generation, and this bundle is for {pipe.task}: leave it out.")
    for item in items:
        _check_options(pipe, item.options)
        last = ""
        for piece in _call(pipe.stream, item.value, {**options, **item.options}):
            print(printable(piece, sys.stdout), end="", flush=True)
            last = piece
        if not last.endswith("\n"):
            print(flush=True)


def _results(pipe: Any, items: Iterable[Item], options: Mapping[str, Any]) -> Iterator[Any]:
    """One result for each item. Items in a row with the same options stream through the pipeline together."""
    for own, group in groupby(items, key=lambda item: item.options):
        _check_options(pipe, own)
        yield from _call(pipe, (item.value for item in group), {**options, **own})


def _call(function: Callable[..., Any], value: Any, options: Mapping[str, Any]) -> Iterator[Any]:
    try:
        inspect.signature(function).bind(value, **options)
    except TypeError as e:
        raise UsageError(f"{e}: give it as an option, such as --candidate-labels or --option.") from e
    results: Iterator[Any] = function(value, **options)
    return results


def _check_options(pipe: Any, options: Mapping[str, Any]) -> None:
    """Refuse an option that the pipeline does not take, in words, before Python does it in its own."""
    text, *parameters = inspect.signature(pipe).parameters.values()
    if text.name in options:
        raise UsageError(f"{text.name!r} is the text itself, and there is one already: give it once.")
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return  # it knows its options itself
    known = [p.name for p in parameters]
    for key in options:
        if key not in known:
            raise UsageError(f"{pipe.task} has no option {key!r}: it takes {', '.join(known)}.")


def _lines(args: argparse.Namespace) -> Iterator[str]:
    """The lines on stdin; none where the options already say it all."""
    if args.question is not None and args.context is not None:
        return
    for line in lines_of(sys.stdin):
        if line or not sys.stdin.isatty():  # every line of a file gets its result, empty ones too
            yield line


def _plain(value: Any) -> Any:
    """NumPy's types as JSON's."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")
