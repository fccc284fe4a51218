"""Export Hugging Face models to edgeport bundles: ``export(model, out, recipe)``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeport_export.compression import CompressOptions, CompressResult, compress
    from edgeport_export.pipeline import ExportResult, export
    from edgeport_export.recipe import Limits, Recipe

__all__ = ["CompressOptions", "CompressResult", "ExportResult", "Limits", "Recipe", "compress", "export"]

_HOME = {
    "CompressOptions": "compression.options",
    "CompressResult": "compression.pipeline",
    "compress": "compression.pipeline",
    "ExportResult": "pipeline",
    "export": "pipeline",
    "Limits": "recipe",
    "Recipe": "recipe",
}


def __getattr__(name: str) -> Any:
    """Import on first use: a process that needs one module of this package should not hold all of torch's exporter."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
