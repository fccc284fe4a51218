"""The report of a compression, as data: every number in it was measured in this run. ``page`` shows it to people.

The schema is in docs/compress.md.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from edgeport.bundle import Bundle
from edgeport.session import usable_threads

from edgeport_export import package
from edgeport_export.compression.candidate import Candidate
from edgeport_export.compression.choose import HELD, Decision, Finalist, pareto
from edgeport_export.compression.options import CompressOptions
from edgeport_export.compression.page import page
from edgeport_export.compression.setup import Setup
from edgeport_export.compression.stopwatch import AGAIN, PLAIN, TORCH
from edgeport_export.compression.target import Target
from edgeport_export.compression.timing import Timed, ratio_of
from edgeport_export.compression.workshop import SMALL
from edgeport_export.versions import installed_versions

__all__ = ["SCHEMA", "Times", "make_report", "write_report"]

SCHEMA = 2
_PACKAGES = ("edgeport", "optuna", "onnxruntime", "torch", "transformers", "numpy", "scikit-learn", "scipy")


@dataclass(frozen=True)
class Times:
    """What was timed."""

    here: Mapping[str, Timed]
    """As ``Stopwatch.all_together`` gives them; empty where there was nothing to time."""
    there: Mapping[str, Timed]
    """As ``Stopwatch.elsewhere`` gives them, where another machine was described."""
    baseline: Sequence[Timed]
    """The plain export beside each candidate."""
    plain: str
    """The variant that it is."""


def make_report(
    setup: Setup,
    model: str,
    candidates: Sequence[Candidate],
    decision: Decision,
    times: Times,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """All that was found.

    Args:
        setup: What the compression began with.
        model: As it was called.
        candidates: All that were tried.
        decision: What the test rows said.
        times: Of the chosen or the closest candidate, and of what it is compared with.
        seconds: By stage.
    """
    original = Bundle.open(setup.original).manifest
    unit = next((f.loss.unit for f in decision.tried), "points")
    report = {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": original.source.id,
        "task": original.task,
        "command": _command(model, setup),
        "options": dataclasses.asdict(setup.options),
        "metric": {"name": setup.judge.metric, "says": setup.judge.says, "unit": unit},
        "rows": {name: len(getattr(setup.parts, name)) for name in ("search", "test", "calibration")},
        "timed": {"says": setup.feeds.says, "lengths": list(setup.feeds.lengths)},
        "machine": {
            **package.machine(),
            "threads": setup.target.threads(setup.options.threads) or usable_threads(),
            "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        },
        "versions": installed_versions(_PACKAGES),
        "target": _target(setup.target),
        "baseline": _baseline(setup.target.plain, times.plain),
        "original": {name: {"size_bytes": v.size_bytes} for name, v in original.variants.items()},
        "chosen": None if decision.chosen is None else _finalist(decision.chosen, setup),
        "finalists": [_finalist(f, setup) for f in decision.tried],
        "speed": _speed(times.here),
        "estimate": _estimate(times.there),
        "drift": _drift(times.baseline),
        "sensitivity_precision": setup.sensed_in,
        "sensitivity": [dataclasses.asdict(s) for s in setup.sensed],
        "candidates": [c.to_dict() for c in candidates],
        "pareto": [c.number for c in pareto(candidates, setup.options.minimize)],
        "seconds": dict(seconds),
    }
    return {**report, "summary": _summary(report)}


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """``report.json``, ``report.html`` and, where something was chosen, ``recipe.toml``."""
    text = json.dumps(report, indent=2, ensure_ascii=False, default=str)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "report.html").write_text(page(report), encoding="utf-8")
    if report["chosen"] is not None:
        (folder / "recipe.toml").write_text(report["chosen"]["recipe_toml"], encoding="utf-8")


def _finalist(finalist: Finalist, setup: Setup) -> dict[str, Any]:
    candidate = finalist.candidate
    recipe = setup.space.recipe(candidate.choice)
    fp32 = Bundle.open(setup.original).variant("fp32").size_bytes
    return {
        "number": candidate.number,
        "name": candidate.name,
        "verdict": finalist.verdict,
        "loss": {**dataclasses.asdict(finalist.loss), "unit": finalist.loss.unit},
        "size_bytes": candidate.size_bytes,
        "share_of_original": candidate.size_bytes / fp32,
        "choice": dict(candidate.choice),
        "notes": list(candidate.notes),
        "recipe": recipe.to_dict(),
        "recipe_toml": recipe.to_toml(),
    }


def _speed(times: Mapping[str, Timed]) -> dict[str, Any]:
    """Milliseconds a batch, and how many times as fast the variant is, all in one run."""
    if not times:
        return {}
    return {
        **_beside(times, (TORCH, "fp32", PLAIN)),
        "same_graph_twice": dataclasses.asdict(ratio_of(times[PLAIN], times[AGAIN])),
        "spread": {name: round(t.spread, 4) for name, t in times.items()},
        "turns": {name: [round(ms, 4) for ms in t.turns] for name, t in times.items()},
    }


def _estimate(times: Mapping[str, Timed]) -> dict[str, Any]:
    """The same for the machine that was described."""
    return _beside(times, ("fp32", PLAIN)) if times else {}


def _beside(times: Mapping[str, Timed], others: Sequence[str]) -> dict[str, Any]:
    return {
        "milliseconds": {name: round(t.milliseconds, 4) for name, t in times.items()},
        "times_as_fast_as": {name: dataclasses.asdict(ratio_of(times[name], times[SMALL])) for name in others},
    }


def _target(target: Target) -> dict[str, Any]:
    machine = None if target.machine is None else dataclasses.asdict(target.machine)
    return {"name": target.name, "provider": target.provider, "machine": machine}


def _baseline(wanted: str, plain: str) -> str:
    return f"plain {plain}" if plain == wanted else f"{plain} ({wanted} was refused)"


def _drift(baseline: Sequence[Timed]) -> dict[str, Any]:
    """How the plain export's time changed over the search, though it was the same graph each time."""
    if not baseline:
        return {}
    values = np.array([t.milliseconds for t in baseline])
    return {
        "measurements": len(values),
        "median": round(float(np.median(values)), 4),
        "least": round(float(values.min()), 4),
        "most": round(float(values.max()), 4),
    }


