"""Run exported models without torch: ``edgeport.load(bundle)`` gives a pipeline."""

from edgeport.bundle import Bundle
from edgeport.errors import (
    BundleError,
    EdgeportError,
    ExportError,
    InputError,
    MissingExtraError,
    ProviderError,
    UsageError,
    ValidationError,
)
from edgeport.load import load
from edgeport.tasks import Pipeline

__all__ = [
    "Bundle",
    "BundleError",
    "EdgeportError",
    "ExportError",
    "InputError",
    "MissingExtraError",
    "Pipeline",
    "ProviderError",
    "UsageError",
    "ValidationError",
    "__version__",
    "load",
]

__version__ = "0.1.0"
