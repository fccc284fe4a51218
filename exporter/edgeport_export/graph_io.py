"""Write a graph to disk, and run it from there. Knows files and ONNX Runtime; knows no pass and no task."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
from edgeport.errors import ExportError, ProviderError
from edgeport.session import open_graph, resolve_providers
from numpy.typing import NDArray

from edgeport_export.batch import Batch
from edgeport_export.messages import first_line

__all__ = [
    "MIN_ONNXRUNTIME",
    "ON_CPU",
    "OpenBy",
    "opened",
    "operator_counts",
    "page_out",
    "return_freed_memory",
    "runner",
    "running",
    "save_graph",
    "time_run",
]

_Opened = TypeVar("_Opened")


@dataclass(frozen=True)
class OpenBy:
    """How a graph is opened."""

    threads: int | None = None
    """None for all that there are."""
    provider: str | None = None
    """As the runtime takes it; None for the CPU."""
    profile: Path | None = None
    """How the files begin where onnxruntime writes what operators take; None where it does not."""

    @property
    def arguments(self) -> dict[str, Any]:
        """As the runtime's functions that open a graph take them."""
        return {"threads": self.threads, "providers": resolve_providers(self.provider), "profile": self.profile}


ON_CPU = OpenBy()
"""With all threads."""

MIN_ONNXRUNTIME: Mapping[int, str] = {18: "1.14", 19: "1.15", 20: "1.17", 21: "1.18", 22: "1.21", 23: "1.22"}
"""The first onnxruntime release that takes each opset."""

_EXTERNAL_ABOVE = 2**20
"""Bytes. Larger weights go beside the graph: onnxruntime maps them into memory instead of parsing and copying them.
MiniLM in int8, 23 MB, opened in 0.05 instead of 0.10 s and in 73 instead of 92 MB, GPT-2 in int8, 128 MB, in 0.15
instead of 0.35 s and in 232 instead of 288 MB (onnxruntime 1.32 on Linux)."""


_MADV_PAGEOUT = 21
"""Linux 5.4. Older ones refuse it, and nothing happens."""


def save_graph(model: ir.Model, path: Path) -> int:
    """Write ``model`` to ``path``, large weights to ``path`` + ".data"; returns the bytes written.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    data = f"{path.name}.data" if size > _EXTERNAL_ABOVE else None
    ir.save(model, path, external_data=data)
    return sum(p.stat().st_size for p in (path, path.with_name(path.name + ".data")) if p.exists())


def operator_counts(model: ir.Model) -> dict[str, int]:
    """Operator to count, the most frequent first."""
    counts: dict[str, int] = {}
    for node in model.graph.all_nodes():
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def runner(path: Path, outputs: Sequence[str], how: OpenBy = ON_CPU) -> Callable[[Batch], list[NDArray[np.float32]]]:
    """Open the graph as the runtime would; returns a function from a batch to its outputs.

    Raises:
        ExportError: ONNX Runtime refuses the graph; the function raises it for a batch that fails.
    """
    session = opened(path, partial(open_graph, **how.arguments))

    def run(batch: Batch) -> list[NDArray[np.float32]]:
        with running(path, batch):
            results: list[NDArray[np.float32]] = session.run(list(outputs), dict(batch))
        return results

    return run


def opened(path: Path, how: Callable[[Path], _Opened]) -> _Opened:
    """The graph, opened by ``how``.

    Raises:
        ExportError: ONNX Runtime refuses it.
        ProviderError: it was asked for a provider that is not there, or that takes no node.
    """
    try:
        session = how(path)
    except ProviderError:
        raise
    except Exception as e:
        raise ExportError(f"onnxruntime refuses {path.name} ({first_line(e)}): report this model.") from e
    page_out(f"{path.name}.data")  # onnxruntime has packed the weights that it multiplies with
    return session


@contextmanager
def running(path: Path, batch: Batch) -> Iterator[None]:
    """What fails inside is the graph's fault: an ExportError says with which inputs."""
    try:
        yield
    except Exception as e:
        shape = "x".join(map(str, batch["input_ids"].shape))
        raise ExportError(f"{path.name} does not run on inputs of {shape} ({first_line(e)}).") from e


def return_freed_memory() -> None:
    """Hand back to the system what was freed: glibc keeps blocks of up to 32 MB, which is most of a closed session."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def page_out(suffix: str) -> None:
    """Let the system take back the pages of the files ``*suffix`` that are mapped into memory; they are read again
    when they are touched. Pages that were written to stay. Does nothing but on Linux.

    A checkpoint's weights lie in memory beside those of the graph that is run, and nobody reads them then: a quarter
    of what the export of a GPT-2 with 124M parameters takes.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(suffix):
            start, end = (int(address, 16) for address in line.split(" ", 1)[0].split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_PAGEOUT)


def time_run(run: Callable[[Batch], object], batch: Batch, *, seconds: float = 0.3) -> float:
    """Median milliseconds of a call, after three to warm up. An indication; `edgeport bench` measures."""
    for _ in range(3):
        run(batch)
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < 5 or (time.perf_counter() < end and len(samples) < 100):
        start = time.perf_counter()
        run(batch)
        samples.append((time.perf_counter() - start) * 1e3)
    return float(np.median(samples))
