"""What a compression begins with: data in parts, the original's bundle, its sensitivity, and the space of choices.

Everything here follows from the model and the options alone, so a process that helps with the search makes the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from edgeport.errors import UsageError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from edgeport_export.calibration import load_calibration
from edgeport_export.compression.candidate import Candidate
from edgeport_export.compression.evaluate import Evaluator
from edgeport_export.compression.feeds import Feeds, make_feeds
from edgeport_export.compression.judge import Judge, make_judge
from edgeport_export.compression.options import CompressOptions
from edgeport_export.compression.outlook import Outlook
from edgeport_export.compression.sensitivity import Sensitivity, measure_sensitivity
from edgeport_export.compression.space import NOTHING, STEPS, Choice, Space, dimensions
from edgeport_export.compression.split import Parts, split_rows, text_pieces
from edgeport_export.compression.target import Target, parse_target
from edgeport_export.compression.workshop import Workshop
from edgeport_export.graph_io import OpenBy
from edgeport_export.head import ExportHead
from edgeport_export.progress import Progress
from edgeport_export.prune.layers import find_layers
from edgeport_export.pruning import rows_a_step
from edgeport_export.recipe import Recipe
from edgeport_export.source import Source, load_source

__all__ = ["Setup", "set_up", "work_folder"]

_SENSED = 4
"""Batches of real inputs that a part's sensitivity is measured on."""
_FORWARDS = 2.5
"""What a step of distillation takes, as a multiple of what the original takes to read the rows."""
_READ = 8
"""Times that the original reads them; whatever else runs on the machine only ever adds."""
_ROWS_TO_LEARN = 64
"""That say how long rows are."""
_TO_LEARN = 0.4
"""Of the time, at most, for the distillation of one candidate."""
_SETTINGS = "settings.json"
_IRRELEVANT = ("seconds", "trials", "jobs", "ray")
"""Options that do not change what a candidate is: a search goes on with others."""


@dataclass(frozen=True)
class Setup:
    """All that candidates are made, scored and timed with."""

    options: CompressOptions
    folder: Path
    """Work in progress."""
    base: Recipe
    target: Target
    judge: Judge
    parts: Parts
    workshop: Workshop
    original: Path
    """The bundle of fp32 and of what is exported for the target without a search."""
    feeds: Feeds
    sensed: list[Sensitivity]
    space: Space
    step_seconds: float
    """What a step of distillation takes, about."""

    @property
    def outlook(self) -> Outlook:
        """What is known of choices before they are made."""
        return Outlook(len(find_layers(self.workshop.source.model)), self.options.budget, len(self.parts.test))

    def seconds(self, choice: Choice, found: Sequence[Candidate]) -> float:
        """What a choice takes to be made, about: by the steps of those that were made, where some learnt."""
        if self.workshop.at_hand(self.space.recipe(choice)):
            return 0.0
        taken = [c.seconds.get("build", 0.0) / _steps_of(c.choice) for c in found if _steps_of(c.choice)]
        return max(taken, default=self.step_seconds) * _steps_of(choice)

    @property
    def evaluator(self) -> Evaluator:
        """For candidates of this model."""
        options = self.options
        return Evaluator(
            self.workshop, self.judge, self.space, self.parts.search, self.original, options.budget, options.seed,
            self.target.provider,
        )  # fmt: skip

    @property
    def sensed_in(self) -> str:
        """The precision that ``sensed`` is about."""
        return _sensed_in(self.workshop)

    def bundle(self, name: str) -> Path:
        """Where a candidate's bundle is."""
        return self.workshop.folder / name


def work_folder(out: Path) -> Path:
    """Where the work on ``out`` is kept until it is complete."""
    return out.with_name(f"{out.name}.search")


