"""One variant of a bundle as its users call it: texts in, vectors out. Options: those of ``bundle_variant``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import edgeport
import numpy as np
import onnxruntime  # noqa: F401  # here, so that its import counts as import and not as loading

from edgeport_bench.subjects import Array

__all__ = ["BundlePipeline", "open_subject"]


class BundlePipeline:
    """It reads texts."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        names = {name: options[name] for name in ("variant", "providers", "threads")}
        self._pipe: Any = edgeport.load(options["path"], **names)
        bundle = edgeport.Bundle.open(options["path"])
        self._size = bundle.variant(options["variant"]).size_bytes
        self._output = bundle.manifest.outputs[0].name

    def encode(self, texts: Sequence[str]) -> dict[str, Array]:
        return {self._output: np.asarray(self._pipe(list(texts)))}

    def describe(self) -> dict[str, Any]:
        return {"size_bytes": self._size, "report": self._pipe.report().to_dict()}

    def close(self) -> None:
        self._pipe.close()


def open_subject(options: Mapping[str, Any]) -> BundlePipeline:
    """Open the variant; errors are those of ``edgeport.load``."""
    return BundlePipeline(options)
