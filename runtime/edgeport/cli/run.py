"""``edgeport run``: texts in, one line of JSON for each out. Knows how to call a pipeline, and no task's insides."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from edgeport.cli.items import Item, items_of
from edgeport.errors import InputError, UsageError
from edgeport.load import load
from edgeport.session.providers import PROVIDERS

__all__ = ["add_arguments", "run"]

_DESCRIPTION = """\
Run a bundle on texts, and print one line of JSON for each, in order. Texts are arguments, or lines on stdin.
A text that is a JSON object gives several inputs by name ({"question": ..., "context": ...}), or options for it alone.
"""
_EPILOG = """\
examples:
  edgeport run intents 'I lost my card' --top-k 3
  cat mails.txt | edgeport run intents --batch-size 16 > labels.jsonl
  edgeport run qa --question 'Who wrote it?' --context 'It was written by Ada.'
  edgeport run nli 'The match was lost' --candidate-labels sport,politics --option multi_label=true
  edgeport run ner 'Ada lives in London' --aggregation-strategy simple
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="the bundle's folder")
    parser.add_argument("texts", metavar="TEXT", nargs="*", default=[], help="texts (default: each line on stdin)")
    where = parser.add_argument_group("how to run it")
    where.add_argument("--variant", help="which variant, such as int8 (default: the fastest that fits this machine)")
    where.add_argument("--provider", help=f"comma-separated, from {', '.join(PROVIDERS)} (default: cpu)")
    where.add_argument("--threads", type=int, help="threads within an operation (default: the cores allowed here)")
    where.add_argument("--batch-size", type=int, default=32, help="most texts that run at once (default: %(default)s)")
    task = parser.add_argument_group("options of the task")
    task.add_argument("--top-k", type=int, help="how many results for each text (default: the task's own)")
    task.add_argument("--candidate-labels", metavar="LIST", help="zero-shot-classification: labels, comma-separated")
    task.add_argument("--question", help="question-answering: asked of every text")
    task.add_argument("--context", help="question-answering: holds the answers; the texts are then the questions")
    task.add_argument("--text-pair", metavar="TEXT", help="text-classification, text-ranking: goes with every text")
    task.add_argument(
        "--aggregation-strategy",
        choices=["none", "simple", "first", "average", "max"],
        help="token-classification: how tokens become entities (default: none)",
    )
    task.add_argument(
        "--option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="any other option of the task's pipeline; VALUE is JSON, or else a string",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    options = _options(args)
    interactive = not args.texts and args.question is None and args.context is None and sys.stdin.isatty()
    with (
        _plain_warnings(),
        load(
            args.bundle,
            variant=args.variant,
            providers=args.provider,
            threads=args.threads,
            batch_size=1 if interactive else args.batch_size,  # someone waits for each answer
        ) as pipe,
    ):
        _check_options(pipe, options)
        texts = args.texts or _lines(sys.stdin, args)
        items = items_of(pipe.task, texts, question=args.question, context=args.context, text_pair=args.text_pair)
        _utf8(sys.stdout)
        for result in _results(pipe, items, options):
            print(json.dumps(result, ensure_ascii=False, default=_plain), flush=interactive)
    return 0


def _results(pipe: Any, items: Iterable[Item], options: Mapping[str, Any]) -> Iterator[Any]:
    """One result for each item. Items in a row with the same options stream through the pipeline together."""
    for own, group in groupby(items, key=lambda item: item.options):
        _check_options(pipe, own)
        yield from _call(pipe, (item.value for item in group), {**options, **own})


def _call(pipe: Callable[..., Any], values: Iterator[Any], options: Mapping[str, Any]) -> Iterator[Any]:
    try:
        inspect.signature(pipe).bind(values, **options)
    except TypeError as e:
        raise UsageError(f"{e}: give it as an option, such as --candidate-labels or --option.") from e
    results: Iterator[Any] = pipe(values, **options)
    return results


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """The pipeline's options that were given, by their names in Python."""
    named = {
        "top_k": args.top_k,
        "candidate_labels": args.candidate_labels,
        "aggregation_strategy": args.aggregation_strategy,
    }
    options = {key: value for key, value in named.items() if value is not None}
    for pair in args.option:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"--option {pair!r} is not KEY=VALUE: write it like --option multi_label=true.")
        options[key] = _json_or_text(value)
    return options


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _check_options(pipe: Any, options: Mapping[str, Any]) -> None:
    """Refuse an option that the pipeline does not take, in words, before Python does it in its own."""
    parameters = list(inspect.signature(pipe).parameters.values())[1:]  # the first is the text
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return  # it knows its options itself
    known = [p.name for p in parameters]
    for key in options:
        if key not in known:
            raise UsageError(f"{pipe.task} has no option {key!r}: it takes {', '.join(known)}.")


def _lines(stream: TextIO, args: argparse.Namespace) -> Iterator[str]:
    """The lines of ``stream`` as they come, without their ends; none where the options already say it all."""
    if args.question is not None and args.context is not None:
        return
    _utf8(stream)
    try:
        for line in stream:
            text = line.rstrip("\r\n")
            if text or not stream.isatty():  # every line of a file gets its result, empty ones too
                yield text
    except UnicodeDecodeError as e:
        raise InputError(f"stdin is not UTF-8 text ({e.reason}): convert it first.") from e


def _utf8(stream: TextIO) -> None:
    """JSON lines are UTF-8, whatever the system's own encoding."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding="utf-8")


def _plain(value: Any) -> Any:
    """NumPy's types as JSON's."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show a warning as a line for people, without the place in the code that it comes from."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"edgeport: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