def _summary(report: Mapping[str, Any]) -> str:
    """One paragraph."""
    budget, unit, metric = report["options"]["budget"], report["metric"]["unit"], report["metric"]["name"]
    chosen = report["chosen"]
    if chosen is None:
        closest = min(report["finalists"], key=lambda f: f["loss"]["value"], default=None)
        if closest is None:
            return "No candidate could be made and scored; nothing was shipped."
        loss = closest["loss"]
        return (
            f"Nothing held the budget of {budget:g} {unit}: the closest lost {loss['value']:.2f} ({loss['low']:.2f} to "
            f"{loss['high']:.2f}) {unit} of {metric} on {loss['rows']} rows that the search never saw; "
            "nothing was shipped."
        )
    loss, speed = chosen["loss"], report["speed"]["times_as_fast_as"]
    proof = (
        f"within the budget of {budget:g} with {100 * loss['confidence']:.4g} % confidence"
        if chosen["verdict"] == HELD
        else f"within the budget of {budget:g}, but the rows are too few to prove it"
    )
    elsewhere = ""
    if report["estimate"]:
        there = report["estimate"]["times_as_fast_as"][PLAIN]
        elsewhere = (
            f"On {report['target']['name']} it should be {there['value']:.2f} times as fast as {report['baseline']}, "
            "which is an estimate. Here it is "
        )
    rows, share = loss["rows"], chosen["share_of_original"]
    change = f"a {'loss' if loss['value'] >= 0 else 'gain'} of {abs(loss['value']):.2f} {unit}"
    return (
        f"{elsewhere}{speed[TORCH]['value']:.1f} times as fast as torch fp32, {speed[PLAIN]['value']:.2f} times as "
        f"fast as {report['baseline']}, {share:.1%} of the original's size. On {rows} rows that the search never saw "
        f"its {metric} is {loss['model']:.2f}, the original's {loss['original']:.2f}: {change} "
        f"(the loss is between {loss['low']:.2f} and {loss['high']:.2f}), {proof}."
    )


def _command(model: str, setup: Setup) -> str:
    """The call that makes this again."""
    options, default = setup.options, {f.name: f.default for f in dataclasses.fields(CompressOptions)}
    given = {
        name: value
        for name, value in dataclasses.asdict(options).items()
        if value != default.get(name) and name not in ("evaluation", "columns", "seconds", "budget")
    }
    words = [
        "edgeport",
        "compress",
        model,
        setup.folder.name.removesuffix(".search"),
        "--budget",
        f"{options.budget:g}%",
    ]
    words += ["--eval", options.evaluation]
    if options.columns:
        words += ["--columns", ",".join(f"{k}={v}" for k, v in options.columns.items())]
    for name, value in given.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--time", f"{options.seconds:g}s"])
