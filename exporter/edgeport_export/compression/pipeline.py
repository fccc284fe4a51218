"""The compression, from a model and a budget to a bundle and its report: the stages in order."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from edgeport.bundle import Manifest, check_target
from edgeport.errors import ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from edgeport_export.compression.candidate import Candidate
from edgeport_export.compression.choose import Decision, decide, finalists
from edgeport_export.compression.evaluate import ask
from edgeport_export.compression.options import CompressOptions
from edgeport_export.compression.processes import processes
from edgeport_export.compression.report import Times, make_report, write_report
from edgeport_export.compression.search import Search
from edgeport_export.compression.setup import Setup, set_up
from edgeport_export.compression.ship import ship
from edgeport_export.compression.stopwatch import Stopwatch, peak_memory
from edgeport_export.compression.target import HERE
from edgeport_export.compression.workshop import SMALL
from edgeport_export.progress import Progress
from edgeport_export.recipe import Recipe

__all__ = ["CompressResult", "compress"]

_FOR_THE_END = 0.15
"""Of the time, for what comes after the search."""


@dataclass(frozen=True)
class CompressResult:
    """What a compression did."""

    path: Path
    """The bundle."""
    manifest: Manifest
    report: dict[str, Any]
    """What report.json says; see docs/compress.md."""


def compress(
    model: str | Path | PreTrainedModel,
    out: str | Path,
    options: CompressOptions,
    recipe: Recipe | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> CompressResult:
    """Find the fastest (or smallest) form of ``model`` that loses less than the budget, and write it as a bundle.

    Work in progress is in the folder ``OUT.search``: the same call goes on from what is finished there.

    Args:
        model: Hub id, local folder, or a model in memory (then with ``tokenizer``).
        out: The bundle's folder; must not exist, unless ``force``.
        options: Budget, data and the rest.
        recipe: What is the same for all candidates: task, revision, opset.
        tokenizer: For a model in memory.
        force: Replace an existing bundle, once the new one is complete.
        progress: Shows the stages; silent where left out.

    Raises:
        UsageError: a wrong option, model, or file.
        ValidationError: no candidate lost less than the budget; nothing is shipped, and a report says what was tried.
    """
    start = perf_counter()
    out, recipe, progress = Path(out), recipe or Recipe(), progress or Progress(show=False)
    check_target(out, force=force)
    setup = set_up(model, out, options, recipe, progress, tokenizer)
    watch = Stopwatch(setup.workshop, setup.feeds, setup.original, setup.target, setup.target.threads(options.threads))
    until = start + options.seconds * (1 - _FOR_THE_END)
    with (
        progress.stage("search", "Search") as say,
        processes(model, out, options, recipe, setup.evaluator.evaluate) as (evaluate, pool),
    ):
        search = Search(
            setup.folder, setup.space, options.seed, options.minimize, evaluate, _measure_by(watch, setup),
            setup.outlook.hopeless, setup.seconds,
        )  # fmt: skip
        candidates = search.run(trials=options.trials, until=until, jobs=options.jobs, pool=pool, say=say)
    with progress.stage("judge", "Judge the best by rows that the search never saw"):
        decision = _decide(setup, candidates)
    times = _timed(watch, setup, decision, progress)
    seconds = {**progress.seconds, "all": round(perf_counter() - start, 1)}
    report = make_report(setup, _name(model), candidates, decision, times, seconds)
    if decision.chosen is None:
        write_report(report, setup.folder)
        raise ValidationError(_missed(decision, setup))
    with progress.stage("package", "Write the bundle"):
        chosen = decision.chosen.candidate
        beside = setup.workshop.beside(setup.space.recipe(chosen.choice))
        manifest = ship(out, beside, setup.bundle(chosen.name), report, force=force)
        _clean(setup)
    return CompressResult(out, manifest, report)


def _timed(watch: Stopwatch, setup: Setup, decision: Decision, progress: Progress) -> Times:
    """The chosen candidate, or else the closest, beside the original and the plain export."""
    best = decision.chosen or decision.closest
    if best is None:
        return Times({}, {}, watch.baseline, watch.plain)
    with progress.stage("time", f"Time it beside torch and plain {watch.plain}") as say:
        bundle = setup.bundle(best.candidate.name)
        here = watch.all_together(bundle, say)
        return Times(here, watch.elsewhere(here, bundle), watch.baseline, watch.plain)


def _name(model: str | Path | PreTrainedModel) -> str:
    return type(model).__name__ if isinstance(model, PreTrainedModel) else str(model)


def _measure_by(watch: Stopwatch, setup: Setup) -> Any:
    def measure(candidate: Candidate) -> Candidate:
        start = perf_counter()
        bundle = setup.bundle(candidate.name)
        ratio, times = watch.beside_baseline(bundle)
        memory = None
        if setup.options.minimize == "memory":
            memory = peak_memory(bundle, SMALL, setup.target.provider, setup.judge.inputs(setup.parts.search[:32]))
        seconds = {**candidate.seconds, "time": round(perf_counter() - start, 2)}
        return replace(candidate, ratio=ratio, spread=times.spread, memory_bytes=memory, seconds=seconds)

    return measure


def _decide(setup: Setup, candidates: list[Candidate]) -> Decision:
    """The finalists on the test rows."""
    options, test, evaluator = setup.options, setup.parts.test, setup.evaluator
    tried = finalists(candidates, options.budget, len(test), options.minimize)
    asked = ask(setup.judge, setup.original, "fp32", test, HERE) if tried else None
    return decide(
        tried,
        options.budget,
        lambda c, confidence: evaluator.loss_of(setup.bundle(c.name), SMALL, test, asked, confidence),
    )


def _missed(decision: Decision, setup: Setup) -> str:
    closest = decision.closest
    report = setup.folder / "report.html"
    if closest is None:
        return f"no candidate could be made and scored, so nothing was shipped: {report} says why."
    loss = closest.loss
    return (
        f"nothing held the budget of {setup.options.budget:g} {loss.unit}: the closest lost {loss.value:.2f} "
        f"({loss.low:.2f} to {loss.high:.2f}) {loss.unit} of {setup.judge.metric} on {loss.rows} rows that the search "
        f"never saw; nothing was shipped, see {report}, give a larger --budget or more --time."
    )


def _clean(setup: Setup) -> None:
    """Remove the work folder; rows that the recipe names as its samples stay."""
    if setup.options.calibration is not None:
        shutil.rmtree(setup.folder)
        return
    for path in setup.folder.iterdir():
        if path.name not in ("calibration.jsonl", "settings.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
