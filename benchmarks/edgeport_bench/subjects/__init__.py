"""What can be measured: one file a kind, imported only in the process that measures it.

A kind's file has ``open_subject(options)``. A new peer is a file here and a line in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

import numpy.typing as npt

__all__ = ["KINDS", "Array", "Reader", "Subject", "SubjectSpec", "Writer", "import_kind"]

Array = npt.NDArray[Any]

KINDS = {
    "bundle": "edgeport_bench.subjects.bundle_variant",
    "bundle-writer": "edgeport_bench.subjects.bundle_writer",
    "torch": "edgeport_bench.subjects.torch_original",
    "torch-writer": "edgeport_bench.subjects.torch_writer",
}
"""Kind to the module that opens it."""


class Subject(Protocol):
    """A loaded model; what it can do besides is ``Reader``'s or ``Writer``'s."""

    def describe(self) -> dict[str, Any]:
        """``size_bytes``, ``device``, and what else a reader should know; for JSON."""

    def close(self) -> None:
        """Give the memory back."""


class Reader(Subject, Protocol):
    """A model that reads texts, a batch in one run."""

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Token ids in, the bundle's outputs by name out; returns when the work is done."""


class Writer(Subject, Protocol):
    """A model that goes on with texts, token by token, always with the likeliest; none of them ends a text."""

    def write(self, prompts: Array, count: int, each: Callable[[], None]) -> Array:
        """Continue the prompts, int64 (batch, length), which are read anew.

        Args:
            prompts: Token ids.
            count: New tokens of each row.
            each: Called as soon as every row has one token more.

        Returns:
            int64 (batch, count).
        """

    def follow(self, prompts: Array, tokens: Array) -> Array:
        """What it would have written in each place, had it written ``tokens`` up to there: int64 (batch, count)."""


@dataclass(frozen=True)
class SubjectSpec:
    """What to open, in words that can be sent to another process."""

    name: str
    """What tables call it."""
    kind: str
    options: Mapping[str, Any]
    """What the kind's ``open_subject`` takes; JSON values."""


def import_kind(kind: str) -> ModuleType:
    """The module of a kind, with everything that it needs."""
    return import_module(KINDS[kind])
