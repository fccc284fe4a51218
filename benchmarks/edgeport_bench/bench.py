"""``bench(bundle, options)``: which subjects, at which shapes, compared with what. From a bundle to a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgeport.bundle import Bundle, Manifest
from edgeport.errors import MissingExtraError, UsageError
from edgeport.session import usable_threads

from edgeport_bench.harness import measure_cold_starts, measure_subjects
from edgeport_bench.inputs import (
    Feeds,
    Shape,
    default_lengths,
    default_new_tokens,
    default_prompts,
    make_feeds,
    make_prompts,
)
from edgeport_bench.machine import describe_machine, load_warning
from edgeport_bench.report import BenchReport, wrong_outputs
from edgeport_bench.subjects import SubjectSpec

__all__ = ["BenchOptions", "bench"]

_WRITING = "text-generation"
"""The task whose models write, and do not only read."""


@dataclass(frozen=True)
class BenchOptions:
    """Every choice of a benchmark.

    Raises:
        UsageError: a value is impossible.
    """

    variants: tuple[str, ...] = ()
    """All of the bundle's where empty."""
    providers: tuple[str, ...] = ()
    """Short names, best first; the machine's choice where empty."""
    threads: int | None = None
    """The processors that this process may use, where left out."""
    batches: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    """Of texts, or of prompts, in tokens."""
    new_tokens: int | None = None
    """What is written after each prompt; 64 where left out, or half of a small context."""
    seconds: float = 2.0
    """Time of measuring for each subject and shape."""
    against: str | None = None
    """``torch`` or ``torch=MODEL``."""
    cold: bool = False
    """Also time fresh processes up to their first result."""

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 3600:
            raise UsageError(f"{self.seconds} seconds is no time to measure: choose more than 0 and at most 3600.")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"{self.threads} threads cannot run anything: choose at least 1.")
        if self.new_tokens is not None and self.new_tokens < 2:
            raise UsageError(f"{self.new_tokens} new tokens leave none to time after the first: choose at least 2.")
        if self.against is not None and self.against.partition("=")[0] != "torch":
            raise UsageError(f"--against {self.against!r} is unknown: use torch, or torch=MODEL (a folder or hub id).")


def bench(
    path: str | Path, options: BenchOptions | None = None, *, say: Callable[[str], None] = lambda doing: None
) -> BenchReport:
    """Measure the variants of the bundle in the folder ``path``, and, if asked for, the original beside them.

    Args:
        path: The bundle's folder.
        options: Every choice.
        say: Is told what is being done.

    Raises:
        BundleError: the bundle is damaged, or has no such variant.
        MissingExtraError: the original is asked for, and torch or transformers is absent.
        ProviderError: a provider is absent, or takes no node.
        UsageError: an option does not fit the bundle.
    """
    options = options or BenchOptions()
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    threads = options.threads or usable_threads()
    specs = _specs(bundle, options, threads)
    names = [spec.name for spec in specs]
    batches, lengths, new_tokens = _shapes(bundle, options)
    feeds = _feeds(bundle, [(batch, length) for length in lengths for batch in batches], new_tokens)
    machine = describe_machine()
    baseline = "torch" if "torch" in names else None
    reference = baseline or ("fp32" if "fp32" in names and len(names) > 1 else None)
    records, measurements = measure_subjects(
        specs, feeds, seconds=options.seconds, reference=reference, new_tokens=new_tokens, say=say
    )
    if options.cold:
        cold = measure_cold_starts(specs, next(iter(feeds.values())), writes=new_tokens > 0, say=say)
        for record in records:
            record.cold_ms = cold[record.name]
    settings = {**dataclasses.asdict(options), "threads": threads, "batches": batches, "lengths": lengths}
    settings["new_tokens"] = new_tokens or None
    busy = load_warning(machine)
    return BenchReport(
        bundle=str(path),
        source=manifest.source.id,
        task=manifest.task,
        machine=machine,
        settings=settings,
        subjects=records,
        measurements=measurements,
        reference=reference,
        baseline=baseline,
        warnings=[*([busy] if busy else []), *wrong_outputs(measurements, reference)],
    )


def _specs(bundle: Bundle, options: BenchOptions, threads: int) -> list[SubjectSpec]:
    variants = options.variants or tuple(bundle.manifest.variants)
    for variant in variants:
        bundle.variant(variant)
    if len(set(variants)) != len(variants):
        raise UsageError(f"variants are {', '.join(variants)}: name each once.")
    kind = "bundle-writer" if bundle.manifest.task == _WRITING else "bundle"
    shared: dict[str, Any] = {"path": str(bundle.root), "threads": threads}
    specs = [
        SubjectSpec(v, kind, {**shared, "variant": v, "providers": list(options.providers) or None}) for v in variants
    ]
    if options.against is not None:
        specs.insert(0, _original(bundle.manifest, options.against.partition("=")[2], threads))
    return specs


def _original(manifest: Manifest, model: str, threads: int) -> SubjectSpec:
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise MissingExtraError("`edgeport bench --against torch`", "export")
    options = {
        "model": model or manifest.source.id,
        "architecture": manifest.source.architecture,
        "outputs": [t.name for t in manifest.outputs],
        "threads": threads,
    }
    return SubjectSpec("torch", "torch-writer" if manifest.task == _WRITING else "torch", options)


def _shapes(bundle: Bundle, options: BenchOptions) -> tuple[list[int], list[int], int]:
    """Batches, lengths, and new tokens: 0 for a model that only reads."""
    lengths = list(dict.fromkeys(options.lengths))
    if bundle.manifest.task == _WRITING:
        new_tokens = options.new_tokens or default_new_tokens(bundle)
        return list(dict.fromkeys(options.batches)) or [1], lengths or default_prompts(bundle, new_tokens), new_tokens
    if options.new_tokens is not None:
        raise UsageError(
            f"--new-tokens is for {_WRITING}, and this bundle is for {bundle.manifest.task}: leave it out."
        )
    text = bundle.manifest.text
    fixed = text.fixed_batch if text else None
    batches = options.batches or ((fixed,) if fixed else (1, 8))
    return list(dict.fromkeys(batches)), lengths or default_lengths(bundle), 0


def _feeds(bundle: Bundle, shapes: list[Shape], new_tokens: int) -> dict[Shape, Feeds]:
    return make_prompts(bundle, shapes, new_tokens) if new_tokens else make_feeds(bundle, shapes)
