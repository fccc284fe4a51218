"""Compression with a quality budget: the fastest form of a model that is still good enough, and the proof."""

from __future__ import annotations

from edgeport_export.compression.compress import CompressResult, compress
from edgeport_export.compression.options import CompressOptions

__all__ = ["CompressOptions", "CompressResult", "compress"]
