"""What can be measured: one file a kind, imported only in the process that measures it.

A kind's file has ``open_subject(options)``. A new peer is a file here and a line in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

import numpy.typing as npt

__all__ = ["KINDS", "Array", "Subject", "SubjectSpec", "import_kind"]

Array = npt.NDArray[Any]

KINDS = {
    "bundle": "edgeport_bench.subjects.bundle_variant",
    "torch": "edgeport_bench.subjects.torch_original",
}
"""Kind to the module that opens it."""


class Subject(Protocol):
    """A loaded model."""

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Token ids in, the bundle's outputs by name out; returns when the work is done."""

    def describe(self) -> dict[str, Any]:
        """``size_bytes``, ``device``, and what else a reader should know; for JSON."""

    def close(self) -> None:
        """Give the memory back."""


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
