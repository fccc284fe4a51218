"""``edgeport bench --profile``: the profile of each variant, or of an ONNX file, as tables, JSON or a page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeport.bundle import Bundle
from edgeport.errors import UsageError
from edgeport.session import usable_threads
from edgeport_export.profile import Roofline, measure_roofline
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from edgeport_bench.bench import BenchOptions
from edgeport_bench.decoder_feeds import decoder_feeds
from edgeport_bench.graph_inputs import read_graph_inputs
from edgeport_bench.harness import shape_of
from edgeport_bench.inputs import Feeds
from edgeport_bench.profile import Part, Profile, profile_graph
from edgeport_bench.profile_report import profile_report
from edgeport_bench.targets import WRITING, open_target
from edgeport_bench.workload import make_workload

__all__ = ["run_profile"]

_SHOWN = 12


def run_profile(model: str, options: BenchOptions, *, as_json: bool, html: Path | None = None) -> int:
    """Profile a bundle's variants or an ONNX file at the first shape of the options.

    Raises:
        MissingExtraError: a page is asked for, and plotly is not installed.
        UsageError: it has no graph that is profiled.
    """
    threads = options.threads or usable_threads()
    target = open_target(model, variants=options.variants, threads=threads)
    if not target.specs:
        raise UsageError(f"{model!r} is not profiled: give a bundle or an ONNX file.")
    (batch, length), feeds = next(iter(make_workload(target, options).feeds.items()))
    roofline = measure_roofline(threads)
    found: dict[str, Profile] = {}
    for spec in target.specs:
        path = _graph(dict(spec.options))
        runs = (
            decoder_feeds(read_graph_inputs(path).inputs, length)
            if target.task == WRITING
            else {shape_of(batch, length): feeds}
        )
        for what, arrays in runs.items():
            found[f"{spec.name}, {what}"] = profile_graph(path, _tensors(arrays), roofline, threads=threads)
    if html is not None:
        page = profile_report(model, _machine(roofline, threads), roofline, found)
        html.write_text(page, encoding="utf-8")
    if as_json:
        shape = {"batch": batch, "length": length, "threads": threads}
        profiles = {name: dataclasses.asdict(profile) for name, profile in found.items()}
        print(json.dumps({**shape, "roofline": dataclasses.asdict(roofline), "profiles": profiles}, indent=2))
        return 0
    console = Console()
    console.print(_machine(roofline, threads), highlight=False)
    for name, profile in found.items():
        console.print(_table(name, "operator", profile.kinds))
        console.print(_table(name, "layer", profile.layers))
    return 0


def _graph(options: dict[str, Any]) -> Path:
    if "variant" not in options:
        return Path(options["path"])
    bundle = Bundle.open(Path(options["path"]))
    return bundle.graph(bundle.variant(options["variant"]).graphs["model"])


def _tensors(feeds: Any) -> Feeds:
    if not isinstance(feeds, dict):
        raise UsageError("--profile reads tokens of an exact shape: leave --texts out.")
    return feeds


def _machine(roofline: Roofline, threads: int) -> str:
    return (
        f"{threads} threads of this machine: {roofline.fp32 / 1e9:.0f} GFLOP/s in fp32, "
        f"{roofline.int8 / 1e9:.0f} GOP/s in int8, {roofline.bandwidth / 1e9:.1f} GB/s read, all measured just now"
    )


def _table(title: str, heading: str, parts: Sequence[Part]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, title=title, title_justify="left")
    table.add_column(heading, no_wrap=True)
    for name in ("nodes", "ms a run", "share", "GOP/s", "of roofline"):
        table.add_column(name, justify="right", no_wrap=True)
    for part in parts[:_SHOWN]:
        rate = part.operations / part.milliseconds / 1e6 if part.milliseconds else 0.0
        table.add_row(
            part.name,
            str(part.nodes),
            f"{part.milliseconds:.3f}",
            f"{part.share:.1%}",
            f"{rate:.0f}" if part.operations else "",
            "" if part.of_roofline is None else f"{part.of_roofline:.0%}",
        )
    return table
