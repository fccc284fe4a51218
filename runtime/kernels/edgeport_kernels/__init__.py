"""Kernels for onnxruntime on x86 processors with AVX2: products with weights of 4 and 8 bits.

``edgeport`` uses them where they are installed. With onnxruntime alone: register ``library()`` with the session's
options and give the graph's MatMulNBits nodes the domain ``edgeport.simd``.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["__version__", "library"]

__version__ = "0.1.0"


def library() -> Path | None:
    """The library of operators; None where this package was built for a processor that it has no kernels for."""
    found = sorted(Path(__file__).parent.glob("kernels.*"))
    return found[0] if found else None
