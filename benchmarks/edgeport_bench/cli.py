"""``edgeport bench``: arguments to options, options to a report, a report to tables or JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edgeport.errors import MissingExtraError, UsageError
from edgeport_export.quality.rows import parse_columns

try:
    import psutil  # noqa: F401
    from rich.console import Console
except ImportError as e:
    raise MissingExtraError("`edgeport bench`", "bench") from e

from edgeport_bench.bench import BenchOptions, bench
from edgeport_bench.compare_cli import run_compare
from edgeport_bench.html_report import html_report
from edgeport_bench.peers.catalog import PEERS
from edgeport_bench.profile_cli import run_profile
from edgeport_bench.report import BenchReport, as_json, print_report
from edgeport_bench.scenarios import SCENARIOS
from edgeport_bench.scenarios_cli import run_scenarios
from edgeport_bench.suite import read_suite

__all__ = ["DESCRIPTION", "EPILOG", "add_arguments", "run"]


def _peers() -> str:
    return "\n  ".join(f"{p.name:<22} {', '.join(p.label(f) for f in p.flavours)}" for p in PEERS.values())


DESCRIPTION = """\
Measure a bundle, a Hugging Face model or an ONNX file: latency by batch and length with its intervals, throughput,
processor time, load time, memory and size. Of a model that writes text: the time to its first token by the prompt's
length, and of each token after it.
"""
EPILOG = f"""\
Each subject runs in a process of its own, and all of them take turns, so that the machine's moods hit them alike.
A speed-up is the ratio of the medians, with the interval that holds it with 95 % confidence.

peers for --against, all flavours of one or a single one (openvino-int8):
  {_peers()}
torch and torch-compile run with what is installed here. Each other peer gets an environment of its own, installed once
into the user's cache from a pinned list, converts the model there, and is measured beside the bundle on the same
tokens with the same threads; its outputs are compared with the original's, and a peer that fails is listed with why.

