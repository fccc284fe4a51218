"""``edgeport bench``: arguments to options, options to a report, a report to tables or JSON."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from edgeport.errors import MissingExtraError, UsageError
from edgeport_export.quality.rows import parse_columns

try:
    import psutil  # noqa: F401
    from rich.console import Console
except ImportError as e:
    raise MissingExtraError("`edgeport bench`", "bench") from e

from edgeport_bench.arguments import DESCRIPTION, EPILOG, add_arguments
from edgeport_bench.bench import BenchOptions, bench
from edgeport_bench.compare_cli import run_compare
from edgeport_bench.html_report import html_report
from edgeport_bench.machine_cli import run_machine
from edgeport_bench.profile_cli import run_profile
from edgeport_bench.report import BenchReport, as_json, print_report
from edgeport_bench.scenarios_cli import run_scenarios
from edgeport_bench.suite import read_suite

__all__ = ["DESCRIPTION", "EPILOG", "add_arguments", "run"]


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
        inputs=tuple(_input(text) for text in args.input),
        texts=args.texts,
        evaluation=args.eval,
        columns=tuple((parse_columns(args.columns) or {}).items()),
        cold=args.cold,
    )
    if args.model == "machine":
        return run_machine(options.threads, as_json=args.json)
    if args.scenario is not None:
        return run_scenarios(
            args.model, options, args.scenario.split(","), args.rate, args.latency_limit, as_json=args.json
        )
    if args.profile:
        return run_profile(args.model, options, as_json=args.json, html=args.html)
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
    if args.html is not None:
        raise UsageError("compare writes no page: leave --html out, or --json for a program.")
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


def _input(text: str) -> tuple[str, float]:
    """``rate=16000`` as (rate, 16000).

    Raises:
        UsageError: it is something else.
    """
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not name or not math.isfinite(number):
        raise UsageError(f"--input {text!r} is no NAME=NUMBER: write it like rate=16000.")
    return name, number


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
