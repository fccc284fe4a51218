"""Causal masks that a model keeps as a table and cuts to size: one operator while it is traced.

A cut of a table is as large as the table at most, and everything that follows from it would be too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.onnx.ops import symbolic

from edgeport_export.operators import CAUSAL_MASK, DOMAIN

__all__ = ["causal_tables"]


@contextmanager
def causal_tables(model: nn.Module) -> Iterator[None]:
    """While every table of ``model`` is an operator."""
    found = [
        (module, name, buffer, window)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and (window := _window(buffer))
    ]
    try:
        for module, name, _, window in found:
            del module._buffers[name]
            vars(module)[name] = _Table(window)
        yield
    finally:
        for module, name, buffer, _ in found:
            vars(module).pop(name, None)
            module._buffers[name] = buffer


class _Table:
    """Stands for a table, for code that takes ``table[:, :, first:end, :keys]``."""

    def __init__(self, window: int) -> None:
        self._window = window

    def __getitem__(self, index: tuple[slice, slice, slice, slice]) -> Tensor:
        rows, columns = index[-2:]
        return symbolic(
            f"{DOMAIN}::{CAUSAL_MASK}",
            [],
            {"window": self._window},
            dtype=torch.bool,
            shape=(1, 1, rows.stop - rows.start, columns.stop),
            version=1,
        )


def _window(table: Tensor) -> int:
    """The keys that each row sees, -1 for all before it; 0 if ``table`` is something else."""
    size = table.shape[-1] if table.ndim == 4 else 0
    if table.dtype != torch.bool or table.shape != (1, 1, size, size) or size < 2:
        return 0
    window = int(table[0, 0, -1].sum())
    seen = torch.ones(size, size, dtype=torch.bool).tril()
    if not torch.equal(table[0, 0], seen & ~seen.tril(-window)):
        return 0
    return -1 if window == size else window
