"""What a model is given: one type, which everything that runs one shares."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batch"]

Batch = Mapping[str, NDArray[np.int64]]
"""Input name to (batch, sequence)."""
