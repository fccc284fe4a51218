"""Products with weights of 4 and 8 bits, and attention, by the package edgeport-kernels where it is there.

A bundle's graph stays what any onnxruntime runs. Where the kernels suit the processor, the graph is changed in memory
(``kernel_graph``). The library comes from the installed package and never from a bundle.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from edgeport.session.cpu import cpu_features
from edgeport.session.kernel_graph import ATTENTION, DYNAMIC, HEADS, WEIGHT_ONLY, rewritten

__all__ = ["CHOICE", "PACKAGE", "Kernels", "find_kernels"]

CHOICE = "EDGEPORT_KERNELS"
"""Environment variable: 0 leaves the kernels alone, 1 takes them wherever they run, avx2 those for AVX2 alone."""

PACKAGE = "edgeport-kernels"
_INTERFACE = 3
_LARGEST = 2**26
"""Bytes. In a larger file the weights stand among the nodes: it is not read into memory for this."""


@dataclass(frozen=True)
class Kernels:
    """A library of operators, and who made it."""

    library: Path
    version: str
    operators: frozenset[str]
    """Those of onnxruntime's that it is to replace."""

    def graph(self, path: Path) -> bytes | None:
        """The ONNX file with the operators replaced that the library has; None where there are none.

        Raises:
            ValueError, IndexError: it is no ONNX file.
        """
        return rewritten(path.read_bytes(), self.operators) if path.stat().st_size <= _LARGEST else None


def find_kernels() -> Kernels | None:
    """The installed kernels, if they run on this processor and are known to be faster there."""
    asked, features = os.environ.get(CHOICE), cpu_features()
    vnni = "avx512_vnni" in features
    # Instructions that onnxruntime may have kernels for, and these do without: nobody has measured which is faster.
    untried = "amx_int8" in features or ("avx_vnni" in features and not vnni)
    if asked == "0" or "avx2" not in features or (untried and asked not in ("1", "avx2")):
        return None
    try:
        import edgeport_kernels
    except ImportError:
        return None
    # An older one, or a newer one, has other operators than the graphs are written for.
    if getattr(edgeport_kernels, "INTERFACE", 1) != _INTERFACE:
        return None
    library = edgeport_kernels.library()
    if library is None:
        return None
    operators = {WEIGHT_ONLY, ATTENTION}
    if vnni and asked != "avx2":  # by AVX2 alone they gain nothing (docs/design.md)
        operators |= {DYNAMIC, HEADS}
    return Kernels(library, edgeport_kernels.__version__, frozenset(operators))