examples:
  edgeport bench minilm
  edgeport bench minilm --against torch=sentence-transformers/all-MiniLM-L6-v2
  edgeport bench minilm --original models/minilm --against openvino-int8,optimum-int8,ctranslate2
  edgeport bench minilm --original models/minilm --texts corpus.txt --against sentence-transformers,fastembed
  edgeport bench minilm --variant int8 --batch 1,32 --length 16,64,256 --threads 1
  edgeport bench minilm --json > bench.json
  edgeport bench writer --length 16,512 --new-tokens 128 --against torch=models/writer,llama.cpp
  edgeport bench models/minilm --against torch-compile,openvino
  edgeport bench intents --eval test.csv --columns label=category --html report.html
  edgeport bench detector.onnx --batch 1,4 --axis height=320 --axis width=320
  edgeport bench minilm --variant int8 --length 128 --profile
  edgeport bench minilm --scenario single-stream,offline,server --rate 50 --seconds 10
  edgeport bench suite.toml --out results
  edgeport bench compare before.json after.json --fail-if 'p50>+5%' --fail-if 'peak_rss>+10%'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a bundle that `edgeport export` wrote, a Hugging Face model (folder or hub id), or an ONNX file; or "
        "a suite.toml, or the word compare",
    )
    parser.add_argument("others", metavar="FILE", nargs="*", type=Path, help="compare: two results")
    parser.add_argument(
        "--variant", action="append", default=[], metavar="NAME", help="repeat for several (default: all of the bundle)"
    )
    parser.add_argument(
        "--provider", action="append", default=[], metavar="NAME", help="execution provider, best first; repeatable"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: the cores that this process may use")
    parser.add_argument(
        "--batch", metavar="LIST", help="batch sizes, comma-separated (default: 1,8; text-generation: 1)"
    )
    parser.add_argument(
        "--length",
        metavar="LIST",
        help="lengths in tokens, comma-separated (default: 16,128); text-generation: of prompts (default: 16,128,512, "
        "as far as the context goes)",
    )
    parser.add_argument(
        "--new-tokens", type=int, metavar="N", help="text-generation: tokens written after each prompt (default: 64)"
    )
    parser.add_argument(
        "--axis",
        action="append",
        default=[],
        metavar="NAME=SIZE",
        help="of an ONNX file: the size of an axis that neither --batch nor --length tells; repeatable",
    )
    parser.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="sentence-embedding: read the lines of this file whole, as long as they are, tokenizing included",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=BenchOptions.seconds,
        metavar="S",
        help=f"time of measuring for each subject and shape (default: {BenchOptions.seconds:g})",
    )
    parser.add_argument("--against", metavar="PEERS", help="peers to measure beside it, comma-separated; see below")
    parser.add_argument(
        "--original",
        metavar="MODEL",
        help="folder or hub id of the model that the bundle was made of (default: the id that the bundle names)",
    )
    parser.add_argument(
        "--eval", type=Path, metavar="FILE", help="labelled data to score a bundle on, as `edgeport evaluate` takes it"
    )
    parser.add_argument("--columns", metavar="LIST", help="what that file calls the columns, e.g. label=category")
    parser.add_argument(
        "--fail-if",
        action="append",
        default=[],
        metavar="CONDITION",
        help="compare: exit with status 1 where a change is worse than this, and more than noise; repeatable",
    )
    parser.add_argument("--cold", action="store_true", help="also time fresh processes up to their first result")
    parser.add_argument(
        "--scenario",
        metavar="LIST",
        help=f"instead of measuring, run MLPerf's scenarios with LoadGen: {', '.join(SCENARIOS)}",
    )
    parser.add_argument("--rate", type=float, metavar="N", help="server: texts a second")
    parser.add_argument(
        "--latency-limit", type=float, default=100.0, metavar="MS", help="server: for 99 of 100 texts (default: 100)"
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="instead of measuring, name the operators and layers where the time of the first shape goes",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="of a suite: where to write each result and its page"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a report that a browser opens offline")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, raw samples included")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    if args.model == "compare":
        return _compare(args)
    if args.model.endswith(".toml"):
        return _run_suite(Path(args.model), args.out)
    if args.others or args.fail_if:
        raise UsageError("more files and --fail-if are for `edgeport bench compare BEFORE AFTER`: leave them out.")
    options = BenchOptions(
        variants=tuple(args.variant),
        providers=tuple(args.provider),
        threads=args.threads,
        batches=_numbers("--batch", args.batch),
        lengths=_numbers("--length", args.length),
        new_tokens=args.new_tokens,
        seconds=args.seconds,
        against=args.against,
        original=args.original,
        axes=tuple(_axis(text) for text in args.axis),
        texts=args.texts,
        evaluation=args.eval,
        columns=tuple((parse_columns(args.columns) or {}).items()),
        cold=args.cold,
    )
    if args.scenario is not None:
        return run_scenarios(
            args.model, options, args.scenario.split(","), args.rate, args.latency_limit, as_json=args.json
        )
    if args.profile:
        return run_profile(args.model, options, as_json=args.json)
    report = _measure(args.model, options)
    if args.html is not None:
        args.html.write_text(html_report(as_json(report)), encoding="utf-8")
    if args.json:
        print(json.dumps(as_json(report), indent=2))
    else:
        print_report(report, Console())
    return 0


def _measure(model: str, options: BenchOptions) -> BenchReport:
    with Console(stderr=True).status("starting") as status:  # silent where stderr is no terminal
        return bench(model, options, say=lambda doing: status.update(f"{doing} …"))


def _run_suite(path: Path, out: Path | None) -> int:
    """Print each result of a suite, and write it as JSON and as a page if there is a folder for it."""
    for planned in read_suite(path):
        report = _measure(planned.model, planned.options)
        print_report(report, Console())
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            result = as_json(report)
            (out / f"{planned.name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            (out / f"{planned.name}.html").write_text(html_report(result), encoding="utf-8")
    return 0


def _compare(args: argparse.Namespace) -> int:
    if len(args.others) != 2:
        raise UsageError(f"{len(args.others)} results cannot be compared: give two, compare BEFORE.json AFTER.json.")
    before, after = args.others
    return run_compare(before, after, args.fail_if, as_json=args.json)


def _axis(text: str) -> tuple[str, int]:
    """``height=320`` as (height, 320).

    Raises:
        UsageError: it is something else.
    """
    name, _, size = text.partition("=")
    if not name or not size.isdecimal():
        raise UsageError(f"--axis {text!r} is no NAME=SIZE: write it like height=320.")
    return name, int(size)


def _numbers(option: str, text: str | None) -> tuple[int, ...]:
    """``1,8`` as (1, 8); nothing as ().

    Raises:
        UsageError: it is no list of positive numbers.
    """
    if text is None:
        return ()
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = (0,)
    if min(numbers) < 1:
        raise UsageError(f"{option} {text!r} is no list of positive numbers: write it like 1,8.")
    return numbers
