"""``edgeport evaluate``: a bundle's variants and labelled files to a table of metrics."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import edgeport
from edgeport.errors import MissingExtraError, UsageError

try:
    import scipy  # noqa: F401
    import seqeval  # noqa: F401
    import sklearn  # noqa: F401
    from rich.console import Console
    from rich.table import Table
except ImportError as e:
    raise MissingExtraError("`edgeport evaluate`", "quality") from e

from edgeport_export.quality import SCORERS
from edgeport_export.quality.rows import parse_columns, read_rows

__all__ = ["DESCRIPTION", "EPILOG", "add_arguments", "evaluate", "run"]

DESCRIPTION = "Score every variant of a bundle on labelled data, by the task's metric."
EPILOG = """\
data, by task (JSON lines or CSV with these columns, or the plain format):
  text-classification   text, label                    accuracy, macro F1; micro F1 of several labels (a list, or
                                                       commas between); Spearman, Pearson of numbers
  token-classification  tokens, tags                   entity F1, precision, recall; plain: CoNLL, a word and tag a line
  question-answering    question, context, answers     F1 of words, exact match (SQuAD's)
  text-ranking          query, text, score             MRR, nDCG@10; the rows of a query are one list
  sentence-embedding    sentence1, sentence2, score    Spearman; plain: lines of score, text, text, tabs between;
                                                       without a file, 250 pairs of image captions that come along
  text-generation       text                           perplexity; plain: the whole file is one text

examples:
  edgeport evaluate intents test.csv --columns label=category
  edgeport evaluate ner test.tsv --variant int8
  edgeport evaluate minilm *.tsv --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="folder that `edgeport export` wrote")
    parser.add_argument("data", metavar="DATA", type=Path, nargs="*", help="files of labelled rows")
    parser.add_argument(
        "--variant", action="append", default=[], metavar="NAME", help="repeat for several (default: all of the bundle)"
    )
    parser.add_argument(
        "--columns", metavar="LIST", help="what the file calls the columns, e.g. text=utterance,label=intent"
    )
    parser.add_argument(
        "--window",
        type=int,
        metavar="N",
        help="text-generation: tokens read at a time (default: the context, 512 at most)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    with Console(stderr=True).status("scoring …"):  # silent where stderr is no terminal
        results = evaluate(
            args.bundle, args.data, variants=args.variant, columns=parse_columns(args.columns), window=args.window
        )
    if args.json:
        print(json.dumps(results, indent=2))
    else:
        _print(results)
    return 0


def evaluate(
    bundle: Path,
    data: list[Path],
    *,
    variants: list[str] | None = None,
    columns: Mapping[str, str] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Score variants (all where none is named) on each file; ``options`` are those that the task's scorer takes.

    Returns:
        One dictionary a file and variant: ``data``, ``rows``, ``variant`` and ``metrics`` (name to value).

    Raises:
        UsageError: the bundle's task has no metric, or the data do not fit it.
    """
    manifest = edgeport.Bundle.open(bundle).manifest
    scorer = SCORERS.get(manifest.task)
    if scorer is None:
        raise UsageError(f"{manifest.task} has no metric yet: those with one are {', '.join(SCORERS)}.")
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in scorer.options:
            raise UsageError(f"{manifest.task} is scored without {name!r}: leave it out.")
    files = {str(path): read_rows(path, scorer, columns) for path in data}
    if not files:
        if scorer.sample is None:
            wanted = ", ".join(scorer.columns)
            raise UsageError(f"there are no data to score {manifest.task} on: give files with {wanted}.")
        files = {"sample": scorer.sample()}
    results = []
    for variant in variants or list(manifest.variants):
        with edgeport.load(bundle, variant=variant) as pipe:
            for path, rows in files.items():
                metrics = {name: round(value, 4) for name, value in scorer.score(pipe, rows, **given).items()}
                results.append({"data": path, "rows": len(rows), "variant": variant, "metrics": metrics})
    return results


def _print(results: list[dict[str, Any]]) -> None:
    table = Table()
    table.add_column("data")
    table.add_column("rows", justify="right")
    table.add_column("variant")
    for name in results[0]["metrics"]:
        table.add_column(name, justify="right")
    ordered = sorted(results, key=lambda r: r["data"])  # stable: variants stay in the bundle's order
    for result in ordered:
        values = (f"{value:.2f}" for value in result["metrics"].values())
        table.add_row(Path(result["data"]).name, str(result["rows"]), result["variant"], *values)
    Console().print(table)
