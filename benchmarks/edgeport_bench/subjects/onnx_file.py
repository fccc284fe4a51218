"""An ONNX file in a plain onnxruntime session with its default settings. Options: path, providers, threads, outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
from edgeport.errors import ProviderError
from edgeport.session import resolve_providers

from edgeport_bench.subjects import Array

__all__ = ["OnnxFile", "open_subject"]


class OnnxFile:
    """It reads."""

    def __init__(self, path: Path, options: Mapping[str, Any]) -> None:
        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = options["threads"]
        self._graph = onnxruntime.InferenceSession(path, session, providers=_providers(options["providers"]))
        self._size = sum(p.stat().st_size for p in path.parent.glob(f"{path.name}*"))
        self._inputs = {port.name for port in self._graph.get_inputs()}
        self._outputs = options["outputs"] or [port.name for port in self._graph.get_outputs()]

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        found = self._graph.run(self._outputs, {name: array for name, array in feeds.items() if name in self._inputs})
        return dict(zip(self._outputs, found, strict=True))

    def describe(self) -> dict[str, Any]:
        return {"size_bytes": self._size, "onnxruntime": onnxruntime.__version__}

    def close(self) -> None:
        del self._graph


def open_subject(options: Mapping[str, Any]) -> OnnxFile:
    """Open the file.

    Raises:
        ProviderError: a provider is not part of this onnxruntime.
    """
    return OnnxFile(Path(options["path"]), options)


def _providers(names: str | None) -> list[str]:
    found = [provider.onnxruntime_name for provider in resolve_providers(names)]
    absent = set(found) - set(onnxruntime.get_available_providers())
    if absent:
        here = ", ".join(onnxruntime.get_available_providers())
        raise ProviderError(
            f"{', '.join(sorted(absent))} is not in this onnxruntime, which has {here}: choose one of these."
        )
    return found
