"""Kernels for onnxruntime on x86 processors with AVX2, and with AVX-512 VNNI: products with weights of 4 and 8 bits,
attention.

``edgeport`` uses them where they are installed. With onnxruntime alone: register ``library()`` with the session's
options and give the graph's MatMulNBits, GroupQueryAttention, MultiHeadAttention and DynamicQuantizeMatMul
nodes the domain ``edgeport.simd``, the last with the inputs and the attributes N and K of MatMulNBits.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["INTERFACE", "__version__", "library"]

__version__ = "0.3.0"

INTERFACE = 3
"""Which operators there are, and what they take; another number is another library."""


def library() -> Path | None:
    """The library of operators; None where this package was built for a processor that it has no kernels for."""
    found = sorted(Path(__file__).parent.glob("kernels.*"))
    return found[0] if found else None
