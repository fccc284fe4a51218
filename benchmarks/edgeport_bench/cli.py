"""``edgeport bench``: arguments to options, options to a report, a report to tables or JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edgeport.errors import MissingExtraError, UsageError

try:
    import psutil  # noqa: F401
    from rich.console import Console
except ImportError as e:
    raise MissingExtraError("`edgeport bench`", "bench") from e

from edgeport_bench.bench import BenchOptions, bench
from edgeport_bench.report import as_json, print_report

__all__ = ["DESCRIPTION", "EPILOG", "add_arguments", "run"]

DESCRIPTION = """\
Measure a bundle: latency by batch and length, throughput, load time, memory and size of each variant.
Of a model that writes text: the time to its first token by the prompt's length, and of each token after it.
"""
EPILOG = """\
Each variant runs in a process of its own, and all of them take turns, so that the machine's moods hit them alike.
A speed-up is the ratio of the medians, with the interval that holds it with 95 % confidence.

examples:
  edgeport bench minilm
  edgeport bench minilm --against torch=sentence-transformers/all-MiniLM-L6-v2
  edgeport bench minilm --variant int8 --batch 1,32 --length 16,64,256 --threads 1
  edgeport bench minilm --json > bench.json
  edgeport bench writer --length 16,512 --new-tokens 128 --against torch=models/writer
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="folder that `edgeport export` wrote")
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
        "--seconds",
        type=float,
        default=BenchOptions.seconds,
        metavar="S",
        help=f"time of measuring for each variant and shape (default: {BenchOptions.seconds:g})",
    )
    parser.add_argument(
        "--against",
        metavar="torch[=MODEL]",
        help="run the original beside it in torch fp32 on the CPU; MODEL is its folder or hub id (default: the id that "
        "the bundle names)",
    )
    parser.add_argument("--cold", action="store_true", help="also time fresh processes up to their first result")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, raw samples included")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    options = BenchOptions(
        variants=tuple(args.variant),
        providers=tuple(args.provider),
        threads=args.threads,
        batches=_numbers("--batch", args.batch),
        lengths=_numbers("--length", args.length),
        new_tokens=args.new_tokens,
        seconds=args.seconds,
        against=args.against,
        cold=args.cold,
    )
    errors = Console(stderr=True)
    with errors.status("starting") as status:  # silent where stderr is no terminal
        report = bench(args.bundle, options, say=lambda doing: status.update(f"{doing} …"))
    if args.json:
        print(json.dumps(as_json(report), indent=2))
    else:
        print_report(report, Console())
    return 0


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
