"""What ``pipe.report()`` tells: how a model runs here. Data and its wording, no more."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Report"]

_WORTH_TELLING = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_tile", "asimd", "asimdhp", "asimddp",
    "i8mm", "sve", "sve2", "bf16", "sme",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """How a session runs on this machine."""

    variant: str
    reason: str
    """Why this variant, as a sentence."""
    providers: tuple[str, ...]
    """Short names, in order of priority."""
    nodes: Mapping[str, int]
    """Provider, or package of kernels for the CPU, to the nodes of the graph that it runs; empty where this onnxruntime
    cannot tell."""
    threads: int
    model_bytes: int
    rss_bytes: int | None
    """Of the whole process; None where the system does not tell. Likewise ``peak_rss_bytes``."""
    peak_rss_bytes: int | None
    cpu_features: tuple[str, ...]
    onnxruntime: str

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        nodes = ", ".join(f"{count} on {name}" for name, count in self.nodes.items())
        rows = {
            "variant": f"{self.variant}: {self.reason}",
            "providers": ", ".join(self.providers),
            "nodes": nodes or "not told by this onnxruntime",
            "threads": str(self.threads),
            "memory": f"{_mb(self.rss_bytes)} now, {_mb(self.peak_rss_bytes)} at most, model {_mb(self.model_bytes)}",
            "CPU": ", ".join(self.cpu_features) or "features unknown",
            "onnxruntime": self.onnxruntime,
        }
        width = max(map(len, rows))
        return "\n".join(f"{key:<{width}}  {value}" for key, value in rows.items())


def notable(features: frozenset[str]) -> tuple[str, ...]:
    """The features that matter to the speed of a model, in a fixed order."""
    return tuple(name for name in _WORTH_TELLING if name in features)


def _mb(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**20:.0f} MiB"
