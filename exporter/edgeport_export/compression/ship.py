"""The bundle: the chosen variant and the original, what was measured, the recipe, and the report."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeport.bundle import Bundle, BundleWriter, Manifest, Variant

from edgeport_export.card import model_card
from edgeport_export.compression.report import write_report
from edgeport_export.compression.workshop import SMALL

__all__ = ["ship"]


def ship(out: Path, original: Path, candidate: Path, report: Mapping[str, Any], *, force: bool) -> Manifest:
    """Write the bundle ``out``: ``small`` of the candidate and ``fp32`` of the original, with the report.

    Both read the candidate's tokens: of one whose vocabulary was trimmed, ``original`` is trimmed alike.
    """
    first, second = Bundle.open(candidate), Bundle.open(original)
    small, fp32 = first.variant(SMALL), second.variant("fp32")
    measured = {"compression": {**report["chosen"]["loss"], "metric": report["metric"]["name"], **report["speed"]}}
    with BundleWriter(out, force=force) as writer:
        for bundle, variant in ((first, small), (second, fp32)):
            _copy(bundle, variant, writer.directory)
        tokenizer = first.manifest.text
        assert tokenizer is not None
        shutil.copy(first.path(tokenizer.tokenizer), writer.directory / tokenizer.tokenizer)
        variants = {
            SMALL: dataclasses.replace(small, measured={**small.measured, **measured}),
            "fp32": fp32,
        }
        manifest = dataclasses.replace(first.manifest, variants=variants, validation=second.manifest.validation)
        write_report(report, writer.directory)
        card = f"{model_card(manifest)}\n{_summary(report, manifest.pruning)}"
        (writer.directory / "README.md").write_text(card, encoding="utf-8")
        return writer.commit(manifest)


def _copy(bundle: Bundle, variant: Variant, folder: Path) -> None:
    for name in variant.graphs.values():
        for file in (name, f"{name}.data"):
            if (bundle.path(name).parent / file).is_file():
                shutil.copy(bundle.path(name).parent / file, folder / file)


def _summary(report: Mapping[str, Any], pruning: Mapping[str, Any]) -> str:
    which = "Only `small` is pruned; `fp32` is the original. " if pruning else ""
    if "vocabulary" in pruning:
        which = "`fp32` is the original without the words that the corpus does not use; `small` may be pruned further. "
    files = "report.html shows what was tried; recipe.toml makes it again."
    return f"## Compression\n\n{report['summary']}\n\n{which}{files}\n"
