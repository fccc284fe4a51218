"""``edgeport compress``: arguments to options, options to a bundle, a bundle to a summary."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edgeport.errors import MissingExtraError

try:
    import optuna  # noqa: F401
    import plotly  # noqa: F401
    import scipy  # noqa: F401
    import seqeval  # noqa: F401
    import sklearn  # noqa: F401
    from rich.console import Console
except ImportError as e:
    raise MissingExtraError("`edgeport compress`", "compress") from e

from edgeport_export.cli import silence_transformers
from edgeport_export.compression.options import LOCAL, MINIMIZE, CompressOptions, parse_budget, parse_seconds
from edgeport_export.compression.pipeline import CompressResult, compress
from edgeport_export.compression.target import HERE
from edgeport_export.progress import Progress
from edgeport_export.quality.rows import parse_columns
from edgeport_export.recipe import Recipe

__all__ = ["DESCRIPTION", "EPILOG", "add_arguments", "run"]

DESCRIPTION = """\
Find the fastest form of a model that is still good enough, and prove it: a bundle with the variant `small` and the
original, report.html with all that was tried, and recipe.toml, which makes it again without a search.
"""
EPILOG = """\
The budget is in points of the metric (accuracy, F1, ... out of 100); for perplexity it is per cent of growth. It is
held if the 95 % confidence interval of the loss, on rows that the search never saw, ends within it. Where the loss is
within it and the rows are too few to prove that, the output says so; where nothing loses less than the budget,
nothing is shipped, and the exit status is 1.

An interrupted search goes on where it was: call it again.

examples:
  edgeport compress ./intents small --budget 1% --eval test.csv --calibration train.csv --columns label=category
  edgeport compress ./ner small --budget 0.5% --eval test.tsv --calibration train.tsv --minimize size
  edgeport compress ./writer small --budget 2% --eval held_out.txt --calibration texts.txt
  edgeport compress ./intents small --budget 2% --eval texts.txt     # no labels: agreement with the original
  edgeport compress ./intents small --eval test.csv --target phone.toml
  edgeport compress ./intents small --eval test.csv --metric 'macro F1' --time 10m --seed 1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("model", metavar="MODEL", help="hub id (owner/name) or a local folder in transformers' format")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the bundle; must not exist (see --force)")
    parser.add_argument("--budget", default="1%", metavar="P", help="what may be lost, e.g. 1%% (default) or 0.5")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--eval",
        required=True,
        metavar="FILE",
        help="labelled rows (JSON lines, CSV, CoNLL, or datasets:NAME:SPLIT), or plain text; columns as in "
        "`edgeport evaluate --help`",
    )
    data.add_argument(
        "--calibration",
        metavar="FILE",
        help="rows to learn from, such as the training data (default: a part of --eval)",
    )
    data.add_argument("--columns", metavar="LIST", help="what the files call the columns, e.g. label=category")
    data.add_argument("--metric", metavar="NAME", help="one of the task's (default: the first), or module:function")
    aim = parser.add_argument_group("what is minimized")
    aim.add_argument("--minimize", choices=MINIMIZE, default="latency", help="default: latency")
    aim.add_argument("--batch", type=int, default=1, metavar="N", help="texts at a time (default: 1)")
    aim.add_argument("--length", type=int, metavar="N", help="tokens of a text (default: the data's own lengths)")
    aim.add_argument("--lengths-from", metavar="FILE", help="a text a line, of the lengths that will come")
    aim.add_argument(
        "--target",
        default=HERE,
        metavar="WHERE",
        help="a provider of this machine (cuda, openvino, ...), or the machine.toml that `edgeport bench machine` "
        "wrote on another one, for which times are estimated (default: this machine's CPU)",
    )
    aim.add_argument(
        "--threads", type=int, metavar="N", help="that the model will have (default: all that this machine has)"
    )
    search = parser.add_argument_group("search")
    search.add_argument("--time", default="20m", metavar="T", help="for the whole, about: 90s, 20m (default), 1h")
    search.add_argument(
        "--trials", type=int, default=CompressOptions.trials, metavar="N", help="candidates (default: %(default)s)"
    )
    search.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed makes the same choices")
    search.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that make and score candidates")
    search.add_argument(
        "--ray",
        nargs="?",
        const=LOCAL,
        metavar="HOST:PORT",
        help="make and score them on a Ray cluster (auto finds a running one; nothing begins one here); the folders of "
        "the model, the data and OUT have to be shared",
    )
    parser.add_argument("--task", help="default: inferred")
    parser.add_argument("--revision", help="branch, tag or commit of a hub model")
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that the model brings along")
    parser.add_argument("--force", action="store_true", help="replace OUT if it is a bundle")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    options = CompressOptions(
        evaluation=args.eval,
        budget=parse_budget(args.budget),
        calibration=args.calibration,
        columns=parse_columns(args.columns),
        metric=args.metric,
        minimize=args.minimize,
        batch=args.batch,
        length=args.length,
        lengths_from=args.lengths_from,
        target=args.target,
        threads=args.threads,
        seconds=parse_seconds(args.time),
        trials=args.trials,
        seed=args.seed,
        jobs=args.jobs,
        ray=args.ray,
    )
    recipe = Recipe(task=args.task, revision=args.revision, trust_remote_code=args.trust_remote_code)
    silence_transformers()
    result = compress(args.model, args.out, options, recipe, force=args.force, progress=Progress(show=not args.json))
    if args.json:
        print(json.dumps(result.report, indent=2, default=str))
    else:
        _print(result)
    return 0


def _print(result: CompressResult) -> None:
    console = Console()
    console.print(result.report["summary"], highlight=False)
    console.print(f"{result.report['metric']['says']}", highlight=False, style="dim")
    console.print(f"Wrote {result.path}. See {result.path}/report.html", highlight=False, soft_wrap=True)
