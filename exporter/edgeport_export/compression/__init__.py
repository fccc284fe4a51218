"""Compression with a quality budget: the fastest form of a model that is still good enough, and the proof."""

from __future__ import annotations

from edgeport_export.compression.options import CompressOptions
from edgeport_export.compression.pipeline import CompressResult, compress

__all__ = ["CompressOptions", "CompressResult", "compress"]
