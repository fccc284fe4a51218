"""Hashing, shared by the reader and the writer."""

from __future__ import annotations

from pathlib import Path

__all__ = ["sha256_of"]


def sha256_of(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal; reads it in pieces."""
    import hashlib  # not for the device, which reads bundles that were checked when they came

    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
