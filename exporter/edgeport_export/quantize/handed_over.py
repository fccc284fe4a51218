"""Integers that were chosen before the graph existed, found again in it.

GPTQ quantizes a torch model, whose weights become exactly the values that the integers stand for. The graph has those
values, but passes rename, transpose, join and reorder weights (``.T``, ``.packed``), so names are no guide. Values are:
every row of a matrix, which holds all weights of one output, is looked up among the rows handed over.

What passes must preserve: the numbers of a row in fp32, bit for bit. They may rename and transpose matrices, and join,
split and permute them along the outputs. A pass that scales or reorders what is inside a row breaks the link; the
matrix is then rounded anew, and the report names what was handed over in vain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgeport_export.quantize.blockwise import Quantized

__all__ = ["HandedOver"]


class HandedOver:
    """Quantized matrices, to be found by the values that they stand for."""

    def __init__(self, given: Mapping[str, Quantized]) -> None:
        self._given = given
        self._rows: dict[bytes, tuple[str, int]] = {}
        self._missing: dict[str, set[bytes]] = {}
        for name, quantized in given.items():
            keys = [_key(row) for row in quantized.dequantized()]
            self._rows.update((key, (name, row)) for row, key in enumerate(keys))
            self._missing[name] = set(keys)

    @property
    def unused(self) -> list[str]:
        """Names of matrices of which ``find`` has not returned every row."""
        return sorted(name for name, keys in self._missing.items() if keys)

    def find(self, rows: NDArray[np.floating]) -> Quantized | None:
        """The integers of the matrix ``rows`` (outputs, inputs).

        None if a row was not handed over, or if the rows are on different grids.
        """
        if not self._given:
            return None
        keys: list[bytes] = []
        for row in rows:
            keys.append(_key(row))
            if keys[-1] not in self._rows:
                return None
        found = [self._rows[key] for key in keys]
        sources = {name: self._given[name] for name, _ in found}
        grid, width = next(iter(sources.values())).grid, rows.shape[1]
        if any(source.grid != grid for source in sources.values()):
            return None
        for missing in self._missing.values():
            missing.difference_update(keys)
        return Quantized(
            grid,
            width,
            np.stack([sources[name].integers[row] for name, row in found]),
            np.stack([sources[name].scales[row] for name, row in found]),
            None if grid.symmetric else np.stack([_zeros(sources[name])[row] for name, row in found]),
        )


def _zeros(quantized: Quantized) -> NDArray[np.uint8]:
    assert quantized.zeros is not None
    return quantized.zeros


def _key(row: NDArray[np.floating]) -> bytes:
    """Equal for equal rows: adding zero turns -0 into 0."""
    plain = np.ascontiguousarray(row, dtype=np.float32) + np.float32(0)
    return hashlib.blake2b(plain.tobytes(), digest_size=16).digest()
