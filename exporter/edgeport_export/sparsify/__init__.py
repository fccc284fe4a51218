"""Sparsity: weights become zero, one by one or some of every few, and matrices keep their shapes."""

from __future__ import annotations

from edgeport_export.sparsify.stage import sparsify

__all__ = ["sparsify"]
