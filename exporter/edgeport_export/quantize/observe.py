"""Look at values inside of a graph while it reads batches, one batch at a time. Knows onnxruntime; keeps nothing."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from edgeport.errors import ExportError
from edgeport.session import open_graph
from numpy.typing import NDArray

from edgeport_export.batch import Batch
from edgeport_export.graph_io import opened, running, save_graph
from edgeport_export.quantize.histogram import Histogram

__all__ = ["histograms", "largest_by_channel", "observe"]

_TOKENS = 1024
"""Read at once, at most: what is observed of a BERT-base at 1,024 tokens takes 270 MB."""


def observe(
    model: ir.Model, names: Sequence[str], batches: Iterable[Batch], see: Callable[[str, NDArray[np.float32]], None]
) -> None:
    """Show ``see`` the values called ``names`` for every batch.

    Positions that the attention mask hides are left out where a value has a row for each position.

    Args:
        model: Is not changed.
        names: Of float values that nodes of the graph make.
        batches: Input name to int64 (rows, tokens).
        see: Takes a value's name and what it is for a batch, float32 (..., channels).

    Raises:
        ExportError: onnxruntime refuses the graph or fails, or a value is not finite.
    """
    watched = model.clone()
    values = {value.name: value for node in watched.graph for value in node.outputs}
    present = {output.name for output in watched.graph.outputs}
    watched.graph.outputs.extend(values[name] for name in names if name not in present)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "observed.onnx"
        save_graph(watched, path)
        del watched
        session = opened(path, open_graph)
        for batch in batches:
            for piece in _pieces(batch):
                with running(path, piece):
                    found = session.run(list(names), dict(piece))
                for name, array in zip(names, found, strict=True):
                    _show(name, array, piece.get("attention_mask"), see)


def _show(
    name: str,
    array: NDArray[np.float32],
    mask: NDArray[np.int64] | None,
    see: Callable[[str, NDArray[np.float32]], None],
) -> None:
    if mask is not None and not mask.all() and array.shape[:2] == mask.shape:
        array = array[mask.astype(bool)]
    try:
        see(name, array)
    except ValueError as e:
        raise ExportError(f"{name} takes values on the calibration rows that are not finite: correct the rows.") from e


def _pieces(batch: Batch) -> Iterator[Batch]:
    rows, tokens = next(iter(batch.values())).shape[:2]
    step = max(1, _TOKENS // tokens)
    for start in range(0, rows, step):
        yield {name: array[start : start + step] for name, array in batch.items()}


def histograms(model: ir.Model, names: Sequence[str], batches: Iterable[Batch]) -> Mapping[str, Histogram]:
    """The distribution of each value; see ``observe``."""
    found: dict[str, Histogram] = defaultdict(Histogram)
    observe(model, names, batches, lambda name, array: found[name].add(array))
    return found


def largest_by_channel(
    model: ir.Model, names: Sequence[str], batches: Iterable[Batch]
) -> Mapping[str, NDArray[np.float32]]:
    """The largest magnitude of each channel of each value, (channels,); see ``observe``."""
    found: dict[str, NDArray[np.float32]] = {}

    def see(name: str, array: NDArray[np.float32]) -> None:
        largest = np.abs(array.reshape(-1, array.shape[-1])).max(axis=0, initial=0)
        found[name] = np.maximum(found.get(name, largest), largest)

    observe(model, names, batches, see)
    return found
