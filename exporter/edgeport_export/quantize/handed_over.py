"""Integers that were chosen before the graph existed, found again in it.

A method that rounds a torch model leaves it the values that the integers stand for, and so does a checkpoint that comes
quantized. The graph has those values, but passes rename, transpose, join and reorder weights (``.T``, ``.packed``), so
names are no guide. Values are: every row of a matrix, which holds all weights of one output, is looked up among the
rows handed over.

What passes must preserve: the numbers of a row in fp32, bit for bit. They may rename and transpose matrices, and join,
split and permute them along the outputs. A pass that scales or reorders what is inside a row breaks the link; the
matrix is then rounded anew, and the report names what was handed over in vain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeport_export.quantize.blockwise import Grid, Quantized

__all__ = ["HandedOver"]


class HandedOver:
    """Quantized matrices, to be found by the values that they stand for."""

    def __init__(self, given: Mapping[str, Quantized]) -> None:
        self._given = given
        self._rows: dict[tuple[Grid, bytes], dict[bytes, tuple[str, int]]] = {}
        """Name and number by a row's values. Rows of one matrix share a grid and the order of their inputs, which are
        told apart here: a row of zeros may stand in many matrices."""
        self._missing: dict[str, set[bytes]] = {}
        for name, quantized in given.items():
            keys = [_key(row) for row in quantized.dequantized()]
            order = b"" if quantized.order is None else quantized.order.tobytes()
            rows = self._rows.setdefault((quantized.grid, order), {})
            rows.update((key, (name, row)) for row, key in enumerate(keys))
            self._missing[name] = set(keys)

    @property
    def unused(self) -> list[str]:
        """Names of matrices of which ``find`` has not returned every row."""
        return sorted(name for name, keys in self._missing.items() if keys)

    def find(self, rows: NDArray[np.floating]) -> Quantized | None:
        """The integers of the matrix ``rows`` (outputs, inputs).

        None if a row was not handed over, or if the rows are on different grids or their inputs in different orders.
        """
        candidates = list(self._rows.values())
        keys: list[bytes] = []
        for row in rows:
            keys.append(_key(row))
            candidates = [known for known in candidates if keys[-1] in known]
            if not candidates:
                return None
        found = [candidates[0][key] for key in keys]
        sources = {name: self._given[name] for name, _ in found}
        like = next(iter(sources.values()))
        for missing in self._missing.values():
            missing.difference_update(keys)
        return Quantized(
            like.grid,
            like.width,
            np.stack([sources[name].integers[row] for name, row in found]),
            np.stack([sources[name].scales[row] for name, row in found]),
            None if like.grid.symmetric else np.stack([_zeros(sources[name])[row] for name, row in found]),
            like.order,
        )


def _zeros(quantized: Quantized) -> NDArray[np.uint8]:
    assert quantized.zeros is not None
    return quantized.zeros


def _key(row: NDArray[np.floating]) -> bytes:
    """Equal for equal rows: adding zero turns -0 into 0."""
    plain = np.ascontiguousarray(row, dtype=np.float32) + np.float32(0)
    return hashlib.blake2b(plain.tobytes(), digest_size=16).digest()
