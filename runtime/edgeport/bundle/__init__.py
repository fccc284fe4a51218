"""The bundle format: manifest (what it says), reader (open and check), writer (all or nothing)."""

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