def set_up(
    model: str | Path | PreTrainedModel,
    out: Path,
    options: CompressOptions,
    recipe: Recipe,
    progress: Progress,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Setup:
    """Load the model and the data, and make what every candidate is compared with.

    Raises:
        UsageError: a wrong model, file, column, label or metric.
        ValidationError: the fp32 graph is not the original.
        ProviderError: the target is a provider that is not here, or that does not take the model.
    """
    target = parse_target(options.target)
    with progress.stage("load", "Load the model"):
        source = load_source(model, recipe, tokenizer=tokenizer)
        judge = make_judge(source.task.name, options.evaluation, options.columns, options.metric)
        parts = _split(judge, source, options)
        feeds = make_feeds(source, [text for row in parts.search for text in judge.texts(row)], options)
    folder = _folder(out, source, options, target, recipe, progress)
    calibration, columns = _calibration(parts, options, folder)
    base = replace(recipe, task=source.task.name, seed=options.seed, calibration=calibration, columns=columns)
    progress.note(f"{judge.says} {len(parts.search)} rows to search, {len(parts.test)} others to judge by at the end.")
    workshop = Workshop(source, folder / "candidates", progress)
    original = workshop.original(replace(base, precisions=tuple(dict.fromkeys(("fp32", target.plain)))))
    # A provider that does not take the model says so here, once, and not by every candidate.
    workshop.runner(original, "fp32", OpenBy(target.threads(options.threads), target.provider))
    with progress.stage("sensitivity", "See what int8 does to each part"):
        sensed = _sensitivity(workshop, original, base, feeds, folder)
    step = _step_seconds(source, base, folder)
    space = Space(
        base, source.task.generates, [s.part for s in sensed], _steps(step, options), options.minimize, target.plain
    )
    return Setup(options, folder, base, target, judge, parts, workshop, original, feeds, sensed, space, step)


def _split(judge: Judge, source: Source, options: CompressOptions) -> Parts:
    rows = text_pieces(judge.rows) if source.task.generates else judge.rows
    return split_rows(rows, options.seed, calibration=options.calibration is None, group=judge.group)


def _calibration(parts: Parts, options: CompressOptions, folder: Path) -> tuple[str, Mapping[str, str]]:
    """The recipe's samples and what their columns are called: the file given, or the rows that were set aside."""
    if options.calibration is not None:
        return options.calibration, dict(options.columns)
    path = folder / "calibration.jsonl"
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in parts.calibration))
    return str(path), {}


def _folder(
    out: Path, source: Source, options: CompressOptions, target: Target, recipe: Recipe, progress: Progress
) -> Path:
    """The work folder; what an earlier search with other settings left there is deleted."""
    folder = work_folder(out)
    relevant = {k: v for k, v in dataclasses.asdict(options).items() if k not in _IRRELEVANT}
    data = options.evaluation if options.evaluation.startswith("datasets:") else _sha256(Path(options.evaluation))
    settings = {
        "model": source.weights_sha256(),
        "data": data,
        "options": relevant,
        "target": dataclasses.asdict(target),
        "recipe": recipe.to_dict(),
        # Another edgeport may choose between other things.
        "space": dimensions(generates=source.task.generates, plain=target.plain),
    }
    text = json.dumps(settings, indent=2, default=str) + "\n"
    known = folder / _SETTINGS
    if folder.exists() and not known.is_file() and any(folder.iterdir()):
        raise UsageError(f"{str(folder)!r} exists and is no search of edgeport's: move it, or choose another OUT.")
    if known.is_file() and known.read_text(encoding="utf-8") != text:
        progress.note(f"{folder} was searched with other settings: it begins anew")
        shutil.rmtree(folder)
    (folder / "candidates").mkdir(parents=True, exist_ok=True)
    _write(known, text)
    return folder


def _write(path: Path, text: str) -> None:
    """The whole file or nothing of it, however the process ends: it is read again when the search goes on."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _step_seconds(source: Source, base: Recipe, folder: Path) -> float:
    """What a step of distillation takes: the original reads, and a cut model reads and learns. Measured once: it
    stands in the work folder after that."""
    path = folder / "step.json"
    if not path.is_file():
        head, samples = ExportHead(source), load_calibration(source, base, _ROWS_TO_LEARN).rows
        lengths = [len(row["input_ids"]) for row in samples]
        rows = rows_a_step(sum(lengths) / len(lengths), generates=source.task.generates)
        middle = sorted(samples, key=lambda row: len(row["input_ids"]))[len(samples) // 2]
        batch = {name: np.array([middle[name]] * rows) for name in head.names}
        times = []
        for _ in range(_READ):
            start = perf_counter()
            head.run(batch)
            times.append(perf_counter() - start)
        _write(path, json.dumps({"seconds": _FORWARDS * min(times)}))
    return float(json.loads(path.read_text(encoding="utf-8"))["seconds"])


def _steps_of(choice: Choice) -> int:
    return int(choice["recover"]) if choice["prune"] != NOTHING else 0


def _steps(step: float, options: CompressOptions) -> int:
    """Steps of distillation that a candidate has time for; none where those are too few to gain by."""
    return max((n for n in STEPS if n * step <= options.seconds * _TO_LEARN), default=0)


def _sensed_in(workshop: Workshop) -> str:
    """The precision whose damage is measured by parts."""
    return "int4" if workshop.source.task.generates else "int8"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sensitivity(workshop: Workshop, original: Path, base: Recipe, feeds: Feeds, folder: Path) -> list[Sensitivity]:
    """Measured once: it stands in the work folder after that."""
    path = folder / "sensitivity.json"
    if not path.is_file():
        precision = _sensed_in(workshop)
        recipe = replace(base, precisions=(precision,))
        batches = feeds.batches[:: max(1, len(feeds.batches) // _SENSED)]
        found = measure_sensitivity(workshop.prepared(recipe), recipe, precision, batches, folder)
        _write(path, json.dumps([dataclasses.asdict(s) for s in found]))
    return [Sensitivity(**s) for s in json.loads(path.read_text(encoding="utf-8"))]
