"""Export Hugging Face models to edgeport bundles: ``export(model, out, recipe)``."""

from edgeport_export.pipeline import ExportResult, export
from edgeport_export.recipe import Limits, Recipe

__all__ = ["ExportResult", "Limits", "Recipe", "export"]
