"""Candidates: from a recipe to a small bundle in the work folder, by the stages of an export.

What is made once is kept: a graph for each structure in memory, finished bundles on disk, so that a search that was
interrupted goes on from them.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edgeport.bundle import MANIFEST_NAME, Bundle, BundleWriter
from edgeport.errors import ValidationError

from edgeport_export import package
from edgeport_export.graph_io import OpenBy
from edgeport_export.head import ExportHead
from edgeport_export.progress import Progress
from edgeport_export.prune import prune
from edgeport_export.pruning import Prune
from edgeport_export.recipe import Recipe
from edgeport_export.samples import Batch, padding_batches
from edgeport_export.source import Source
from edgeport_export.validate import hides_padding
from edgeport_export.variants import Prepared, make_variant, open_variant, prepare, validation_record

__all__ = ["ORIGINAL", "SMALL", "Workshop", "candidate_name", "graph_of"]

SMALL = "small"
"""What the chosen variant is called."""
ORIGINAL = "original"
"""The folder of the original, in fp32 and as it is exported without a search."""


_KEPT = 3
"""Structures whose graphs are kept in memory, beside the original's."""


def candidate_name(recipe: Recipe) -> str:
    """A short name that is the same for the same recipe."""
    text = json.dumps(recipe.to_dict(), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def graph_of(bundle: Path, variant: str) -> Path:
    """The file of a bundle's variant."""
    opened = Bundle.open(bundle)
    return opened.path(opened.variant(variant).graphs["model"])


@dataclass
class Workshop:
    """Makes bundles of one model."""

    source: Source
    folder: Path
    progress: Progress

    def __post_init__(self) -> None:
        self.head = ExportHead(self.source)
        self._prepared: dict[str, Prepared] = {}
        self._maskable: bool | None = None

    def original(self, recipe: Recipe) -> Path:
        """The bundle of the recipe's precisions as `edgeport export` makes them, under their own names; any but fp32
        is left out where it is refused.

        Raises:
            ValidationError: the fp32 graph is not the original.
        """
        return self._bundle(ORIGINAL, recipe, {name: name for name in recipe.precisions}, needed="fp32")

    def beside(self, recipe: Recipe) -> Path:
        """The bundle of the original to ship beside the recipe's variant: in its vocabulary, since they share a
        tokenizer.

        Raises:
            ValidationError: the fp32 graph is not the original.
        """
        if recipe.prune is None or recipe.prune.vocabulary is None:
            return self.folder / ORIGINAL
        trimmed = Prune(vocabulary=recipe.prune.vocabulary)
        same = replace(recipe, prune=trimmed, recover=None, keep_fp32=None, precisions=("fp32",))
        return self._bundle(f"{ORIGINAL}-trimmed", same, {"fp32": "fp32"}, needed="fp32")

    def build(self, recipe: Recipe) -> Path:
        """The bundle of the recipe's one precision, as the variant ``small``.

        Raises:
            ValidationError: it is too far from the model that it was made of.
        """
        (precision,) = recipe.precisions
        return self._bundle(candidate_name(recipe), recipe, {SMALL: precision}, needed=SMALL)

    def prepared(self, recipe: Recipe) -> Prepared:
        """The graph that the recipe's variants are made of."""
        key = _structure(recipe)
        if key not in self._prepared:
            while len(self._prepared) > _KEPT:
                del self._prepared[list(self._prepared)[1]]  # the first is the original's
            self._prepared[key] = self._prepare(recipe)
        return self._prepared[key]

    def _prepare(self, recipe: Recipe) -> Prepared:
        if recipe.prune is None:
            return prepare(self.head, self.source, recipe, self.progress)
        source = copy.deepcopy(self.source)
        prune(source, recipe, self.progress)
        return prepare(ExportHead(source), source, recipe, self.progress)

    def runner(self, bundle: Path, variant: str, how: OpenBy) -> Callable[[Batch], object]:
        """A bundle's variant, opened as the runtime opens it."""
        return open_variant(graph_of(bundle, variant), self.source, how)

    def at_hand(self, recipe: Recipe) -> bool:
        """Whether the graph that the recipe's variants are made of is in memory."""
        return _structure(recipe) in self._prepared

    def _bundle(self, name: str, recipe: Recipe, wanted: dict[str, str], *, needed: str) -> Path:
        target = self.folder / name
        if (target / MANIFEST_NAME).is_file():
            return target
        prepared = self.prepared(recipe)
        variants, refused = {}, {}
        with BundleWriter(target) as writer:
            for label, precision in wanted.items():
                variant, verdict = make_variant(
                    prepared, precision, recipe, writer.directory, self.progress, name=label
                )
                if verdict is None or verdict.passed:
                    variants[label] = variant
                else:
                    refused[label] = "; ".join(verdict.violations)
            if needed in refused:
                raise ValidationError(f"{needed} is too far from the model that it was made of: {refused[needed]}.")
            package.write_tokenizer(prepared.source, writer.directory)
            writer.commit(
                package.manifest(
                    prepared.source,
                    recipe,
                    sha256=prepared.sha256,
                    variants=variants,
                    graph=prepared.graph.graph,
                    capture=prepared.capture,
                    validation=validation_record(prepared.reference, refused),
                    maskable_padding=self.maskable,
                )
            )
        return target

    @property
    def maskable(self) -> bool:
        """Whether the attention mask hides padding."""
        if self._maskable is None:
            self._maskable = self.source.task.generates or all(
                hides_padding(self.head, *pair) for pair in padding_batches(self.source)
            )
        return self._maskable


def _structure(recipe: Recipe) -> str:
    """What changes the model before its graph is captured."""
    return str((recipe.prune, recipe.recover))
