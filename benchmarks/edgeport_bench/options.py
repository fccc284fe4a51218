"""Every choice of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeport.errors import UsageError

from edgeport_bench.peers.catalog import resolve_peers

__all__ = ["BenchOptions"]


@dataclass(frozen=True)
class BenchOptions:
    """Every choice of a benchmark.

    Raises:
        UsageError: a value is impossible.
    """

    variants: tuple[str, ...] = ()
    """All of the bundle's where empty."""
    providers: tuple[str, ...] = ()
    """Each is measured: short names, best first, with commas between; the CPU where empty."""
    threads: int | None = None
    """The processors that this process may use, where left out."""
    batches: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    """Of texts, or of prompts, in tokens."""
    new_tokens: int | None = None
    """What is written after each prompt; 64 where left out, or half of a small context."""
    seconds: float = 2.0
    """Time of measuring for each subject and shape."""
    against: str | None = None
    """Peers and folders of other bundles, comma-separated; one may name the original, as in ``torch=MODEL``."""
    original: str | None = None
    """The model that the bundle was made of: folder or hub id. What the bundle names where left out."""
    axes: tuple[tuple[str, int], ...] = ()
    """Sizes of an ONNX file's axes, by name."""
    inputs: tuple[tuple[str, float], ...] = ()
    """What inputs of an ONNX file are filled with, by name; random numbers where left out."""
    texts: Path | None = None
    """A file with a text a line, which are read whole instead of tokens of exact shapes."""
    evaluation: Path | None = None
    """Labelled data that a bundle's variants are scored on."""
    columns: tuple[tuple[str, str], ...] = ()
    """What that file calls the columns, by the scorer's names."""
    cold: bool = False
    """Also time fresh processes up to their first result."""

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 3600:
            raise UsageError(f"{self.seconds} seconds is no time to measure: choose more than 0 and at most 3600.")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"{self.threads} threads cannot run anything: choose at least 1.")
        if self.new_tokens is not None and self.new_tokens < 2:
            raise UsageError(f"{self.new_tokens} new tokens leave none to time after the first: choose at least 2.")
        resolve_peers(self.peer_names)

    @property
    def peer_names(self) -> str:
        """``against`` without the original and other bundles."""
        return ",".join(part.partition("=")[0] for part in self._against if part not in self.other_bundles)

    @property
    def other_bundles(self) -> list[str]:
        """The folders of ``against``, each once."""
        return list(dict.fromkeys(part for part in self._against if (Path(part) / "edgeport.json").is_file()))

    @property
    def original_model(self) -> str | None:
        """The original, wherever it is named."""
        named = (part.partition("=")[2] for part in self._against)
        return self.original or next((name for name in named if name), None)

    @property
    def _against(self) -> list[str]:
        return [part.strip() for part in (self.against or "").split(",") if part.strip()]
