"""The bundle format: manifest (what it says), reader (open and check), writer (all or nothing)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeport.bundle.manifest import (
    MANIFEST_NAME,
    SCHEMA,
    FileRecord,
    Manifest,
    ModelSource,
    TensorSpec,
    TextSpec,
    Variant,
)
from edgeport.bundle.reader import Bundle

if TYPE_CHECKING:
    from edgeport.bundle.writer import BundleWriter, check_target

__all__ = [
    "MANIFEST_NAME",
    "SCHEMA",
    "Bundle",
    "BundleWriter",
    "FileRecord",
    "Manifest",
    "ModelSource",
    "TensorSpec",
    "TextSpec",
    "Variant",
    "check_target",
]


def __getattr__(name: str) -> Any:
    """The writer on first use: whoever runs a bundle needs none, and it costs as much to import as the reader."""
    if name not in ("BundleWriter", "check_target"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from edgeport.bundle import writer

    return getattr(writer, name)
