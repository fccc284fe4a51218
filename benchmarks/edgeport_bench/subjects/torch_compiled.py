"""The original through ``torch.compile``, fp32, shapes left open. Options: those of ``torch_original``.

It compiles at the first run of a new shape, which does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from edgeport_bench.subjects.torch_original import TorchOriginal, load_original

__all__ = ["open_subject"]


def open_subject(options: Mapping[str, Any]) -> TorchOriginal:
    """Load the original and have it compiled; errors are those of ``torch_original``."""
    model, head = load_original(options)
    return TorchOriginal(model, head, options["outputs"], run=torch.compile(model, dynamic=True))
