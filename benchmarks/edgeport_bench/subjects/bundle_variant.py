"""One variant of a bundle, in the session that ``edgeport.load`` opens. Options: path, variant, providers, threads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime  # noqa: F401  # here, so that its import counts as import and not as loading
from edgeport.bundle import Bundle
from edgeport.session import open_session

from edgeport_bench.subjects import Array

__all__ = ["BundleVariant", "OpenVariant", "open_subject"]


class OpenVariant:
    """A session on one variant."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Open the variant.

        Raises:
            BundleError: the bundle is damaged, or has no such variant.
            ProviderError: a provider is absent, or takes no node.
        """
        self._bundle = Bundle.open(Path(options["path"]))
        names = {name: options[name] for name in ("variant", "providers", "threads")}
        self._session = open_session(self._bundle, **names)
        self._size = self._bundle.variant(options["variant"]).size_bytes

    def describe(self) -> dict[str, Any]:
        return {"size_bytes": self._size, "report": self._session.report().to_dict()}

    def close(self) -> None:
        self._session.close()


class BundleVariant(OpenVariant):
    """It reads."""

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        return self._session.run(feeds)


def open_subject(options: Mapping[str, Any]) -> BundleVariant:
    """Open the variant; errors are those of ``OpenVariant``."""
    return BundleVariant(options)
