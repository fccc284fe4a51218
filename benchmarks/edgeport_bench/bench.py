"""``bench(target, options)``: which subjects, at which shapes, compared with what. From a model to a report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeport.errors import UsageError
from edgeport.session import usable_threads

from edgeport_bench.harness import Refusal, measure_cold_starts, measure_subjects
from edgeport_bench.machine import describe_machine, noise_warnings, read_clock
from edgeport_bench.options import BenchOptions
from edgeport_bench.peers.catalog import resolve_peers
from edgeport_bench.peers.specs import peer_specs
from edgeport_bench.report import BenchReport, refusal_lines, wrong_outputs
from edgeport_bench.subjects import SubjectSpec
from edgeport_bench.targets import Target, open_target
from edgeport_bench.workload import Workload, make_workload

__all__ = ["BenchOptions", "bench"]

_ORIGINALS = ("torch", "sentence-transformers-torch", "fp32")
"""Subjects that outputs are compared with, best first: the original, or what was compared with it when it was made."""

Say = Callable[[str], None]


def bench(path: str | Path, options: BenchOptions | None = None, *, say: Say = lambda doing: None) -> BenchReport:
    """Measure a bundle's variants, a Hugging Face model or an ONNX file, and, if asked for, peers beside it.

    Args:
        path: The bundle's folder, the model's folder or hub id, or the file.
        options: Every choice.
        say: Is told what is being done.

    Raises:
        BundleError: the bundle is damaged, or has no such variant.
        MissingExtraError: the original is asked for, and torch or transformers is absent.
        ProviderError: a provider is absent, or takes no node.
        UsageError: an option does not fit what is measured.
    """
    options = options or BenchOptions()
    threads = options.threads or usable_threads()
    target = open_target(
        path,
        original=options.original_model,
        variants=options.variants,
        providers=options.providers,
        threads=threads,
        reads_texts=options.texts is not None,
    )
    workload = make_workload(target, options)
    if options.evaluation is not None and not any(spec.kind.startswith("bundle") for spec in target.specs):
        raise UsageError(f"--eval scores bundles, and {str(path)!r} is none: export it, or leave --eval out.")
    specs, refusals = _with_peers(target, options, threads, say)
    specs += _other_bundles(target, options, threads)
    reference = _reference(specs)
    machine, clock = describe_machine(), read_clock()
    results = measure_subjects(
        specs,
        workload.feeds,
        seconds=options.seconds,
        reference=reference,
        new_tokens=workload.new_tokens,
        say=say,
    )
    answered = {m.subject for m in results.measurements}
    results.subjects = [s for s in results.subjects if s.name in answered]
    refusals = [*refusals, *results.refusals]
    if not answered:
        raise UsageError(" ".join(["nothing could be measured.", *refusal_lines(refusals)]))
    noise = noise_warnings(machine, clock, read_clock(), [m.rounds for m in results.measurements])
    alive = [spec for spec in specs if spec.name in answered]
    if options.cold:
        first = next(iter(workload.feeds.values()))
        cold = measure_cold_starts(alive, first, writes=workload.new_tokens > 0, say=say)
        for record in results.subjects:
            record.cold_ms = cold[record.name]
    if options.evaluation is not None:
        say(f"scoring on {options.evaluation.name}")
        for record in results.subjects:
            record.quality = _quality(next(spec for spec in specs if spec.name == record.name), options)
    return BenchReport(
        target=str(path),
        source=target.source,
        task=target.task,
        machine=machine,
        settings=_settings(options, threads, workload),
        subjects=results.subjects,
        measurements=results.measurements,
        reference=reference,
        baseline=_baseline(alive),
        refusals=refusals,
        warnings=[*noise, *wrong_outputs(results.measurements, reference)],
    )


def _with_peers(
    target: Target, options: BenchOptions, threads: int, say: Say
) -> tuple[list[SubjectSpec], list[Refusal]]:
    """All subjects, the original first, then the peers, then what is measured."""
    names = options.peer_names or ("" if target.specs else "torch")
    peers = resolve_peers(names)
    if options.texts is not None:
        for peer, _ in peers:
            if not peer.reads_texts:
                raise UsageError(
                    f"{peer.name} reads tokens and no texts: compare with sentence-transformers or fastembed."
                )
    if not peers:
        return list(target.specs), []
    if target.original is None:
        raise UsageError(
            "nothing tells what this ONNX file was made of: pass --original MODEL to compare it with peers."
        )
    specs, refusals = peer_specs(peers, target.original, threads, say)
    return sorted([*specs, *target.specs], key=lambda s: s.name != "torch"), refusals


def _other_bundles(target: Target, options: BenchOptions, threads: int) -> list[SubjectSpec]:
    """Variants of bundles that are to be compared with, as ``FOLDER/VARIANT``.

    Raises:
        UsageError: a bundle is for another task.
    """
    found = []
    for folder in options.other_bundles:
        other = open_target(folder, providers=options.providers, threads=threads, reads_texts=options.texts is not None)
        if target.task not in ("", other.task):
            raise UsageError(
                f"--against {folder!r} is for {other.task}, what is measured for {target.task}: give one for the same."
            )
        found += [dataclasses.replace(s, name=f"{folder}/{s.name}", is_peer=True) for s in other.specs]
    return found


def _quality(spec: SubjectSpec, options: BenchOptions) -> dict[str, float]:
    """Metrics of a bundle's variant; none of a peer, which has no pipeline."""
    if not spec.kind.startswith("bundle"):
        return {}
    from edgeport_export.quality.cli import evaluate  # its metrics take seconds to import

    assert options.evaluation is not None
    path, variant = Path(spec.options["path"]), spec.options["variant"]
    (found,) = evaluate(path, [options.evaluation], variants=[variant], columns=dict(options.columns) or None)
    metrics: dict[str, float] = found["metrics"]
    return metrics


def _reference(specs: Sequence[SubjectSpec]) -> str | None:
    return _first([spec.name for spec in specs], _ORIGINALS) if len(specs) > 1 else None


def _baseline(specs: Sequence[SubjectSpec]) -> str | None:
    """What speed is compared with: the original, or else the first peer."""
    names = [spec.name for spec in specs if spec.is_peer or spec.name == "torch"]
    return _first(names, _ORIGINALS) or next(iter(names), None)


def _first(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The subject that is called as the first of ``wanted``, on whatever provider."""
    return next((name for want in wanted for name in names if name.partition(" on ")[0] == want), None)


def _settings(options: BenchOptions, threads: int, workload: Workload) -> dict[str, object]:
    settings = dataclasses.asdict(options)
    for name in ("texts", "evaluation"):
        settings[name] = None if settings[name] is None else str(settings[name])
    return {
        **settings,
        "threads": threads,
        "batches": sorted({batch for batch, _ in workload.feeds}),
        "lengths": sorted({length for _, length in workload.feeds}),
        "new_tokens": workload.new_tokens or None,
    }
