"""Every error that edgeport raises on purpose.

    EdgeportError(Exception)
    ├── UsageError(ValueError)          the call is wrong: an option, a task, an input; exit status 2
    │   ├── InputError                  a text or a list that the pipeline cannot take
    │   └── MissingExtraError           the call needs an optional package; the message is the pip command
    ├── BundleError(ValueError)         the bundle is damaged, unsafe, or made by a newer edgeport
    ├── ProviderError(RuntimeError)     an execution provider is absent or takes no node
    └── ExportError(RuntimeError)       the model cannot be exported
        └── ValidationError             the exported model differs too much from the original

Each message is one sentence with the value, what is allowed, and the remedy. The command line prints it without a
traceback and exits with the class's ``exit_status``.
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "EdgeportError",
    "ExportError",
    "InputError",
    "MissingExtraError",
    "ProviderError",
    "UsageError",
    "ValidationError",
]


class EdgeportError(Exception):
    """The root: catch this to catch everything that edgeport raises on purpose."""

    exit_status = 1


class UsageError(EdgeportError, ValueError):
    """The call is wrong."""

    exit_status = 2


class InputError(UsageError):
    """The pipeline cannot take this input."""


class MissingExtraError(UsageError):
    """The call needs an optional package that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs packages that are not installed: pip install 'edgeport[{extra}]'.")


class BundleError(EdgeportError, ValueError):
    """The bundle is damaged, unsafe, or made by a newer edgeport."""


class ProviderError(EdgeportError, RuntimeError):
    """An execution provider is absent, or takes no node of the graph."""


class ExportError(EdgeportError, RuntimeError):
    """The model cannot be exported."""


class ValidationError(ExportError):
    """The exported model differs from the original by more than the recipe allows."""
